"""Audibility of a seam: the jump of the spectrum across it, compared with jumps in music."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d

from ditto.audio.features import log_mel, mel_db
from ditto.audio.spec import AudioSpec

SIDE_FRAMES = 4
"""Frames on either side, whose mean spectra are compared (46 ms by default)."""

AROUND_FRAMES = 32
"""Frames of context on either side when the jump of a seam is measured."""

FLOOR_DB = -90.0
"""Levels are raised to this: what lies below is silence."""


def jumps(audio: Tensor, spec: AudioSpec) -> Tensor:
    """Compute the spectral jump at every frame of audio (samples,), in dB, shape (frames,).

    It is the RMS over the mels of the difference between the mean log-mels of the `SIDE_FRAMES`
    frames from i on and of those before i; 0 near the ends, where there are fewer.
    """
    with torch.no_grad():
        level = mel_db(log_mel(audio[None], spec), spec)[0].clamp_(min=FLOOR_DB)
    result = level.new_zeros(level.shape[1])
    if len(result) < 2 * SIDE_FRAMES:
        return result
    means = avg_pool1d(level, SIDE_FRAMES, stride=1)
    inner = (means[:, SIDE_FRAMES:] - means[:, :-SIDE_FRAMES]).square_().mean(dim=0).sqrt()
    result[SIDE_FRAMES : SIDE_FRAMES + len(inner)] = inner
    return result


def seam_jump(audio: Tensor, seconds: float, spec: AudioSpec, reach: float = 0.1) -> float:
    """Find the largest jump in dB within `reach` seconds of a seam at `seconds` in (samples,)."""
    first, last = (round((seconds + side) * spec.frame_rate) for side in (-reach, reach))
    begin = max(first - AROUND_FRAMES, 0)
    near = jumps(audio[begin * spec.hop : (last + AROUND_FRAMES) * spec.hop], spec)
    return near[max(first, 0) - begin : last + 1 - begin].max().item()


def typical_jumps(audio: Tensor, spec: AudioSpec, reach: float = 0.1) -> np.ndarray:
    """Find the largest jump in dB within `reach` seconds of every frame of audio (samples,)."""
    width = 2 * round(reach * spec.frame_rate) + 1
    inner = jumps(audio, spec)[SIDE_FRAMES:-SIDE_FRAMES]
    return inner.unfold(0, width, 1).amax(dim=1).numpy() if len(inner) >= width else np.zeros(0)


def share_below(value: float, others: Sequence[float] | np.ndarray) -> float:
    """Return the percentile, 0 to 100, of a value among others; NaN if there are none."""
    return float(100 * np.mean(np.asarray(others) <= value)) if len(others) else float("nan")
