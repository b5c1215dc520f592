"""Confidence intervals by the bootstrap: percentile intervals over clips drawn with replacement.

Every function is deterministic for a seed. Means and ratios have 95 % intervals by default.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
LEVEL = 0.95
TINY = np.finfo(np.float64).tiny

Values = NDArray[np.floating] | Sequence[float]


class Interval(NamedTuple):
    """Hold a figure with the bounds of its confidence interval."""

    value: float
    low: float
    high: float


def mean_interval(
    values: Values, *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> Interval:
    """Estimate the mean of one value per clip, shape (N,).

    Raises:
        ValueError: no values, or one that is not finite.
    """
    x = _checked(values)
    draws = _bootstrap(np.mean, x, resamples=resamples, level=level, seed=seed)
    return Interval(float(x.mean()), *map(float, draws.confidence_interval))


def ratio_interval(
    above: Values,
    below: Values,
    *,
    paired: bool,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Estimate the ratio of two means.

    Args:
        above: numerators' values, shape (N,).
        below: denominators' values, shape (M,); with `paired`, of the same N clips.
        paired: draw the same clips for both.
        resamples: number of draws.
        level: of the interval.
        seed: of the draws.

    Raises:
        ValueError: see `mean_interval`; or paired values of different number.
    """
    a, b = _checked(above), _checked(below)
    if paired and len(a) != len(b):
        raise ValueError(f"paired values must be of one number, not {len(a)} and {len(b)}")

    def ratio(a: NDArray[np.float64], b: NDArray[np.float64], axis: int = -1) -> Any:
        return a.mean(axis=axis) / np.maximum(b.mean(axis=axis), TINY)

    # a draw whose denominators are all 0 has a ratio beyond all numbers
    with np.errstate(over="ignore", invalid="ignore"):
        draws = _bootstrap(ratio, a, b, paired=paired, resamples=resamples, level=level, seed=seed)
    return Interval(float(ratio(a, b)), *map(float, draws.confidence_interval))


def statistic_interval(
    statistic: Callable[..., float],
    *samples: NDArray[np.floating],
    resamples: int = 200,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Estimate a positive statistic of whole samples, e.g. a Fréchet distance.

    Repeated clips bias such a statistic upwards. The interval is therefore the spread of the
    resampled values s* around their own median, laid around the value on a logarithmic scale:
    value · exp(log s* − median log s*).

    Args:
        statistic: maps the samples, each (N, …), to a positive number.
        samples: drawn independently of each other.
        resamples: number of draws.
        level: of the interval.
        seed: of the draws.
    """

    def log(*rows: NDArray[np.int64]) -> float:
        drawn = statistic(*(s[row.astype(int)] for s, row in zip(samples, rows, strict=True)))
        return float(np.log(max(drawn, TINY)))

    indices = [np.arange(len(sample)) for sample in samples]
    draws = _bootstrap(log, *indices, resamples=resamples, level=level, seed=seed, vectorized=False)
    value, median = statistic(*samples), np.median(draws.bootstrap_distribution)
    low, high = np.exp(np.asarray(draws.confidence_interval) - median)
    return Interval(value, float(value * low), float(value * high))


def _bootstrap(
    statistic: Callable[..., Any],
    *samples: NDArray[Any],
    resamples: int,
    level: float,
    seed: int,
    paired: bool = False,
    vectorized: bool = True,
) -> Any:
    from scipy.stats import bootstrap  # here: slow to import

    return bootstrap(
        # scipy wants two values or more: of a single clip all draws are alike
        [np.repeat(sample, 2) if len(sample) == 1 else sample for sample in samples],
        statistic,
        n_resamples=resamples,
        paired=paired,
        vectorized=vectorized,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    )


def _checked(values: Values) -> NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64).reshape(-1)
    if not len(x) or not np.isfinite(x).all():
        raise ValueError("a mean needs at least one value, and all of them finite")
    return x
