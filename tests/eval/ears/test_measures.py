"""The probe, the whitened distance, tempo and sharpness where the answer is known."""

from itertools import pairwise

import librosa
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from tests.eval.ears.made_music import clicks, played
from torch.nn.functional import avg_pool1d

from ditto.audio.spec import AudioSpec
from ditto.eval.ears.distance import WhitenedReference
from ditto.eval.ears.genre import fit_probe
from ditto.eval.ears.sharpness import contrast_db, levels_db, off_by, peaks_db
from ditto.eval.ears.tempo import onset_strengths, tempo, tempo_hits

SPEC = AudioSpec()


def classes_of(rng: np.random.Generator, count: int) -> tuple[np.ndarray, list[str]]:
    labels = rng.choice(["folk", "jazz", "rock"], count)
    centres = {"folk": 0.0, "jazz": 1.5, "rock": -1.5}
    x = rng.standard_normal((count, 3, 6)) * np.arange(1, 7)
    x[:, :, :2] += np.array([centres[name] for name in labels])[:, None, None]
    return x, labels.tolist()


def test_the_probe_is_logistic_regression() -> None:
    rng = np.random.default_rng(0)
    x, labels = classes_of(rng, 90)
    probe = fit_probe(x, labels, penalty=0.05)
    means = x.mean(axis=1)
    standard = (means - means.mean(axis=0)) / means.std(axis=0)
    other = LogisticRegression(C=1 / (0.05 * 90), tol=1e-8, max_iter=5000).fit(standard, labels)
    assert probe.classes == ("folk", "jazz", "rock")
    np.testing.assert_allclose(probe.probabilities(x), other.predict_proba(standard), atol=2e-3)
    judged, truth = classes_of(rng, 200)
    guesses = other.predict((judged.mean(axis=1) - means.mean(axis=0)) / means.std(axis=0))
    assert probe.hits(judged, truth).mean() == pytest.approx((guesses == truth).mean(), abs=0.01)
    assert 0.6 < (guesses == truth).mean() < 1


def test_a_probe_needs_classes_and_labels() -> None:
    for labels in (["jazz"] * 4, ["jazz", "rock"]):
        with pytest.raises(ValueError, match="a probe needs"):
            fit_probe(np.random.default_rng(0).random((4, 3)), labels)


def test_the_floor_of_one_distribution_is_its_bias() -> None:
    """The means differ by d/N + d/M, and the covariances by (d + 1) / 4 times as much."""
    rng, d, n = np.random.default_rng(0), 16, 1500
    scales = np.geomspace(100, 0.01, d)
    reference = WhitenedReference(rng.standard_normal((n, d)) * scales, directions=d)
    floors = [reference.distance(rng.standard_normal((n, d)) * scales) for _ in range(4)]
    assert np.mean(floors) == pytest.approx((d + d * (d + 1) / 4) * 2 / n, rel=0.1)


def test_the_distance_counts_whitened_directions_only() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((400, 3, 6)) * [9, 8, 7, 0.1, 0.1, 0.1]
    reference = WhitenedReference(x, directions=3)
    assert reference.distance(x) == pytest.approx(0, abs=1e-9)
    z = reference.whitened(x)
    np.testing.assert_allclose(z.T @ z / (len(z) - 1), np.eye(3), atol=1e-9)
    assert reference.distance(x + np.array([18, 0, 0, 0, 0, 0])) == pytest.approx(4, rel=0.15)
    assert reference.distance(x + np.array([0, 0, 0, 1, 1, 1])) < 0.01
    with pytest.raises(ValueError, match="needs more embeddings"):
        WhitenedReference(x[0])
    with pytest.raises(ValueError, match="fewer than 4 directions"):
        WhitenedReference(np.hstack([x[:, 0, :3], np.zeros((400, 3))]), directions=4)


@pytest.mark.parametrize("bpm", [75.0, 97.0, 120.0, 150.0])
def test_the_tempo_of_clicks(bpm: float) -> None:
    hits = tempo_hits(np.array([tempo(clicks(bpm))]), np.array([bpm]))
    assert hits.with_octaves.all()


@pytest.mark.parametrize("audio", [clicks(104.0), played()], ids=["clicks", "tune"])
def test_the_tempo_is_that_of_librosa(audio: np.ndarray) -> None:
    strengths = librosa.onset.onset_strength(y=audio, sr=22_050, hop_length=256)
    np.testing.assert_allclose(onset_strengths(torch.from_numpy(audio)), strengths, atol=2e-3)
    wanted = librosa.feature.tempo(y=audio, sr=22_050, hop_length=256)
    assert tempo(audio) == pytest.approx(float(wanted[0]), rel=1e-6)


def test_tempi_hit_with_octaves() -> None:
    heard, asked = np.array([121.0, 60.0, 90.0, 40.0]), np.array([120.0, 120.0, 120.0, 120.0])
    hits = tempo_hits(heard, asked)
    assert hits.exact.tolist() == [1, 0, 0, 0]
    assert hits.with_octaves.tolist() == [1, 1, 0, 1]


def test_contrast_of_levels_that_are_known() -> None:
    levels = torch.full((2, 160, 5), -40.0)
    levels[0, ::2] = -10.0
    assert contrast_db(levels).tolist() == pytest.approx([30.0, 0.0], abs=1e-4)
    tilted = torch.linspace(0, -60, 160)[None, :, None].expand(1, 160, 5)
    widths = np.diff([0, 10, 20, 39, 63, 90, 121, 160])  # bands of each octave, about
    assert contrast_db(tilted).item() == pytest.approx(
        0.9 * 60 / 159 * (widths - 1).mean(), rel=0.02
    )


def test_contrast_of_white_noise_is_that_of_the_exponential_law() -> None:
    """Powers of Gaussian noise: the quantiles are −ln(1 − q), 17.66 dB apart for 0.95 and 0.05."""
    fine = AudioSpec(n_mels=8000)
    power = np.random.default_rng(0).exponential(size=(1, 8000, 6))
    levels = torch.from_numpy(10 * np.log10(power))
    wanted = 10 * np.log10(np.log(0.05) / np.log(0.95))
    assert contrast_db(levels, fine).item() == pytest.approx(wanted, abs=0.3)


def test_peaks_of_levels_that_are_known() -> None:
    levels = torch.full((2, 160, 5), -70.0)
    levels[0, 20::20] = -10.0
    assert peaks_db(levels).tolist() == pytest.approx([60.0, 0.0], abs=1e-4)
    levels[0, 21::20] = -34.0  # beside each maximum: a twelfth of 36 dB less
    levels[0, 24::20] = -40.0  # within its neighbourhood, and no maximum: -34 is three bands away
    levels[0, 12::20] = -50.0  # eight bands away: a maximum of its own of 20 dB
    assert peaks_db(levels)[0].item() == pytest.approx((7 * (60 - 36 / 12 - 30 / 12) + 8 * 20) / 15)


@pytest.mark.parametrize("kind", ["noise", "sine"])
def test_both_against_librosa_and_numpy(kind: str) -> None:
    t = np.arange(44_032) / 22_050
    noise = np.random.default_rng(0).standard_normal(len(t))
    audio = (0.1 * noise if kind == "noise" else 0.5 * np.sin(2 * np.pi * 1000 * t)).astype("f")
    mel = librosa.feature.melspectrogram(
        y=audio, sr=22_050, n_fft=2048, hop_length=256, n_mels=160, norm=None, pad_mode="reflect"
    )[:, : len(audio) // 256]
    wanted = librosa.power_to_db(mel, ref=np.max, amin=1e-16, top_db=60)
    levels = levels_db(torch.from_numpy(audio)[None])
    np.testing.assert_allclose(levels[0] - levels.max(), wanted, atol=0.05)
    centres = librosa.mel_frequencies(162, fmin=0, fmax=11_025)[1:-1]
    edges = [0, 200, 400, 800, 1600, 3200, 6400, 11_025]
    octaves = [wanted[(centres >= a) & (centres < b)] for a, b in pairwise(edges)]
    spread = [np.subtract(*np.percentile(part, [95, 5], axis=0)) for part in octaves]
    assert contrast_db(levels).item() == pytest.approx(np.mean(spread), abs=0.05)
    heights = []
    for frame in wanted.T:
        beside = [[*frame[max(0, i - 3) : i], *frame[i + 1 : i + 4]] for i in range(160)]
        tops = [i for i in range(160) if frame[i] > max(beside[i])]
        around = [[*frame[max(0, i - 6) : i], *frame[i + 1 : i + 7]] for i in tops]
        rises = [frame[i] - np.mean(a) for i, a in zip(tops, around, strict=True)]
        heights.append(np.mean(rises) if rises else 0.0)
    assert peaks_db(levels).item() == pytest.approx(np.mean(heights), abs=0.1)


def test_sharpness_does_not_hear_the_volume_and_hears_smearing() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 131_072, generator=generator)
    audio = torch.from_numpy(played())[None] + 1e-3 * noise
    levels = levels_db(audio)
    for measure in (contrast_db, peaks_db):
        sharp = measure(levels)
        torch.testing.assert_close(measure(levels_db(0.1 * audio)), sharp, atol=0.02, rtol=0)
        smeared = avg_pool1d(levels.transpose(1, 2), 5, 1, 2, count_include_pad=False)
        assert sharp > measure(smeared.transpose(1, 2)) + 1
        assert sharp > measure(levels_db(noise)) + 2


def test_silence_has_no_sharpness() -> None:
    levels = levels_db(torch.zeros(2, 20_000))
    assert contrast_db(levels).tolist() == peaks_db(levels).tolist() == [0, 0]
    half = torch.cat([torch.zeros(1, 30_000), torch.randn(1, 30_000)], dim=1)
    assert contrast_db(levels_db(half)) == pytest.approx(
        contrast_db(levels_db(half[:, 30_000:])).item(), rel=0.05
    )
    assert off_by(np.array([1.0, 2.0]), np.array([3.0])) == -1.5
