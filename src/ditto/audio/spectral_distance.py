"""Differentiable distances between spectrograms, for training and judging vocoders.

Audio is (B, samples), float32 or float64; a distance is one number per item, shape (B,).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

SIZES = (512, 1024, 2048)
"""STFT windows of the multi-resolution distance (Yamamoto, Song & Kim 2020), in samples; a hop is
a quarter window."""

RANGE = 1e-4
"""Floor under magnitudes before a logarithm, relative to the clip's maximum: -80 dB, inaudible."""


def magnitude(audio: Tensor, n_fft: int, hop: int) -> Tensor:
    """Compute STFT magnitudes (B, n_fft // 2 + 1, frames): Hann window, full-scale sine = 1."""
    window = torch.hann_window(n_fft, dtype=audio.dtype, device=audio.device)
    stft = torch.stft(audio, n_fft, hop, window=window * (4 / n_fft), return_complex=True)
    return (stft.real.square() + stft.imag.square() + 1e-14).sqrt()


def multi_resolution_stft(
    audio: Tensor, target: Tensor, sizes: Sequence[int] = SIZES
) -> tuple[Tensor, Tensor]:
    """Compute spectral convergence and log-magnitude distance, averaged over resolutions.

    Args:
        audio: shape (B, samples).
        target: same shape.
        sizes: STFT windows, samples.

    Returns:
        Two of shape (B,): ‖|Y| − |S|‖ / ‖|S|‖ (Frobenius norms, a ratio) and the mean of |ln |Y| −
        ln |S|| (nepers).
    """
    pairs = [torch.stack(_stft_distance(audio, target, size)) for size in sizes]
    convergence, log_magnitude = torch.stack(pairs).mean(dim=0)
    return convergence, log_magnitude


def _stft_distance(audio: Tensor, target: Tensor, n_fft: int) -> tuple[Tensor, Tensor]:
    y, s = magnitude(audio, n_fft, n_fft // 4), magnitude(target, n_fft, n_fft // 4)
    error = (y - s).square().sum(dim=(1, 2))
    convergence = (error / (s.square().sum(dim=(1, 2)) + 1e-10) + 1e-12).sqrt()
    floor = s.amax(dim=(1, 2), keepdim=True) * RANGE + 1e-7
    return convergence, ((y + floor).log() - (s + floor).log()).abs().mean(dim=(1, 2))
