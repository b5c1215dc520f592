"""A soft limiter, so that no sound clips and what a control measures is what is heard."""

import torch
from torch import Tensor

KNEE = 0.8
CEILING = 0.999


def limited(audio: Tensor, knee: float = KNEE, ceiling: float = CEILING) -> Tensor:
    """Audio of any shape, with what goes beyond ±`knee` bent smoothly to stay within ±`ceiling`.

    Samples within the knee are left bit for bit. It has no memory, so that it costs little and its
    gradient is exact; peaks are rare and short, and bending them changes the loudness by far less
    than turning the whole clip down.
    """
    room = ceiling - knee
    size = audio.abs()
    bent = audio.sign() * (knee + room * torch.tanh((size - knee).clamp(min=0) / room))
    return torch.where(size > knee, bent, audio)
