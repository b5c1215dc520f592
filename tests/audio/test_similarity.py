"""MFCC, timbre and self-similarity against librosa, scipy and numpy, and their gradients."""

import librosa
import numpy as np
import pytest
import scipy.signal
import torch
from torch import Tensor

from ditto.audio.features import mel_db
from ditto.audio.similarity import (
    mfcc,
    onset_strength,
    savgol_2d,
    self_similarity,
    smooth_2d,
    timbre,
)
from ditto.audio.spec import AudioSpec

SPEC = AudioSpec()
SMALL = AudioSpec(sample_rate=8_000, n_fft=256, hop=64, n_mels=24)


def mels(batch: int = 2, frames: int = 120, n_mels: int = 160) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(batch, n_mels, frames, generator=generator, dtype=torch.float64) - 0.2


def librosa_timbre(x_0: Tensor, spec: AudioSpec) -> np.ndarray:
    coefficients = librosa.feature.mfcc(S=mel_db(x_0, spec).numpy(), n_mfcc=20)[:, 1:]
    steady = coefficients - coefficients.mean(axis=-1, keepdims=True)
    return librosa.util.normalize(steady / steady.std(axis=-1, keepdims=True), norm=2, axis=1)


@pytest.mark.parametrize("spec", [SPEC, SMALL])
def test_mfcc_are_librosas(spec: AudioSpec) -> None:
    x_0 = mels(n_mels=spec.n_mels)
    expected = librosa.feature.mfcc(S=mel_db(x_0, spec).numpy(), n_mfcc=20)
    np.testing.assert_allclose(mfcc(x_0, spec), expected, atol=1e-9)
    np.testing.assert_allclose(mfcc(x_0.float(), spec), expected, atol=2e-3)


def test_timbre_is_librosas_mfcc_normalised() -> None:
    np.testing.assert_allclose(timbre(mels(), SPEC), librosa_timbre(mels(), SPEC), atol=1e-6)


@pytest.mark.parametrize("seconds", [None, 0.5, 1.0, 60.0])
def test_self_similarity_is_numpys_product_filtered_by_scipy_along_both_axes(
    seconds: float | None,
) -> None:
    features = librosa_timbre(mels(), SPEC)
    expected = (1 + features.transpose(0, 2, 1) @ features) / 2
    if seconds is not None:
        window = {0.5: 43, 1.0: 87, 60.0: 119}[seconds]
        expected = scipy.signal.savgol_filter(
            scipy.signal.savgol_filter(expected, window, 3, axis=1), window, 3, axis=2
        )
    got = self_similarity(mels(), SPEC, smooth_seconds=seconds)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    if seconds is None:
        np.testing.assert_allclose(np.diagonal(got, axis1=1, axis2=2), 1, atol=1e-6)


@pytest.mark.parametrize(("window", "polyorder"), [(5, 2), (9, 3), (1, 0), (11, 0)])
def test_two_dimensional_savgol_is_scipys_along_both_axes(window: int, polyorder: int) -> None:
    matrix = mels(2, 17, 23)
    expected = scipy.signal.savgol_filter(matrix.numpy(), window, polyorder, axis=1)
    expected = scipy.signal.savgol_filter(expected, window, polyorder, axis=2)
    np.testing.assert_allclose(savgol_2d(matrix, window, polyorder), expected, atol=1e-10)


def test_two_dimensional_savgol_is_the_least_squares_fit_of_each_window() -> None:
    matrix = mels(1, 7, 7)[0]
    grid = np.linspace(-1, 1, 7)
    powers = np.stack(
        [np.outer(grid**i, grid**j).ravel() for i in range(4) for j in range(4)], axis=1
    )
    fit = powers @ np.linalg.lstsq(powers, matrix.numpy().ravel(), rcond=None)[0]
    np.testing.assert_allclose(savgol_2d(matrix[None], 7, 3)[0], fit.reshape(7, 7), atol=1e-10)


def test_a_short_matrix_is_smoothed_with_what_fits() -> None:
    matrix = mels(1, 10, 10)
    torch.testing.assert_close(smooth_2d(matrix, SPEC, 1.0), savgol_2d(matrix, 9, 3))


@pytest.mark.parametrize("seconds", [None, 0.05])
def test_gradients_are_those_of_finite_differences(seconds: float | None) -> None:
    x_0 = mels(1, 12, 24).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: self_similarity(x, SMALL, smooth_seconds=seconds), x_0, fast_mode=True
    )


def test_a_sound_that_never_changes_has_a_finite_gradient() -> None:
    x_0 = torch.full((1, 160, 32), -0.5, requires_grad=True)
    self_similarity(x_0, SPEC, smooth_seconds=1.0).sum().backward()
    assert x_0.grad is not None
    assert x_0.grad.isfinite().all()


def test_onset_strength_is_librosas() -> None:
    spec = AudioSpec(sample_rate=8_000, n_fft=256, hop=64, n_mels=16)
    clip = torch.rand(2, 16, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    clip = 2 * clip - 1.2  # some levels are below the range
    got = onset_strength(clip, spec)
    for item, found in zip(clip, got, strict=True):
        levels = (item.numpy() - 1) * 80
        levels = np.maximum(levels, levels.max() - 80)
        expected = librosa.onset.onset_strength(S=levels, sr=8_000, hop_length=64, center=False)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    assert torch.autograd.gradcheck(
        lambda x: onset_strength(x, spec), (clip.requires_grad_(),), fast_mode=True
    )
