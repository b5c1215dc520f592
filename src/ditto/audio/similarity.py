"""Timbre T and self-similarity T·Tᵀ of the structure control (DITTO section 4, appendix F).

Conventions as in `ditto.audio.features`. Everything is computed from a log-mel, without a vocoder.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from ditto.audio.features import full_precision, mel_db, savgol, smoothing_window
from ditto.audio.spec import AudioSpec
from ditto.tables import table

COEFFICIENTS = 20
"""Number of cepstral coefficients; timbre omits the first, which is the level."""

VARIANCE_FLOOR = 1e-4
"""Added to the variance of each coefficient over time, dB²: suppresses constant coefficients."""

ONSET_RANGE_DB = 80.0
"""Of levels that count for onsets, below the loudest of the clip."""

LENGTH_FLOOR = 1e-8
"""Added to the squared norm of a frame before it is normalised."""


@full_precision
def mfcc(x_0: Tensor, spec: AudioSpec, coefficients: int = COEFFICIENTS) -> Tensor:
    """Compute MFCCs in dB: log-mel (B, n_mels, frames) → (B, coefficients, frames).

    Equal to ``librosa.feature.mfcc(S=mel_db, n_mfcc=coefficients)``: an orthonormal DCT-II.
    """
    return _cosines(spec.n_mels, coefficients, x_0.dtype, x_0.device) @ mel_db(x_0, spec)


@full_precision
def timbre(x_0: Tensor, spec: AudioSpec) -> Tensor:
    """Compute T(x_0), log-mel (B, n_mels, frames) → (B, 19, frames).

    MFCCs without the first are standardised over time, then each frame is scaled to norm 1.
    """
    return standardised_timbre(mfcc(x_0, spec)[:, 1:])


@full_precision
def standardised_timbre(coefficients: Tensor) -> Tensor:
    """Compute T of MFCCs without the first, (B, 19, frames) in dB, of the same shape."""
    variance, mean = torch.var_mean(coefficients, dim=-1, correction=0, keepdim=True)
    standardised = (coefficients - mean) * torch.rsqrt(variance + VARIANCE_FLOOR)
    norm = standardised.square().sum(dim=1, keepdim=True)
    return standardised * torch.rsqrt(norm + LENGTH_FLOOR)


@full_precision
def self_similarity(x_0: Tensor, spec: AudioSpec, *, smooth_seconds: float | None = None) -> Tensor:
    """Compute (1 + T·Tᵀ) / 2: 1 for two frames of equal timbre, 0 for opposites.

    The cosines T·Tᵀ are mapped to [0, 1], the range of the targets.

    Args:
        x_0: log-mel, shape (B, n_mels, frames).
        spec: rates and sizes.
        smooth_seconds: side of the two-dimensional Savitzky-Golay window; None does not smooth.

    Returns:
        Shape (B, frames, frames).
    """
    return similarity_of(timbre(x_0, spec), spec, smooth_seconds=smooth_seconds)


@full_precision
def similarity_of(
    features: Tensor, spec: AudioSpec, *, smooth_seconds: float | None = None, every: int = 1
) -> Tensor:
    """Compute `self_similarity` of a timbre (B, 19, frames), of every n-th frame alone.

    Returns:
        Shape (B, n, n), where n is frames / every, rounded up.
    """
    if smooth_seconds is not None:
        # Filtering both axes of T·Tᵀ is filtering T over time; constants are unchanged.
        window, degree = _window(features.shape[-1], spec, smooth_seconds)
        features = savgol(features.flatten(0, 1), window, degree).view_as(features)
    features = features[..., ::every]
    return 0.5 + 0.5 * features.mT @ features


@full_precision
def onset_strength(x_0: Tensor, spec: AudioSpec) -> Tensor:
    """Compute how much the spectrum rises at every frame, the mean over mels of the rise in dB.

    Levels below the clip's loudest by `ONSET_RANGE_DB` do not count. At frame 0 it is 0. Equal to
    ``librosa.onset.onset_strength(S=mel_db, center=False)`` of levels with such a floor.

    Args:
        x_0: log-mel, shape (B, n_mels, frames).
        spec: rates and sizes.

    Returns:
        Shape (B, frames), in dB.
    """
    levels = mel_db(x_0, spec)
    floor = levels.amax(dim=(1, 2), keepdim=True) - ONSET_RANGE_DB
    rise = levels.maximum(floor).diff(dim=-1).clamp(min=0).mean(dim=1)
    return pad(rise, (1, 0))


@full_precision
def savgol_2d(matrix: Tensor, window: int, polyorder: int) -> Tensor:
    """Smooth (B, rows, columns) by `savgol` along one axis, then the other.

    The result is the local fit of a polynomial of degree `polyorder` in either direction.
    """
    rows = savgol(matrix.flatten(0, 1), window, polyorder).view_as(matrix)
    return savgol(rows.mT.flatten(0, 1), window, polyorder).view_as(rows.mT).mT


def smooth_2d(matrix: Tensor, spec: AudioSpec, seconds: float) -> Tensor:
    """Smooth (B, frames, frames) by `savgol_2d` of degree 3 over `seconds` (less if too long)."""
    return savgol_2d(matrix, *_window(matrix.shape[-1], spec, seconds))


def _window(frames: int, spec: AudioSpec, seconds: float) -> tuple[int, int]:
    """Return window (frames) and degree of the smoothing, shrunk to fit `frames`."""
    window = min(smoothing_window(spec, seconds), frames - 1 + frames % 2)
    return window, min(3, window - 1)


@table()
def _cosines(n_mels: int, coefficients: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    angles = np.outer(np.arange(coefficients), 2 * np.arange(n_mels) + 1) * (np.pi / (2 * n_mels))
    matrix = np.cos(angles) * np.sqrt(2 / n_mels)
    matrix[0] /= np.sqrt(2)
    return torch.tensor(matrix, dtype=dtype).to(device)
