"""Training batches from a data folder (composed or prepared), each a pure function of (seed, step).

Nothing is kept between batches, so a training that resumes at step n sees what it would have seen.
Log-mels are computed once and kept as one file a piece under ``cache/``, named by the audio's hash:
an interrupted cache continues, a data set that grew adds its new pieces, and a running training is
never disturbed.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from torch import Tensor

from ditto.audio.bands import PLAIN, Bands
from ditto.audio.features import log_mel
from ditto.audio.spec import AudioSpec
from ditto.data.files import Progress, cached_arrays, read_json, short_key
from ditto.errors import DataError
from ditto.models.conditioning import Tags, TagVocabulary

LEAST_STD = 0.01
"""Deviation of a band that is (nearly) always silent: 0.8 dB."""


def read_labels(root: Path) -> list[dict[str, Any]]:
    """The labels of every piece of a finished data folder, in order.

    Raises:
        DataError: the folder is not a data set, is unfinished or has no piece.
    """
    count = int(read_json(root / "dataset.json").get("count", 0))
    try:
        lines = (root / "labels.jsonl").read_text().splitlines()[:count]
    except OSError as error:
        raise DataError(
            f"{root} is not a finished data set: run the command that makes it again"
        ) from error
    if not lines:
        raise DataError(f"{root} is not a finished data set: run the command that makes it again")
    return [json.loads(line) for line in lines]


def vocabulary_of(root: Path) -> TagVocabulary:
    """The tags that a data folder knows.

    Raises:
        DataError: the folder is not a data set.
    """
    found = read_json(root / "dataset.json")
    try:
        low, high = found["tempo_range"]
        return TagVocabulary(
            tuple(found["genres"]), tuple(found["moods"]), tempo_low=low, tempo_high=high
        )
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"{root / 'dataset.json'} does not name genres, moods and tempos: make the data anew"
        ) from None


def mel_cache(root: Path, spec: AudioSpec, progress: Progress | None = None) -> list[Path]:
    """Compute the log-mels that are not yet cached.

    Args:
        root: a finished data folder.
        spec: rates and sizes; every spec has a cache of its own.
        progress: called with (pieces done, pieces).

    Returns:
        A .npy file a piece, in order: float16, shape (frames, n_mels), values as `log_mel`.

    Raises:
        DataError: the folder is not a data set, has another sample rate, or the cache cannot be
            written.
    """
    rate = read_json(root / "dataset.json")["sample_rate"]
    if rate != spec.sample_rate:
        raise DataError(
            f"{root} is sampled at {rate} Hz, not {spec.sample_rate} Hz: make it anew at that rate"
        )
    return piece_cache(root, _spec_key(spec), lambda path: _mel(path, spec), progress)


def piece_cache(
    root: Path,
    kind: str,
    make: Callable[[Path], npt.NDArray[np.float16]],
    progress: Progress | None = None,
) -> list[Path]:
    """What is made of each piece's sound file, once; kept in ``cache/<kind>/`` under the name and
    hash of the file.

    Returns:
        A .npy file a piece, in order.

    Raises:
        DataError: the folder is not a data set, or the cache cannot be written.
    """
    pieces = read_labels(root)
    names = [f"{Path(piece['file']).stem}-{piece['sha256'][:16]}" for piece in pieces]
    return cached_arrays(
        root / "cache" / kind, names, lambda i: make(root / pieces[i]["file"]), progress
    )


def band_statistics(root: Path, spec: AudioSpec, progress: Progress | None = None) -> Bands:
    """Mean and standard deviation of every mel band over all frames of a finished data folder.

    Raises:
        DataError: see `mel_cache`.
    """
    count, total, squares = 0, np.zeros(spec.n_mels), np.zeros(spec.n_mels)
    for path in mel_cache(root, spec, progress)[: len(read_labels(root))]:
        mel = np.load(path, allow_pickle=False).astype(np.float64)
        count, total, squares = (
            count + len(mel),
            total + mel.sum(axis=0),
            squares + np.square(mel).sum(axis=0),
        )
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, LEAST_STD**2))
    return Bands(tuple(mean.round(6).tolist()), tuple(deviation.round(6).tolist()))


class ClipDataset:
    """Random log-mel clips with their tags.

    Args:
        root: a finished data folder; its cache is completed first.
        spec: rates and sizes.
        vocabulary: indices of the tags; None is the data's own.
        frames: length of a clip.
        seed: of the random crops.
        bands: of the model space that the clips are to be in; by default they are log-mels as they
            are.
        progress: of the cache, called with (pieces done, pieces).

    Raises:
        DataError: as `mel_cache`, or a piece is shorter than a clip.
        TagError: a label is not in `vocabulary`.
    """

    def __init__(
        self,
        root: Path,
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
        self._mels = mel_cache(root, spec, progress)[: len(self.labels)]
        self.frame_rate = spec.frame_rate
        for piece in self.labels:
            self.vocabulary.encode(tags_of_label(piece))
        _check_lengths(root, self.labels, spec.seconds(frames))

    def __len__(self) -> int:
        """Number of pieces."""
        return len(self.labels)

    def batch(self, step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        """Clips and tags of one training step.

        Returns:
            x_0, shape (B, 1, n_mels, frames), float32, in [-1, 1] unless there are `bands`;
            conditions, shape (B, 5), int64.
        """
        rng = np.random.default_rng([self.seed, step])
        pieces = rng.integers(len(self), size=batch_size)
        places = rng.random(batch_size)
        clips, tags = zip(
            *[self.clip(int(i), float(p)) for i, p in zip(pieces, places, strict=True)], strict=True
        )
        return torch.stack(clips), torch.stack(tags)

    def clip(self, piece: int, place: float) -> tuple[Tensor, Tensor]:
        """One clip (1, n_mels, frames) and its condition (5,); `place` in [0, 1) runs over the
        piece.
        """
        mel = np.load(self._mels[piece], mmap_mode="r", allow_pickle=False)
        start = int(place * (len(mel) - self.frames + 1))
        crop = np.ascontiguousarray(mel[start : start + self.frames].T, dtype=np.float32)
        tags = self.vocabulary.encode(tags_of_label(self.labels[piece], start / self.frame_rate))
        return self.bands.normalised(torch.from_numpy(crop)[None]), tags


class AudioCrops:
    """Random crops of audio, for the vocoder.

    Args:
        root: a finished data folder.
        spec: its sample rate must be the data's.
        samples: length of a crop.
        seed: of the random crops.

    Raises:
        DataError: the folder is not a data set, has another sample rate, or a piece is shorter than
            a crop.
    """

    def __init__(self, root: Path, spec: AudioSpec, *, samples: int, seed: int = 0) -> None:
        if read_json(root / "dataset.json")["sample_rate"] != spec.sample_rate:
            raise DataError(
                f"{root} is not sampled at {spec.sample_rate} Hz: make it anew at that rate"
            )
        labels = read_labels(root)
        _check_lengths(root, labels, samples / spec.sample_rate)
        self.samples = samples
        self.seed = seed
        self._files = [root / piece["file"] for piece in labels]

    def __len__(self) -> int:
        """Number of pieces."""
        return len(self._files)

    def batch(self, step: int, batch_size: int) -> Tensor:
        """Audio of one training step, shape (B, samples), float32 in [-1, 1]."""
        rng = np.random.default_rng([self.seed, step])
        pieces = rng.integers(len(self), size=batch_size)
        places = rng.random(batch_size)
        return torch.stack(
            [self._crop(int(i), float(p)) for i, p in zip(pieces, places, strict=True)]
        )

    def _crop(self, piece: int, place: float) -> Tensor:
        with soundfile.SoundFile(self._files[piece]) as file:
            file.seek(int(place * (file.frames - self.samples + 1)))
            return torch.from_numpy(file.read(self.samples, dtype="float32"))


def tags_of_label(piece: dict[str, Any], start: float = 0.0) -> Tags:
    """The tags of a piece's clip from `start` (seconds); what its label leaves open is None.

    A piece whose label does not say where its beats are has a tempo but no beat grid.
    """
    tempo, offset = piece.get("tempo"), piece.get("beat_offset")
    beat = None if tempo is None or offset is None else (start - offset) * tempo / 60.0
    return Tags(piece.get("genre"), piece.get("mood"), tempo, beat)


@lru_cache(maxsize=8)
def _spec_key(spec: AudioSpec) -> str:
    """A short name of what the mels depend on: every field of the spec but the clip's length."""
    return short_key({k: v for k, v in asdict(spec).items() if k != "clip_frames"})


def _mel(path: Path, spec: AudioSpec) -> npt.NDArray[np.float16]:
    """Log-mel of a whole file, shape (frames, n_mels): a clip is then one contiguous block of the
    file.
    """
    audio, _ = soundfile.read(path, dtype="float32")
    with torch.inference_mode():
        mel = log_mel(torch.from_numpy(audio)[None], spec)[0]
    return np.ascontiguousarray(mel.T.numpy().astype(np.float16))


def _check_lengths(root: Path, labels: list[dict[str, Any]], seconds: float) -> None:
    short = [piece["file"] for piece in labels if piece["seconds"] < seconds + 0.01]
    if short:
        raise DataError(
            f"{root / short[0]} is shorter than a clip of {seconds:.2f} s: use shorter clips or leave it out"
        )
