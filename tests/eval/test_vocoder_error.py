"""Vocoder errors and Griffin-Lim, against librosa and against changes of known size."""

import math

import librosa
import numpy as np
import pytest
import torch
from torch import Tensor

from ditto.audio.features import log_mel, mel_db, mel_filterbank
from ditto.audio.spec import AudioSpec
from ditto.eval.vocoder_error import (
    evaluate_vocoder,
    griffin_lim_mel,
    mel_to_magnitude,
    vocoder_errors,
)

SPEC = AudioSpec()


def chord(frames: int = 96) -> Tensor:
    seconds = torch.arange(frames * SPEC.hop) / SPEC.sample_rate
    notes = sum(
        torch.sin(2 * math.pi * f * seconds) * torch.exp(-seconds)
        for f in (220.0, 277.2, 329.6, 880.0)
    )
    return (0.1 * torch.as_tensor(notes)).unsqueeze(0)


def test_a_perfect_vocoder_has_no_error() -> None:
    audio = chord()
    for value in evaluate_vocoder(lambda _: audio, audio, SPEC).values():
        assert value == pytest.approx(0.0, abs=1e-4)


def test_a_gain_of_6_db_is_seen_as_6_db() -> None:
    errors = vocoder_errors(chord() * 10 ** (6 / 20), chord(), SPEC)
    assert errors["rms_bias_db"] == pytest.approx(6.0, abs=1e-3)
    assert errors["rms_db"] == pytest.approx(6.0, abs=1e-3)
    assert errors["spectral_convergence"] == pytest.approx(10 ** (6 / 20) - 1, rel=1e-3)
    assert errors["mel_db"] < 6.0 + 1e-3


def test_magnitudes_fit_the_mel() -> None:
    x_0 = log_mel(chord(), SPEC)
    mel = mel_filterbank(SPEC) @ mel_to_magnitude(x_0, SPEC).square()
    assert (10 * torch.log10(mel + 1e-16) - mel_db(x_0, SPEC))[:, :, 8:-8].abs().mean() < 0.5


def test_griffin_lim_is_as_good_as_librosas() -> None:
    audio = chord(48)
    x_0 = log_mel(audio, SPEC)
    ours = vocoder_errors(griffin_lim_mel(x_0, SPEC, 16), audio, SPEC)
    magnitude = mel_to_magnitude(x_0, SPEC)[0].numpy() * (SPEC.n_fft / 4)
    sound = librosa.griffinlim(
        magnitude, n_iter=16, hop_length=SPEC.hop, momentum=0, random_state=0
    )
    sound = librosa.util.fix_length(sound, size=audio.shape[1]).astype(np.float32)
    theirs = vocoder_errors(torch.from_numpy(sound[None]), audio, SPEC)
    assert ours["spectral_convergence"] < 1.1 * theirs["spectral_convergence"]
    assert ours["mel_db"] < 1.1 * theirs["mel_db"]


def test_griffin_lim_has_the_exact_length_and_follows_its_seed() -> None:
    x_0 = log_mel(chord(33), SPEC)
    first, again, other = (griffin_lim_mel(x_0, SPEC, 2, seed=seed) for seed in (0, 0, 1))
    assert first.shape == (1, 33 * 256)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
