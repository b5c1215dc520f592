"""The benches' tunes, against the text of the book's first one."""

import sys

import numpy as np
import pytest
from benchmarks.tunes import BEATS, HIGHEST, LOWEST, beginnings, drawn_tune

from ditto.errors import ControlError

CHEVY_CHASE = "D5:.5 C5 B4:.5 A4 D4:.5 F#4 G4:.5 A4 B4:.5 C5 D5:.5"
"""Of the ABC text ``d|c2B A2D|F2G A2 B|c2d`` in G major, where a 1 is an eighth."""


def test_tunes_are_many_long_enough_and_in_range() -> None:
    assert len(beginnings()) > 100
    assert len({tune.name for tune in beginnings()}) > 80
    for i in range(200):
        tune = drawn_tune(np.random.default_rng(i), 60 + i)
        pitches = [note.pitch for note in tune.notes]
        assert min(pitches) >= LOWEST
        assert max(pitches) <= HIGHEST
        assert tune.notes[0].onset == 0
        assert tune.notes[-1].onset < BEATS * 60 / (60 + i)


def test_the_first_one_is_the_books() -> None:
    from ditto.controls.notes import parse_notes

    written = parse_notes(CHEVY_CHASE, 60.0).notes
    found = next(tune for tune in beginnings() if "Chevy Chase 1" in tune.name).notes
    assert [(n.onset, n.duration, n.pitch) for n in found[: len(written)]] == [
        (n.onset, n.duration, n.pitch) for n in written
    ]


def test_a_tune_is_the_seeds_and_of_the_tempo() -> None:
    slow, fast = (drawn_tune(np.random.default_rng(5), bpm) for bpm in (60.0, 120.0))
    assert slow == drawn_tune(np.random.default_rng(5), 60.0)
    assert [n.pitch for n in slow.notes] == [n.pitch for n in fast.notes]
    assert [n.onset for n in slow.notes] == pytest.approx([2 * n.onset for n in fast.notes])


def test_without_music21_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "music21", None)
    with pytest.raises(ControlError, match="pip install"):
        beginnings.__wrapped__()
