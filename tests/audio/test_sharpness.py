"""The sharpness of clips: smearing lowers both statistics, loudness changes neither."""

import numpy as np
import torch

from ditto.audio.sharpness import sharpness


def clips(seed: int = 0, count: int = 8) -> torch.Tensor:
    """Log-mels of held notes: a few narrow bands that stand out."""
    generator = torch.Generator().manual_seed(seed)
    mel = -0.2 + 0.02 * torch.randn(count, 160, 64, generator=generator)
    for clip in mel:
        for band in torch.randint(3, 157, (16,), generator=generator).tolist():
            clip[band] += 0.35
    return mel


def test_blurred_clips_have_less_of_both() -> None:
    blurred = torch.nn.functional.avg_pool1d(clips().mT, 5, 1, 2).mT
    off = sharpness(blurred).off_by(sharpness(clips()))
    assert off["contrast_off"] < -2
    assert off["peaks_off"] < -5


def test_other_clips_of_the_kind_are_near() -> None:
    off = sharpness(clips(1, 32)).off_by(sharpness(clips(0, 32)))
    assert abs(off["contrast_off"]) < 0.3
    assert abs(off["peaks_off"]) < 0.6


def test_loudness_does_not_matter_and_silence_is_held_at_80_decibels() -> None:
    off = sharpness(clips() - 0.1).off_by(sharpness(clips()))
    assert abs(off["contrast_off"]) < 1e-5
    assert abs(off["peaks_off"]) < 1e-5
    mel = torch.full((1, 160, 4), -1.0)
    mel[:, :16] = 0.5
    assert abs(sharpness(mel).peaks.item() - 80.0) < 1e-6
    silent = sharpness(torch.full((1, 160, 4), -1.0))
    assert silent.contrast.item() == silent.peaks.item() == 0


def test_the_statistics_are_their_definitions() -> None:
    mel = torch.full((1, 160, 4), -0.5)
    mel[:, ::8] += 0.25  # 20 dB in an eighth of the bands
    found = sharpness(mel)
    assert abs(found.peaks.item() - 20.0) < 1e-4
    assert abs(found.contrast.item() - 20 * (160 / 159 * 1 / 8 * 7 / 8) ** 0.5) < 1e-4


def test_every_clip_has_its_own_and_numpy_agrees() -> None:
    mel = clips(2, 3) * torch.tensor([0.5, 1.0, 1.5])[:, None, None]
    decibels = (mel.numpy() - 1.0) * 80
    decibels = np.maximum(decibels, decibels.max(axis=(1, 2), keepdims=True) - 80)
    found = sharpness(mel)
    np.testing.assert_allclose(found.contrast, decibels.std(axis=1, ddof=1).mean(axis=1), rtol=1e-5)
    loud, middle = np.percentile(decibels, [95, 50], axis=1)
    np.testing.assert_allclose(found.peaks, (loud - middle).mean(axis=1), rtol=1e-5)
    assert found.contrast.shape == found.peaks.shape == (3,)
