"""Fréchet distance in the whitened directions of a reference set.

A foreign embedding has 200 dimensions of very different scale, whose covariance takes thousands of
clips to estimate. So only the 32 directions in which the reference varies most count, each scaled
to variance 1: a distance in standard deviations of real music, squared, that hundreds of patches
can estimate. It is biased upwards by few of them: compare equal numbers only, and beside the floor,
the distance of other real clips.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from ditto.eval.frechet import Reference, gaussian

DIRECTIONS = 32


class WhitenedReference:
    """A set of real clips that others are compared with.

    Args:
        embeddings: (N, D), or (N, P, D) of P patches a clip; more vectors than directions.
        directions: principal components that are kept.

    Raises:
        ValueError: there are too few embeddings, or they vary in too few directions.
    """

    def __init__(self, embeddings: NDArray[np.floating], *, directions: int = DIRECTIONS) -> None:
        x = vectors(embeddings)
        if len(x) <= directions or x.shape[1] < directions:
            raise ValueError(
                f"whitening {directions} directions needs more embeddings than that, not {x.shape}"
            )
        self._mean, covariance = gaussian(x)
        values, axes = linalg.eigh(covariance)
        values, axes = values[::-1][:directions], axes[:, ::-1][:, :directions]
        if values[-1] <= 1e-12 * values[0]:
            raise ValueError(f"the reference varies in fewer than {directions} directions")
        self._whitening = axes / np.sqrt(values)
        self._reference = Reference(self.whitened(x))

    def whitened(self, embeddings: NDArray[np.floating]) -> NDArray[np.float64]:
        """Map embeddings to (vectors, directions): mean 0 and covariance 1 for the reference."""
        return (vectors(embeddings) - self._mean) @ self._whitening

    def distance(self, embeddings: NDArray[np.floating]) -> float:
        """Compute the Fréchet distance to the reference, in squared standard deviations of it.

        The floor is this of real clips that are not in the reference, as many as are judged.

        Args:
            embeddings: (N, D) or (N, P, D). For a bootstrap draw clips, the first dimension.
        """
        return self._reference.distance(self.whitened(embeddings))


def vectors(embeddings: NDArray[np.floating]) -> NDArray[np.float64]:
    """Flatten (N, P, D) to (N·P, D), in float64."""
    x = np.asarray(embeddings, dtype=np.float64)
    return x.reshape(-1, x.shape[-1])
