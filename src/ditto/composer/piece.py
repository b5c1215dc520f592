"""A composed piece: notes with everything that is known about them.

All times are seconds from the start of the piece, pitches MIDI numbers (60 = middle C), velocities
1..127, levels dB.
"""

import math
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Note:
    """One note of one track."""

    start: float
    duration: float
    pitch: int
    velocity: int


@dataclass(frozen=True)
class Track:
    """One part: an instrument (General MIDI program, or a drum kit of bank 128) and its notes."""

    role: str
    program: int
    is_drums: bool
    gain_db: float
    notes: tuple[Note, ...]


@dataclass(frozen=True)
class ChordLabel:
    """A chord that sounds from `start` to `end`, e.g. ``Dm7`` = ``IIm7`` in C, with pitch classes
    2, 5, 9, 0.
    """

    start: float
    end: float
    name: str
    roman: str
    pitch_classes: tuple[int, ...]


@dataclass(frozen=True)
class Section:
    """A section of the form; sections with one letter share chords and melody."""

    start: float
    end: float
    letter: str
    energy: float


@dataclass(frozen=True)
class Mix:
    """How the rendered tracks become the final audio.

    `level_db` is the loudest 1 s RMS (dBFS), `tilt_db` a spectral slope in dB an octave around 800
    Hz, `reverb_seconds` the time to −60 dB, `wet` the reverb's share. Where the automation is at
    −20 dB the slope is `soft_tilt_db` steeper, in proportion elsewhere: what is played softly is
    darker. Each beat ducks all but the drums by `pump_db`, as a compressor keyed by the bass drum
    does.
    """

    level_db: float
    tilt_db: float
    reverb_seconds: float
    wet: float
    soft_tilt_db: float = 0.0
    pump_db: float = 0.0


@dataclass(frozen=True)
class Piece:
    """A whole piece.

    `loudness` are (seconds, dB) breakpoints of how loud it is meant to be, linear in between;
    `dynamics` those of the mix automation, which is what the playing leaves of it.
    """

    index: int
    seed: int
    split: str
    genre: str
    mood: str
    tempo: float
    key: str
    mode: str
    time_signature: str
    beat_offset: float
    seconds: float
    chords: tuple[ChordLabel, ...]
    melody: tuple[Note, ...]
    form: tuple[Section, ...]
    loudness: tuple[tuple[float, float], ...]
    dynamics: tuple[tuple[float, float], ...]
    tracks: tuple[Track, ...]
    mix: Mix


def labels(piece: Piece) -> dict[str, Any]:
    """Everything known about a piece except its accompaniment, as plain JSON values."""
    return {
        "index": piece.index,
        "genre": piece.genre,
        "mood": piece.mood,
        "tempo": piece.tempo,
        "key": piece.key,
        "mode": piece.mode,
        "time_signature": piece.time_signature,
        "beat_offset": piece.beat_offset,
        "seconds": piece.seconds,
        "chords": [[c.start, c.end, c.name, c.roman] for c in piece.chords],
        "melody": [[n.start, n.duration, n.pitch] for n in piece.melody],
        "form": [[s.start, s.end, s.letter, s.energy] for s in piece.form],
        "dynamics": [list(point) for point in piece.loudness],
        "instruments": [[t.role, t.program, t.is_drums] for t in piece.tracks],
    }


def release_before_repeat(notes: list[Note]) -> tuple[Note, ...]:
    """Shorten a note that would still sound when its pitch is struck again: MIDI cannot hold one
    pitch twice.
    """
    result, following = [], {}
    for note in reversed(notes):
        limit = following.get(note.pitch, math.inf) - note.start
        duration = round(min(note.duration, max(limit - 0.01, 0.02)), 4)
        result.append(Note(note.start, duration, note.pitch, note.velocity))
        following[note.pitch] = note.start
    return tuple(reversed(result))


def fit_notes(notes: tuple[Note, ...], seconds: float) -> tuple[Note, ...]:
    """Drop and shorten what would sound beyond the end."""
    return tuple(
        replace(n, duration=round(min(n.duration, seconds - n.start), 4))
        for n in notes
        if n.start < seconds - 0.1
    )
