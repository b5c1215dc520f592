"""A soft limiter: audio never clips, and controls measure what is played."""

import torch
from torch import Tensor

KNEE = 0.8
CEILING = 0.999
"""Amplitudes, full scale = 1: the limiter acts above the knee and stays below the ceiling."""


def limited(audio: Tensor, knee: float = KNEE, ceiling: float = CEILING) -> Tensor:
    """Bend samples beyond ±`knee` smoothly so that they stay within ±`ceiling`; any shape.

    Samples within the knee are unchanged. The limiter is memoryless: cheap, with an exact gradient.
    Peaks are rare and short, so it changes the loudness far less than scaling the clip down.
    """
    room = ceiling - knee
    size = audio.abs()
    bent = audio.sign() * (knee + room * torch.tanh((size - knee).clamp(min=0) / room))
    return torch.where(size > knee, bent, audio)
