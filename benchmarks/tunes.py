"""Public-domain tunes that no training data holds, as melodies for the benches.

Songs of Bruce and Stokoe's "Northumbrian Minstrelsy" (1882) and lead sheets of Foster and Berlin,
out of music21's corpus. Each is a melody over chords, as the papers' lead sheets are.
"""

from functools import cache

import numpy as np

from ditto.controls.notes import Note, NoteSequence, score_notes
from ditto.errors import ControlError

SONGS = "miscFolk/northumbrianminstrelsyopus"
LEAD_SHEETS = ("leadSheet/fosterBrownHair", "leadSheet/berlinAlexandersRagtime")
BEATS = 24.0
"""How much of a tune is kept: more than a clip of the fastest tempo takes."""
FEWEST, DENSEST = 6, 2.5
"""Notes that a beginning must have, and notes a beat that it may have: a clip's chroma has 12
frames a second."""

LOWEST, HIGHEST = 60, 95
"""Range of the transposed notes: from middle C on, where the melody control hears."""


@cache
def beginnings() -> tuple[NoteSequence, ...]:
    """The beginnings of all tunes that can be sung in the range, from their first note on; times
    are in beats.

    Raises:
        ControlError: music21 is missing, or was installed without its corpus.
    """
    try:
        from music21 import corpus, exceptions21
    except ImportError:
        raise ControlError(
            "the benches' tunes need music21: pip install 'ditto-music[musicxml]'"
        ) from None
    try:
        songs = list(corpus.parse(SONGS).scores)  # pyright: ignore[reportAttributeAccessIssue]
        sheets = [corpus.parse(name) for name in LEAD_SHEETS]
    except exceptions21.Music21Exception:
        raise ControlError("music21 has no corpus here: install it anew from its wheel") from None
    return tuple(tune for score in (*songs, *sheets) if _fits(tune := _beginning(score)))


def _beginning(score: object) -> NoteSequence:
    notes = sorted(score_notes(score.parts[0], 60.0), key=lambda note: note.onset)  # pyright: ignore[reportAttributeAccessIssue]
    first = notes[0].onset if notes else 0.0
    kept = (
        Note(note.onset - first, note.duration, note.pitch)
        for note in notes
        if note.onset - first < BEATS
    )
    return NoteSequence(tuple(kept), score.metadata.bestTitle or "untitled")  # pyright: ignore[reportAttributeAccessIssue]


def _fits(tune: NoteSequence) -> bool:
    pitches = [note.pitch for note in tune.notes]
    if len(pitches) < FEWEST:
        return False
    return (
        max(pitches) - min(pitches) <= HIGHEST - LOWEST
        and len(pitches) <= DENSEST * tune.notes[-1].end
    )


def drawn_tune(rng: np.random.Generator, bpm: float) -> NoteSequence:
    """One of the tunes in a key drawn at random, at `bpm`.

    Raises:
        ControlError: see `beginnings`.
    """
    known = beginnings()
    tune = known[int(rng.integers(len(known)))]
    pitches, beat = [note.pitch for note in tune.notes], 60 / bpm
    low, high = max(LOWEST - min(pitches), -6), min(HIGHEST - max(pitches), 6)
    shift = int(rng.integers(min(low, high), high + 1))
    return NoteSequence(
        tuple(
            Note(note.onset * beat, note.duration * beat, note.pitch + shift) for note in tune.notes
        ),
        tune.name,
    )
