"""Accuracy of tags, and that batching changes nothing."""

import pytest
import torch

from ditto.eval.classifier import ClipClassifier
from ditto.eval.embeddings import classify, tag_accuracy


def test_accuracy_by_hand():
    expected = torch.tensor([[1, 2, 3], [1, 2, 3], [8, 6, 12]])
    predicted = torch.tensor([[1, 2, 4], [2, 2, 1], [8, 1, 12]])
    accuracy = tag_accuracy(predicted, expected)
    assert {name: values.tolist() for name, values in accuracy.items()} == {
        "genre_accuracy": [1, 0, 1],
        "mood_accuracy": [1, 1, 0],
        "tempo_accuracy": [0, 0, 1],
        "tempo_within_1_bin": [1, 0, 1],
    }


def test_a_clip_without_a_tag_cannot_be_judged():
    with pytest.raises(ValueError, match="without a tag"):
        tag_accuracy(torch.ones(2, 3, dtype=torch.long), torch.tensor([[1, 1, 1], [1, 0, 1]]))


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="differ in shape"):
        tag_accuracy(torch.ones(2, 3), torch.ones(3, 3))


def test_classifying_does_not_depend_on_the_batch():
    classifier = ClipClassifier(width=16, embedding=8).eval()
    x_0 = torch.rand(5, 1, 160, 96, generator=torch.Generator().manual_seed(0)) - 0.5
    whole, parts = classify(classifier, x_0), classify(classifier, x_0, batch_size=2)
    assert whole.embeddings.shape == (5, 8)
    assert whole.vectors.dtype == "float64"
    torch.testing.assert_close(whole.embeddings, parts.embeddings)
    assert whole.tags.equal(parts.tags)
    assert whole.tags.min() >= 1
    assert not whole.embeddings.requires_grad
