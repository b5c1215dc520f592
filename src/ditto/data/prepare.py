"""Convert a user's recordings and tags to data folders ``out/train`` and ``out/heldout``.

The layout is that of `ditto.composer.corpus`. Tags come from a CSV file with the columns ``file,
genre, mood, tempo`` (all but the first optional, cells may be empty). Long recordings are cut into
segments; whole recordings are held out, by a hash of their name.
"""

import csv
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ditto.audio.io import encode_flac, info, read_mono
from ditto.audio.spec import AudioSpec
from ditto.data.files import Progress, open_data_folder, write_bytes, write_json, write_json_lines
from ditto.errors import AudioFileError, DataError
from ditto.paths import found_path, printable

PREPARE_VERSION = 1
SUFFIXES = frozenset(
    {".wav", ".flac", ".ogg", ".mp3", ".opus", ".aif", ".aiff", ".au", ".caf", ".w64"}
)
COLUMNS = ("file", "genre", "mood", "tempo")
HIDDEN = "."
"""Begins the names of files that are no recordings, such as a Mac's ``._song.wav``."""
SILENCE = 1e-4
"""Segments whose peak is below this (-80 dB) are left out."""


@dataclass(frozen=True)
class Row:
    """Hold the tags of one file; None for an empty cell."""

    genre: str | None = None
    mood: str | None = None
    tempo: float | None = None


@dataclass(frozen=True)
class Allowed:
    """Check the values of tags.

    Attributes:
        genres, moods: allowed words; None allows all.
        tempo_range: beats per minute.
    """

    genres: Sequence[str] | None = None
    moods: Sequence[str] | None = None
    tempo_range: tuple[float, float] = (60.0, 180.0)

    def row(self, where: str, cells: Mapping[str | None, Any]) -> Row:
        """Read the cells of one line; `where` names it in errors.

        Raises:
            DataError: a value is not allowed.
        """
        genre = self._word(where, "genre", cells.get("genre"), self.genres)
        mood = self._word(where, "mood", cells.get("mood"), self.moods)
        return Row(genre, mood, self._tempo(where, cells.get("tempo")))

    @staticmethod
    def _word(where: str, column: str, text: str | None, words: Sequence[str] | None) -> str | None:
        word = (text or "").strip().lower()
        if word and words is not None and word not in words:
            raise DataError(
                f"{where}: unknown {column} {word!r}; allowed are {', '.join(words)}, or nothing"
            )
        return word or None

    def _tempo(self, where: str, text: str | None) -> float | None:
        if not (text or "").strip():
            return None
        low, high = self.tempo_range
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


@dataclass(frozen=True)
class Prepared:
    """Count the segments of each split, and list why files or segments were left out."""

    train: int
    heldout: int
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class Segment:
    """Name a stretch of a source file, in seconds."""

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
    """Convert a folder of recordings, recursively, to training data; a restart continues.

    Args:
        folder: recordings in any format that `ditto.audio.io` reads.
        out: receives ``train`` and ``heldout``.
        tags_csv: the tags; None leaves all open.
        heldout: share of the recordings to hold out, in [0, 1).
        genres: vocabulary; None takes the words of the CSV.
        moods: likewise.
        tempo_range: allowed tempos in beats per minute.
        segment_seconds: longest segment.
        shortest_seconds: shortest segment; a clip of 512 frames lasts 5.94 s.
        sample_rate: of the data, in Hz.
        progress: called with (segments done, segments).

    Returns:
        Counts, and a line for everything left out.

    Raises:
        DataError: no recordings, or none that can be read, a CSV error (with its line), bad
            arguments, or `out` holds other data.
        OutputError: `out` cannot be written.
    """
    if not 0 <= heldout < 1:
        raise DataError(f"the held-out share must be at least 0 and less than 1, not {heldout}")
    files = recordings(folder, out)
    allowed = Allowed(genres, moods, tempo_range)
    rows = read_tags_csv(tags_csv, folder, allowed) if tags_csv else {}
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
    labels: dict[str, list[dict[str, Any]]] = {"train": [], "heldout": []}
    indices = {split: itertools.count() for split in labels}
    for split in labels:
        open_data_folder(out / split, {**config, "split": split})
    for done, segment in enumerate(segments, start=1):
        split = "heldout" if _is_heldout(segment.source, folder, heldout) else "train"
        name = segment.source.relative_to(folder).as_posix()
        label = _piece(out / split, next(indices[split]), segment, sample_rate)
        if isinstance(label, str):
            place = f"from {segment.start:.1f} s on for {segment.seconds:.1f} s"
            skipped.append(f"{name} {label} {place}")
        else:
            source = {"source": name, "source_start": round(segment.start, 4)}
            labels[split].append({**label, **asdict(rows.get(name, Row())), **source})
        if progress:
            progress(done, len(segments))
    if not any(labels.values()):
        raise DataError(f"nothing could be prepared: {skipped[0] if skipped else 'no recording'}")
    for split, pieces in labels.items():
        write_json_lines(out / split / "labels.jsonl", pieces)
        final = {**config, "split": split, "count": len(pieces)}
        write_json(out / split / "dataset.json", final)
    return Prepared(len(labels["train"]), len(labels["heldout"]), tuple(skipped))


def read_tags_csv(path: Path, folder: Path, allowed: Allowed = Allowed()) -> dict[str, Row]:
    """Read tags by file name, relative to `folder`, in POSIX form.

    Raises:
        DataError: the file cannot be read, a column is missing or unknown, a file is missing or
            listed twice, or a value is not allowed; the message names the line.
    """
    try:
        with open(found_path(path), newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True, strict=True)
            _check_columns(path, reader.fieldnames)
            rows: dict[str, Row] = {}
            for cells in reader:
                where = f"{path} line {reader.line_num}"
                name = _file_name(where, cells, folder)
                if name in rows:
                    raise DataError(f"{where}: the file {name!r} is listed twice")
                rows[name] = allowed.row(where, cells)
    except FileNotFoundError as error:
        raise DataError(f"there is no tags file {path}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8 that can be read: {error}") from error
    return rows


def _check_columns(path: Path, names: Sequence[str] | None) -> None:
    columns = [name.strip() for name in names or ()]
    unknown = [name for name in columns if name not in COLUMNS]
    if "file" not in columns or unknown or len(set(columns)) < len(columns):
        raise DataError(
            f"{path} line 1: the columns must be file and any of genre, mood, tempo "
            f"(found {printable(', '.join(columns))})"
        )


def _file_name(where: str, cells: Mapping[str | None, Any], folder: Path) -> str:
    if None in cells or None in cells.values():
        raise DataError(f"{where}: the number of cells differs from the number of columns")
    name = Path(str(cells["file"]).strip())
    path = Path(found_path(folder / name))
    if name.is_absolute() or ".." in name.parts:
        raise DataError(f"{where}: give {name.as_posix()!r} by its path within {folder}")
    if not path.is_file():
        raise DataError(f"{where}: there is no file {name.as_posix()!r} in {folder}")
    return path.relative_to(folder).as_posix()


def recordings(folder: Path, out: Path | None = None) -> list[Path]:
    """List the sound files in a folder and its subfolders, sorted, but for those in `out`.

    Raises:
        DataError: the folder is missing or holds no sound file.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not path.name.startswith(HIDDEN)
        and path.is_file()
        and not (out and _within(path, out))
    )
    if not files:
        raise DataError(f"{folder} holds no recordings ({', '.join(sorted(SUFFIXES))})")
    return files


def _within(file: Path, folder: Path) -> bool:
    """Tell whether a file lies in a folder: data made before are no recordings."""
    return file.resolve().is_relative_to(folder.resolve())


def _vocabulary(allowed: Sequence[str] | None, used: Sequence[str | None]) -> list[str]:
    return list(allowed) if allowed is not None else sorted({word for word in used if word})


def _sources_hash(folder: Path, files: Sequence[Path], rows: dict[str, Row]) -> str:
    """Hash the recordings' names and sizes and their tags."""
    facts = [(p.relative_to(folder).as_posix(), p.stat().st_size) for p in files]
    return hashlib.sha256(repr((facts, sorted(rows.items()))).encode()).hexdigest()


def _is_heldout(source: Path, folder: Path, share: float) -> bool:
    """Choose the split by a hash of the name: further recordings move none to the other split."""
    digest = hashlib.sha256(source.relative_to(folder).as_posix().encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < share


def _segments(
    files: Sequence[Path], folder: Path, longest: float, shortest: float
) -> tuple[list[Segment], list[str]]:
    """Cut each recording into equal segments, as long as allowed; skip those below `shortest`."""
    segments, skipped = [], []
    for path in files:
        try:
            seconds = info(path).seconds
        except AudioFileError as error:
            skipped.append(f"{path.relative_to(folder)} is left out: {error}")
            continue
        if seconds < shortest:
            skipped.append(f"{path.relative_to(folder)} is shorter than {shortest:g} s")
            continue
        count = max(1, min(int(np.ceil(seconds / longest)), int(seconds / shortest)))
        segments += [Segment(path, k * seconds / count, seconds / count) for k in range(count)]
    return segments, skipped


def _piece(out: Path, index: int, segment: Segment, sample_rate: int) -> dict[str, Any] | str:
    """Convert a segment unless its file exists, and return its label, or why it is left out."""
    path = out / "audio" / f"{index:06d}.flac"
    spec = AudioSpec(sample_rate=sample_rate)
    if not path.exists():
        part = {"start": segment.start, "seconds": segment.seconds}
        try:
            audio = read_mono(segment.source, spec, **part, require_sound=False)
        except AudioFileError as error:
            return f"is left out ({error})"
        if float(np.max(np.abs(audio))) < SILENCE:
            return "is silent"
        write_bytes(path, encode_flac(np.clip(audio, -1.0, 1.0), sample_rate))
    data = path.read_bytes()
    return {
        "index": index,
        "file": f"audio/{path.name}",
        "seconds": round(info(path).seconds, 4),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
