"""Tunes between files and the piano roll."""

from pathlib import Path

import mido
import pytest

from ditto.controls.midi import read_midi
from ditto.controls.notes import Note, NoteSequence
from ditto.studio.tunes import read_tune, top_line, write_midi


def test_voices_in_unison_are_one(tmp_path: Path) -> None:
    voices = [Note(0.0, 1.0, 60), Note(0.5, 0.5, 60), Note(0.5, 0.5, 60), Note(1.0, 1.0, 55)]
    assert top_line(voices, 6.0) == [Note(0.0, 1.0, 60), Note(1.0, 1.0, 55)]
    tracks = [
        mido.MidiTrack(
            [
                mido.Message("note_on", note=60, velocity=80, time=start),
                mido.Message("note_off", note=60, time=480 - start),
            ]
        )
        for start in (0, 240)
    ]
    mido.MidiFile(tracks=tracks).save(tmp_path / "unison.mid")
    assert read_tune(tmp_path / "unison.mid", None, 6.0) == [(0.0, 1.0, 60)]


@pytest.mark.parametrize("bpm", [0.5, 3.5, 97.0, 1e5, 1e9])
def test_a_tune_is_written_at_any_tempo(tmp_path: Path, bpm: float) -> None:
    notes = (Note(0.0, 0.5, 60), Note(0.75, 1.25, 64))
    write_midi(tmp_path / "a.mid", NoteSequence(notes), bpm)
    for note, read in zip(notes, read_midi(tmp_path / "a.mid").notes, strict=True):
        assert (read.onset, read.end) == pytest.approx((note.onset, note.end), abs=0.02)
        assert read.pitch == note.pitch
