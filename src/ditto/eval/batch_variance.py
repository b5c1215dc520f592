"""How alike the clips of a batch are: what a shared x_T fixes about them (DITTO appendix J, Fig.
10).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor


def intra_batch_variance(feature: Tensor) -> float:
    """Variance of a feature over the clips of one batch, averaged over the feature's values.

    Args:
        feature: (B, …) with B ≥ 2, e.g. the intensity curves (B, frames) in dB.

    Returns:
        Unbiased variance, in squared units of the feature.

    Raises:
        ValueError: a single clip has no variance.
    """
    if len(feature) < 2:
        raise ValueError("a variance needs two clips or more")
    return feature.double().flatten(1).var(dim=0).mean().item()


class Effect(NamedTuple):
    """Whether one group of batches varies less than another."""

    ratio: float
    """Mean variance of the first group over that of the second."""
    p_value: float
    """One-sided Mann-Whitney: probability of such ranks if the first did not vary less."""


def less_variance(
    fixed: NDArray[np.floating] | list[float], free: NDArray[np.floating] | list[float]
) -> Effect:
    """Compare `intra_batch_variance` of batches that share x_T with that of batches that do not.

    Ranks are compared since variances are skewed; the paper does not name its test.

    Raises:
        ValueError: a group is empty or holds values that are not finite.
    """
    a, b = np.asarray(fixed, dtype=np.float64), np.asarray(free, dtype=np.float64)
    if not (a.size and b.size and np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("both groups need at least one variance, all of them finite")
    return Effect(
        float(a.mean() / b.mean()), float(stats.mannwhitneyu(a, b, alternative="less").pvalue)
    )
