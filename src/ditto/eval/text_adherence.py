"""CLAP score: how well a clip goes with its caption (DITTO §5.3), by any model that embeds both."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ditto.models.conditioning import Tags


class Embedder(Protocol):
    """Texts and sounds in one space: `ditto.models.clap.Clap`, or anything else of this shape."""

    @property
    def name(self) -> str:
        """Which one it is. Scores of two embedders do not compare, so results carry it."""
        ...

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """(N, D) of N texts."""
        ...

    def embed_audio(self, audio: Tensor, sample_rate: int) -> Tensor:
        """(N, D) of audio (N, samples)."""
        ...


def captions(tags: Sequence[Tags]) -> list[str]:
    """The papers' template, "A [mood] [genre] song at [tempo] beats per minute.", without what is
    open.
    """
    return [each.caption() for each in tags]


@torch.no_grad()
def embed_clips(
    embedder: Embedder, audio: Tensor, sample_rate: int, *, batch_size: int = 16
) -> Tensor:
    """Embeddings (N, D), float32, of audio (N, samples), in batches; for CLAP scores and Fréchet
    distances.
    """
    return torch.cat(
        [embedder.embed_audio(part, sample_rate).float() for part in audio.split(batch_size)]
    )


@torch.no_grad()
def clap_scores(embedder: Embedder, embeddings: Tensor, texts: Sequence[str]) -> Tensor:
    """Cosine of every clip's embedding and its own text, shape (N,), in [−1, 1].

    Args:
        embedder: the one that made the embeddings.
        embeddings: of the clips, (N, D).
        texts: N captions; equal ones are embedded once.

    Raises:
        ValueError: there are not as many texts as clips.
    """
    if len(texts) != len(embeddings):
        raise ValueError(f"{len(embeddings)} clips need as many texts, not {len(texts)}")
    unique = sorted(set(texts))
    rows = [unique.index(text) for text in texts]
    return cosine_similarity(embeddings, embedder.embed_text(unique).float()[rows], dim=-1)
