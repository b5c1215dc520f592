"""Chroma against librosa and scipy, and its gradients."""

import librosa
import numpy as np
import pytest
import scipy.signal
import torch

from ditto.audio.chroma import (
    chroma_filterbank,
    chroma_power,
    log_chroma,
    octave_filterbank,
    octave_power,
    stride,
)
from ditto.audio.spec import AudioSpec

SPEC = AudioSpec()
SMALL = AudioSpec(sample_rate=8_000, n_fft=256, hop=64, n_mels=16)


def noise(*shape: int, level: float = 0.1) -> torch.Tensor:
    return level * torch.randn(
        shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )


def sine(hertz: float, spec: AudioSpec = SPEC, seconds: float = 1.0) -> torch.Tensor:
    time = torch.arange(int(seconds * spec.sample_rate), dtype=torch.float64) / spec.sample_rate
    return 0.3 * torch.sin(2 * torch.pi * hertz * time)[None]


@pytest.mark.parametrize(("rate", "n_fft"), [(22_050, 4096), (44_100, 4096), (8_000, 512)])
def test_filters_are_librosas(rate: int, n_fft: int) -> None:
    expected = librosa.filters.chroma(sr=rate, n_fft=n_fft, tuning=0, dtype=np.float64)
    np.testing.assert_allclose(chroma_filterbank(rate, n_fft), expected, atol=1e-12)


@pytest.mark.parametrize("spec", [SPEC, SMALL, AudioSpec(44_100, 4096, 2048, 64)])
def test_chroma_is_librosas_behind_scipys_high_pass(spec: AudioSpec) -> None:
    audio = noise(2, 30_000)
    n_fft, step = 2 * spec.n_fft, stride(spec)
    hop = step * spec.hop
    window = scipy.signal.get_window("hann", n_fft)
    stft = librosa.stft(
        audio.numpy(), n_fft=n_fft, hop_length=hop, window=window, pad_mode="reflect"
    )
    b, a = scipy.signal.butter(2, 261.2, "highpass", fs=spec.sample_rate)
    _, response = scipy.signal.freqz(
        b, a, librosa.fft_frequencies(sr=spec.sample_rate, n_fft=n_fft), fs=spec.sample_rate
    )
    power = np.abs(stft / (window.sum() / 2) * response[:, None]) ** 2
    expected = librosa.feature.chroma_stft(
        S=power, sr=spec.sample_rate, n_fft=n_fft, norm=None, tuning=0
    )
    got = chroma_power(audio, spec)
    assert got.shape == (2, 12, 30_000 // spec.hop)
    coarse = expected[..., : 30_000 // hop]
    np.testing.assert_allclose(got[..., ::step][..., : coarse.shape[-1]], coarse, rtol=1e-6)
    at = np.arange(got.shape[-1]) / step
    between = np.stack(
        [[np.interp(at, np.arange(len(row)), row) for row in item] for item in coarse]
    )
    np.testing.assert_allclose(got, between, rtol=1e-6)


def test_shares_are_librosas_normalised_chroma() -> None:
    audio = noise(1, 30_000)
    power = chroma_power(audio, SPEC)
    np.testing.assert_allclose(
        log_chroma(audio, SPEC).exp(),
        librosa.util.normalize(power.numpy(), norm=1, axis=1),
        atol=1e-5,
    )


@pytest.mark.parametrize("pitch", [60, 61, 66, 69, 74, 83, 90])
def test_a_tone_has_its_own_class(pitch: int) -> None:
    shares = log_chroma(sine(440 * 2 ** ((pitch - 69) / 12)), SPEC)
    assert (shares.argmax(dim=1) == pitch % 12).all()


def test_a_bass_tone_does_not_outweigh_a_melody() -> None:
    shares = log_chroma(4 * sine(82.41) + sine(523.25), SPEC)
    assert (shares.argmax(dim=1) == 0).all()


def test_silence_has_all_classes_alike_and_finite_gradients() -> None:
    audio = torch.zeros(1, 22_050, requires_grad=True)
    shares = log_chroma(audio, SPEC)
    torch.testing.assert_close(shares, torch.full_like(shares, -np.log(12)))
    shares.sum().backward()
    assert audio.grad is not None
    assert audio.grad.isfinite().all()


def test_gradients_are_those_of_finite_differences() -> None:
    audio = noise(1, 600).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: log_chroma(x, SMALL), audio, fast_mode=True)


def test_chroma_never_runs_in_half_precision() -> None:
    audio = noise(1, 30_000).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = log_chroma(audio, SPEC)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, log_chroma(audio.float(), SPEC), rtol=0, atol=0)


def test_audio_shorter_than_half_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 2048 samples"):
        chroma_power(noise(1, 2048), SPEC)


@pytest.mark.parametrize(("rate", "n_fft"), [(22_050, 4096), (44_100, 4096), (8_000, 512)])
def test_octaves_add_up_to_librosas_filters_without_their_weight(rate: int, n_fft: int) -> None:
    expected = librosa.filters.chroma(
        sr=rate, n_fft=n_fft, tuning=0, octwidth=None, dtype=np.float64
    )
    bands = octave_filterbank(rate, n_fft)
    folded = sum(np.pad(bands, ((0, 4), (0, 0)))[i : i + 12] for i in range(0, 132, 12))
    known = slice(*(int(hertz * n_fft / rate) for hertz in (40, 8_000)))  # MIDI's pitches
    np.testing.assert_allclose(folded[:, known], expected[:, known], atol=1e-12)


@pytest.mark.parametrize("midi", [48, 60, 61, 72, 95])
def test_a_sine_has_most_power_in_its_own_semitone(midi: int) -> None:
    power = octave_power(sine(440 * 2 ** ((midi - 69) / 12)), SPEC)
    assert power.shape == (1, 128, 86)
    assert (power[..., 8:-8].argmax(dim=1) == midi).all()


def test_the_gradient_of_octaves_is_that_of_finite_differences() -> None:
    assert torch.autograd.gradcheck(
        lambda x: octave_power(x, SMALL), (noise(1, 1200).requires_grad_(),), fast_mode=True
    )
