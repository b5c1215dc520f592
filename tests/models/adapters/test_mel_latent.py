"""The mel front end and the reach of the vocoder."""

import librosa
import numpy as np
import pytest
import torch
from tests.models.adapters.tiny_pipelines import built
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from ditto.models.adapters.audioldm2 import AudioLDM2Model
from ditto.models.adapters.mel_latent import front_end, vocoder_rate, vocoder_reach


def test_the_front_end_is_librosas() -> None:
    audio = 0.2 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    audio[8000:] = 0
    expected = librosa.feature.melspectrogram(
        y=audio,
        sr=16_000,
        n_fft=1024,
        hop_length=160,
        n_mels=64,
        fmin=0,
        fmax=8000,
        power=1.0,
        pad_mode="reflect",
    )
    found = front_end(torch.from_numpy(audio)[None], 16_000, 160, 64)[0]
    assert found.shape == (64, 100)
    torch.testing.assert_close(
        found.exp(), torch.from_numpy(expected).clamp(min=1e-5)[:, :100], rtol=1e-3, atol=1e-5
    )


def test_the_front_end_has_a_finite_gradient_at_silence() -> None:
    audio = torch.zeros(1, 4000, requires_grad=True)
    (gradient,) = torch.autograd.grad(front_end(audio, 16_000, 160, 64).sum(), audio)
    assert bool(gradient.isfinite().all())


def test_a_sample_of_the_vocoder_depends_on_no_frame_beyond_its_reach(
    audioldm2: AudioLDM2Model,
) -> None:
    vocoder, rate = audioldm2.vocoder, vocoder_rate(audioldm2.vocoder)
    mel = torch.randn(1, 61, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    sample = vocoder(mel)[0, 30 * rate : 31 * rate].square().sum()
    (gradient,) = torch.autograd.grad(sample, mel)
    touched = gradient[0].abs().amax(dim=1).nonzero().flatten() - 30
    reach = vocoder_reach(vocoder)
    assert touched.abs().max() <= reach
    assert reach < 30


def test_the_published_vocoders_shape() -> None:
    config = SpeechT5HifiGanConfig(
        model_in_dim=64,
        sampling_rate=16_000,
        upsample_initial_channel=64,
        upsample_rates=[5, 4, 2, 2, 2],
        upsample_kernel_sizes=[16, 16, 8, 4, 4],
        normalize_before=False,
    )
    vocoder = built(lambda: SpeechT5HifiGan(config))
    assert vocoder_rate(vocoder) == 160
    assert vocoder_reach(vocoder) == pytest.approx(25, abs=3)
    with torch.no_grad():
        assert vocoder(torch.zeros(1, 20, 64)).shape == (1, 160 * 20 + 32)
