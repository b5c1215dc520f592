"""Intervals against scipy's bootstrap and against what is known of the normal distribution."""

import numpy as np
import pytest
from scipy import stats

from ditto.eval.bootstrap import mean_interval, ratio_interval, statistic_interval


def test_mean_agrees_with_scipy():
    x = np.random.default_rng(0).gamma(2.0, size=80)
    ours = mean_interval(x, resamples=5000)
    theirs = stats.bootstrap(
        (x,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(1)
    )
    assert ours.value == pytest.approx(x.mean())
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.05 * width)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.05 * width)


def test_paired_ratio_is_sharper_than_unpaired_when_clips_share_their_difficulty():
    difficulty = np.random.default_rng(0).lognormal(sigma=1.0, size=64)
    paired = ratio_interval(8 * difficulty, difficulty, paired=True)
    free = ratio_interval(8 * difficulty, difficulty, paired=False)
    assert paired.value == pytest.approx(8) == pytest.approx(paired.low)
    assert free.low < 7 < 9 < free.high


def test_a_zero_denominator_stays_a_number():
    assert np.isfinite(ratio_interval([0.0, 0.0], [0.0, 0.0], paired=True)).all()


def test_statistic_is_centred_on_its_value():
    x = np.random.default_rng(0).normal(size=(60, 3))

    def spread(a):
        return float(a.var(axis=0).sum())

    found = statistic_interval(spread, x)
    assert found.low < found.value == spread(x) < found.high


def test_is_deterministic_for_a_seed_and_varies_between_seeds():
    x = np.arange(20.0)
    assert mean_interval(x, seed=3) == mean_interval(x, seed=3) != mean_interval(x, seed=4)


@pytest.mark.parametrize("bad", [[], [1.0, np.nan]])
def test_refuses_values_without_a_mean(bad):
    with pytest.raises(ValueError, match="at least one value"):
        mean_interval(bad)


def test_refuses_pairs_of_different_number():
    with pytest.raises(ValueError, match="paired"):
        ratio_interval([1.0, 2.0], [1.0], paired=True)
