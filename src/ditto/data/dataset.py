"""Training batches from a data folder (composed or prepared), or from its shards.

Each batch is a pure function of (seed, step), so a resumed training sees the same batches. Log-mels
are computed once and cached under ``cache/``, one file per piece, named by the hash of the audio:
an interrupted cache continues, a grown data set adds its new pieces, and running trainings are not
disturbed.
"""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from torch import Tensor

from ditto.audio.bands import PLAIN, Bands
from ditto.audio.features import log_mel
from ditto.audio.spec import AudioSpec
from ditto.data.files import Progress, cached_arrays, read_array, read_errors, read_json, short_key
from ditto.data.shards import Shards
from ditto.errors import DataError
from ditto.models.conditioning import Tags, TagVocabulary
from ditto.paths import printable

LEAST_STD = 0.01
"""Deviation of a band that is (nearly) always silent: 0.8 dB."""
NEEDED = {"file", "seconds", "sha256"}
"""Keys of every label."""


def read_labels(root: Path | Shards) -> list[dict[str, Any]]:
    """Read the labels of all pieces of a finished data set, in order.

    Raises:
        DataError: the folder is not a data set, is unfinished, empty or damaged.
    """
    if isinstance(root, Shards):
        return root.labels
    facts, file = read_json(root / "dataset.json"), root / "labels.jsonl"
    count = facts.get("count", 0) if isinstance(facts, dict) else 0
    unfinished = (
        f"{printable(root)} is not a finished data set: run the command that makes it again"
    )
    if not isinstance(count, int) or not file.is_file():
        raise DataError(unfinished)
    with read_errors(file):
        lines = file.read_text(encoding="utf-8").splitlines()[:count]
        labels = [json.loads(line) for line in lines]
        for number, label in enumerate(labels, start=1):
            if not isinstance(label, dict) or not label.keys() >= NEEDED:
                raise ValueError(f"line {number} is no label with {', '.join(sorted(NEEDED))}")
    if not labels:
        raise DataError(unfinished)
    return labels


def vocabulary_of(root: Path | Shards) -> TagVocabulary:
    """Read the tag vocabulary of a data set.

    Raises:
        DataError: the folder is not a data set.
    """
    config = _facts(root)
    try:
        low, high = config["tempo_range"]
        genres, moods = tuple(config["genres"]), tuple(config["moods"])
        return TagVocabulary(genres, moods, tempo_low=low, tempo_high=high)
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"{root}/dataset.json does not name genres, moods and tempos: make the data anew"
        ) from None


def _facts(root: Path | Shards) -> dict[str, Any]:
    return root.facts if isinstance(root, Shards) else read_json(root / "dataset.json")


def mel_key(spec: AudioSpec) -> str:
    """Name log-mels by what they depend on."""
    return short_key({k: v for k, v in asdict(spec).items() if k != "clip_frames"})


def mel_cache(root: Path, spec: AudioSpec, progress: Progress | None = None) -> list[Path]:
    """Cache the log-mels of all pieces, one file each.

    Args:
        root: a finished data folder.
        spec: rates and sizes; every spec has its own cache.
        progress: called with (pieces done, pieces).

    Returns:
        .npy files in order: float16, shape (frames, n_mels), values as of `log_mel`.

    Raises:
        DataError: the folder is not a data set or has another sample rate.
        OutputError: the cache cannot be written.
    """
    _check_rate(root, spec)
    return piece_cache(root, mel_key(spec), lambda path: _mel(path, spec), progress)


def piece_cache(
    root: Path,
    kind: str,
    make: Callable[[Path], npt.NDArray[np.float16]],
    progress: Progress | None = None,
) -> list[Path]:
    """Cache an array per sound file in ``cache/<kind>/``, named by the file's name and hash.

    Returns:
        .npy files, in the order of the pieces.

    Raises:
        DataError: the folder is not a data set.
        OutputError: the cache cannot be written.
    """
    pieces = read_labels(root)
    files = [root / piece["file"] for piece in pieces]
    names = [f"{Path(piece['file']).stem}-{piece['sha256'][:16]}" for piece in pieces]
    return cached_arrays(root / "cache" / kind, names, lambda i: make(files[i]), progress)


def band_statistics(
    root: Path | Shards, spec: AudioSpec, progress: Progress | None = None
) -> Bands:
    """Measure mean and standard deviation of every mel band of a finished data set.

    Raises:
        DataError: see `mel_cache`.
    """
    if isinstance(root, Shards):  # measured when they were written
        return Bands.of(_MelShards(root, spec).shards.facts["bands"])
    count, total, squares = 0, np.zeros(spec.n_mels), np.zeros(spec.n_mels)
    for path in mel_cache(root, spec, progress)[: len(read_labels(root))]:
        mel = read_array(path).astype(np.float64)
        count, total, squares = (
            count + len(mel),
            total + mel.sum(axis=0),
            squares + np.square(mel).sum(axis=0),
        )
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, LEAST_STD**2))
    return Bands(tuple(mean.round(6).tolist()), tuple(deviation.round(6).tolist()))


class _MelFiles:
    """Log-mels of a folder's pieces, in its cache."""

    def __init__(self, files: list[Path]) -> None:
        self._files, self._frames = files, dict[int, int]()

    def frames(self, piece: int) -> int:
        """Return the length of a piece."""
        if piece not in self._frames:
            mel = read_array(self._files[piece])
            self._frames[piece] = len(mel)
        return self._frames[piece]

    def read(self, crops: Sequence[tuple[int, int, int]]) -> list[npt.NDArray[np.float16]]:
        """Read (piece, first frame, last + 1) each: arrays (frames, n_mels)."""
        return [read_array(self._files[piece])[first:last] for piece, first, last in crops]


class _MelShards:
    """Log-mels in shards.

    Raises:
        DataError: they are of another spec.
    """

    def __init__(self, shards: Shards, spec: AudioSpec) -> None:
        _check_rate(shards, spec)
        if shards.facts["mel"] != mel_key(spec):
            raise DataError(
                f"{shards} holds log-mels of other sizes than this network's: give --data the "
                "folder that it was made of"
            )
        self.shards, self.frames, self.read = shards, shards.frames, shards.mels


class ClipDataset:
    """Draw random log-mel clips with their tags.

    Args:
        root: a finished data folder, whose cache is completed first, or shards.
        spec: rates and sizes.
        vocabulary: maps tags to indices; None is the data's own.
        frames: length of a clip.
        seed: of the random crops.
        bands: normalise the clips to the model space; by default they stay log-mels.
        progress: of the cache, in pieces.

    Raises:
        DataError: as of `mel_cache`, or a piece is shorter than a clip.
        OutputError: the cache cannot be written.
        TagError: a label is not in `vocabulary`.
    """

    def __init__(
        self,
        root: Path | Shards,
        spec: AudioSpec,
        vocabulary: TagVocabulary | None = None,
        *,
        frames: int = 512,
        seed: int = 0,
        bands: Bands = PLAIN,
        progress: Progress | None = None,
    ) -> None:
        self.bands = bands
        self.vocabulary = vocabulary or vocabulary_of(root)
        self.frames = frames
        self.seed = seed
        self.labels = read_labels(root)
        if isinstance(root, Shards):
            self._mels: _MelFiles | _MelShards = _MelShards(root, spec)
            self._ahead = _Ahead(self._draw)
        else:
            self._mels = _MelFiles(mel_cache(root, spec, progress)[: len(self.labels)])
            self._ahead = None
        self.frame_rate = spec.frame_rate
        for piece in self.labels:
            self._encoded(piece)
        _check_lengths(root, self.labels, spec.seconds(frames))

    def __len__(self) -> int:
        """Return the number of pieces."""
        return len(self.labels)

    def batch(self, step: int, batch_size: int, part: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Draw clips and tags of one training step.

        Args:
            step: of the training.
            batch_size: B.
            part: of the batch that is needed; the other clips are zero, and are not read.

        Returns:
            x_0, shape (B, 1, n_mels, frames), float32, in [-1, 1] unless there are `bands`;
            conditions, shape (B, 5), int64.
        """
        needed = part.indices(batch_size)[:2]
        if self._ahead is None:
            return self._draw(step, batch_size, *needed)
        return self._ahead.batch(step, batch_size, *needed)

    def _draw(self, step: int, size: int, first: int, last: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([self.seed, step])
        pieces = rng.integers(len(self), size=size).tolist()
        places = rng.random(size).tolist()
        found = list(zip(pieces, places, strict=True))
        starts = [self._start(piece, place) for piece, place in found]
        drawn = list(zip(pieces, starts, strict=True))
        clips = self._clips(drawn[first:last])
        if len(clips) < size:
            whole = clips.new_zeros(size, *clips.shape[1:])
            whole[first:last] = clips
            clips = whole
        return clips, torch.stack([self._tags(piece, start) for piece, start in drawn])

    def clip(self, piece: int, place: float) -> tuple[Tensor, Tensor]:
        """Return a clip (1, n_mels, frames) and its tags (5,); `place` in [0, 1) is relative."""
        start = self._start(piece, place)
        return self._clips([(piece, start)])[0], self._tags(piece, start)

    def _start(self, piece: int, place: float) -> int:
        return int(place * (self._mels.frames(piece) - self.frames + 1))

    def _clips(self, drawn: Sequence[tuple[int, int]]) -> Tensor:
        """Read clips (B, 1, n_mels, frames), in the model space."""
        mels = self._mels.read([(piece, start, start + self.frames) for piece, start in drawn])
        crops = [np.ascontiguousarray(mel.T, dtype=np.float32) for mel in mels]
        return torch.stack([self.bands.normalised(torch.from_numpy(crop)[None]) for crop in crops])

    def _tags(self, piece: int, start: int) -> Tensor:
        return self._encoded(self.labels[piece], start / self.frame_rate)

    def _encoded(self, piece: dict[str, Any], start: float = 0.0) -> Tensor:
        tags = tags_of_label(piece, start)
        return self.vocabulary.encode(self.vocabulary.kinds_of(tags))


class _Ahead:
    """Reads the next step's batch from far away while this one is learned from."""

    def __init__(self, draw: Callable[[int, int, int, int], tuple[Tensor, Tensor]]) -> None:
        self._draw, self._thread = draw, ThreadPoolExecutor(1, thread_name_prefix="data")
        self._before: tuple[int, ...] | None = None
        self._next: tuple[tuple[int, ...], Future[tuple[Tensor, Tensor]]] | None = None

    def batch(self, step: int, size: int, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Return a step's batch, and begin to read the next if steps follow each other."""
        asked, following = (step, size, first, last), (step + 1, size, first, last)
        if self._next is not None and self._next[0] == asked:
            batch = self._next[1].result()
        else:
            batch = self._draw(*asked)
        if self._before == (step - 1, size, first, last):
            self._next = following, self._thread.submit(self._draw, *following)
        self._before = asked
        return batch


class AudioCrops:
    """Draw random crops of audio, for the vocoder.

    Args:
        root: a finished data folder, or shards.
        spec: its sample rate must be the data's.
        samples: length of a crop.
        seed: of the random crops.

    Raises:
        DataError: the folder is not a data set, has another sample rate, or a piece is too short.
    """

    def __init__(
        self, root: Path | Shards, spec: AudioSpec, *, samples: int, seed: int = 0
    ) -> None:
        _check_rate(root, spec)
        labels = read_labels(root)
        _check_lengths(root, labels, samples / spec.sample_rate)
        self.samples = samples
        self.seed = seed
        self._root, self._names = root, [piece["file"] for piece in labels]

    def __len__(self) -> int:
        """Return the number of pieces."""
        return len(self._names)

    def batch(self, step: int, batch_size: int) -> Tensor:
        """Draw audio of one training step, shape (B, samples), float32 in [-1, 1]."""
        rng = np.random.default_rng([self.seed, step])
        pieces = rng.integers(len(self), size=batch_size).tolist()
        places = rng.random(batch_size).tolist()
        crops = [self._crop(*each) for each in zip(self._opened(pieces), places, strict=True)]
        return torch.stack(crops)

    def _opened(self, pieces: Sequence[int]) -> Sequence[Path | BinaryIO]:
        if isinstance(self._root, Shards):
            return self._root.sounds(pieces)
        return [self._root / self._names[piece] for piece in pieces]

    def _crop(self, sound: Path | BinaryIO, place: float) -> Tensor:
        name = sound if isinstance(sound, Path) else Path(str(self._root))
        with read_errors(name), soundfile.SoundFile(sound) as file:
            file.seek(int(place * (file.frames - self.samples + 1)))
            return torch.from_numpy(file.read(self.samples, dtype="float32"))


def tags_of_label(piece: dict[str, Any], start: float = 0.0) -> Tags:
    """Return the tags of a piece's clip from `start` (seconds); None without a label.

    Without the label ``beat_offset`` the beat is None, even if the tempo is known.
    """
    tempo, offset = piece.get("tempo"), piece.get("beat_offset")
    beat = None if tempo is None or offset is None else (start - offset) * tempo / 60.0
    return Tags(piece.get("genre"), piece.get("mood"), tempo, beat)


def _mel(path: Path, spec: AudioSpec) -> npt.NDArray[np.float16]:
    """Compute a file's log-mel, (frames, n_mels): a clip is then a contiguous block on disk."""
    with read_errors(path):
        audio, _ = soundfile.read(path, dtype="float32")
    with torch.inference_mode():
        mel = log_mel(torch.from_numpy(audio)[None], spec)[0]
    return np.ascontiguousarray(mel.T.numpy().astype(np.float16))


def _check_rate(root: Path | Shards, spec: AudioSpec) -> None:
    rate = _facts(root)["sample_rate"]
    if rate != spec.sample_rate:
        raise DataError(
            f"{root} is sampled at {rate} Hz, not {spec.sample_rate} Hz: make it anew at that rate"
        )


def _check_lengths(root: Path | Shards, labels: list[dict[str, Any]], seconds: float) -> None:
    for piece in labels:
        if piece["seconds"] < seconds + 0.01:
            raise DataError(
                f"{root}/{piece['file']} is shorter than a clip of {seconds:.2f} s: "
                "use shorter clips or leave it out"
            )
