"""Cutting a signal into overlapping frames and adding them up again, where a window is a whole number of hops.

The same as `torch.stft`'s framing and `torch.istft`'s overlap-add, made of slices, whose gradients are cheap on a CPU:
those of `unfold` and `fold` take longer there than the Fourier transforms themselves.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad


def frames_of(signal: Tensor, n_fft: int, hop: int) -> Tensor:
    """Frames every `hop` samples, (B, samples) → (B, (samples − n_fft) / hop + 1, n_fft).

    Raises:
        ValueError: `n_fft` or the samples are no whole number of hops, or there is not one frame.
    """
    overlap, count = _hops(n_fft, hop), _hops(signal.shape[1], hop) - n_fft // hop + 1
    if count < 1:
        raise ValueError(f"{signal.shape[1]} samples do not make a frame of {n_fft}")
    pieces = signal.unflatten(1, (-1, hop))
    return torch.cat([pieces[:, i : i + count] for i in range(overlap)], dim=2)


def overlap_add(frames: Tensor, hop: int) -> Tensor:
    """The sum of frames (B, count, n_fft) that begin `hop` samples apart: (B, (count − 1) · hop + n_fft)."""
    overlap = _hops(frames.shape[2], hop)
    pieces = frames.unflatten(2, (overlap, hop))
    shifted = [pad(pieces[:, :, i], (0, 0, i, overlap - 1 - i)) for i in range(overlap)]
    total = shifted[0]
    for part in shifted[1:]:
        total = total + part
    return total.flatten(1)


def _hops(samples: int, hop: int) -> int:
    if samples % hop:
        raise ValueError(f"{samples} samples are not a whole number of hops of {hop}")
    return samples // hop
