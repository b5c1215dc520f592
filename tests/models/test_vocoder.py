"""The vocoder against autograd, numpy and itself: shapes, gradients, levels, pitch, saving."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.signal import stft as scipy_stft
from torch import Tensor

from ditto.audio.features import log_mel, mel_db, rms_db
from ditto.audio.spec import AudioSpec
from ditto.models.vocoder import Spectrum, Vocoder, band_centres, carriers, peaks, tonality

SPEC = AudioSpec()
TINY = {
    "sample_rate": 8000,
    "mel_n_fft": 128,
    "hop": 16,
    "n_mels": 10,
    "n_fft": 64,
    "width": 8,
    "depth": 1,
    "feedback": 2,
}


def make(**changes: object) -> Vocoder:
    torch.manual_seed(0)
    return Vocoder(**{"width": 16, "depth": 2, **changes}).eval()


def tone(hertz: float, frames: int = 64, amplitude: float = 0.3) -> Tensor:
    seconds = torch.arange(frames * SPEC.hop, dtype=torch.float64) / SPEC.sample_rate
    return (amplitude * torch.sin(2 * math.pi * hertz * seconds)).float().unsqueeze(0)


@pytest.mark.parametrize("frames", [3, 16, 33, 512])
def test_length_is_exactly_frames_times_hop(frames: int) -> None:
    audio = make()(torch.zeros(2, 160, frames))
    assert audio.shape == (2, frames * 256)
    assert audio.isfinite().all()


def test_default_size_is_within_the_budget() -> None:
    assert sum(p.numel() for p in Vocoder().parameters()) < 3_000_000


def test_input_gradient_reaches_every_frame() -> None:
    x_0 = log_mel(tone(440.0), SPEC).requires_grad_()
    make()(x_0).square().mean().backward()
    assert x_0.grad is not None
    assert x_0.grad.isfinite().all()
    assert (x_0.grad.abs().amax(dim=1) > 0).all()


def test_gradient_of_the_networks_part_is_that_of_finite_differences() -> None:
    vocoder = make(**TINY).double()
    x_0 = (
        torch.randn(1, 10, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 0.1
    )
    fixed = vocoder.carrier(x_0)

    def with_fixed_carriers(x: Tensor) -> Tensor:
        audio = vocoder.synthesise(vocoder.spectrum(x, fixed))
        return vocoder.correct(vocoder.correct(audio, x), x)

    assert torch.autograd.gradcheck(with_fixed_carriers, (x_0.requires_grad_(),))
    assert torch.equal(with_fixed_carriers(x_0), vocoder(x_0))


def test_gradient_says_what_a_change_of_level_does() -> None:
    # the directional derivative of loudness along "all louder" is exact even though carriers are
    # constants
    x_0 = log_mel(tone(440.0), SPEC).requires_grad_()
    vocoder = make()
    decibels = 10 * vocoder(x_0).square().mean().log10()
    (gradient,) = torch.autograd.grad(decibels, x_0)
    assert gradient.sum().item() == pytest.approx(SPEC.dynamic_range_db / 2, rel=1e-3)


def test_louder_mel_gives_the_same_sound_louder() -> None:
    x_0 = torch.rand(1, 160, 32, generator=torch.Generator().manual_seed(2)) - 0.5
    vocoder = make()
    quiet, loud = vocoder(x_0), vocoder(x_0 + 20 / (SPEC.dynamic_range_db / 2))
    assert torch.allclose(loud, 10 * quiet, rtol=1e-3, atol=1e-3 * loud.abs().max().item())


@pytest.mark.parametrize(("value", "low", "high"), [(-1.0, 0.0, 1e-5), (1.0, 1e-3, 1e6)])
def test_extremes_are_finite(value: float, low: float, high: float) -> None:
    x_0 = torch.full((1, 160, 40), value, requires_grad=True)
    audio = make()(x_0)
    audio.square().mean().backward()
    assert audio.isfinite().all()
    assert low <= audio.abs().max() <= high
    assert x_0.grad is not None
    assert x_0.grad.isfinite().all()


@pytest.mark.parametrize("hertz", [97.3, 440.0, 1234.5])
def test_a_steady_tone_keeps_its_pitch_even_untrained(hertz: float) -> None:
    # a convolutional vocoder without carriers can only sing multiples of the frame rate, 86.13 Hz
    audio = make()(log_mel(tone(hertz, 256), SPEC))[0, 8192:-8192].detach().numpy()
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio)), 8 * len(audio)))
    assert np.argmax(spectrum) * SPEC.sample_rate / (8 * len(audio)) == pytest.approx(
        hertz, abs=2.5
    )


def test_peak_frequencies_of_tones() -> None:
    for hertz, tolerance in ((110.0, 1.0), (523.25, 1.2), (1760.0, 5.0)):
        levels = mel_db(log_mel(tone(hertz), SPEC), SPEC)[:, :, 20:40]
        owner, frequency = peaks(levels, band_centres(SPEC).float())
        loudest = levels.argmax(dim=1, keepdim=True)
        assert torch.equal(owner.gather(1, loudest), loudest)
        assert (frequency.gather(1, loudest) - hertz).abs().max() < tolerance


def test_peaks_own_their_neighbours_and_flat_frames_own_themselves() -> None:
    levels = torch.tensor([0.0, 3.0, 0.0, 0.0, 0.0, 5.0, 0.0])[None, :, None]
    owner, _ = peaks(levels, torch.arange(7.0))
    assert owner.flatten().tolist() == [1, 1, 1, 1, 5, 5, 5]
    owner, hertz = peaks(torch.full((1, 4, 1), -160.0), torch.arange(4.0))
    assert owner.flatten().tolist()[0] == 0
    assert hertz.isfinite().all()


def test_carriers_are_the_recurrence_written_out() -> None:
    spec = AudioSpec(n_mels=5)
    generator = np.random.default_rng(0)
    owner, hertz = generator.integers(0, 5, (1, 5, 7)), generator.uniform(50, 5000, (1, 5, 7))
    phase = first = generator.uniform(size=5)
    begun = first[None]
    wanted = []
    for i in range(7):
        phase = np.array([phase[j] + hertz[0, j, i] * 256 / 22050 for j in owner[0, :, i]])
        wanted.append(phase)
    made = carriers(*map(torch.from_numpy, (owner, hertz, begun)), spec)[0].numpy().T
    assert np.allclose(np.exp(2j * np.pi * made), np.exp(2j * np.pi * np.array(wanted)), atol=1e-9)


def test_synthesis_inverts_an_stft_with_centred_phases() -> None:
    # oracle: scipy's STFT, whose phases are counted from a frame's start
    audio = np.random.default_rng(0).normal(size=64 * 256)
    _, _, stft = scipy_stft(
        audio, window="hann", nperseg=1024, noverlap=768, boundary="even", padded=False
    )
    stft = torch.from_numpy(stft[:, :64] * 512)
    vocoder = make().double()
    centred = (stft.T * vocoder.half_window_shift)[None]
    made = vocoder.synthesise(Spectrum(centred.real, centred.imag))[0].numpy()
    assert np.allclose(made[1024:-1024], audio[1024:-1024], atol=1e-9)


def test_descending_through_the_vocoder_moves_the_loudness_where_it_should() -> None:
    # carriers jump as x_0 changes; the gradient must lead to the target all the same
    vocoder = make().requires_grad_(False)
    x_0 = log_mel(
        0.1 * torch.randn(1, 64 * 256, generator=torch.Generator().manual_seed(6)), SPEC
    ).requires_grad_()
    target = rms_db(vocoder(x_0.detach()), SPEC) + torch.linspace(-10, 10, 64)
    optimizer = torch.optim.Adam([x_0], lr=5e-3)
    errors = []
    for _ in range(25):
        error = (rms_db(vocoder(x_0), SPEC) - target).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[0] > 30
    assert errors[-1] < 1


def high_band_correlation_a_hop_later(audio: Tensor) -> float:
    spectrum = torch.fft.rfft(audio)
    spectrum[..., : spectrum.shape[-1] // 2] = 0
    high = torch.fft.irfft(spectrum)[0, 4096:-4096]
    return float(torch.corrcoef(torch.stack([high[256:], high[:-256]]))[0, 1])


def test_noise_does_not_buzz_at_the_frame_rate() -> None:
    noise = 0.1 * torch.randn(1, 128 * 256, generator=torch.Generator().manual_seed(4))
    vocoder, x_0 = make(), log_mel(noise, SPEC)
    with torch.no_grad():
        made = vocoder(x_0)
        buzz = vocoder.synthesise(
            vocoder.spectrum(x_0, Spectrum(torch.ones(1, 128, 513), torch.zeros(1, 128, 513)))
        )
    assert (
        abs(high_band_correlation_a_hop_later(made)) < 0.3 < high_band_correlation_a_hop_later(buzz)
    )


def test_tones_are_told_from_noise() -> None:
    seconds = torch.arange(64 * 256) / SPEC.sample_rate
    hiss = 0.003 * torch.randn(1, 64 * 256, generator=torch.Generator().manual_seed(5))
    levels = mel_db(log_mel(hiss + 0.1 * torch.sin(2 * math.pi * 5000 * seconds), SPEC), SPEC)
    centres = band_centres(SPEC).float()
    share = tonality(levels, peaks(levels, centres)[0], centres)
    band = int((centres - 5000).abs().argmin())
    assert share[:, band].min() > 0.9
    assert share[:, band + 15 :].mean() < 0.3
    assert share[:, :20].min() > 0.99


def test_save_and_load_are_identical(tmp_path: Path) -> None:
    vocoder, x_0 = make(), torch.rand(1, 160, 16)
    vocoder.save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
    }
    assert json.loads((tmp_path / "config.json").read_text())["width"] == 16
    assert torch.equal(Vocoder.from_pretrained(tmp_path)(x_0), vocoder(x_0))


def test_an_item_sounds_the_same_alone() -> None:
    x_0 = torch.rand(3, 160, 24, generator=torch.Generator().manual_seed(3)) - 0.5
    vocoder = make()
    assert torch.allclose(vocoder(x_0)[1:2], vocoder(x_0[1:2]), atol=1e-5, rtol=1e-4)


def test_items_have_the_noise_of_their_own_seeds() -> None:
    x_0 = torch.rand(1, 160, 24, generator=torch.Generator().manual_seed(3)).expand(3, -1, -1) - 0.5
    vocoder = make()
    made = vocoder(x_0, (0, 5, 5))
    assert torch.allclose(made[:1], vocoder(x_0[:1]), atol=1e-5, rtol=1e-4)
    assert torch.allclose(made[1:2], vocoder(x_0[:1], 5), atol=1e-5, rtol=1e-4)
    assert torch.allclose(made[2], made[1], atol=1e-5, rtol=1e-4)
    apart = made[0] - made[1]
    assert apart.square().mean() > 0.1 * made.square().mean()
    assert torch.allclose(vocoder.fast()(x_0, (0, 5, 5))[2], vocoder.fast()(x_0[:1], 5)[0])


def test_feedback_brings_the_sound_nearer_to_the_mel() -> None:
    x_0 = log_mel(tone(440.0) + tone(700.0, amplitude=0.01), SPEC)
    errors = [
        (log_mel(make(feedback=n)(x_0), SPEC) - x_0)[..., 4:-4].abs().mean().item()
        for n in (0, 1, 3)
    ]
    assert errors[0] > 1.2 * errors[1] > 1.2 * errors[2]


def test_feedback_leaves_a_sound_that_fits_its_mel_alone() -> None:
    audio = tone(440.0) + 0.01 * torch.randn(
        1, 64 * 256, generator=torch.Generator().manual_seed(7)
    )
    assert torch.allclose(make().correct(audio, log_mel(audio, SPEC)), audio, atol=1e-5)


def test_the_fast_vocoder_omits_the_feedback() -> None:
    vocoder = make(feedback=2)
    mel = log_mel(tone(440.0), vocoder.spec)
    without = make(feedback=0)
    without.load_state_dict(vocoder.state_dict())
    assert torch.equal(vocoder.fast()(mel), without(mel))
    assert not torch.allclose(vocoder.fast()(mel), vocoder(mel), atol=1e-3)
    assert torch.equal(vocoder(mel, feedback=2), vocoder(mel))
