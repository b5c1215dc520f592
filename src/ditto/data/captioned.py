"""Clips with captions, for training CLAP; each batch is a pure function of (seed, step).

The log-mels of CLAP's front end are cached like the base model's, see `ditto.data.dataset`.
"""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from ditto.data.captions import caption
from ditto.data.dataset import piece_cache, read_labels
from ditto.data.files import Progress, read_array, read_errors, read_json, short_key
from ditto.errors import DataError
from ditto.models.clap_frontend import ClapFrontEnd, resample

FLOOR_DB = -100.0
"""Level of silence in CLAP's log-mels."""


def clap_cache(root: Path, front_end: ClapFrontEnd, progress: Progress | None = None) -> list[Path]:
    """Cache the log-mels of all pieces, one file each.

    Returns:
        .npy files in order: float16, shape (frames, n_mels), dB.

    Raises:
        DataError: the folder is not a data set.
        OutputError: the cache cannot be written.
    """
    rate = int(read_json(root / "dataset.json")["sample_rate"])
    settings = {k: v for k, v in asdict(front_end).items() if k not in ("seconds", "padding")}
    kind = f"clap-{short_key([settings, rate])}"
    return piece_cache(root, kind, lambda path: _levels(path, front_end), progress)


class CaptionedClips:
    """Draw random clips of CLAP's window with captions.

    Args:
        root: a finished data folder; its cache is completed first.
        front_end: CLAP's.
        seconds: length of the clips in use; half of the clips are cut there and padded with
            silence, as the front end does, and half fill the window.
        detail: lowest share of the facts in a caption; the highest is 1.
        seed: of crops and captions.
        progress: of the cache, in pieces.

    Raises:
        DataError: the folder is not a data set, or a piece is shorter than the window.
        OutputError: the cache cannot be written.
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
        for piece in self.labels:
            if piece["seconds"] < front_end.seconds + 0.1:
                raise DataError(
                    f"{root / piece['file']} is shorter than CLAP's window of "
                    f"{front_end.seconds} s: leave it out"
                )

    def __len__(self) -> int:
        """Return the number of pieces."""
        return len(self.labels)

    def batch(self, step: int, batch_size: int) -> tuple[Tensor, list[str]]:
        """Draw log-mels (B, 1, frames, n_mels) in dB and captions of one training step.

        Pieces are drawn without replacement if there are enough: another clip of the same piece
        would count as a wrong answer.
        """
        rng = np.random.default_rng([self.seed, step])
        pieces = rng.choice(len(self), size=batch_size, replace=batch_size > len(self))
        clips, captions = zip(*[self._clip(int(piece), rng) for piece in pieces], strict=True)
        return torch.stack(clips), list(captions)

    def _clip(self, piece: int, rng: np.random.Generator) -> tuple[Tensor, str]:
        levels = read_array(self._levels[piece])
        frames, hop, rate = self.front_end.frames, self.front_end.hop, self.front_end.sample_rate
        start = int(rng.integers(len(levels) - frames + 1))
        clip = np.array(levels[start : start + frames], dtype=np.float32)
        if rng.random() < 0.5:
            clip[int(self.seconds * rate / hop) + 1 :] = FLOOR_DB
        detail = rng.uniform(self.detail, 1.0)
        text = caption(self.labels[piece], start * hop / rate, self.seconds, rng, detail)
        return torch.from_numpy(clip)[None], text


def _levels(path: Path, front_end: ClapFrontEnd) -> np.ndarray:
    with read_errors(path):
        audio, rate = soundfile.read(path, dtype="float32")
    with torch.inference_mode():
        sound = resample(torch.from_numpy(audio)[None], rate, front_end.sample_rate)
        return front_end.decibels(sound)[0, 0].numpy().astype(np.float16)
