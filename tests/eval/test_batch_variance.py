"""Variance within a batch, and whether it is less."""

import numpy as np
import pytest
import torch

from ditto.eval.batch_variance import intra_batch_variance, less_variance


def test_it_is_numpys_variance_over_the_batch() -> None:
    feature = torch.randn(10, 3, 20, generator=torch.Generator().manual_seed(0)) * 3 + 100
    expected = np.var(feature.double().numpy(), axis=0, ddof=1).mean()
    assert intra_batch_variance(feature) == pytest.approx(expected)
    assert intra_batch_variance(feature[:1].expand(5, -1, -1)) == 0


def test_a_lesser_variance_is_found_and_an_equal_one_is_not() -> None:
    rng = np.random.default_rng(0)
    fixed, free = rng.gamma(4, 1.0, size=40), rng.gamma(4, 2.0, size=40)
    found = less_variance(fixed, free)
    assert found.ratio == pytest.approx(fixed.mean() / free.mean())
    assert found.p_value < 0.01
    assert less_variance(free, fixed).p_value > 0.99
    ranked = sorted(fixed)
    assert 0.05 < less_variance(ranked[1::2], ranked[::2]).p_value < 0.95


def test_what_has_no_variance_is_refused() -> None:
    with pytest.raises(ValueError, match="two clips"):
        intra_batch_variance(torch.zeros(1, 5))
    with pytest.raises(ValueError, match="finite"):
        less_variance([1.0], [float("nan")])
