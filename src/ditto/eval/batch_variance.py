"""Variance within a batch: how much a shared x_T fixes about its clips (DITTO Fig. 10)."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from ditto.tables import widened


def intra_batch_variance(feature: Tensor) -> float:
    """Compute the variance of a feature over the clips, averaged over the feature's values.

    Args:
        feature: (B, …) with B ≥ 2, e.g. the intensity curves (B, frames) in dB.

    Returns:
        Unbiased variance, in squared units of the feature.

    Raises:
        ValueError: fewer than two clips.
    """
    if len(feature) < 2:
        raise ValueError("a variance needs two clips or more")
    return widened(feature).flatten(1).var(dim=0).mean().item()


class Effect(NamedTuple):
    """Compare the variances of two groups of batches."""

    ratio: float
    """Mean variance of the first group over that of the second."""
    p_value: float
    """One-sided Mann-Whitney test of the hypothesis that the first varies less."""


def less_variance(
    fixed: NDArray[np.floating] | list[float], free: NDArray[np.floating] | list[float]
) -> Effect:
    """Test whether batches that share x_T vary less than others, by `intra_batch_variance`.

    Ranks are compared because variances are skewed; the paper does not name its test.

    Args:
        fixed: variances (N,) of batches with one x_T.
        free: variances (M,) of the others.

    Raises:
        ValueError: a group is empty or has a value that is not finite.
    """
    a, b = np.asarray(fixed, dtype=np.float64), np.asarray(free, dtype=np.float64)
    if not (a.size and b.size and np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("both groups need at least one variance, all of them finite")
    p_value = stats.mannwhitneyu(a, b, alternative="less").pvalue
    return Effect(float(a.mean() / b.mean()), float(p_value))
