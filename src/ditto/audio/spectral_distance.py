"""Distances between two sounds' spectrograms, differentiable: what vocoders are trained and judged
by.

All functions take audio of shape (B, samples) and give one number per item, shape (B,), in float32
or float64.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

SIZES = (512, 1024, 2048)
"""STFT windows of the multi-resolution distance (Yamamoto, Song & Kim 2020), samples; hops are a
quarter."""

RANGE = 1e-4
"""Magnitudes more than 80 dB below a clip's maximum are raised to there before a logarithm: they
are inaudible."""


def magnitude(audio: Tensor, n_fft: int, hop: int) -> Tensor:
    """STFT magnitude with a Hann window, full-scale sine = 1: (B, n_fft // 2 + 1, frames).
    Gradients stay finite.
    """
    window = torch.hann_window(n_fft, dtype=audio.dtype, device=audio.device)
    stft = torch.stft(audio, n_fft, hop, window=window * (4 / n_fft), return_complex=True)
    return (stft.real.square() + stft.imag.square() + 1e-14).sqrt()


def multi_resolution_stft(
    audio: Tensor, target: Tensor, sizes: Sequence[int] = SIZES
) -> tuple[Tensor, Tensor]:
    """Spectral convergence and log-magnitude distance, each averaged over the resolutions.

    Args:
        audio: shape (B, samples).
        target: same shape.
        sizes: STFT windows, samples.

    Returns:
        Two of shape (B,): ‖|Y| − |S|‖ / ‖|S|‖ (Frobenius norms, a ratio) and the mean of |ln |Y| −
        ln |S|| (nepers).
    """
    pairs = [_stft_distance(audio, target, size) for size in sizes]
    convergence, log_magnitude = (
        torch.stack(part).mean(dim=0) for part in zip(*pairs, strict=True)
    )
    return convergence, log_magnitude


def _stft_distance(audio: Tensor, target: Tensor, n_fft: int) -> tuple[Tensor, Tensor]:
    made, wanted = magnitude(audio, n_fft, n_fft // 4), magnitude(target, n_fft, n_fft // 4)
    error = (made - wanted).square().sum(dim=(1, 2))
    convergence = (error / (wanted.square().sum(dim=(1, 2)) + 1e-10) + 1e-12).sqrt()
    floor = wanted.amax(dim=(1, 2), keepdim=True) * RANGE + 1e-7
    return convergence, ((made + floor).log() - (wanted + floor).log()).abs().mean(dim=(1, 2))
