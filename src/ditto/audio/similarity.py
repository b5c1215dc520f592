"""Timbre and self-similarity over time, T and T·Tᵀ of the structure control (DITTO section 4,
appendix F).

The conventions are those of `ditto.audio.features`. All of it is matrix products on a log-mel: no
vocoder is needed.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ditto.audio.features import full_precision, mel_db, savgol, smoothing_window
from ditto.audio.spec import AudioSpec

COEFFICIENTS = 20
"""Cepstral coefficients, the first of which, the level, is left out of timbre."""

VARIANCE_FLOOR = 1e-4
"""Added to the variance of each coefficient over time, in dB²: a coefficient that stands still says
nothing."""

LENGTH_FLOOR = 1e-8
"""Added to the square of a frame's length before it is scaled to 1."""


@full_precision
def mfcc(x_0: Tensor, spec: AudioSpec, coefficients: int = COEFFICIENTS) -> Tensor:
    """Mel-frequency cepstral coefficients of a log-mel: (B, n_mels, frames) → (B, coefficients,
    frames), in dB.

    Equal to ``librosa.feature.mfcc(S=mel_db, n_mfcc=coefficients)``: an orthonormal DCT-II over the
    mels.
    """
    return _cosines(spec.n_mels, coefficients, x_0.dtype, x_0.device) @ mel_db(x_0, spec)


@full_precision
def timbre(x_0: Tensor, spec: AudioSpec) -> Tensor:
    """T(x_0): MFCCs without the first, normalised over time, each frame scaled to length 1.

    Args:
        x_0: log-mel, shape (B, n_mels, frames).
        spec: rates and sizes.

    Returns:
        Shape (B, 19, frames).
    """
    shape = mfcc(x_0, spec)[:, 1:]
    variance, mean = torch.var_mean(shape, dim=-1, correction=0, keepdim=True)
    steady = (shape - mean) * torch.rsqrt(variance + VARIANCE_FLOOR)
    return steady * torch.rsqrt(steady.square().sum(dim=1, keepdim=True) + LENGTH_FLOOR)


@full_precision
def self_similarity(x_0: Tensor, spec: AudioSpec, *, smooth_seconds: float | None = None) -> Tensor:
    """(1 + T·Tᵀ) / 2 of a log-mel: 1 where two frames sound alike, 0 where they are opposites.

    The half and the shift take the cosines of T·Tᵀ to the scale of the targets, which are 0 and 1.

    Args:
        x_0: log-mel, shape (B, n_mels, frames).
        spec: rates and sizes.
        smooth_seconds: side of the two-dimensional Savitzky-Golay window over the matrix; None
            leaves it as it is.

    Returns:
        Shape (B, frames, frames).
    """
    features = timbre(x_0, spec)
    if smooth_seconds is not None:
        # A filter along both axes of T·Tᵀ is one along the time of T, and it keeps the constant 1.
        features = savgol(
            features.flatten(0, 1), *_window(features.shape[-1], spec, smooth_seconds)
        ).view_as(features)
    return 0.5 + 0.5 * features.mT @ features


@full_precision
def savgol_2d(matrix: Tensor, window: int, polyorder: int) -> Tensor:
    """Two-dimensional Savitzky-Golay filter, the product of one along each axis: (B, rows, columns)
    → the same.

    Each value is that of the polynomial, of degree `polyorder` in either direction, that fits the
    window around it best. Equal to ``scipy.signal.savgol_filter`` with ``mode="interp"`` along the
    one axis, then the other.
    """
    along = savgol(matrix.flatten(0, 1), window, polyorder).view_as(matrix)
    return savgol(along.mT.flatten(0, 1), window, polyorder).view_as(along.mT).mT


def smooth_2d(matrix: Tensor, spec: AudioSpec, seconds: float) -> Tensor:
    """`savgol_2d` of degree 3 over `seconds`, or what of them fits: square matrices (B, frames,
    frames).
    """
    return savgol_2d(matrix, *_window(matrix.shape[-1], spec, seconds))


def _window(frames: int, spec: AudioSpec, seconds: float) -> tuple[int, int]:
    window = min(smoothing_window(spec, seconds), frames - 1 + frames % 2)
    return window, min(3, window - 1)


@lru_cache(maxsize=32)
def _cosines(n_mels: int, coefficients: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    angles = np.outer(np.arange(coefficients), 2 * np.arange(n_mels) + 1) * (np.pi / (2 * n_mels))
    matrix = np.cos(angles) * np.sqrt(2 / n_mels)
    matrix[0] /= np.sqrt(2)
    # Left of inference mode, or a tensor first made within it could never take part in autograd.
    with torch.inference_mode(False):
        return torch.tensor(matrix, dtype=dtype, device=device)
