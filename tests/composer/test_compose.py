from collections import Counter, defaultdict
from functools import cache
from itertools import pairwise

import librosa
import numpy as np
import pytest

from ditto.composer.compose import TEMPO_RANGE, compose, tags_of
from ditto.composer.dynamics import Measure, gain_db, shape
from ditto.composer.moods import MOOD_NAMES, MOODS
from ditto.composer.piece import Piece, labels
from ditto.composer.styles import GENRES, STYLES
from ditto.errors import DataError

LIBROSA_MODES = {
    "major": "maj",
    "minor": "min",
    "dorian": "dor",
    "mixolydian": "mix",
    "lydian": "lyd",
    "phrygian": "phr",
}


@cache
def pieces() -> tuple[Piece, ...]:
    return tuple(compose(i) for i in range(24))


def test_a_piece_is_a_function_of_seed_split_and_index() -> None:
    assert compose(5) == pieces()[5]
    others = [compose(5, seed=1), compose(5, split="heldout"), compose(6)]
    for other in others:
        assert other.melody != pieces()[5].melody


def test_the_splits_share_no_melody() -> None:
    train = {tuple(n.pitch for n in p.melody) for p in pieces()}
    held_out = {tuple(n.pitch for n in compose(i, split="heldout").melody) for i in range(24)}
    assert not train & held_out


def test_every_run_of_48_pieces_holds_each_pair_of_tags_once() -> None:
    for block in range(3):
        pairs = Counter(tags_of(48 * block + i, 0, "train") for i in range(48))
        assert pairs == Counter((g, m) for g in GENRES for m in MOOD_NAMES)
    assert [tags_of(i, 0, "train") for i in range(48)] != [
        tags_of(48 + i, 0, "train") for i in range(48)
    ]


def test_tempos_are_spread_over_their_whole_range() -> None:
    tempos = np.array([p.tempo for p in pieces()])
    low, high = TEMPO_RANGE
    assert (tempos >= low).all()
    assert (tempos <= high).all()
    assert tempos.max() - tempos.min() > 0.6 * (high - low)
    biases = [s.tempo_bias + m.tempo_bias for s in STYLES.values() for m in MOODS.values()]
    # the densities 1 + b(2u - 1) of the 48 pairs average to a nearly uniform one
    assert abs(np.mean(np.clip(biases, -0.95, 0.95))) < 0.05


def test_pieces_last_long_enough_for_a_24_second_window() -> None:
    assert all(24.5 < p.seconds < 31 for p in pieces())
    assert all(
        n.start + n.duration <= p.seconds + 1e-3
        for p in pieces()
        for t in p.tracks
        for n in t.notes
    )


def test_melodies_stay_in_the_key_or_the_chord() -> None:
    for piece in pieces():
        scale = set(
            librosa.key_to_degrees(
                f"{piece.key.replace('b', '♭')}:{LIBROSA_MODES[piece.mode]}"
            ).tolist()
        )
        for note in piece.melody:
            allowed = set(scale)
            for chord in piece.chords:
                if chord.start - 0.02 <= note.start <= chord.end + 0.02:
                    allowed |= set(chord.pitch_classes)
            assert note.pitch % 12 in allowed


def test_chords_and_sections_tile_the_piece() -> None:
    for piece in pieces():
        for spans in (piece.chords, piece.form):
            assert spans[0].start == pytest.approx(piece.beat_offset)
            assert all(a.end == pytest.approx(b.start) for a, b in pairwise(spans))
        assert piece.chords[-1].end == pytest.approx(piece.form[-1].end)


def test_sections_with_one_letter_share_their_chords() -> None:
    repeated = 0
    for piece in pieces():
        by_letter = defaultdict(list)
        for section in piece.form[
            :-1
        ]:  # the last bar of the last section closes on the first chord
            inside = [
                c.roman
                for c in piece.chords
                if section.start - 1e-3 <= c.start < section.end - 1e-3
            ]
            by_letter[section.letter].append(inside)
        for versions in by_letter.values():
            repeated += len(versions) - 1
            assert all(v == versions[0] for v in versions)
    assert repeated > 5


def test_the_theme_returns_with_its_section() -> None:
    returns = 0
    for piece in pieces():
        first = piece.form[0]
        for section in piece.form[1:-1]:
            if section.letter == first.letter:
                a, b = (
                    [
                        (round(n.start - s.start, 1), n.pitch)
                        for n in piece.melody
                        if s.start - 0.02 <= n.start < s.end - 0.02
                    ]
                    for s in (first, section)
                )
                shared = len(set(a) & set(b)) / max(1, min(len(a), len(b)))
                returns += shared > 0.6
    assert returns > 3


def test_onsets_lie_on_the_grid_of_the_labelled_tempo() -> None:
    for piece in pieces():
        if STYLES[piece.genre].swing != 0.5:
            continue
        starts = np.array(
            [n.start for t in piece.tracks for n in t.notes if t.role not in ("comp", "colour")]
        )
        twelfths = (starts - piece.beat_offset) * piece.tempo / 60 * 12
        off = np.abs(twelfths - np.round(twelfths)) * 60 / piece.tempo / 12
        assert off.max() <= 0.0105


def test_moods_differ_in_density_touch_and_register() -> None:
    facts = defaultdict(list)
    for piece in pieces():
        played = [n for t in piece.tracks if not t.is_drums for n in t.notes]
        facts[piece.mood].append(
            (len(played) / piece.seconds, np.mean([n.velocity for n in played]))
        )
    density, touch = ({m: np.mean([f[k] for f in v]) for m, v in facts.items()} for k in (0, 1))
    assert density["energetic"] > 1.3 * density["calm"]
    assert touch["energetic"] > touch["happy"] > touch["calm"]
    assert MOODS["dark"].register < MOODS["calm"].register < MOODS["dreamy"].register


def shapes(count: int = 200) -> list:
    bars = [Measure(2.0 * i, 2.0 * i + 2, i % 4 == 3 and i < 12) for i in range(13)]
    return [shape(np.random.default_rng(i), bars, 26.0) for i in range(count)]


def test_three_pieces_in_four_change_their_level_by_over_ten_decibels() -> None:
    curves = [s.curve for s in shapes()]
    ranges = np.array([max(v for _, v in c) - min(v for _, v in c) for c in curves])
    flat = ranges < 4
    assert 0.15 < flat.mean() < 0.3
    assert np.quantile(ranges[~flat], 0.1) > 10
    assert all(v <= 0 for c in curves for _, v in c)
    assert all(c[0][0] == 0 and c[-1][0] >= 25.5 for c in curves)
    assert all(a[0] <= b[0] for c in curves for a, b in pairwise(c))


def test_half_of_all_clips_of_six_seconds_change_by_over_ten_decibels_and_many_by_twenty() -> None:
    places = np.linspace(0, 20, 41)
    levels = np.array(
        [[gain_db(s.curve, np.linspace(a, a + 6, 60)) for a in places] for s in shapes()]
    )
    spans = np.ptp(levels, axis=-1)
    assert (spans > 10).mean() > 0.5
    assert (spans > 19).mean() > 0.1


def test_builds_rise_to_full_level_and_breaks_come_back_at_once() -> None:
    found = 0
    for s in shapes():
        for i, scene in enumerate(s.scenes[:-1]):
            if (
                scene
                and s.scenes[i + 1] != scene
                and np.ptp([v for _, v in s.curve]) > 4
                and scene != "stop"
            ):
                before, after = gain_db(s.curve, np.array([2.0 * i + 1.0, 2.0 * i + 2.05]))
                found += after > before - 0.5
                assert after > -3.5
    assert found > 50


def test_a_loud_moment_is_played_harder_than_a_soft_one() -> None:
    touches: list[tuple[float, float]] = []
    for piece in pieces():
        for note in (n for t in piece.tracks for n in t.notes):
            touches.append(
                (float(gain_db(piece.loudness, np.array([note.start]))[0]), note.velocity)
            )
    loud = np.mean([v for level, v in touches if level > -4])
    soft = np.mean([v for level, v in touches if level < -16])
    assert loud > 1.4 * soft


def test_automation_is_linear_between_its_breakpoints() -> None:
    assert gain_db([(0.0, -20.0), (2.0, 0.0)], np.array([0.0, 0.5, 1.0, 9.0])).tolist() == [
        -20.0,
        -15.0,
        -10.0,
        0.0,
    ]


def test_labels_are_plain_json_and_complete() -> None:
    label = labels(pieces()[0])
    assert {
        "genre",
        "mood",
        "tempo",
        "key",
        "mode",
        "chords",
        "melody",
        "form",
        "dynamics",
        "seconds",
    } <= set(label)
    assert len(label["melody"]) == len(pieces()[0].melody)


@pytest.mark.parametrize(
    ("index", "seed", "split"), [(0, 0, "test"), (-1, 0, "train"), (0, -1, "train")]
)
def test_bad_arguments_are_data_errors(index: int, seed: int, split: str) -> None:
    with pytest.raises(DataError) as caught:
        compose(index, seed, split)
    assert "\n" not in str(caught.value)
