"""What counts as recognised, and that batching does not change what is heard."""

import pytest
import torch

from ditto.eval.classifier import ClipClassifier
from ditto.eval.embeddings import listen, recognised


def test_recognised_by_hand():
    asked = torch.tensor([[1, 2, 3], [1, 2, 3], [8, 6, 12]])
    heard = torch.tensor([[1, 2, 4], [2, 2, 1], [8, 1, 12]])
    found = {name: values.tolist() for name, values in recognised(heard, asked).items()}
    assert found == {
        "genre_accuracy": [1, 0, 1],
        "mood_accuracy": [1, 1, 0],
        "tempo_accuracy": [0, 0, 1],
        "tempo_within_1_bin": [1, 0, 1],
    }


def test_a_clip_without_a_tag_cannot_be_judged():
    with pytest.raises(ValueError, match="without a tag"):
        recognised(torch.ones(2, 3, dtype=torch.long), torch.tensor([[1, 1, 1], [1, 0, 1]]))


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="do not go together"):
        recognised(torch.ones(2, 3), torch.ones(3, 3))


def test_listening_does_not_depend_on_the_batch():
    classifier = ClipClassifier(width=16, embedding=8).eval()
    x_0 = torch.rand(5, 1, 160, 96, generator=torch.Generator().manual_seed(0)) - 0.5
    whole, parts = listen(classifier, x_0), listen(classifier, x_0, batch_size=2)
    assert whole.embeddings.shape == (5, 8)
    assert whole.vectors.dtype == "float64"
    torch.testing.assert_close(whole.embeddings, parts.embeddings)
    assert whole.tags.equal(parts.tags)
    assert whole.tags.min() >= 1
    assert not whole.embeddings.requires_grad
