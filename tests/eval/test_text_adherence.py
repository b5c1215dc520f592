"""CLAP scores: captions, cosines, batches."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cosine
from tests.models.tiny_clap import make_clap
from torch import Tensor

from ditto.eval.text_adherence import captions, clap_scores, embed_clips
from ditto.models.conditioning import Tags


class Letters:
    """A text is its counts of letters; a sound is its mean in pieces of 100 samples."""

    name = "letters"

    def __init__(self) -> None:
        self.texts, self.batches = [], []

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        self.texts.extend(texts)
        return torch.tensor(
            [[text.lower().count(c) for c in "abcdefghij"] for text in texts], dtype=torch.float64
        )

    def embed_audio(self, audio: Tensor, sample_rate: int) -> Tensor:
        self.batches.append(len(audio))
        return audio.unflatten(-1, (10, 100)).mean(dim=-1)


def sounds(count: int, samples: int = 1000) -> Tensor:
    return torch.randn(count, samples, generator=torch.Generator().manual_seed(0))


def test_captions_are_the_papers_template() -> None:
    assert captions([Tags("jazz", "calm", 110), Tags(genre="rock")]) == [
        "A calm jazz song at 110 beats per minute.",
        "A rock song.",
    ]


def test_scores_are_scipys_cosines_each_with_its_own_text() -> None:
    embedder, texts = Letters(), ["abba", "cafe", "abba", "jig", "beach"]
    embeddings = embed_clips(embedder, sounds(5), 8000, batch_size=2)
    assert embedder.batches == [2, 2, 1]
    scores = clap_scores(embedder, embeddings, texts)
    expected = [
        1 - cosine(e, t)
        for e, t in zip(embeddings.numpy(), Letters().embed_text(texts).numpy(), strict=True)
    ]
    np.testing.assert_allclose(scores.numpy(), expected, atol=1e-6)
    assert sorted(embedder.texts) == ["abba", "beach", "cafe", "jig"]


def test_a_clap_is_such_an_embedder() -> None:
    clap = make_clap()
    texts = captions(
        [Tags("jazz", "calm", 110), Tags("rock", "happy", 90), Tags("jazz", "calm", 110)]
    )
    scores = clap_scores(clap, embed_clips(clap, sounds(3, 8000), 8000), texts)
    assert scores.shape == (3,)
    assert (scores.abs() <= 1).all()
    assert not torch.equal(scores[0], scores[1])


def test_every_clip_needs_a_text() -> None:
    with pytest.raises(ValueError, match="2 clips need as many texts, not 1"):
        clap_scores(Letters(), torch.zeros(2, 10), ["a"])
