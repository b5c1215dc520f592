"""Fréchet distance between two sets of embeddings (Heusel et al. 2017; FAD: Kilgour et al. 2019).

    d = ‖μ₁ − μ₂‖² + tr(C₁ + C₂ − 2·(C₁·C₂)^½),    tr (C₁·C₂)^½ = Σ √eig(√C₁·C₂·√C₁)

The symmetric form keeps the eigenvalues real and non-negative when a covariance is rank-deficient,
where a matrix square root of C₁·C₂ turns complex or not finite. The estimate is biased upwards by
few samples, so only distances at equal counts compare; FAD∞ (Gui et al. 2023) takes the bias out by
extrapolation to endlessly many.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, stats

Array = NDArray[np.float64]


class Gaussian(NamedTuple):
    """Mean (D,) and covariance (D, D), unbiased, of a set of embeddings."""

    mean: Array
    covariance: Array


def gaussian(embeddings: NDArray[np.floating]) -> Gaussian:
    """The Gaussian of embeddings (N, D), in float64.

    Raises:
        ValueError: fewer than two embeddings, another shape, or a value that is not finite.
    """
    x = np.asarray(embeddings, dtype=np.float64)
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"a covariance needs embeddings of shape (N >= 2, D), not {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError("the embeddings hold values that are not finite")
    mean = x.mean(axis=0)
    centred = x - mean
    return Gaussian(mean, centred.T @ centred / (len(x) - 1))


def frechet_between(a: Gaussian, b: Gaussian) -> float:
    """Fréchet distance of two Gaussians of the same dimension, in squared units of the embedding;
    at least 0.
    """
    root = _square_root(a.covariance)
    # The singular values of √C₁·√C₂ are the square roots of the eigenvalues above; taken directly
    # they lose no digits.
    overlap = np.linalg.svd(root @ _square_root(b.covariance), compute_uv=False).sum()
    distance = (
        np.square(a.mean - b.mean).sum()
        + np.trace(a.covariance)
        + np.trace(b.covariance)
        - 2 * overlap
    )
    return max(0.0, float(distance))


def frechet_distance(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Fréchet distance of two sets of embeddings, (N, D) and (M, D).

    Raises:
        ValueError: see `gaussian`.
    """
    return frechet_between(gaussian(a), gaussian(b))


class Reference:
    """A set of embeddings that many others are compared with: its square root is taken once.

    For embeddings X, centred, the eigenvalues of √C₂·C₁·√C₂ are the squared singular values of
    X·√C₂ / √(N − 1). With few embeddings that is a thin matrix, so the distance is had in
    milliseconds and a bootstrap over it in seconds.

    Args:
        embeddings: (M, D).

    Raises:
        ValueError: see `gaussian`.
    """

    def __init__(self, embeddings: NDArray[np.floating]) -> None:
        self._mean, covariance = gaussian(embeddings)
        self._root, self._trace = _square_root(covariance), float(np.trace(covariance))

    def distance(self, embeddings: NDArray[np.floating]) -> float:
        """Fréchet distance of embeddings (N, D), N ≥ 2; equal to `frechet_distance`."""
        x = np.asarray(embeddings, dtype=np.float64)
        mean = x.mean(axis=0)
        centred = (x - mean) / np.sqrt(len(x) - 1)
        overlap = np.linalg.svd(centred @ self._root, compute_uv=False).sum()
        distance = (
            np.square(mean - self._mean).sum()
            + np.square(centred).sum()
            + self._trace
            - 2 * overlap
        )
        return max(0.0, float(distance))


class Extrapolated(NamedTuple):
    """A distance extrapolated to endlessly many samples."""

    value: float
    """Intercept of the line through the distances over 1/N; noise may take it below 0."""
    slope: float
    """Bias of N samples, times N."""
    r_squared: float
    """How well the line fits; far below 1 there are too few samples to extrapolate from."""


def frechet_infinity(
    reference: NDArray[np.floating],
    embeddings: NDArray[np.floating],
    *,
    smallest: int | None = None,
    points: int = 25,
    seed: int = 0,
) -> Extrapolated:
    """FAD∞ (Gui et al. 2023, after Chong & Forsyth 2020): distances at growing counts, and where
    1/N reaches 0.

    Args:
        reference: (N, D), used as a whole: its own bias stays.
        embeddings: (M, D), of which each point takes a random subset.
        smallest: count of the first point, 2 … M − 1; a fifth of M by default.
        points: number of counts, evenly spaced up to M.
        seed: of the subsets.

    Raises:
        ValueError: see `gaussian`; or fewer than 2 points or a `smallest` out of range.
    """
    count = len(embeddings)
    first = max(2, count // 5) if smallest is None else smallest
    if points < 2 or not 2 <= first < count:
        raise ValueError(
            f"an extrapolation needs 2 or more points from 2 … {count - 1} samples on, not {first}"
        )
    rng, target = np.random.default_rng(seed), gaussian(reference)
    counts = np.linspace(first, count, points).round().astype(int)
    subsets = (embeddings[rng.permutation(count)[:n]] for n in counts)
    line = stats.linregress(
        1 / counts, [frechet_between(target, gaussian(subset)) for subset in subsets]
    )
    return Extrapolated(float(line.intercept), float(line.slope), float(line.rvalue**2))  # pyright: ignore[reportAttributeAccessIssue]


def _square_root(covariance: Array) -> Array:
    """The symmetric square root of a covariance; rounding may have made null eigenvalues slightly
    negative.
    """
    values, vectors = linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
