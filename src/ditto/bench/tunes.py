"""Public-domain tunes that no training data holds, as melodies for the benches: beginnings, in beats of the tempo."""

import numpy as np

from ditto.controls.tunes import Note, Tune, parse_notes

TUNES = {
    "Frère Jacques": "C5 D5 E5 C5 C5 D5 E5 C5 E5 F5 G5:2 E5 F5 G5:2",
    "Ode to Joy": "E5 E5 F5 G5 G5 F5 E5 D5 C5 C5 D5 E5 E5:1.5 D5:.5 D5:2",
    "Ah! vous dirai-je, maman": "C5 C5 G5 G5 A5 A5 G5:2 F5 F5 E5 E5 D5 D5 C5:2",
    "Au clair de la lune": "C5 C5 C5 D5 E5:2 D5:2 C5 E5 D5 D5 C5:4",
    "Greensleeves": "A4 C5:2 D5 E5:1.5 F5:.5 E5 D5:2 B4 G4:1.5 A4:.5 B4",
    "When the Saints": "R C5 E5 F5 G5:4 R C5 E5 F5 G5:4",
    "Amazing Grace": "C5 F5:2 A5:.5 F5:.5 A5:2 G5 F5:2 D5 C5:2 C5",
    "Scarborough Fair": "D5:2 D5 A5:2 A5 E5:1.5 F5:.5 E5 D5:3",
    "London Bridge": "G5:1.5 A5:.5 G5 F5 E5 F5 G5:2 D5 E5 F5:2 E5 F5 G5:2",
    "Silent Night": "G4:1.5 A4:.5 G4 E4:3 G4:1.5 A4:.5 G4 E4:3 D5:2 D5 B4:3",
    "Oh! Susanna": "C5:.5 D5:.5 E5 G5 G5 A5 G5 E5 C5:1.5 D5:.5 E5 E5 D5 C5 D5:4",
    "Minuet in G": "D5 G4:.5 A4:.5 B4:.5 C5:.5 D5 G4 G4 E5 C5:.5 D5:.5 E5:.5 F#5:.5 G5 G4 G4",
    "New World, Largo": "E5:1.5 G5:.5 G5:2 E5:1.5 D5:.5 C5:2 D5 E5 G5 E5 D5:4",
    "Drunken Sailor": "A4 A4:.5 A4:.5 A4 A4:.5 A4:.5 A4 D4 F4 A4 G4 G4:.5 G4:.5 G4 G4:.5 G4:.5 G4 C4 E4 G4",
    "Korobeiniki": "E5 B4:.5 C5:.5 D5 C5:.5 B4:.5 A4 A4:.5 C5:.5 E5 D5:.5 C5:.5 B4:1.5 C5:.5 D5 E5 C5 A4 A4",
    "Brahms, Lullaby": "E5:.5 E5:.5 G5:2 E5:.5 E5:.5 G5:2 E5:.5 G5:.5 C6 B5 A5 A5 G5",
}
"""Names and notes, as `ditto.controls.tunes.parse_notes` reads them."""

LOWEST, HIGHEST = 60, 95
"""Range of the transposed notes: from middle C on, where the melody control hears."""


def drawn_tune(rng: np.random.Generator, bpm: float) -> Tune:
    """One of the tunes in a key drawn at random, at `bpm`."""
    name = sorted(TUNES)[int(rng.integers(len(TUNES)))]
    notes = parse_notes(TUNES[name], bpm).notes
    pitches = [note.pitch for note in notes]
    low, high = max(LOWEST - min(pitches), -6), min(HIGHEST - max(pitches), 6)
    shift = int(rng.integers(min(low, high), high + 1))
    return Tune(tuple(Note(note.onset, note.duration, note.pitch + shift) for note in notes), name)
