"""The front end against transformers' extractor and scipy's resampling, its gradients against
differences."""

import numpy as np
import pytest
import torch
from scipy.signal import resample_poly
from transformers import ClapFeatureExtractor

from ditto.models.clap_frontend import ClapFrontEnd, resample

SMALL = {
    "sampling_rate": 8000,
    "fft_window_size": 256,
    "hop_length": 130,
    "max_length_s": 1,
    "frequency_max": 4000,
}


def clips(count: int, samples: int) -> torch.Tensor:
    """Noise, loud and faint tones, chirps, clicks, and sounds that begin or end in silence."""
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(samples) / samples
    kinds = [
        lambda i: torch.randn(samples, generator=generator) * 10.0 ** (-i / 4),
        lambda i: 0.99 * torch.sin(2 * torch.pi * (50 + 300 * i) * time),
        lambda i: 1e-4 * torch.sin(2 * torch.pi * (500 * time + 2000 * time**2)),
        lambda i: (torch.rand(samples, generator=generator) > 0.999).float(),
        lambda i: torch.randn(samples, generator=generator) * (time > 0.05 * i) * (time < 0.9),
    ]
    return torch.stack([kinds[i % len(kinds)](i) for i in range(count)]).clamp(-1, 1)


@pytest.mark.parametrize("truncation", ["rand_trunc", "fusion"])
def test_it_is_the_extractors_output_on_twenty_clips(truncation: str) -> None:
    extractor = ClapFeatureExtractor(truncation=truncation)
    front_end = ClapFrontEnd.of(extractor.to_dict())
    audio = clips(20, 4 * front_end.sample_rate)
    expected = extractor(list(audio.numpy()), sampling_rate=48_000, return_tensors="pt")[
        "input_features"
    ]
    found = torch.cat([front_end(part, 48_000)[:, 0] for part in audio.split(4)])
    assert found.shape == expected.shape == (20, 4 if truncation == "fusion" else 1, 1001, 64)
    assert (found - expected).abs().max() < 1e-3  # dB


@pytest.mark.parametrize("padding", ["repeatpad", "repeat", "pad"])
@pytest.mark.parametrize("samples", [1500, 3000, 8000])
def test_short_sounds_are_padded_as_the_extractor_does(padding: str, samples: int) -> None:
    extractor = ClapFeatureExtractor(**SMALL, truncation="rand_trunc", padding=padding)
    audio = clips(5, samples)
    expected = extractor(list(audio.numpy()), sampling_rate=8000, return_tensors="pt")[
        "input_features"
    ]
    assert (ClapFrontEnd.of(extractor.to_dict())(audio, 8000)[:, 0] - expected).abs().max() < 1e-3


def test_long_sounds_are_heard_through_windows_that_cover_them() -> None:
    front_end = ClapFrontEnd.of({**SMALL, "truncation": "rand_trunc"})
    audio = clips(2, 20_001)
    features = front_end(audio, 8000)
    assert features.shape[:2] == (2, 3)
    torch.testing.assert_close(features[:, :1], front_end(audio[:, :8000], 8000))
    torch.testing.assert_close(features[:, 2:], front_end(audio[:, -8000:], 8000))


@pytest.mark.parametrize(
    ("source", "target"), [(22_050, 48_000), (48_000, 22_050), (8000, 16_000), (44_100, 22_050)]
)
@pytest.mark.parametrize("samples", [1, 147, 5000])
def test_resampling_is_scipys(source: int, target: int, samples: int) -> None:
    audio = torch.randn(2, samples, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    common = np.gcd(source, target)
    expected = resample_poly(audio.numpy(), target // common, source // common, axis=1)
    np.testing.assert_allclose(resample(audio, source, target).numpy(), expected, atol=1e-12)


def test_a_tone_keeps_its_pitch_and_level_through_resampling() -> None:
    time = torch.arange(22_050, dtype=torch.float64) / 22_050
    found = resample(torch.sin(2 * torch.pi * 440 * time)[None], 22_050, 48_000)[0]
    expected = torch.sin(2 * torch.pi * 440 * torch.arange(48_000, dtype=torch.float64) / 48_000)
    assert (found - expected)[1000:-1000].abs().max() < 3e-3


def test_gradients_are_those_of_finite_differences() -> None:
    front_end = ClapFrontEnd(2000, 32, 20, 6, 0.0, 1000.0, 1)
    audio = torch.randn(
        1, 90, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_(True)

    def feature(x: torch.Tensor) -> torch.Tensor:
        # Only frames without padding: at the floor's kink there is no derivative.
        return front_end.decibels(resample(x, 1500, 2000))[..., 1:5, :]

    assert feature(audio).dtype == torch.float64
    assert torch.autograd.gradcheck(feature, (audio,), eps=1e-7, atol=1e-4, rtol=1e-3)


def test_silence_is_the_floor_with_a_finite_gradient() -> None:
    front_end = ClapFrontEnd.of({**SMALL, "truncation": "rand_trunc"})
    audio = torch.zeros(1, 4000, requires_grad=True)
    features = front_end(audio, 8000)
    assert (features == -100).all()
    features.sum().backward()
    assert audio.grad is not None
    assert torch.isfinite(audio.grad).all()


def test_half_precision_is_widened() -> None:
    front_end = ClapFrontEnd.of({**SMALL, "truncation": "rand_trunc"})
    audio = clips(2, 8000).to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = front_end(audio, 8000)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, front_end(audio.float(), 8000))
