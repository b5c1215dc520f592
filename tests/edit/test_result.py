"""What an edit's files are made from: sound and spectrograms in blocks equal those of the whole."""

import librosa
import numpy as np
import pytest
import soxr
import torch

from ditto.audio.features import log_mel
from ditto.audio.spec import AudioSpec
from ditto.edit.result import BLOCK, _heard, mel_columns
from ditto.edit.timeline import Timeline

SPEC = AudioSpec()


def noise(rate: int, seconds: float) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal((2, int(rate * seconds)))).astype(
        np.float32
    )


@pytest.mark.parametrize("rate", [22_050, 44_100, 48_000])
def test_what_is_heard_in_blocks_is_what_is_heard_at_once(rate: int) -> None:
    samples = noise(rate, 7.0)
    assert samples.shape[1] > 2 * BLOCK
    mono = samples.mean(axis=0)
    whole = (
        mono
        if rate == SPEC.sample_rate
        else soxr.resample(mono, rate, SPEC.sample_rate, quality="VHQ")
    )
    heard = _heard(samples, rate, SPEC)
    assert heard.shape == whole.shape
    np.testing.assert_allclose(heard.numpy(), whole, atol=1e-6)


def test_a_spectrogram_in_pieces_is_that_of_the_whole() -> None:
    timeline = Timeline(
        noise(SPEC.sample_rate, 20.0), np.ones(20 * SPEC.sample_rate, bool), SPEC.sample_rate
    )
    mel = mel_columns(timeline, SPEC, 1)
    whole = log_mel(torch.from_numpy(timeline.samples.mean(axis=0))[None], SPEC)[0]
    # The last frames are padded with silence here, and reflected there.
    torch.testing.assert_close(mel[:, :-4], whole[:, : mel.shape[1] - 4], atol=1e-5, rtol=0)
    strided = mel_columns(timeline, SPEC, 3)
    expected = librosa.util.frame(mel.numpy(), frame_length=3, hop_length=3).mean(axis=1)
    np.testing.assert_allclose(strided.numpy()[:, : expected.shape[1]], expected, atol=1e-5)


def test_a_spectrogram_at_another_rate_is_of_the_same_sound() -> None:
    time = np.arange(12 * 44_100) / 44_100
    tone = (0.5 * np.sin(2 * np.pi * 1000 * time))[None].astype(np.float32)
    mel = mel_columns(Timeline(tone, np.ones(len(time), bool), 44_100), SPEC, 2)
    centres = librosa.mel_frequencies(SPEC.n_mels + 2, fmax=SPEC.sample_rate / 2)[1:-1]
    assert (np.abs(centres[mel.argmax(dim=0).numpy()] - 1000) < 30).all()
