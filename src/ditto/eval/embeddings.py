"""Embeddings and tags of many clips by the classifier, for Fréchet distances and accuracies."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ditto.eval.classifier import ClipClassifier

COLUMNS = ("genre", "mood", "tempo")


@dataclass(frozen=True, eq=False)
class ClassifierOutput:
    """Hold what the classifier finds in N clips.

    Attributes:
        embeddings: (N, D) float32.
        tags: (N, 3) int64, indices as in `TagVocabulary`: 1 is the first class.
    """

    embeddings: Tensor
    tags: Tensor

    @property
    def vectors(self) -> NDArray[np.float64]:
        """Embeddings in float64, for `ditto.eval.frechet`."""
        return self.embeddings.double().numpy()


@torch.no_grad()
def classify(classifier: ClipClassifier, x_0: Tensor, *, batch_size: int = 32) -> ClassifierOutput:
    """Embed and classify log-mels (N, 1, n_mels, frames)."""
    outputs = [classifier(part) for part in x_0.split(batch_size)]
    tags = [torch.stack([part.argmax(dim=-1) + 1 for part in o.logits], dim=1) for o in outputs]
    return ClassifierOutput(torch.cat([o.embedding for o in outputs]), torch.cat(tags))


def tag_accuracy(predicted: Tensor, expected: Tensor) -> dict[str, NDArray[np.float64]]:
    """Compare predicted with expected tags, clip by clip: 1 if equal, else 0.

    Args:
        predicted: (N, 3) indices.
        expected: (N, 3) indices, none of them null.

    Returns:
        ``genre_accuracy``, ``mood_accuracy``, ``tempo_accuracy``, ``tempo_within_1_bin``, each
        (N,).

    Raises:
        ValueError: the shapes differ, or an expected tag is null.
    """
    if predicted.shape != expected.shape or predicted.ndim != 2:
        shapes = f"{tuple(predicted.shape)} and {tuple(expected.shape)}"
        raise ValueError(f"predicted and expected tags differ in shape: {shapes}")
    if not bool((expected > 0).all()):
        raise ValueError("a clip without a tag cannot be judged by it")
    distance = (predicted - expected).abs().numpy()
    exact = {f"{name}_accuracy": distance[:, i] == 0 for i, name in enumerate(COLUMNS)}
    accuracies = exact | {"tempo_within_1_bin": distance[:, 2] <= 1}
    return {name: hits.astype(np.float64) for name, hits in accuracies.items()}
