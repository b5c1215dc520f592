"""The probe, the whitened distance and tempo where the answer is known."""

import librosa
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from tests.eval.ears.made_music import clicks, played

from ditto.audio.spec import AudioSpec
from ditto.eval.ears.distance import WhitenedReference
from ditto.eval.ears.genre import fit_probe
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
