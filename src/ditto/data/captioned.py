"""Clips with captions, for CLAP: each batch a pure function of (seed, step).

Whole pieces go through CLAP's front end once; their log-mels are kept under the data folder's
``cache/``, one file a piece, as `ditto.data.dataset` keeps the base model's.
"""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from ditto.data.captions import caption
from ditto.data.dataset import piece_cache, read_labels
from ditto.data.files import Progress, read_json, short_key
from ditto.errors import DataError
from ditto.models.clap_frontend import ClapFrontEnd, resample

FLOOR_DB = -100.0


def clap_cache(root: Path, front_end: ClapFrontEnd, progress: Progress | None = None) -> list[Path]:
    """Compute the log-mels that are not yet cached.

    Returns:
        A .npy file a piece, in order: float16, shape (frames, n_mels), dB.

    Raises:
        DataError: the folder is not a data set, or the cache cannot be written.
    """
    rate = int(read_json(root / "dataset.json")["sample_rate"])
    kept = {k: v for k, v in asdict(front_end).items() if k not in ("seconds", "padding")}
    return piece_cache(
        root, f"clap-{short_key([kept, rate])}", lambda path: _levels(path, front_end), progress
    )


class CaptionedClips:
    """Random clips of CLAP's window with captions.

    Args:
        root: a finished data folder; its cache is completed first.
        front_end: CLAP's.
        seconds: length of the clips that users will have CLAP hear; half of the clips end there, in
            silence, as the front end pads them, and half fill the window.
        detail: lowest share of the facts that a caption tells; the highest is 1.
        seed: of crops and captions.
        progress: of the cache, called with (pieces done, pieces).

    Raises:
        DataError: as `clap_cache`, or a piece is shorter than the window.
    """

    def __init__(
        self,
        root: Path,
        front_end: ClapFrontEnd,
        *,
        seconds: float,
        detail: float = 0.5,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> None:
        self.labels = read_labels(root)
        self.front_end, self.seconds, self.detail, self.seed = front_end, seconds, detail, seed
        self._levels = clap_cache(root, front_end, progress)[: len(self.labels)]
        short = [
            piece["file"] for piece in self.labels if piece["seconds"] < front_end.seconds + 0.1
        ]
        if short:
            raise DataError(
                f"{root / short[0]} is shorter than CLAP's window of {front_end.seconds} s: leave it out"
            )

    def __len__(self) -> int:
        """Number of pieces."""
        return len(self.labels)

    def batch(self, step: int, batch_size: int) -> tuple[Tensor, list[str]]:
        """Log-mels (B, 1, frames, n_mels) in dB and captions of one training step.

        No piece is there twice while there are enough: another clip of it would count as a wrong
        answer.
        """
        rng = np.random.default_rng([self.seed, step])
        pieces = rng.choice(len(self), size=batch_size, replace=batch_size > len(self))
        clips, captions = zip(*[self._clip(int(piece), rng) for piece in pieces], strict=True)
        return torch.stack(clips), list(captions)

    def _clip(self, piece: int, rng: np.random.Generator) -> tuple[Tensor, str]:
        levels = np.load(self._levels[piece], mmap_mode="r", allow_pickle=False)
        frames, hop, rate = self.front_end.frames, self.front_end.hop, self.front_end.sample_rate
        start = int(rng.integers(len(levels) - frames + 1))
        clip = np.array(levels[start : start + frames], dtype=np.float32)
        if rng.random() < 0.5:
            clip[int(self.seconds * rate / hop) + 1 :] = FLOOR_DB
        detail = rng.uniform(self.detail, 1.0)
        said = caption(self.labels[piece], start * hop / rate, self.seconds, rng, detail)
        return torch.from_numpy(clip)[None], said


def _levels(path: Path, front_end: ClapFrontEnd) -> np.ndarray:
    audio, rate = soundfile.read(path, dtype="float32")
    with torch.inference_mode():
        sound = resample(torch.from_numpy(audio)[None], rate, front_end.sample_rate)
        return front_end.decibels(sound)[0, 0].numpy().astype(np.float16)
