"""Intervals against the t-test's, in degenerate cases, and around a statistic's value."""

import numpy as np
import pytest
from scipy import stats

from ditto.eval.bootstrap import mean_interval, ratio_interval, statistic_interval


def test_mean_of_normal_values_has_students_interval():
    x = np.random.default_rng(0).normal(3.0, 2.0, size=200)
    low, high = stats.t.interval(0.95, len(x) - 1, loc=x.mean(), scale=stats.sem(x))
    interval = mean_interval(x, resamples=5000)
    assert interval.value == pytest.approx(x.mean())
    assert interval.low == pytest.approx(low, abs=0.05 * (high - low))
    assert interval.high == pytest.approx(high, abs=0.05 * (high - low))


def test_a_single_clip_has_an_interval_without_width():
    assert mean_interval([2.0]) == (2.0, 2.0, 2.0)
    assert ratio_interval([2.0], [4.0], paired=True) == (0.5, 0.5, 0.5)
    assert ratio_interval([2.0], [4.0, 4.0], paired=False) == (0.5, 0.5, 0.5)


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
