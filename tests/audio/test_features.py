import librosa
import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ditto.audio import features
from ditto.audio.spec import AudioSpec

SPEC = AudioSpec()
SMALL = AudioSpec(sample_rate=8_000, n_fft=64, hop=16, n_mels=6)
UNEVEN = AudioSpec(sample_rate=8_000, n_fft=64, hop=20, n_mels=6)  # n_fft is no multiple of hop
OTHERS = [
    SPEC,
    AudioSpec(44_100, 2048, 512, 128),
    AudioSpec(16_000, 1024, 160, 80),
    AudioSpec(48_000, 1024, 480, 64),
]


def noise(*shape: int, level: float = 0.1, dtype: torch.dtype = torch.float64) -> Tensor:
    return level * torch.randn(
        shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).to(dtype)


def sine(hertz: float, level: float = 1.0, samples: int = 131_072) -> Tensor:
    return (
        level
        * torch.sin(
            2 * torch.pi * hertz / SPEC.sample_rate * torch.arange(samples, dtype=torch.float64)
        )[None]
    )


def librosa_power(audio: Tensor, spec: AudioSpec) -> np.ndarray:
    window = scipy.signal.get_window("hann", spec.n_fft)
    stft = librosa.stft(
        audio.numpy(), n_fft=spec.n_fft, hop_length=spec.hop, window=window, pad_mode="reflect"
    )
    return np.abs(stft[..., : audio.shape[-1] // spec.hop] / (window.sum() / 2)) ** 2


def librosa_log_mel(audio: Tensor, spec: AudioSpec) -> np.ndarray:
    filters = librosa.filters.mel(
        sr=spec.sample_rate,
        n_fft=spec.n_fft,
        n_mels=spec.n_mels,
        norm=None,
        htk=False,
        dtype=np.float64,
    )
    decibels = 10 * np.log10(filters @ librosa_power(audio, spec) + 1e-16)
    return 1 + decibels / 80


def librosa_rms_db(audio: Tensor, spec: AudioSpec) -> np.ndarray:
    padding = spec.n_fft // 2
    padded = np.pad(audio.numpy(), ((0, 0), (padding, padding)))
    rms = librosa.feature.rms(
        y=padded,
        frame_length=spec.n_fft,
        hop_length=spec.hop,
        center=False,
        dtype=audio.numpy().dtype,
    )
    return 10 * np.log10(rms[:, 0, : audio.shape[-1] // spec.hop] ** 2 + 1e-10)


# --- against librosa and scipy


@pytest.mark.parametrize("spec", OTHERS)
def test_filterbank_is_librosas(spec):
    expected = librosa.filters.mel(
        sr=spec.sample_rate,
        n_fft=spec.n_fft,
        n_mels=spec.n_mels,
        norm=None,
        htk=False,
        dtype=np.float64,
    )
    got = features.mel_filterbank(spec, dtype=torch.float64)
    np.testing.assert_allclose(got, expected, atol=1e-12)
    assert got.amax(dim=1).gt(0).all()
    assert features.mel_filterbank(spec).dtype == torch.float32


def test_filters_add_up_to_one_between_the_outer_centres():
    total = features.mel_filterbank(SPEC, dtype=torch.float64).sum(dim=0)
    hertz = torch.arange(1025) * SPEC.sample_rate / SPEC.n_fft
    inner = (hertz > 20.8) & (hertz < 10_600)
    torch.testing.assert_close(total[inner], torch.ones_like(total[inner]), rtol=0, atol=1e-12)


def test_filters_between_two_bins_are_refused():
    with pytest.raises(ValueError, match="a filter has no bin"):
        features.mel_filterbank(AudioSpec(n_fft=512))


def test_a_caller_cannot_spoil_the_filterbank():
    features.mel_filterbank(SPEC).zero_()
    assert features.mel_filterbank(SPEC).sum() > 0


@pytest.mark.parametrize("spec", OTHERS)
@pytest.mark.parametrize("samples", [22_050, 30_000])
def test_spectrograms_are_librosas(spec, samples):
    audio = noise(2, samples)
    shape = (2, spec.n_mels, samples // spec.hop)
    np.testing.assert_allclose(
        features.stft_power(audio, spec), librosa_power(audio, spec), atol=1e-15, rtol=1e-9
    )
    x_0 = features.log_mel(audio, spec)
    assert x_0.shape == shape
    np.testing.assert_allclose(x_0, librosa_log_mel(audio, spec), atol=1e-12)
    np.testing.assert_allclose(features.log_mel(audio.float(), spec), x_0, atol=2e-6)


@pytest.mark.parametrize("spec", [*OTHERS, SMALL, UNEVEN])
@pytest.mark.parametrize("samples", [22_050, 22_527, 22_528])
def test_rms_is_librosas(spec, samples):
    audio = noise(2, samples) * torch.linspace(0, 1, samples, dtype=torch.float64)
    loudness = features.rms_db(audio, spec)
    assert loudness.shape == (2, samples // spec.hop)
    np.testing.assert_allclose(loudness, librosa_rms_db(audio, spec), atol=1e-9)
    np.testing.assert_allclose(features.rms_db(audio.float(), spec), loudness, atol=2e-5)


@settings(max_examples=40, deadline=None)
@given(
    half=st.integers(1, 60),
    polyorder=st.integers(0, 5),
    more=st.integers(0, 300),
    batch=st.integers(1, 3),
)
def test_savgol_is_scipys(half, polyorder, more, batch):
    window = 2 * half + 1
    polyorder = min(polyorder, window - 1)
    curve = noise(batch, window + more, level=20.0) - 30
    expected = scipy.signal.savgol_filter(curve.numpy(), window, polyorder, mode="interp")
    np.testing.assert_allclose(features.savgol(curve, window, polyorder), expected, atol=1e-8)
    np.testing.assert_allclose(
        features.savgol(curve.float(), window, polyorder), expected, atol=1e-4
    )


def test_intensity_is_librosa_then_scipy():
    audio = noise(2, 131_072) * torch.linspace(0.01, 1, 131_072, dtype=torch.float64)
    expected = scipy.signal.savgol_filter(librosa_rms_db(audio, SPEC), 87, 3)
    np.testing.assert_allclose(features.intensity(audio, SPEC), expected, atol=1e-9)
    np.testing.assert_allclose(features.intensity(audio.float(), SPEC), expected, atol=1e-4)


# --- levels


@pytest.mark.parametrize("bin_index", [10, 41, 300, 900])
def test_a_full_scale_sine_on_a_bin_has_0_db(bin_index):
    power = features.stft_power(sine(bin_index * SPEC.sample_rate / SPEC.n_fft), SPEC)[0, bin_index]
    assert (10 * torch.log10(power[8:-8])).abs().max() < 1e-3


@pytest.mark.parametrize(("hertz", "limit"), [(62.1, 0.94), (10_000.0, 1.77)])
def test_a_full_scale_sine_in_log_mel(hertz, limit):
    """Above 0 dB by what of Hann's main lobe one filter holds: at most its noise bandwidth, 1.76
    dB."""
    level = features.mel_db(features.log_mel(sine(hertz), SPEC), SPEC)[0, :, 8:-8].amax(dim=0)
    assert level.min() > -3.0
    assert level.max() < limit


def test_a_full_scale_sine_has_minus_3_db_rms():
    loudness = features.rms_db(sine(440.0), SPEC)[0, 8:-8]
    torch.testing.assert_close(loudness, torch.full_like(loudness, -3.0103), rtol=0, atol=0.02)


def test_silence_is_at_the_floors():
    silence = torch.zeros(1, 131_072)
    torch.testing.assert_close(features.rms_db(silence, SPEC), torch.full((1, 512), -100.0))
    torch.testing.assert_close(
        features.intensity(silence, SPEC), torch.full((1, 512), -100.0), rtol=0, atol=1e-3
    )
    torch.testing.assert_close(features.log_mel(silence, SPEC), torch.full((1, 160, 512), -1.0))


@given(st.floats(-160, 20))
def test_mel_db_inverts_the_map_to_model_space(decibels):
    x_0 = torch.tensor([[[decibels / 80 + 1]]], dtype=torch.float64)
    assert features.mel_db(x_0, SPEC).item() == pytest.approx(decibels, abs=1e-9)


# --- loudness from the log-mel alone

ESTIMATES = {  # largest error in one frame, and smoothed, in dB
    "noise": (noise(1, 131_072), 0.6, 0.1),
    "fading noise": (
        noise(1, 131_072) * torch.logspace(-3, 0, 131_072, dtype=torch.float64),
        0.6,
        0.2,
    ),
    **{
        f"{hertz} Hz": (sine(hertz, 0.5), 0.2, 0.05)
        for hertz in (55, 110, 440, 3_000, 9_000, 10_500)
    },
    "fading bass": (sine(82) * torch.logspace(-2, 0, 131_072, dtype=torch.float64), 0.3, 0.1),
    "30 Hz": (sine(30, 0.5), 1.5, 0.4),
    "silence": (torch.zeros(1, 131_072, dtype=torch.float64), 1e-3, 1e-3),
}


@pytest.mark.parametrize("name", ESTIMATES)
def test_loudness_from_the_mel_alone(name):
    audio, limit, limit_smoothed = ESTIMATES[name]
    error = features.mel_rms_db(features.log_mel(audio, SPEC), SPEC) - features.rms_db(audio, SPEC)
    assert error.abs().max() < limit
    assert features.smooth(error, SPEC).abs().max() < limit_smoothed


# --- gradients


@pytest.mark.parametrize("spec", [SMALL, UNEVEN])
@pytest.mark.parametrize(
    "feature",
    [features.stft_power, features.log_mel, features.rms_db, features.intensity],
    ids=lambda f: f.__name__,
)
def test_gradients_of_audio_features(feature, spec):
    audio = noise(2, 101).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: feature(x, spec), audio)


def test_gradients_of_curves_and_mels():
    x_0 = (noise(2, SMALL.n_mels, 9, level=0.05) - 0.2).requires_grad_()
    curve = noise(2, 20).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: features.mel_db(x, SMALL), x_0)
    assert torch.autograd.gradcheck(lambda x: features.mel_rms_db(x, SMALL), x_0)
    assert torch.autograd.gradcheck(lambda x: features.savgol(x, 7, 3), curve)
    assert torch.autograd.gradcheck(lambda x: features.smooth(x, SMALL, seconds=0.02), curve)


AUDIO_FEATURES = [features.log_mel, features.rms_db, features.intensity]


@pytest.mark.parametrize("feature", AUDIO_FEATURES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("level", [0.0, 1e-7, 1e-4])
def test_gradients_in_silence_are_finite_and_in_quiet_sound_not_zero(feature, level):
    """At exact silence they are zero, as they must be: loudness does not depend on the sign of a
    sample."""
    audio = noise(1, 30_000, level=level, dtype=torch.float32).requires_grad_()
    feature(audio, SPEC).sum().backward()
    assert audio.grad is not None
    assert audio.grad.isfinite().all()
    assert (audio.grad.abs().max() > 0) == (level > 0)


def test_the_gradient_of_a_silent_mel_is_not_zero():
    x_0 = torch.full((1, 160, 32), -0.5).requires_grad_()  # -120 dB in every bin, -98 dB together
    features.mel_rms_db(x_0, SPEC).sum().backward()
    assert x_0.grad is not None
    assert (x_0.grad > 0).all()


# --- types, sizes, shared state


@pytest.mark.parametrize("feature", AUDIO_FEATURES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_never_run_in_half_precision(feature, dtype):
    audio = noise(1, 30_000).to(dtype)
    expected = feature(audio.float(), SPEC)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = feature(audio, SPEC)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_constants_made_in_inference_mode_still_carry_gradients():
    spec = AudioSpec(sample_rate=12_345, n_mels=40)  # used by no other test, so nothing is cached
    with torch.inference_mode():
        features.log_mel(noise(1, 30_000), spec)
        features.intensity(noise(1, 30_000), spec)
    audio = noise(1, 30_000).requires_grad_()
    (features.log_mel(audio, spec).sum() + features.intensity(audio, spec).sum()).backward()
    assert audio.grad is not None
    assert audio.grad.abs().max() > 0


@pytest.mark.parametrize(("seconds", "frames"), [(1.0, 87), (0.5, 43), (0.001, 1), (2.0, 173)])
def test_smoothing_window_is_the_nearest_odd_number(seconds, frames):
    assert features.smoothing_window(SPEC, seconds) == frames


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 86, 87, 88])
def test_clips_shorter_than_the_window_are_smoothed_with_what_fits(frames):
    curve = noise(2, frames, level=10.0)
    window = min(87, frames if frames % 2 else frames - 1)
    expected = scipy.signal.savgol_filter(curve.numpy(), window, min(3, window - 1))
    np.testing.assert_allclose(features.smooth(curve, SPEC), expected, atol=1e-9)


def test_one_item_of_a_batch_is_what_it_is_alone():
    audio = noise(3, 30_000, dtype=torch.float32)
    for feature in AUDIO_FEATURES:
        torch.testing.assert_close(
            feature(audio, SPEC)[1:2], feature(audio[1:2], SPEC), rtol=0, atol=1e-5
        )


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="more than 1024 samples, got 1024"):
        features.log_mel(noise(1, 1024), SPEC)
    for window in (4, 11, -1):
        with pytest.raises(ValueError, match="must be odd and at most 10 frames"):
            features.savgol(noise(1, 10), window, 3)
    with pytest.raises(ValueError, match="degree must be from 0 to 4"):
        features.savgol(noise(1, 10), 5, 5)


@pytest.mark.parametrize("samples", [64 * 16 + 5, 5 * 16 * 10, 16 * 101 + 15, 40])
@pytest.mark.parametrize("spec", [SMALL, UNEVEN])
def test_long_audio_is_taken_piece_by_piece(
    samples: int, spec: AudioSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = noise(2, samples).requires_grad_()
    monkeypatch.setattr(features, "PIECE_SAMPLES", 10 * spec.hop + 1)
    seen: list[int] = []
    plain = features.stft_power

    def noted(part: torch.Tensor, spec: AudioSpec) -> torch.Tensor:
        seen.append(part.shape[-1])
        return plain(part, spec)

    monkeypatch.setattr(features, "stft_power", noted)
    found = features.log_mel(audio, spec)
    assert max(seen) <= (11 + 2 * spec.margin_frames) * spec.hop
    filters = features.mel_filterbank(spec, dtype=audio.dtype)
    power = filters @ plain(audio, spec)
    whole = 10 * torch.log10(power + 10 ** (-spec.dynamic_range_db / 10))
    expected = whole * (2 / spec.dynamic_range_db) + 1
    torch.testing.assert_close(found, expected)
    ours, theirs = (torch.autograd.grad(mel.square().sum(), audio)[0] for mel in (found, expected))
    torch.testing.assert_close(ours, theirs)
