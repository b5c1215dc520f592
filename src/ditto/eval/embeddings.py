"""What the classifier hears in many clips: embeddings for the Fréchet distance, and which tags it
recognises.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ditto.eval.classifier import ClipClassifier

COLUMNS = ("genre", "mood", "tempo")


@dataclass(frozen=True, eq=False)
class Ear:
    """What was heard in N clips.

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
def listen(classifier: ClipClassifier, x_0: Tensor, *, batch_size: int = 32) -> Ear:
    """Embed and classify log-mels (N, 1, n_mels, frames)."""
    heard = [classifier(part) for part in x_0.split(batch_size)]
    tags = [torch.stack([logits.argmax(dim=-1) + 1 for logits in h.logits], dim=1) for h in heard]
    return Ear(torch.cat([h.embedding for h in heard]), torch.cat(tags))


def recognised(heard: Tensor, asked: Tensor) -> dict[str, NDArray[np.float64]]:
    """Whether each clip's tag was heard as asked for, 1 or 0: genre, mood, tempo, and tempo within
    one bin.

    Args:
        heard: (N, 3) indices.
        asked: (N, 3) indices, none of them null.

    Returns:
        ``genre_accuracy``, ``mood_accuracy``, ``tempo_accuracy``, ``tempo_within_1_bin``, each
        (N,).

    Raises:
        ValueError: the shapes differ, or a tag was not asked for.
    """
    if heard.shape != asked.shape or heard.ndim != 2:
        raise ValueError(
            f"tags heard {tuple(heard.shape)} and asked for {tuple(asked.shape)} do not go together"
        )
    if not bool((asked > 0).all()):
        raise ValueError("a clip without a tag cannot be judged by it")
    distance = (heard - asked).abs().numpy()
    exact = {
        f"{name}_accuracy": (distance[:, i] == 0).astype(np.float64)
        for i, name in enumerate(COLUMNS)
    }
    return exact | {"tempo_within_1_bin": (distance[:, 2] <= 1).astype(np.float64)}
