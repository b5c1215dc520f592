"""A composed data set on disk: ``audio/000000.flac`` …, ``labels.jsonl`` (a line a piece) and
``dataset.json``.

The bytes depend on the configuration only, not on the number of workers or on kills and restarts.
Files appear whole or not at all, and the labels come last: a folder with ``labels.jsonl`` is
complete up to its number of lines.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ditto.audio.io import encode_flac
from ditto.composer.compose import SPLITS, TEMPO_RANGE, compose
from ditto.composer.moods import MOOD_NAMES
from ditto.composer.piece import labels
from ditto.composer.render import Renderer, file_sha256, find_soundfont
from ditto.composer.styles import GENRES
from ditto.data.files import Progress, open_data_folder, write_bytes, write_json, write_json_lines
from ditto.errors import DataError
from ditto.workers import TRIES, work

COMPOSER_VERSION = 2
SECONDS_PER_PIECE = 27.0
MOST_PIECES = 1_000_000
"""Of a data set: names of files have six digits."""


def compose_dataset(
    out: Path,
    *,
    hours: float | None = None,
    count: int | None = None,
    seed: int = 0,
    split: str = "train",
    workers: int | None = None,
    ray: str | None = None,
    soundfonts: Sequence[Path] = (),
    sample_rate: int = 22_050,
    progress: Progress | None = None,
) -> Path:
    """Compose, render and label pieces into folder `out`.

    A restart continues, a larger count extends.

    Args:
        out: folder; made if it is missing.
        hours: amount of audio (about 27 s a piece); or give `count`.
        count: number of pieces.
        seed: pieces follow from (seed, split, index) alone.
        split: "train" or "heldout"; their random streams never meet.
        workers: processes that render; by default 1, on a cluster one for each of its cores.
        ray: address of a Ray cluster, or "auto" for the one that this machine belongs to; all its
            machines see `out` and the SoundFonts under the same names.
        soundfonts: .sf2 or .sf3 files, of which each piece draws one; none named is Debian's
            FluidR3 GM.
        sample_rate: Hz.
        progress: called with (pieces done, count).

    Returns:
        `out`.

    Raises:
        DataError: bad arguments, no SoundFont or synthesiser, `out` holds other data or cannot be
            written.
        WorkerError: there is no such cluster, or processes die before they have begun.
    """
    total = _count(hours, count)
    if seed < 0:
        raise DataError(f"the seed must be 0 or more, not {seed}")
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    # Whole names: a process of Ray's begins in another folder.
    place = out if ray is None else out.absolute()
    fonts = tuple(find_soundfont(path).absolute() for path in soundfonts or (None,))
    config = _config(seed, split, sample_rate, fonts)
    total = max(total, open_data_folder(out, config))
    make = partial(_make_piece, place, seed=seed, split=split, fonts=fonts, sample_rate=sample_rate)
    missing = [i for i in range(total) if not _audio_path(out, i).exists()]
    first = total - len(missing) + 1
    for done, _ in enumerate(_each(make, missing, workers, ray), first):
        if progress:
            progress(done, total)
    write_json_lines(
        out / "labels.jsonl", (_labels(out, i, seed, split, fonts) for i in range(total))
    )
    write_json(out / "dataset.json", {**config, "count": total})
    return out


def _count(hours: float | None, count: int | None) -> int:
    if (hours is None) == (count is None):
        raise DataError("say how much to compose: either hours or count")
    pieces = count if hours is None else hours * 3600 / SECONDS_PER_PIECE
    if pieces is None or not 0 < pieces <= MOST_PIECES:
        most = MOST_PIECES * SECONDS_PER_PIECE / 3600
        raise DataError(
            f"give a count from 1 to {MOST_PIECES}, or hours above 0 and at most {most:g}, not "
            f"{count if hours is None else hours}"
        )
    return math.ceil(pieces)


def _config(seed: int, split: str, sample_rate: int, fonts: Sequence[Path]) -> dict[str, Any]:
    return {
        "kind": "composed",
        "version": COMPOSER_VERSION,
        "seed": seed,
        "split": split,
        "sample_rate": sample_rate,
        "soundfont_sha256": ",".join(map(file_sha256, fonts)),
        "genres": list(GENRES),
        "moods": list(MOOD_NAMES),
        "tempo_range": list(TEMPO_RANGE),
    }


def _audio_path(out: Path, index: int) -> Path:
    return out / "audio" / f"{index:06d}.flac"


def _each(
    make: Callable[[int], None], indices: list[int], workers: int | None, ray: str | None
) -> Iterator[None]:
    """Make every index, in this process, in others, or on a cluster.

    Raises:
        DataError: processes were killed at a piece, at every try.
    """
    # One process is this one; of a cluster one is a worker, and 0 all that it has room for.
    count = (workers or 0) if ray is not None or (workers or 0) > 1 else 0
    for done in work(indices, partial(_maker, make), workers=count, ray=ray):
        if done.killed:
            raise DataError(f"piece {done.job} was killed {TRIES} times: is there enough memory?")
        yield


def _maker(make: Callable[[int], None]) -> Callable[[int], None]:
    return make


def font_of(index: int, seed: int, split: str, fonts: Sequence[Path]) -> Path:
    """Draw the SoundFont of a piece."""
    return fonts[int(np.random.default_rng([seed, SPLITS[split], index, 2]).integers(len(fonts)))]


def _make_piece(
    out: Path, index: int, *, seed: int, split: str, fonts: Sequence[Path], sample_rate: int
) -> None:
    font = font_of(index, seed, split, fonts)
    audio = _renderer(font, sample_rate).render(compose(index, seed, split))
    write_bytes(_audio_path(out, index), encode_flac(audio, sample_rate))


@lru_cache(maxsize=4)
def _renderer(font: Path, sample_rate: int) -> Renderer:
    """Return a renderer of this process, kept because loading a SoundFont takes a while."""
    return Renderer(font, sample_rate)


def _labels(out: Path, index: int, seed: int, split: str, fonts: Sequence[Path]) -> dict[str, Any]:
    path = _audio_path(out, index)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    font = font_of(index, seed, split, fonts).stem
    return {
        **labels(compose(index, seed, split)),
        "soundfont": font,
        "file": f"audio/{path.name}",
        "sha256": digest,
    }
