"""Retrieval and zero-shot scores against counting, on embeddings made by hand."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tests.benchmarks.conftest import (
    data as data,  # the bench's folder of short pieces, as a fixture
)
from tests.models.tiny_clap import make_clap

from ditto.data.dataset import read_labels
from ditto.errors import DataError
from ditto.eval.clap_scores import Pairs, held_out_pairs, recall, scores, zero_shot


@pytest.mark.parametrize("k", [1, 3, 10])
def test_recall_is_counting_ranks(k: int) -> None:
    cosines = torch.rand(50, 50, generator=torch.Generator().manual_seed(0))
    ranks = [int((np.argsort(-row) == i).nonzero()[0][0]) for i, row in enumerate(cosines.numpy())]
    assert recall(cosines, k) == pytest.approx(np.mean([rank < k for rank in ranks]))


def test_recall_of_a_model_that_tells_nothing_apart_is_not_one() -> None:
    assert recall(torch.ones(20, 20), 10) == 0
    assert recall(torch.eye(20), 1) == 1


class ByHand:
    """Embeds texts as unit vectors of the first known word in them, and audio as it is."""

    words = ("jazz", "rock", "calm", "happy")

    def embed_text(self, texts: list[str]) -> torch.Tensor:
        return torch.stack(
            [torch.eye(4)[[w in text for w in self.words].index(True)] for text in texts]
        )

    def embed_audio(self, audio: torch.Tensor, sample_rate: int) -> torch.Tensor:
        return torch.nn.functional.normalize(audio[:, :4], dim=-1)


def test_zero_shot_counts_the_nearest_tags() -> None:
    heard = torch.tensor([[1.0, 0, 0, 0.2], [0.1, 0.9, 0.5, 0], [0.9, 0.1, 0.4, 0.1]])
    genres, moods = ["jazz", "rock", "rock"], ["calm", "calm", "calm"]
    clap = ByHand()
    assert zero_shot(clap, heard, genres, "genre") == pytest.approx(2 / 3)  # pyright: ignore[reportArgumentType]
    assert zero_shot(clap, heard, [*moods[:2], "happy"], "mood") == pytest.approx(1 / 3)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("genre", [None, "jazz"])
def test_music_without_tags_is_scored_by_its_pairs_alone(genre: str | None) -> None:
    """And of music of one genre there are no unrelated captions."""
    audio, tags = torch.eye(4)[:2].repeat(1, 2), [genre, genre]
    pairs = Pairs(audio, 8000, ["jazz", "rock"], tags, [None, None])
    found = scores(ByHand(), pairs)  # pyright: ignore[reportArgumentType]
    accuracy = {"genre_accuracy"} if genre else set()
    recalls = {f"recall_at_{k}_{way}" for k in (1, 10) for way in ("text", "audio")}
    assert found.keys() == {*recalls, *accuracy, "pairs"}
    assert found["recall_at_1_text"] == 1


def test_scores_of_a_perfect_listener() -> None:
    audio = torch.eye(4)[[0, 1]].repeat(1, 2)
    pairs = Pairs(audio, 4, ["jazz", "rock"], ["jazz", "rock"], ["calm", "happy"])
    found = scores(ByHand(), pairs)  # pyright: ignore[reportArgumentType]
    assert found["recall_at_1_text"] == found["recall_at_1_audio"] == found["genre_accuracy"] == 1
    assert found["unrelated_cosine"] == 0
    assert found["pairs"] == 2


def test_held_out_pairs_are_fixed_clips_of_their_pieces(data: Path) -> None:
    pairs = held_out_pairs(data, seconds=1.0, count=5)
    again = held_out_pairs(data, seconds=1.0, count=5)
    assert pairs.audio.shape == (5, 22_050)
    assert torch.equal(pairs.audio, again.audio)
    assert pairs.captions == again.captions
    label = read_labels(data)[2]
    whole, _ = soundfile.read(data / label["file"], dtype="float32")
    places = np.lib.stride_tricks.sliding_window_view(whole, 22_050)
    assert (places[:, :50] == pairs.audio[2, :50].numpy()).all(axis=1).sum() == 1
    assert pairs.genres[2] == label["genre"]
    found = scores(make_clap(), pairs)
    assert set(found) >= {
        "recall_at_10_text",
        "recall_at_10_audio",
        "mood_accuracy",
        "unrelated_cosine_max",
    }
    assert found["recall_at_10_text"] == 1  # of five


def test_pieces_that_are_too_short_are_refused(data: Path) -> None:
    with pytest.raises(DataError, match="shorter than"):
        held_out_pairs(data, seconds=3.0)
