"""The Fréchet distance against scipy's matrix square root and against closed forms."""

import numpy as np
import pytest
from scipy import linalg

from ditto.eval.frechet import Reference, frechet_between, frechet_distance, gaussian


def by_sqrtm(a, b):
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(cov_a @ cov_b)
    return float(np.sum((mean_a - mean_b) ** 2) + np.trace(cov_a + cov_b) - 2 * np.trace(root).real)


def test_equals_the_matrix_square_root_on_full_rank_data():
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(64, 64)) / 8
    a, b = rng.normal(size=(2000, 64)), rng.normal(size=(2000, 64)) @ mixing + 0.3
    assert frechet_distance(a, b) == pytest.approx(by_sqrtm(a, b), abs=1e-8)


def test_is_finite_real_and_exact_on_rank_deficient_data():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(300, 512)), rng.normal(size=(300, 512))
    value = frechet_distance(a, b)
    # The trace of the root as a nuclear norm of the data themselves, which needs no covariance.
    centred = [(x - x.mean(axis=0)) / np.sqrt(len(x) - 1) for x in (a, b)]
    overlap = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    squares = sum(np.square(x).sum() for x in centred)
    expected = np.square(a.mean(axis=0) - b.mean(axis=0)).sum() + squares - 2 * overlap
    assert isinstance(value, float)
    assert value == pytest.approx(expected, rel=1e-5)


def test_constant_embeddings_do_not_break_it():
    a = np.zeros((10, 4))
    assert frechet_distance(a, a + 2.0) == pytest.approx(16.0)


def test_closed_forms():
    rng = np.random.default_rng(1)
    a = rng.normal(size=(50, 6))
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-10)
    assert frechet_distance(a, a + 0.5) == pytest.approx(6 * 0.25)
    # Scaled by k about its mean: tr C · (1 − k)².
    mean = a.mean(axis=0)
    assert frechet_distance(a, mean + 3 * (a - mean)) == pytest.approx(
        4 * np.trace(np.cov(a, rowvar=False))
    )


def test_is_symmetric():
    rng = np.random.default_rng(2)
    a, b = gaussian(rng.normal(size=(40, 8))), gaussian(rng.normal(size=(30, 8)) * 2 + 1)
    assert frechet_between(a, b) == pytest.approx(frechet_between(b, a), rel=1e-12)


@pytest.mark.parametrize("bad", [np.zeros((1, 3)), np.zeros(5), np.full((4, 3), np.nan)])
def test_refuses_what_has_no_covariance(bad):
    with pytest.raises(ValueError, match=r"embeddings|finite"):
        gaussian(bad)


@pytest.mark.parametrize(("count", "dimensions"), [(5, 12), (40, 12), (300, 512)])
def test_a_reference_gives_the_same_distance_of_few_and_of_many(count: int, dimensions: int):
    rng = np.random.default_rng(1)
    real, clips = (
        rng.standard_normal((600, dimensions)),
        0.5 + 2 * rng.standard_normal((count, dimensions)),
    )
    assert Reference(real).distance(clips) == pytest.approx(frechet_distance(clips, real), rel=1e-6)
    assert Reference(real).distance(real) == pytest.approx(0, abs=1e-6)
