"""Features of each frame's position in the bar, from a tempo and a starting beat.

With the tempo as a tag alone the network would have to count frames, which it did not learn within
the embedded model's training. As a function of time it costs one small matrix product.
"""

import math

import torch
from torch import Tensor

from ditto.models.conditioning import COLUMNS
from ditto.tables import table

CYCLES = (1 / 4, 1 / 3, 1 / 2, 1.0, 2.0, 3.0, 4.0)
"""Cycles a beat: bars of four and of three beats, half bars, beats, eighths, triplets,
sixteenths."""

FEATURES = 3 * len(CYCLES)
ONSET_SECONDS = 0.015


def beat_features(tags: Tensor, frames: int, frame_rate: float) -> Tensor:
    """Compute the features (B, frames, `FEATURES`), float32; zeros where a condition has no grid.

    For each of `CYCLES`: cosine and sine of the phase, and a bump around its start, about as wide
    as an onset.

    Args:
        tags: conditions, shape (B, 5), see `conditioning.COLUMNS`.
        frames: number of mel frames; frame n lies n / frame_rate seconds after the clip's start.
        frame_rate: mel frames a second.
    """
    tempo = tags[:, COLUMNS.index("tempo_tenths")].to(torch.float32) / 600.0
    start = tags[:, COLUMNS.index("beat_thousandths")].to(torch.float32) / 1000.0
    seconds = torch.arange(frames, device=tags.device, dtype=torch.float32) / frame_rate
    beats = start[:, None] + seconds * tempo[:, None]
    cycles = _cycles(tags.device)
    phase = beats[..., None] * cycles
    away = (phase - phase.round()) / (cycles * tempo.clamp(min=1e-3)[:, None, None])
    bump = torch.exp(-0.5 * (away / ONSET_SECONDS).square())
    angle = 2 * math.pi * phase
    return torch.cat([angle.cos(), angle.sin(), bump], dim=-1) * (tempo > 0)[:, None, None]


@table(maxsize=8)
def _cycles(device: torch.device) -> Tensor:
    return torch.tensor(CYCLES).to(device)
