"""A user's own audio and tags as data sets in the layout of `ditto.composer.corpus`: ``out/train`` and
``out/heldout``.

The tags come from a CSV file with the columns ``file, genre, mood, tempo`` (all but the first
optional, cells may be empty). Long recordings are cut into segments; a recording is held out,
whole, by a hash of its name.
"""

import csv
import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ditto.audio.io import info, read_mono
from ditto.audio.spec import AudioSpec
from ditto.composer.corpus import encode_flac
from ditto.data.files import (
    Progress,
    make_folder,
    read_json,
    write_bytes,
    write_json,
    write_json_lines,
)
from ditto.errors import DataError

PREPARE_VERSION = 1
SUFFIXES = frozenset(
    {".wav", ".flac", ".ogg", ".mp3", ".opus", ".aif", ".aiff", ".au", ".caf", ".w64"}
)
COLUMNS = ("file", "genre", "mood", "tempo")
SILENCE = 1e-4


@dataclass(frozen=True)
class Row:
    """The tags of one file; `None` where the CSV leaves them open."""

    genre: str | None = None
    mood: str | None = None
    tempo: float | None = None


@dataclass(frozen=True)
class Prepared:
    """What `prepare_folder` made: segments in each split, and why files or segments were left
    out.
    """

    train: int
    heldout: int
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class Segment:
    """A stretch of a source file, in seconds."""

    source: Path
    start: float
    seconds: float


def prepare_folder(
    folder: Path,
    out: Path,
    *,
    tags_csv: Path | None = None,
    heldout: float = 0.1,
    genres: Sequence[str] | None = None,
    moods: Sequence[str] | None = None,
    tempo_range: tuple[float, float] = (60.0, 180.0),
    segment_seconds: float = 30.0,
    shortest_seconds: float = 6.1,
    sample_rate: int = 22_050,
    progress: Progress | None = None,
) -> Prepared:
    """Convert a folder of recordings (searched in depth) into training data; a restart continues.

    Args:
        folder: recordings in any format that `ditto.audio.io` reads.
        out: receives ``train`` and ``heldout``.
        tags_csv: the tags; without it every tag is open.
        heldout: share of the recordings to hold out, in [0, 1).
        genres: allowed names; None takes the CSV's own as the vocabulary.
        moods: the same for moods.
        tempo_range: allowed tempos in beats per minute.
        segment_seconds: longest segment.
        shortest_seconds: shortest segment; a clip of 512 frames lasts 5.94 s.
        sample_rate: of the data, in Hz.
        progress: called with (segments done, segments).

    Returns:
        Counts, and a line for everything that was left out.

    Raises:
        DataError: no recordings, a CSV error (with its line), bad arguments, or `out` holds other
            data.
        AudioFileError: a recording is damaged.
    """
    if not 0 <= heldout < 1:
        raise DataError(f"the held-out share must be at least 0 and less than 1, not {heldout}")
    files = recordings(folder)
    rows = (
        read_tags_csv(tags_csv, folder, genres=genres, moods=moods, tempo_range=tempo_range)
        if tags_csv
        else {}
    )
    config = {
        "kind": "prepared",
        "version": PREPARE_VERSION,
        "sample_rate": sample_rate,
        "segment_seconds": segment_seconds,
        "heldout": heldout,
        "sources_sha256": _sources_hash(folder, files, rows),
        "genres": _vocabulary(genres, [row.genre for row in rows.values()]),
        "moods": _vocabulary(moods, [row.mood for row in rows.values()]),
        "tempo_range": list(tempo_range),
    }
    segments, skipped = _segments(files, folder, segment_seconds, shortest_seconds)
    parts = {"train": [s for s in segments if not _is_heldout(s.source, folder, heldout)]}
    parts["heldout"] = [s for s in segments if _is_heldout(s.source, folder, heldout)]
    done = itertools.count(1)

    def tell() -> None:
        if progress:
            progress(next(done), len(segments))

    counts = {}
    for split, chosen in parts.items():
        counts[split], silent = _write_split(
            out / split, {**config, "split": split}, chosen, folder, rows, tell
        )
        skipped += silent
    return Prepared(counts["train"], counts["heldout"], tuple(skipped))


def read_tags_csv(
    path: Path,
    folder: Path,
    *,
    genres: Sequence[str] | None = None,
    moods: Sequence[str] | None = None,
    tempo_range: tuple[float, float] = (60.0, 180.0),
) -> dict[str, Row]:
    """Tags by file name, relative to `folder`, in POSIX form.

    Raises:
        DataError: the file cannot be read, lacks or has unknown columns, names a file twice or one
            that is not there, or has a value that is not allowed; the message names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True, strict=True)
            _check_columns(path, reader.fieldnames)
            rows: dict[str, Row] = {}
            for cells in reader:
                where = f"{path} line {reader.line_num}"
                name = _file_name(where, cells, folder)
                if name in rows:
                    raise DataError(f"{where}: the file {name!r} is listed twice")
                rows[name] = _row(where, cells, genres, moods, tempo_range)
    except FileNotFoundError as error:
        raise DataError(f"there is no tags file {path}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8 that can be read: {error}") from error
    return rows


def _check_columns(path: Path, names: Sequence[str] | None) -> None:
    found = [n.strip() for n in names or ()]
    unknown = [n for n in found if n not in COLUMNS]
    if "file" not in found or unknown or len(set(found)) < len(found):
        raise DataError(
            f"{path} line 1: the columns must be file and any of genre, mood, tempo (found {', '.join(found)})"
        )


def _file_name(where: str, cells: dict[str | None, Any], folder: Path) -> str:
    if None in cells or None in cells.values():
        raise DataError(f"{where}: the number of cells differs from the number of columns")
    name = Path(str(cells["file"]).strip()).as_posix()
    if not (folder / name).is_file():
        raise DataError(f"{where}: there is no file {name!r} in {folder}")
    return name


def _row(
    where: str,
    cells: dict[str | None, Any],
    genres: Sequence[str] | None,
    moods: Sequence[str] | None,
    tempo_range: tuple[float, float],
) -> Row:
    genre = _word(where, "genre", cells.get("genre"), genres)
    mood = _word(where, "mood", cells.get("mood"), moods)
    return Row(genre, mood, _tempo(where, cells.get("tempo"), tempo_range))


def _word(where: str, column: str, text: str | None, allowed: Sequence[str] | None) -> str | None:
    word = (text or "").strip().lower()
    if word and allowed is not None and word not in allowed:
        raise DataError(
            f"{where}: unknown {column} {word!r}; allowed are {', '.join(allowed)}, or nothing"
        )
    return word or None


def _tempo(where: str, text: str | None, tempo_range: tuple[float, float]) -> float | None:
    if not (text or "").strip():
        return None
    low, high = tempo_range
    try:
        tempo = float(text or "")
    except ValueError as error:
        raise DataError(
            f"{where}: tempo must be a number of beats per minute, not {text!r}"
        ) from error
    if not low <= tempo <= high:
        raise DataError(
            f"{where}: tempo must be {low:g} to {high:g} beats per minute, not {tempo:g}"
        )
    return tempo


def recordings(folder: Path) -> list[Path]:
    """The sound files in a folder and its subfolders, sorted.

    Raises:
        DataError: there is no such folder, or no sound file in it.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        raise DataError(f"{folder} holds no recordings ({', '.join(sorted(SUFFIXES))})")
    return files


def _vocabulary(allowed: Sequence[str] | None, used: Sequence[str | None]) -> list[str]:
    return list(allowed) if allowed is not None else sorted({word for word in used if word})


def _sources_hash(folder: Path, files: Sequence[Path], rows: dict[str, Row]) -> str:
    """Changes when a recording (by name and size) or a tag does."""
    facts = [(p.relative_to(folder).as_posix(), p.stat().st_size) for p in files]
    return hashlib.sha256(repr((facts, sorted(rows.items()))).encode()).hexdigest()


def _is_heldout(source: Path, folder: Path, share: float) -> bool:
    """By a hash of the name, so that adding recordings never moves one from a split to the
    other.
    """
    digest = hashlib.sha256(source.relative_to(folder).as_posix().encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < share


def _segments(
    files: Sequence[Path], folder: Path, longest: float, shortest: float
) -> tuple[list[Segment], list[str]]:
    """Equal segments of each recording, as long as allowed; recordings shorter than `shortest` are
    left out.
    """
    segments, skipped = [], []
    for path in files:
        seconds = info(path).seconds
        if seconds < shortest:
            skipped.append(f"{path.relative_to(folder)} is shorter than {shortest:g} s")
            continue
        count = max(1, min(int(np.ceil(seconds / longest)), int(seconds / shortest)))
        segments += [Segment(path, k * seconds / count, seconds / count) for k in range(count)]
    return segments, skipped


def _write_split(
    out: Path,
    config: dict[str, Any],
    segments: Sequence[Segment],
    folder: Path,
    rows: dict[str, Row],
    tell: Callable[[], None],
) -> tuple[int, list[str]]:
    """Write one split; returns its number of pieces and what was left out."""
    make_folder(out / "audio")
    make_folder(out)
    _check_config(out, config)
    labels, skipped = [], []
    for index, segment in enumerate(segments):
        name = segment.source.relative_to(folder).as_posix()
        label = _piece(out, index, segment, config["sample_rate"])
        if label is None:
            skipped.append(
                f"{name} is silent from {segment.start:.1f} s on for {segment.seconds:.1f} s"
            )
        else:
            row = rows.get(name, Row())
            tags = {"genre": row.genre, "mood": row.mood, "tempo": row.tempo}
            labels.append(
                {**label, **tags, "source": name, "source_start": round(segment.start, 4)}
            )
        tell()
    write_json_lines(out / "labels.jsonl", labels)
    write_json(out / "dataset.json", {**config, "count": len(labels)})
    return len(labels), skipped


def _check_config(out: Path, config: dict[str, Any]) -> None:
    if not (out / "dataset.json").exists():
        write_json(out / "dataset.json", {**config, "count": 0})
        return
    found = read_json(out / "dataset.json")
    different = [k for k in config if found.get(k) != config[k]]
    if different:
        raise DataError(
            f"{out} holds data made from another {different[0]}: choose another folder, or delete it"
        )


def _piece(out: Path, index: int, segment: Segment, sample_rate: int) -> dict[str, Any] | None:
    """Convert one segment unless it is there already; None if it is silent."""
    path = out / "audio" / f"{index:06d}.flac"
    spec = AudioSpec(sample_rate=sample_rate)
    if not path.exists():
        audio = read_mono(
            segment.source, spec, start=segment.start, seconds=segment.seconds, require_sound=False
        )
        if float(np.max(np.abs(audio))) < SILENCE:
            return None
        write_bytes(path, encode_flac(np.clip(audio, -1.0, 1.0), sample_rate))
    data = path.read_bytes()
    return {
        "index": index,
        "file": f"audio/{path.name}",
        "seconds": round(info(path).seconds, 4),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
