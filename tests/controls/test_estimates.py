"""Estimates of features off a log-mel: against the features of sounds whose mel it is, and against
librosa; their gradients; how controls are calibrated by them."""

from dataclasses import replace
from typing import Any

import librosa
import numpy as np
import pytest
import scipy.optimize
import torch
from tests.models.tiny_clap import make_clap
from torch import Tensor

from ditto.audio.chroma import (
    _semitones,  # pyright: ignore[reportPrivateUsage]
    log_chroma,
    mel_log_chroma,
    mel_octave_power,
    mel_semitone_power,
    octave_power,
)
from ditto.audio.features import log_mel
from ditto.audio.spec import AudioSpec
from ditto.controls.base import Control
from ditto.controls.brightness import Brightness, centroid_octaves, mel_centroid_octaves
from ditto.controls.chords import Chords, chord_chroma, chroma_of, parse_chords, templates
from ditto.controls.melody import Melody
from ditto.controls.output import Output
from ditto.controls.structure import Structure
from ditto.controls.text import Text
from ditto.models.clap_frontend import ClapFrontEnd
from ditto.models.model import MusicModel

SPEC = AudioSpec(clip_frames=128)
SMALL = AudioSpec(sample_rate=8000, n_fft=256, hop=64, n_mels=16, clip_frames=64)
TUNE = Melody.from_notes("C5:1 G5:1", bpm=240).tune


def chords(seed: int = 0, low: int = 60) -> Tensor:
    """Three clips of tones of two octaves with four partials each, and a little noise."""
    rng, time = np.random.default_rng(seed), np.arange(SPEC.samples(128)) / SPEC.sample_rate
    clips = []
    for _ in range(3):
        sound = 1e-4 * rng.standard_normal(len(time))
        for note in rng.integers(low, low + 24, 3):
            hertz = 440 * 2 ** ((note - 69) / 12)
            partials = [0.5**k * np.sin(2 * np.pi * k * hertz * time) for k in range(1, 5)]
            sound += 0.1 * rng.uniform(0.3, 1) * np.sum(partials, axis=0)
        clips.append(sound)
    return torch.from_numpy(np.stack(clips)).float()


def x_0(batch: int = 2) -> Tensor:
    return torch.rand(batch, 1, 16, 64, generator=torch.Generator().manual_seed(1)) * 0.6 - 0.5


def test_chroma_off_a_mel_is_nearly_that_of_the_sound_and_librosas() -> None:
    audio = chords()
    true, estimate = log_chroma(audio, SPEC), mel_log_chroma(log_mel(audio, SPEC), SPEC)
    assert estimate.shape == true.shape
    torch.testing.assert_close(estimate.exp().sum(dim=1), torch.ones(3, 128))
    divergence = (true.exp() * (true - estimate)).sum(dim=1)[:, 8:-8]
    assert divergence.mean() < 0.05  # nats; between two of these chords there are more than 0.5
    assert (true.exp() * (true - estimate.roll(1, 0))).sum(dim=1).mean() > 0.5
    for clip, shares in zip(audio.numpy(), estimate.exp().numpy(), strict=True):
        heard = librosa.feature.chroma_stft(
            y=clip, sr=SPEC.sample_rate, n_fft=4096, hop_length=1024, tuning=0, norm=1
        )
        assert np.corrcoef(heard[:, 8:24].mean(axis=1), shares[:, 32:96].mean(axis=1))[0, 1] > 0.9


def test_octaves_off_a_mel() -> None:
    audio = chords(1)
    true, estimate = octave_power(audio, SPEC), mel_octave_power(log_mel(audio, SPEC), SPEC)
    same = true.argmax(dim=1) == estimate.argmax(dim=1)
    assert same[:, 8:-8].float().mean() > 0.9


def test_semitones_off_a_mel_are_told_apart_below_middle_c_too() -> None:
    audio = chords(1, low=48)
    true, mel = octave_power(audio, SPEC), log_mel(audio, SPEC)
    estimate, product = mel_semitone_power(mel, SPEC), mel_octave_power(mel, SPEC)
    assert estimate.shape == true.shape
    assert (true.argmax(dim=1) == estimate.argmax(dim=1))[:, 8:-8].float().mean() > 0.9

    def off(power: Tensor) -> float:
        ours, theirs = chroma_of(power, SPEC).square(), chroma_of(true, SPEC).square()
        return (theirs * (theirs / ours).log()).sum(dim=1)[:, 8:-8].mean().item()

    assert off(estimate) < 0.02  # nats
    assert off(estimate) < off(product) / 2


def test_the_best_chord_off_a_mel_is_the_sounds() -> None:
    fit = templates(parse_chords("C").heard)
    same = []
    for seed in range(4):
        audio = chords(seed, low=48)
        chroma = chroma_of(mel_semitone_power(log_mel(audio, SPEC), SPEC), SPEC)
        torch.testing.assert_close(chroma.norm(dim=1), torch.ones(3, 128))
        best = (fit @ chroma).argmax(dim=1), (fit @ chord_chroma(audio, SPEC)).argmax(dim=1)
        same.append((best[0] == best[1]).float().mean().item())
    assert np.mean(same) > 0.9


def test_the_semitones_of_a_mel_are_those_that_scipy_finds() -> None:
    bands, pitches = _semitones(SPEC, torch.float64, torch.device("cpu"))
    powers = torch.full((bands.shape[1],), 1e-6, dtype=torch.float64)
    powers[[50, 57, 61, 80]] = torch.tensor([0.1, 0.03, 0.1, 0.02], dtype=torch.float64)
    power = (bands @ powers)[None, :, None].expand(1, -1, 40)
    mel = 10 * power.log10() * (2 / SPEC.dynamic_range_db) + 1
    theirs = pitches @ torch.from_numpy(scipy.optimize.nnls(bands.numpy(), power[0, :, 20])[0])
    ours = mel_semitone_power(mel, SPEC)[0, :, 20]
    loud = theirs > 0.01 * theirs.max()
    assert (ours[loud].log() - theirs[loud].log()).abs().mean() < 0.3
    assert ours[~loud].max() < 0.1 * theirs.max()


def test_the_centroid_off_a_mel_rises_and_falls_with_that_of_the_sound() -> None:
    rng, time = np.random.default_rng(0), np.linspace(0, 1, SPEC.samples(128))
    sweep = np.sin(2 * np.pi * np.cumsum(300 + 3000 * time) / SPEC.sample_rate)
    audio = torch.from_numpy(0.2 * sweep + 0.01 * rng.standard_normal(len(time)))[None].float()
    true, estimate = centroid_octaves(audio, SPEC), mel_centroid_octaves(log_mel(audio, SPEC), SPEC)
    assert np.corrcoef(true[0], estimate[0])[0, 1] > 0.98
    noise = torch.from_numpy(0.1 * rng.standard_normal((1, len(time)))).float()
    off = centroid_octaves(noise, SPEC) - mel_centroid_octaves(log_mel(noise, SPEC), SPEC)
    assert off.abs().mean() < 0.1


@pytest.mark.parametrize("padding", ["repeatpad", "repeat", "pad"])
@pytest.mark.parametrize("rate", [8000, 48_000])
def test_claps_log_mels_off_a_mel_are_nearly_those_of_the_sound(padding: str, rate: int) -> None:
    front = ClapFrontEnd(
        sample_rate=rate,
        n_fft=rate // 25,
        hop=rate // 80,
        n_mels=24,
        high_hz=3500.0,
        seconds=4,
        padding=padding,  # pyright: ignore[reportArgumentType]
    )
    audio = chords(2)
    true = front(audio, SPEC.sample_rate)
    estimate = front.of_mel(log_mel(audio, SPEC), SPEC)
    assert estimate.shape == true.shape
    # Only where padding begins is something heard of the other side.
    sounds = (true > -60) & (estimate > -99)
    assert sounds.sum() > 0.97 * (true > -60).sum()
    assert (estimate - true)[sounds].abs().median() < 2  # dB
    silent = true.amax(dim=-1) <= -99
    assert bool((estimate.amax(dim=-1)[silent] < -60).all())
    assert np.corrcoef(estimate[sounds], true[sounds])[0, 1] > 0.97


def test_long_mels_are_cut_into_windows_as_sounds_are() -> None:
    front = ClapFrontEnd(sample_rate=22_050, n_fft=1024, hop=500, n_mels=24, seconds=1)
    audio = chords(3)
    true, estimate = front(audio, SPEC.sample_rate), front.of_mel(log_mel(audio, SPEC), SPEC)
    assert estimate.shape == true.shape == (3, 2, 1, 45, 24)
    assert (estimate - true)[true > -60].abs().median() < 2


@pytest.mark.parametrize(
    "estimate",
    [
        lambda mel: mel_log_chroma(mel, SMALL),
        lambda mel: mel_octave_power(mel, SMALL)[:, 48:96],
        lambda mel: mel_semitone_power(mel, SMALL)[:, 48:96],
        lambda mel: mel_centroid_octaves(mel, SMALL),
    ],
)
def test_gradients_are_those_of_differences(estimate: Any) -> None:
    mel = (x_0(1)[:, 0, :, :12]).double().requires_grad_()
    assert torch.autograd.gradcheck(estimate, mel)


CONTROLS: list[Control] = [
    Melody(TUNE),
    Melody(TUNE, "margin", octave=True),
    Brightness("0:700 0.5:1400"),
    Chords("C:1 G7:1", bpm=240),
    Chords("C:1 G7:1", "nll", bpm=240),
]


@pytest.mark.parametrize("control", CONTROLS)
def test_a_calibrated_estimate_is_the_sounds_loss_there_and_needs_no_vocoder(
    control: Control, tiny_model: MusicModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Output(x_0(), tiny_model)
    true, proxy = control.loss(output), control.proxy()
    assert not torch.allclose(proxy.loss(output), true, rtol=1e-3)
    calibrated = proxy.calibrate(output)
    torch.testing.assert_close(calibrated.loss(output), true, rtol=1e-4, atol=1e-5)
    assert control.calibrate(output) is control
    assert calibrated.errors(output).keys() == control.errors(output).keys()
    assert calibrated.to_dict() == control.to_dict() | {"domain": "mel"}
    assert type(control).from_dict(calibrated.to_dict()) == proxy
    monkeypatch.setattr(MusicModel, "to_audio", lambda *_: pytest.fail("the vocoder ran"))
    here = x_0().requires_grad_()
    calibrated.loss(Output(here, tiny_model)).sum().backward()
    assert here.grad is not None
    assert here.grad.abs().sum() > 0


def test_a_text_is_heard_off_the_mel(tiny_model: MusicModel) -> None:
    control = Text("calm jazz", make_clap())
    output = Output(x_0(), tiny_model)
    proxy = control.proxy()
    calibrated = proxy.calibrate(output)
    torch.testing.assert_close(calibrated.loss(output), control.loss(output), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(proxy.loss(output), control.loss(output), rtol=1e-4)
    assert proxy.clap is control.clap
    assert calibrated.to_dict() == control.to_dict() | {"domain": "mel"}


def test_a_form_is_compared_at_every_fourth_frame(tiny_model: MusicModel) -> None:
    form, output = Structure("AB", 0.0, 0.0), Output(x_0(), tiny_model)
    difference = form.feature(output) - form.target(output)
    torch.testing.assert_close(
        form.proxy().loss(output), difference[:, ::4, ::4].square().mean(dim=(1, 2))
    )
    masked = form.during((0.1, 0.3))
    mask = output.during(((0.1, 0.3),)).mask
    assert mask is not None
    part = difference[:, ::4, ::4][:, mask[::4]][..., mask[::4]]
    torch.testing.assert_close(masked.proxy().loss(output), part.square().mean(dim=(1, 2)))
    assert form.proxy().to_dict() == form.to_dict()
    torch.testing.assert_close(form.loss(output), difference.square().mean(dim=(1, 2)))


def test_what_has_no_mel_is_heard(tiny_model: MusicModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MusicModel, "has_mel", False)
    model = replace(tiny_model)
    for control in CONTROLS:
        output = Output(x_0(), model)
        torch.testing.assert_close(control.proxy().loss(output), control.loss(output))
