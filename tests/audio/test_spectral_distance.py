"""Spectral distances of known changes."""

import numpy as np
import torch

from ditto.audio.spectral_distance import magnitude, multi_resolution_stft


def noise(samples: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(2, samples, dtype=torch.float64, generator=generator)


def test_a_full_scale_sine_has_magnitude_1() -> None:
    sine = torch.sin(2 * torch.pi * 32 / 512 * torch.arange(4096, dtype=torch.float64))[None]
    torch.testing.assert_close(magnitude(sine, 512, 128)[0, 32, 4:-4].mean().item(), 1.0)


def test_equal_sounds_have_no_distance() -> None:
    convergence, log_magnitude = multi_resolution_stft(noise(8192), noise(8192))
    assert convergence.max() < 1e-5
    assert log_magnitude.max() == 0


def test_half_the_level_is_half_converged_and_ln_2_away() -> None:
    convergence, log_magnitude = multi_resolution_stft(0.5 * noise(8192), noise(8192))
    np.testing.assert_allclose(convergence, 0.5, atol=1e-6)
    np.testing.assert_allclose(log_magnitude, np.log(2), rtol=1e-2)


def test_silence_has_finite_gradients() -> None:
    quiet = torch.zeros(2, 2048, dtype=torch.float64).requires_grad_()
    sum(part.sum() for part in multi_resolution_stft(quiet, noise(2048))).backward()
    assert quiet.grad is not None
    assert quiet.grad.isfinite().all()
