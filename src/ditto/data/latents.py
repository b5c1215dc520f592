"""Clips of an adapted pipeline's latent with encoded captions, each batch a pure function of (seed,
step).

A source is a data folder (composed or prepared), whose labels make the captions; or any folder of
recordings, where ``song.txt`` beside ``song.wav`` is its caption, and a recording without one goes
with the empty prompt. Recordings are cut into windows, each half a window after the last, and go
through the pipeline's `encode` once; the latents are kept under the folder's ``cache/``, one file a
recording.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ditto.audio.io import info, read
from ditto.data.captions import Labels, caption
from ditto.data.dataset import read_labels
from ditto.data.files import Progress, cached_arrays, short_key
from ditto.data.prepare import recordings
from ditto.errors import DataError
from ditto.models.adapters.common import PipelineModel
from ditto.models.folder import hash_networks

DETAIL = 0.5
"""Lowest share of the facts that a caption made of labels tells; the highest is 1."""


@dataclass(frozen=True)
class Recording:
    """A sound file with what is known of it.

    Attributes:
        path: the file.
        seconds: its length.
        key: changes with the file.
        labels: of a data folder's piece, or None.
        text: its caption, if there are no labels.
    """

    path: Path
    seconds: float
    key: str
    labels: Labels | None = None
    text: str = ""

    def caption(self, start: float, seconds: float, rng: np.random.Generator) -> str:
        """What is said of the clip of `seconds` from `start`."""
        return (
            self.text
            if self.labels is None
            else caption(self.labels, start, seconds, rng, rng.uniform(DETAIL, 1.0))
        )


def read_recordings(root: Path) -> list[Recording]:
    """The pieces of a data folder, or the recordings of any other, searched in depth.

    Raises:
        DataError: there is none, or the data folder is unfinished.
        AudioFileError: a file is no sound file.
    """
    if (root / "dataset.json").is_file():
        return [_piece(root, labels) for labels in read_labels(root)]
    return [_recording(path) for path in recordings(root)]


def _piece(root: Path, labels: Labels) -> Recording:
    return Recording(root / labels["file"], float(labels["seconds"]), labels["sha256"], labels)


def _recording(path: Path) -> Recording:
    beside = path.with_suffix(".txt")
    try:
        text = " ".join(beside.read_text(encoding="utf-8").split()) if beside.is_file() else ""
    except (OSError, UnicodeDecodeError):
        raise DataError(f"cannot read the caption {beside}: it must be text in UTF-8") from None
    about = path.stat()
    return Recording(
        path, info(path).seconds, f"{path.name}-{about.st_size}-{about.st_mtime_ns}", text=text
    )


class LatentClips:
    """Random clips of x_0 with conditions of their captions.

    Args:
        root: a data folder, or a folder of recordings; its cache is completed first.
        model: encodes sound and prompts.
        seconds: length of a clip; None is the model's window.
        seed: of the draws.
        progress: of the cache, called with (recordings done, recordings).

    Raises:
        DataError: as `read_recordings`, or no recording is as long as a clip.
        RequestError: the model cannot make clips of that length.
    """

    def __init__(
        self,
        root: Path,
        model: PipelineModel,
        *,
        seconds: float | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> None:
        self.model, self.seed, self.frames = model, seed, model.shape(seconds)[-1]
        self.seconds = model.spec.seconds(self.frames)
        long_enough = [
            item for item in read_recordings(root) if item.seconds >= self.seconds - 1e-6
        ]
        if not long_enough:
            raise DataError(
                f"no recording in {root} is as long as a clip of {self.seconds:.2f} s: set seconds"
            )
        self._clips = [
            (item, place, file)
            for item, file in zip(
                long_enough, self._cache(root, long_enough, progress), strict=True
            )
            for place in range(len(self._starts(item)))
        ]

    def __len__(self) -> int:
        """Number of clips."""
        return len(self._clips)

    def batch(self, step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        """Latents (B, …, frames) float32 and conditions (B, N) of one training step, on the CPU."""
        rng = np.random.default_rng([self.seed, step])
        chosen = [self._clips[int(i)] for i in rng.integers(len(self), size=batch_size)]
        latents = [
            np.load(file, mmap_mode="r", allow_pickle=False)[place] for _, place, file in chosen
        ]
        said = [
            item.caption(self._starts(item)[place], self.seconds, rng) for item, place, _ in chosen
        ]
        x_0 = torch.from_numpy(np.stack(latents).astype(np.float32))
        return x_0, self.model.encode_prompts(said, self.seconds).cpu()

    def _starts(self, item: Recording) -> list[float]:
        """Seconds at which a recording's clips begin."""
        half = self.seconds / 2
        return [
            place * half for place in range(int((item.seconds - self.seconds + 1e-6) / half) + 1)
        ]

    def _cache(self, root: Path, items: list[Recording], progress: Progress | None) -> list[Path]:
        def make(i: int) -> np.ndarray:
            return np.stack([self._latent(items[i], start) for start in self._starts(items[i])])

        folder = (
            root
            / "cache"
            / f"latents-{short_key([hash_networks(self.model.decoders), self.frames])}"
        )
        return cached_arrays(folder, [short_key(item.key) for item in items], make, progress)

    def _latent(self, item: Recording, start: float) -> np.ndarray:
        """x_0 of one clip, float16, shape (…, frames)."""
        rate, count = self.model.spec.sample_rate, self.model.spec.samples(self.frames)
        sound = read(item.path, start=start, seconds=self.seconds).resample(rate).samples[:, :count]
        sound = np.pad(sound, ((0, 0), (0, count - sound.shape[1])))
        with torch.no_grad():
            x_0 = self.model.encode(torch.from_numpy(sound)[None])
        return x_0[0].cpu().numpy().astype(np.float16)
