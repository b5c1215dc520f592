"""Latents of an adapted pipeline with encoded captions, to train its students and ControlNets.

Each batch is a pure function of (seed, step). The source is a data folder (captions are made from
its labels) or any folder of recordings (the caption of ``song.wav`` is ``song.txt``, or empty).
Recordings are cut into windows that overlap by half and encoded once; the latents are cached under
``cache/``, one file per recording.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ditto.audio.io import info, read
from ditto.data.captions import Labels, caption
from ditto.data.dataset import read_labels
from ditto.data.files import Progress, cached_arrays, read_array, short_key
from ditto.data.prepare import recordings
from ditto.errors import DataError
from ditto.models.adapters.common import PipelineModel
from ditto.models.folder import hash_networks

DETAIL = 0.5
"""Lowest share of the facts in a caption made from labels; the highest is 1."""


@dataclass(frozen=True)
class Recording:
    """Describe a sound file.

    Attributes:
        path: the file.
        seconds: its length.
        key: identifies the file's content in the folder's cache.
        labels: of a data folder's piece, or None.
        text: its caption, if there are no labels.
    """

    path: Path
    seconds: float
    key: str
    labels: Labels | None = None
    text: str = ""

    def caption(self, start: float, seconds: float, rng: np.random.Generator) -> str:
        """Describe the clip of `seconds` from `start`."""
        if self.labels is None:
            return self.text
        return caption(self.labels, start, seconds, rng, detail=rng.uniform(DETAIL, 1.0))


def read_recordings(root: Path) -> list[Recording]:
    """List the pieces of a data folder, or the recordings of any other, recursively.

    Raises:
        DataError: there is none, or the data folder is unfinished.
        AudioFileError: a recording cannot be read.
    """
    if (root / "dataset.json").is_file():
        return [
            Recording(root / piece["file"], float(piece["seconds"]), piece["sha256"], piece)
            for piece in read_labels(root)
        ]
    return [_recording(path, root) for path in recordings(root)]


def _recording(path: Path, root: Path) -> Recording:
    txt = path.with_suffix(".txt")
    try:
        text = " ".join(txt.read_text(encoding="utf-8-sig").split()) if txt.is_file() else ""
    except (OSError, UnicodeDecodeError):
        raise DataError(f"cannot read the caption {txt}: it must be text in UTF-8") from None
    status = path.stat()
    # by its place too: albums have songs of one name, cut to one length and unpacked at one moment
    key = f"{path.relative_to(root).as_posix()}-{status.st_size}-{status.st_mtime_ns}"
    return Recording(path, info(path).seconds, key, text=text)


class LatentClips:
    """Draw random clips of x_0 with the conditions of their captions.

    Args:
        root: a data folder, or a folder of recordings; its cache is completed first.
        model: encodes audio and prompts.
        seconds: length of a clip; None is the model's window.
        seed: of the draws.
        progress: of the cache, in recordings.

    Raises:
        DataError: as of `read_recordings`, or all recordings are shorter than a clip.
        OutputError: the cache cannot be written.
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
        shortest = self.seconds - 1e-6
        items = [item for item in read_recordings(root) if item.seconds >= shortest]
        if not items:
            raise DataError(
                f"no recording in {root} is as long as a clip of {self.seconds:.2f} s: set seconds"
            )
        files = self._cache(root, items, progress)
        self._clips = [
            (item, place, file)
            for item, file in zip(items, files, strict=True)
            for place in range(len(self._starts(item)))
        ]

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self._clips)

    def batch(self, step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        """Draw x_0 (B, …, frames), float32, and conditions (B, N) of one step, on the CPU."""
        rng = np.random.default_rng([self.seed, step])
        latents, captions = [], []
        for i in rng.integers(len(self), size=batch_size):
            item, place, file = self._clips[int(i)]
            latents.append(read_array(file)[place])
            captions.append(item.caption(self._starts(item)[place], self.seconds, rng))
        x_0 = torch.from_numpy(np.stack(latents).astype(np.float32))
        return x_0, self.model.encode_prompts(captions, self.seconds).cpu()

    def _starts(self, item: Recording) -> list[float]:
        """List the starts of a recording's clips, in seconds."""
        half = self.seconds / 2
        return [i * half for i in range(int((item.seconds - self.seconds + 1e-6) / half) + 1)]

    def _cache(self, root: Path, items: list[Recording], progress: Progress | None) -> list[Path]:
        def make(i: int) -> np.ndarray:
            return np.stack([self._latent(items[i], start) for start in self._starts(items[i])])

        key = short_key([hash_networks(self.model.decoders), self.frames])
        names = [short_key(item.key) for item in items]
        return cached_arrays(root / "cache" / f"latents-{key}", names, make, progress)

    def _latent(self, item: Recording, start: float) -> np.ndarray:
        """Encode the clip of a recording from `start`: x_0, float16, shape (…, frames)."""
        rate, count = self.model.spec.sample_rate, self.model.spec.samples(self.frames)
        audio = read(item.path, start=start, seconds=self.seconds).resample(rate).samples[:, :count]
        audio = np.pad(audio, ((0, 0), (0, count - audio.shape[1])))
        with torch.no_grad():
            x_0 = self.model.encode(torch.from_numpy(audio)[None])
        return x_0[0].cpu().numpy().astype(np.float16)
