"""Confidence intervals by the bootstrap: clips are drawn anew, with replacement, and the figure is
computed again.

Every function is deterministic for a seed. Intervals are percentile intervals of 95 % unless said
otherwise.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
LEVEL = 0.95

Values = NDArray[np.floating] | Sequence[float]


class Interval(NamedTuple):
    """A figure with the bounds of its confidence interval."""

    value: float
    low: float
    high: float


def mean_interval(
    values: Values, *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> Interval:
    """Mean of one value a clip, shape (N,), with its interval.

    Raises:
        ValueError: no values, or one that is not finite.
    """
    x = _checked(values)
    means = x[_draws(len(x), resamples, seed)].mean(axis=1)
    return Interval(float(x.mean()), *_bounds(means, level))


def ratio_interval(
    above: Values,
    below: Values,
    *,
    paired: bool,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Ratio of two means with its interval.

    Args:
        above: numerators' values, shape (N,).
        below: denominators' values, shape (M,); with `paired`, of the same N clips.
        paired: draw the same clips for both.
        resamples: how often clips are drawn anew.
        level: of the interval.
        seed: of the draws.

    Raises:
        ValueError: see `mean_interval`; or paired values of different number.
    """
    a, b = _checked(above), _checked(below)
    if paired and len(a) != len(b):
        raise ValueError(f"paired values must be of one number, not {len(a)} and {len(b)}")
    first = _draws(len(a), resamples, seed)
    second = first if paired else _draws(len(b), resamples, seed + 1)
    means, bases = a[first].mean(axis=1), b[second].mean(axis=1)
    tiny = np.finfo(np.float64).tiny
    value = float(a.mean() / max(b.mean(), tiny))
    with np.errstate(
        over="ignore"
    ):  # draws of clips without any error have a ratio beyond all numbers
        ratios = means / np.maximum(bases, tiny)
    return Interval(value, *_bounds(ratios, level))


def statistic_interval(
    statistic: Callable[..., float],
    *samples: NDArray[np.floating],
    resamples: int = 200,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """A statistic of whole samples, e.g. a Fréchet distance, with a centred interval on the
    logarithmic scale.

    Repeated clips inflate such a statistic, so the resampled values lie too high as a whole. Their
    spread around their own median is therefore laid around the value: value · exp(log s* − median
    log s*).

    Args:
        statistic: maps the samples, each (N, …), to a positive number.
        samples: drawn anew independently of one another.
        resamples: how often clips are drawn anew.
        level: of the interval.
        seed: of the draws.
    """
    value = statistic(*samples)
    logs = np.empty(resamples)
    draws = [_draws(len(s), resamples, seed + i) for i, s in enumerate(samples)]
    for i in range(resamples):
        drawn = statistic(*(s[d[i]] for s, d in zip(samples, draws, strict=True)))
        logs[i] = np.log(max(drawn, np.finfo(np.float64).tiny))
    low, high = _bounds(np.exp(logs - np.median(logs)), level)
    return Interval(value, value * low, value * high)


def _checked(values: Values) -> NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64).reshape(-1)
    if not len(x) or not np.isfinite(x).all():
        raise ValueError("a mean needs at least one value, and all of them finite")
    return x


def _draws(count: int, resamples: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(count, size=(resamples, count))


def _bounds(values: NDArray[np.float64], level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
