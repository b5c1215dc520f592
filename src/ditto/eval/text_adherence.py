"""CLAP score: similarity of clip and caption (DITTO §5.3), by any model that embeds both."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ditto.models.conditioning import Tags


class Embedder(Protocol):
    """Embed texts and audio in one space, as `ditto.models.clap.Clap` does."""

    @property
    def name(self) -> str:
        """Name for reports: scores of different embedders are not comparable."""
        ...

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """Embed N texts, (N, D)."""
        ...

    def embed_audio(self, audio: Tensor, sample_rate: int) -> Tensor:
        """Embed audio (N, samples) at `sample_rate` Hz, (N, D)."""
        ...


def captions(tags: Sequence[Tags]) -> list[str]:
    """Write each clip's caption by the papers' template, see `Tags.caption`."""
    return [clip.caption() for clip in tags]


@torch.no_grad()
def embed_clips(
    embedder: Embedder, audio: Tensor, sample_rate: int, *, batch_size: int = 16
) -> Tensor:
    """Embed audio (N, samples) in batches: (N, D), float32."""
    parts = [embedder.embed_audio(part, sample_rate) for part in audio.split(batch_size)]
    return torch.cat(parts).float()


@torch.no_grad()
def clap_scores(embedder: Embedder, embeddings: Tensor, texts: Sequence[str]) -> Tensor:
    """Compute the cosine of every clip's embedding and its text, (N,), in [−1, 1].

    Args:
        embedder: source of the embeddings.
        embeddings: of the clips, (N, D).
        texts: N captions; repeated ones are embedded once.

    Raises:
        ValueError: the numbers of texts and clips differ.
    """
    if len(texts) != len(embeddings):
        raise ValueError(f"{len(embeddings)} clips need as many texts, not {len(texts)}")
    unique = sorted(set(texts))
    rows = [unique.index(text) for text in texts]
    return cosine_similarity(embeddings, embedder.embed_text(unique).float()[rows], dim=-1)
