"""Tags: reading them, their indices, condition dropout."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ditto.errors import TagError
from ditto.models.conditioning import TagEmbedding, Tags, TagVocabulary, drop_conditions, null_tags

VOCABULARY = TagVocabulary(("jazz", "rock", "folk"), ("calm", "happy"))


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("", Tags()),
        ("genre=jazz", Tags("jazz")),
        ("genre=jazz mood=calm tempo=110", Tags("jazz", "calm", 110)),
        ("  tempo=92.5,mood=calm ,", Tags(None, "calm", 92.5)),
    ],
)
def test_reading(text: str, tags: Tags) -> None:
    assert Tags.parse(text) == tags


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("jazz", "jazz"),
        ("genre=", "genre="),
        ("=jazz", "=jazz"),
        ("style=jazz", "style=jazz"),
        ("genre=jazz genre=rock", "twice"),
        ("tempo=fast", "fast"),
        ("genre = jazz", "genre"),
    ],
)
def test_bad_text_is_refused_with_what_is_wrong(text: str, part: str) -> None:
    with pytest.raises(TagError, match=part) as caught:
        Tags.parse(text)
    assert "\n" not in str(caught.value)


@given(st.text())
def test_no_text_makes_the_reader_fail_otherwise(text: str) -> None:
    try:
        VOCABULARY.encode(Tags.parse(text))
    except TagError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017 - any other error must come through


@pytest.mark.parametrize(
    ("tags", "indices"),
    [
        (Tags(), [0, 0, 0, 0, 0]),
        (Tags("jazz", "happy", 60), [1, 2, 1, 600, 0]),
        (Tags("folk", None, 69.9), [3, 0, 1, 699, 0]),
        (Tags(None, None, 70, 2.5), [0, 0, 2, 700, 2500]),
        (Tags(None, None, 70, -1.0), [0, 0, 2, 700, 11_000]),
        (Tags(None, None, 70, None), [0, 0, 2, 0, 0]),
        (Tags(None, "calm", 180, 12.25), [0, 1, 12, 1800, 250]),
    ],
)
def test_indices(tags: Tags, indices: list[int]) -> None:
    assert VOCABULARY.encode(tags).tolist() == indices
    assert VOCABULARY.encode(tags).dtype == torch.int64


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (Tags("polka"), "unknown genre 'polka'; this model knows jazz, rock, folk"),
        (Tags(None, "Calm"), "unknown mood 'Calm'"),
        (Tags(None, None, 59.9), "60 to 180 beats per minute, not 59.9"),
        (Tags(None, None, 180.1), "60 to 180"),
        (Tags(None, None, float("nan")), "not nan"),
        (Tags(None, None, float("inf")), "not inf"),
    ],
)
def test_unknown_tags_are_refused(tags: Tags, message: str) -> None:
    with pytest.raises(TagError, match=message):
        VOCABULARY.encode(tags)


@given(st.integers(0, 3), st.integers(0, 2), st.integers(0, 12))
def test_decoding_undoes_encoding(genre: int, mood: int, tempo: int) -> None:
    assert VOCABULARY.encode(VOCABULARY.decode([genre, mood, tempo])).tolist() == [
        genre,
        mood,
        tempo,
        0,
        0,
    ]


@given(st.integers(600, 1800), st.integers(0, 11_999))
def test_decoding_undoes_the_beat_grid(tenths: int, thousandths: int) -> None:
    encoded = VOCABULARY.encode(Tags(tempo=tenths / 10, beat=thousandths / 1000))
    assert VOCABULARY.encode(VOCABULARY.decode(encoded.tolist())).tolist() == encoded.tolist()
    assert encoded[3:].tolist() == [tenths, thousandths]


def test_every_index_has_a_row_in_the_embedding() -> None:
    embedding = TagEmbedding(VOCABULARY.sizes, 5)
    last = torch.tensor([[size - 1 for size in VOCABULARY.sizes], [0, 0, 0]])
    tokens = embedding(last)
    assert tokens.shape == (2, 3, 5)
    table = list(embedding.tables)[1]
    assert torch.equal(tokens[0, 1], table.weight[2])  # pyright: ignore[reportIndexIssue]


@pytest.mark.parametrize(
    ("tags", "caption"),
    [
        (Tags("jazz", "calm", 110), "A calm jazz song at 110 beats per minute."),
        (Tags("jazz"), "A jazz song."),
        (Tags(tempo=92.5), "A song at 92.5 beats per minute."),
    ],
)
def test_caption_is_the_papers_template(tags: Tags, caption: str) -> None:
    assert tags.caption() == caption


def test_dropout_loses_whole_conditions_and_single_tags() -> None:
    tags = torch.full((20_000, 3), 2)
    dropped = drop_conditions(tags, 0.1, torch.Generator().manual_seed(0)) == 0
    assert dropped.float().mean().item() == pytest.approx(1 - 0.9 * 0.9, abs=0.01)
    # all three: at once, or by chance one by one
    assert dropped.all(dim=1).float().mean().item() == pytest.approx(0.1 + 0.9 * 0.001, abs=0.01)
    again = drop_conditions(tags, 0.1, torch.Generator().manual_seed(0)) == 0
    assert torch.equal(dropped, again)
    assert torch.equal(drop_conditions(tags, 0.0, torch.Generator()), tags)
    assert torch.equal(drop_conditions(tags, 1.0, torch.Generator()), null_tags(tags))


def test_the_beat_grid_goes_with_its_tempo_and_alone() -> None:
    tags = torch.full((20_000, 5), 2)
    dropped = drop_conditions(tags, 0.1, torch.Generator().manual_seed(0), grid_rate=0.2) == 0
    assert torch.equal(dropped[:, 3], dropped[:, 4])
    assert bool(dropped[dropped[:, 2]][:, 3].all())
    assert dropped[~dropped[:, 2]][:, 3].float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert dropped[:, 0].float().mean().item() == pytest.approx(1 - 0.9 * 0.9, abs=0.01)


def test_a_prompt_is_the_rest_of_the_text_and_the_caption() -> None:
    tags = Tags.parse("tempo=110 prompt=slow, dreamy piano = rain")
    assert tags == Tags(tempo=110.0, prompt="slow, dreamy piano = rain")
    assert tags.caption() == "slow, dreamy piano = rain"
    with pytest.raises(TagError, match="prompt is empty"):
        Tags.parse("prompt= ")


def test_a_model_of_tags_refuses_a_prompt() -> None:
    with pytest.raises(TagError, match="reads no prompts"):
        TagVocabulary(("jazz",), ()).encode(Tags(prompt="jazz"))
    with pytest.raises(TagError, match="neither prompts nor tags: leave them out"):
        TagVocabulary((), (), tempo_bins=0).encode(Tags(prompt="jazz"))
