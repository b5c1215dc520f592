"""How audible a seam is: the jump of the spectrum across it, against the jumps that the music makes
anyway.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ditto.audio.features import long_log_mel, mel_db
from ditto.audio.spec import AudioSpec

SIDE_FRAMES = 4
"""Frames on either side whose mean spectra are compared (46 ms by default)."""

AROUND_FRAMES = 32
"""Frames beside a seam that its jump is measured with."""

FLOOR_DB = -90.0
"""Levels below are as good as silence."""


def jumps(audio: Tensor, spec: AudioSpec) -> Tensor:
    """Spectral jump at every frame of audio (samples,): RMS over the mels of the difference in dB,
    shape (frames,).

    At frame i the mean spectrum of the `SIDE_FRAMES` frames from i on is compared with that of
    those before i. Near the ends, where there are not so many, it is 0.
    """
    with torch.no_grad():
        level = mel_db(long_log_mel(audio[None], spec), spec)[0].clamp(min=FLOOR_DB)
    total = torch.cat([level.new_zeros(len(level), 1), level.cumsum(dim=1)], dim=1)
    means = (total[:, SIDE_FRAMES:] - total[:, :-SIDE_FRAMES]) / SIDE_FRAMES
    found = level.new_zeros(level.shape[1])
    inner = (means[:, SIDE_FRAMES:] - means[:, :-SIDE_FRAMES]).square().mean(dim=0).sqrt()
    found[SIDE_FRAMES : SIDE_FRAMES + len(inner)] = inner
    return found


def seam_jump(audio: Tensor, seconds: float, spec: AudioSpec, reach: float = 0.1) -> float:
    """The largest jump within `reach` seconds of a seam, in dB."""
    first, last = (round((seconds + side) * spec.frame_rate) for side in (-reach, reach))
    # What lies further away than windows reach is not looked at.
    begin = max(first - AROUND_FRAMES, 0)
    found = jumps(audio[begin * spec.hop : (last + AROUND_FRAMES) * spec.hop], spec)
    return found[max(first, 0) - begin : last + 1 - begin].max().item()


def typical_jumps(audio: Tensor, spec: AudioSpec, reach: float = 0.1) -> np.ndarray:
    """The largest jump within `reach` seconds of every frame of audio: what a seam is measured
    against.
    """
    found = jumps(audio, spec)
    width = 2 * round(reach * spec.frame_rate) + 1
    inner = found[SIDE_FRAMES : len(found) - SIDE_FRAMES]
    return inner.unfold(0, width, 1).amax(dim=1).numpy() if len(inner) >= width else np.zeros(0)


def share_below(value: float, others: Sequence[float] | np.ndarray) -> float:
    """The percentile, 0 to 100, at which a value stands among others; NaN of none."""
    return float(100 * np.mean(np.asarray(others) <= value)) if len(others) else float("nan")
