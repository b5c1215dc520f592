"""Genre by a linear probe: what a foreign embedding tells of it, by logistic regression."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

PENALTY = 1e-2
"""Weight of the squared norm, relative to the mean log-likelihood."""

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear classifier of embeddings.

    Attributes:
        classes: C names, sorted.
        mean, scale: (D,), of the embeddings that it was fitted to.
        weight: (C, D).
        bias: (C,).
    """

    classes: tuple[str, ...]
    mean: Array
    scale: Array
    weight: Array
    bias: Array

    def probabilities(self, embeddings: NDArray[np.floating]) -> Array:
        """Probabilities (N, C) of the classes.

        Args:
            embeddings: (N, D), or (N, P, D) of P patches a clip, whose mean is taken.
        """
        x = (per_clip(embeddings) - self.mean) / self.scale
        return softmax(x @ self.weight.T + self.bias, axis=1)

    def hits(self, embeddings: NDArray[np.floating], labels: Sequence[str]) -> Array:
        """Tell whether the likeliest class of each clip is its label: (N,) of 1 or 0."""
        guesses = self.probabilities(embeddings).argmax(axis=1)
        return np.array(
            [self.classes[guess] == label for guess, label in zip(guesses, labels, strict=True)],
            dtype=np.float64,
        )


def fit_probe(
    embeddings: NDArray[np.floating], labels: Sequence[str], *, penalty: float = PENALTY
) -> Probe:
    """Fit multinomial logistic regression to clips of known genre.

    Fit it to renders that are not among the clips that are judged, never to generated ones.

    Args:
        embeddings: (N, D), or (N, P, D) of P patches a clip, whose mean is taken.
        labels: N names.
        penalty: λ of λ/2·‖W‖² (of standardised embeddings) beside the mean log-likelihood.

    Raises:
        ValueError: numbers of embeddings and labels differ, or there are fewer than two classes.
    """
    x = per_clip(embeddings)
    classes = tuple(sorted(set(labels)))
    if len(x) != len(labels) or len(classes) < 2:
        raise ValueError(
            f"a probe needs a label for each of {len(x)} embeddings, not {len(labels)}, "
            f"and two classes or more, not {len(classes)}"
        )
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 1e-8 * (1 + np.abs(mean)), scale, 1.0)
    x = np.column_stack([(x - mean) / scale, np.ones(len(x))])
    target = np.array([[label == name for name in classes] for label in labels], dtype=np.float64)
    ridge = np.append(np.full(x.shape[1] - 1, penalty), 0.0)

    def loss(flat: Array) -> tuple[float, Array]:
        weight = flat.reshape(len(classes), -1)
        log_p = log_softmax(x @ weight.T, axis=1)
        value = -(target * log_p).sum() / len(x) + (ridge * weight**2).sum() / 2
        return value, ((np.exp(log_p) - target).T @ x / len(x) + ridge * weight).ravel()

    start = np.zeros(len(classes) * x.shape[1])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000})
    weight = found.x.reshape(len(classes), -1)
    return Probe(classes, mean, scale, weight[:, :-1], weight[:, -1])


def per_clip(embeddings: NDArray[np.floating]) -> Array:
    """Average patches: (N, P, D) or (N, D) to (N, D), in float64."""
    x = np.asarray(embeddings, dtype=np.float64)
    return x.mean(axis=1) if x.ndim == 3 else x
