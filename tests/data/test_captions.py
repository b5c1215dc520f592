"""Captions: what they say is so, many ways to say it, and the tokenizer's vocabulary holds every
word of them."""

import re

import numpy as np
import pytest

from ditto.composer.compose import compose
from ditto.composer.moods import MOOD_NAMES, MOODS
from ditto.composer.piece import labels
from ditto.composer.styles import GENRES, STYLES
from ditto.data import wording
from ditto.data.captions import caption, facts, movement, template, words_of
from ditto.models.clap_tokenizer import word_tokenizer

PIECES = [labels(compose(index, 0, "heldout")) for index in range(4)]
PLAIN = {
    "genre": "jazz",
    "mood": "calm",
    "tempo": 96.0,
    "mode": "major",
    "time_signature": "3/4",
    "melody": [[0.5 * i, 0.4, 60] for i in range(20)],
    "form": [[0.0, 10.0, "A", 0.2], [10.0, 20.0, "B", 0.9]],
    "dynamics": [[0.0, -20.0], [10.0, -1.0], [20.0, -1.0]],
    "instruments": [
        ["bass", 32, False],
        ["comp", 11, False],
        ["lead", 66, False],
        ["drums", 32, True],
    ],
}


def said(piece: dict, start: float, count: int = 40, detail: float = 1.0) -> list[str]:
    return [caption(piece, start, 6.0, np.random.default_rng(i), detail) for i in range(count)]


def test_a_caption_is_a_function_of_its_generator() -> None:
    assert said(PLAIN, 1.0) == said(PLAIN, 1.0)
    assert len(set(said(PLAIN, 1.0))) > 35


def test_every_caption_tells_genre_and_mood_in_some_way() -> None:
    for piece in PIECES:
        for text in said(piece, 3.0):
            assert any(word in text for word in wording.GENRES[piece["genre"]]), text
            assert any(word in text for word in wording.MOODS[piece["mood"]]), text


def test_full_captions_tell_every_instrument_and_the_tempo() -> None:
    names = [
        wording.INSTRUMENTS[32],
        wording.INSTRUMENTS[11],
        wording.INSTRUMENTS[66],
        wording.DRUMS[32],
    ]
    for text in said(PLAIN, 1.0):
        assert all(any(name in text for name in choices) for choices in names), text
        spoken = re.search(r"\b9[4-8]\b", text) or any(word in text for word in wording.TEMPI[1][1])
        assert spoken, text


def test_fewer_details_make_shorter_captions() -> None:
    full, short = (np.mean([len(text) for text in said(PLAIN, 1.0, detail=d)]) for d in (1.0, 0.3))
    assert short < 0.6 * full


def test_what_is_told_is_of_the_clip_not_of_the_piece() -> None:
    early, late = said(PLAIN, 1.0), said(PLAIN, 13.0)
    assert any("saxophone" in text for text in early)
    assert not any("sax" in text for text in late)  # the lead plays up to 10 s
    growing, steady = wording.DYNAMICS["growing"], wording.DYNAMICS["steady"]
    assert all(any(word in text for word in growing) for text in early)
    assert all(any(word in text for word in steady) for text in late)
    assert facts(PLAIN, 1.0, 6.0, np.random.default_rng(0)).band == "quartet"


@pytest.mark.parametrize(
    ("levels", "word"),
    [
        (np.linspace(-1, -3, 60), "steady"),
        (np.linspace(-20, -2, 60), "growing"),
        (np.linspace(-2, -20, 60), "fading"),
        (-np.abs(np.linspace(-20, 20, 60)), "swelling"),
        (np.abs(np.linspace(-20, 20, 60)) - 20, "dipping"),
        (np.tile([-2.0, -10.0], 30), "moving"),
    ],
)
def test_movements_of_loudness(levels: np.ndarray, word: str) -> None:
    assert movement(levels) == word


def test_labels_of_a_users_own_music_are_enough() -> None:
    for piece in (
        {"genre": "polka", "mood": None, "tempo": 120.0},
        {"genre": "polka"},
        {"tempo": 120.0},
    ):
        for text in said(piece, 0.0):
            assert text == text.strip(" ,")
            assert "none" not in text.lower()
            assert ("polka" in text) == ("genre" in piece)
    assert "polka" in words_of([{"genre": "Polka"}])


def test_no_caption_is_empty() -> None:
    untagged = {"genre": None, "mood": None, "tempo": None}
    found = {caption(untagged, 0.0, 6.0, np.random.default_rng(seed)) for seed in range(40)}
    assert "song" in found
    assert all(found)


def test_the_papers_template() -> None:
    assert template("jazz", "calm", 110.4) == "a calm jazz song at 110 beats per minute"
    assert template("ambient", None, None) == "an ambient song"
    assert template(None, "energetic", None) == "an energetic song"


def test_the_vocabulary_holds_every_word_and_no_caption_is_too_long() -> None:
    tokenizer = word_tokenizer(words_of())
    for piece in PIECES:
        for start in (0.0, 9.0, 18.0):
            for ids in tokenizer(said(piece, start, 10))["input_ids"]:
                assert tokenizer.unk_token_id not in ids
                assert len(ids) <= 62


def test_every_instrument_genre_and_mood_of_the_composer_has_words() -> None:
    parts = {
        p
        for style in STYLES.values()
        for lineup in style.lineups
        for part in lineup
        for p in part.programs
    }
    programs = (
        parts
        | {p for style in STYLES.values() for p in style.leads}
        | {p for m in MOODS.values() for p in m.halo}
    )
    assert programs <= set(wording.INSTRUMENTS)
    assert {kit for style in STYLES.values() for kit in style.kits} <= set(wording.DRUMS)
    assert set(GENRES) == set(wording.GENRES)
    assert set(MOOD_NAMES) == set(wording.MOODS)
