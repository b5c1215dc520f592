"""Errors of a vocoder against the original, with Griffin-Lim as the baseline.

Metrics: multi-resolution STFT spectral convergence (a ratio) and log-magnitude distance (dB),
log-mel L1 (dB), and the error of the loudness `rms_db` (dB), which intensity control relies on.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ditto.audio.features import log_mel, mel_db, mel_filterbank, rms_db
from ditto.audio.spec import AudioSpec
from ditto.audio.spectral_distance import multi_resolution_stft

QUIET_DB = -60.0
"""Quieter frames do not count in the loudness error."""

MEL_FLOOR_DB = -90.0
"""Floor of the mel levels: below it is inaudible numerical noise."""


def evaluate_vocoder(
    vocoder: Callable[[Tensor], Tensor], audio: Tensor, spec: AudioSpec
) -> dict[str, float]:
    """Compute the errors of ``vocoder(log_mel(audio))`` against `audio`, averaged over clips.

    Args:
        vocoder: maps x_0 (B, n_mels, frames) to (B, frames * hop).
        audio: originals, shape (B, samples); cut to whole hops.
        spec: rates and sizes.

    Returns:
        ``spectral_convergence`` (ratio), ``log_magnitude_db``, ``mel_db``, ``rms_db`` (mean
        absolute errors in dB) and ``rms_bias_db`` (mean signed error; positive is too loud).
    """
    audio = audio[:, : audio.shape[1] // spec.hop * spec.hop]
    with torch.no_grad():
        return vocoder_errors(vocoder(log_mel(audio, spec)), audio, spec)


def vocoder_errors(output: Tensor, audio: Tensor, spec: AudioSpec) -> dict[str, float]:
    """Compute the errors of `evaluate_vocoder` between output and original, both (B, samples)."""
    convergence, log_magnitude = multi_resolution_stft(output, audio)
    levels, target = (
        mel_db(log_mel(a, spec), spec).clamp(min=MEL_FLOOR_DB) for a in (output, audio)
    )
    loudness = rms_db(audio, spec)
    error = (rms_db(output, spec) - loudness)[loudness > QUIET_DB]
    return {
        "spectral_convergence": convergence.mean().item(),
        "log_magnitude_db": log_magnitude.mean().item() * 20 / math.log(10),
        "mel_db": (levels - target).abs().mean().item(),
        "rms_db": error.abs().mean().item() if error.numel() else 0.0,
        "rms_bias_db": error.mean().item() if error.numel() else 0.0,
    }


def griffin_lim_mel(x_0: Tensor, spec: AudioSpec, iterations: int = 32, *, seed: int = 0) -> Tensor:
    """Invert a log-mel by Griffin & Lim (1984), from magnitudes fitted to the mel.

    Args:
        x_0: log-mel, shape (B, n_mels, frames).
        spec: rates and sizes.
        iterations: projections onto consistent spectrograms and the magnitudes.
        seed: of the initial phases.

    Returns:
        Shape (B, frames * hop).
    """
    magnitude = mel_to_magnitude(x_0, spec) * (spec.n_fft / 4)
    window = torch.hann_window(spec.n_fft, dtype=x_0.dtype, device=x_0.device)
    length = x_0.shape[-1] * spec.hop
    generator = torch.Generator().manual_seed(seed)
    phase = torch.rand(magnitude.shape, generator=generator).to(magnitude) * (2 * math.pi)
    audio = torch.istft(
        torch.polar(magnitude, phase), spec.n_fft, spec.hop, window=window, length=length
    )
    for _ in range(iterations):
        stft = torch.stft(audio, spec.n_fft, spec.hop, window=window, return_complex=True)
        fitted = magnitude * torch.sgn(stft[..., : x_0.shape[-1]])
        audio = torch.istft(fitted, spec.n_fft, spec.hop, window=window, length=length)
    return audio


def mel_to_magnitude(x_0: Tensor, spec: AudioSpec, updates: int = 50) -> Tensor:
    """Fit non-negative STFT magnitudes to the mel powers of x_0.

    Richardson-Lucy updates minimise the Kullback-Leibler divergence (Lee & Seung 2001); librosa's
    ``mel_to_stft`` solves the same problem by least squares.

    Args:
        x_0: log-mel, shape (B, n_mels, frames).
        spec: rates and sizes.
        updates: multiplicative updates.

    Returns:
        Shape (B, n_fft // 2 + 1, frames), full-scale sine = 1.
    """
    filters = mel_filterbank(spec, dtype=x_0.dtype, device=x_0.device)
    mel = torch.pow(10.0, mel_db(x_0, spec) / 10)
    per_bin = filters.sum(dim=0)[:, None].clamp(min=1e-3)
    power = filters.T @ (mel / filters.sum(dim=1)[:, None]) + 1e-20
    for _ in range(updates):
        power = power * (filters.T @ (mel / (filters @ power + 1e-20))) / per_bin
    return power.sqrt()
