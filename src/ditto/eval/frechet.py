"""Fréchet distance between two sets of embeddings (Heusel et al. 2017; FAD: Kilgour et al. 2019).

    d = ‖μ₁ − μ₂‖² + tr(C₁ + C₂ − 2·(C₁·C₂)^½),    tr (C₁·C₂)^½ = Σ √eig(√C₁·C₂·√C₁)

The symmetric form keeps the eigenvalues real and non-negative for rank-deficient covariances, where
the matrix square root of C₁·C₂ becomes complex or infinite. Few samples bias the estimate upwards:
compare distances at equal counts only.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

Array = NDArray[np.float64]


class Gaussian(NamedTuple):
    """Hold the mean (D,) and unbiased covariance (D, D) of embeddings."""

    mean: Array
    covariance: Array


def gaussian(embeddings: NDArray[np.floating]) -> Gaussian:
    """Fit a Gaussian to embeddings (N, D), in float64.

    Raises:
        ValueError: N < 2, another shape, or a value that is not finite.
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
    """Compute the Fréchet distance of two Gaussians, in squared units of the embedding, ≥ 0."""
    # The singular values of √C₁·√C₂ are the square roots of the eigenvalues in the formula, without
    # the loss of digits.
    roots = _square_root(a.covariance) @ _square_root(b.covariance)
    overlap = np.linalg.svd(roots, compute_uv=False).sum()
    variances = np.trace(a.covariance) + np.trace(b.covariance)
    return max(0.0, float(np.square(a.mean - b.mean).sum() + variances - 2 * overlap))


def frechet_distance(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Compute the Fréchet distance of two sets of embeddings, (N, D) and (M, D).

    Raises:
        ValueError: see `gaussian`.
    """
    return frechet_between(gaussian(a), gaussian(b))


class Reference:
    """Compare many sets of embeddings with one reference, whose square root is taken once.

    For centred embeddings X, the eigenvalues of √C₂·C₁·√C₂ are the squared singular values of
    X·√C₂ / √(N − 1). For few embeddings this matrix is thin: a distance takes milliseconds and a
    bootstrap seconds.

    Args:
        embeddings: (M, D).

    Raises:
        ValueError: see `gaussian`.
    """

    def __init__(self, embeddings: NDArray[np.floating]) -> None:
        self._mean, covariance = gaussian(embeddings)
        self._root, self._trace = _square_root(covariance), float(np.trace(covariance))

    def distance(self, embeddings: NDArray[np.floating]) -> float:
        """Compute the Fréchet distance of embeddings (N, D), N ≥ 2, as `frechet_distance` does."""
        x = np.asarray(embeddings, dtype=np.float64)
        mean = x.mean(axis=0)
        centred = (x - mean) / np.sqrt(len(x) - 1)
        overlap = np.linalg.svd(centred @ self._root, compute_uv=False).sum()
        variances = np.square(centred).sum() + self._trace
        return max(0.0, float(np.square(mean - self._mean).sum() + variances - 2 * overlap))


def _square_root(covariance: Array) -> Array:
    """Return the symmetric square root of a covariance."""
    values, vectors = linalg.eigh(covariance)  # rounding may make null eigenvalues negative
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
