"""Melodies: short motifs, repeated and varied as the form asks, over the chords of each bar."""

from dataclasses import dataclass

import numpy as np

from ditto.composer.textures import Bar, Event
from ditto.composer.theory import ladder, nearest, playable_classes

# Rhythm cells: (beats of each note; negative = rest) with weights at low, middle and high density.
Cell = tuple[tuple[float, ...], tuple[float, float, float]]

CELLS: dict[str, tuple[Cell, ...]] = {
    "jazz": (
        ((1.0,), (2, 2, 1)),
        ((2.0,), (5, 1, 0)),
        ((0.5, 0.5), (2, 5, 8)),
        ((-0.5, 0.5), (1, 3, 3)),
        ((1 / 3, 1 / 3, 1 / 3), (0, 1, 3)),
        ((-1.0,), (2, 2, 1)),
        ((1.5, 0.5), (2, 2, 1)),
    ),
    "rock": (
        ((1.0,), (3, 2, 1)),
        ((2.0,), (5, 2, 0)),
        ((0.5, 0.5), (1, 4, 5)),
        ((0.75, 0.25), (0, 1, 2)),
        ((0.25, 0.25, 0.5), (0, 1, 4)),
        ((1.5, 0.5), (2, 2, 1)),
        ((-1.0,), (1, 1, 0.5)),
    ),
    "classical": (
        ((1.0,), (4, 3, 1)),
        ((2.0,), (5, 1, 0)),
        ((0.5, 0.5), (1, 4, 4)),
        ((0.25, 0.25, 0.25, 0.25), (0, 1, 5)),
        ((1.5, 0.5), (3, 2, 1)),
        ((0.5, 0.25, 0.25), (0, 1, 3)),
    ),
    "electronic": (
        ((1.0,), (3, 1, 0)),
        ((0.5, 0.5), (2, 3, 2)),
        ((0.75, 0.75, 0.5), (2, 4, 3)),
        ((0.25, 0.25, 0.25, 0.25), (0, 1, 5)),
        ((-0.25, 0.25, 0.25, 0.25), (0, 2, 4)),
        ((2.0,), (4, 1, 0)),
        ((-1.0,), (1, 1, 0.5)),
    ),
    "ambient": (
        ((4.0,), (5, 2, 0)),
        ((2.0,), (2, 4, 3)),
        ((3.0, 1.0), (2, 3, 2)),
        ((1.0,), (0, 1, 4)),
        ((-2.0,), (3, 1, 0.5)),
    ),
    "funk": (
        ((0.25, 0.25, -0.5), (1, 3, 4)),
        ((-0.25, 0.25, -0.25, 0.25), (1, 3, 4)),
        ((0.5, 0.5), (2, 2, 1)),
        ((0.75, 0.25), (1, 2, 3)),
        ((-1.0,), (4, 2, 1)),
        ((1.0,), (3, 1, 0)),
        ((0.25, 0.25, 0.25, 0.25), (0, 0.5, 3)),
    ),
    "latin": (
        ((1.0,), (3, 1, 1)),
        ((0.5, 1.0, 0.5), (2, 4, 4)),
        ((-0.5, 0.5), (1, 3, 3)),
        ((0.5, 0.5), (1, 3, 4)),
        ((0.75, 0.75, 0.5), (1, 3, 3)),
        ((2.0,), (4, 1, 0)),
        ((-1.0,), (2, 1, 1)),
    ),
    "folk": (
        ((1.0,), (5, 3, 1)),
        ((0.5, 0.5), (2, 5, 4)),
        ((2.0,), (4, 0.5, 0)),
        ((1.5, 0.5), (2, 2, 1)),
        ((0.5, 0.25, 0.25), (0, 2, 5)),
        ((0.25, 0.25, 0.5), (0, 1, 4)),
    ),
}

SCHEMES = {
    1: (2,),
    2: (0, 2),
    3: (0, 1, 2),
    4: (0, 1, 0, 2),
}  # which motif each bar of a phrase uses; 2 closes


@dataclass(frozen=True)
class Motif:
    """A bar of melody: (beat, length) of each note and the contour in scale steps from the bar's
    first note.
    """

    rhythm: tuple[tuple[float, float], ...]
    contour: tuple[int, ...]


@dataclass(frozen=True)
class Theme:
    """The motifs of one section letter, where they start and the instrument's range."""

    motifs: tuple[Motif, Motif, Motif]
    start: int
    low: int
    high: int


def make_theme(
    rng: np.random.Generator, cells: str, density: float, beats: int, centre: int
) -> Theme:
    """Invent a theme of two motifs and a closing one.

    It lies around MIDI pitch `centre`, in bars of `beats` beats.
    """
    first, second = (_motif(rng, cells, density, beats) for _ in range(2))
    closing = Motif((*_rhythm(rng, cells, density, beats - 2), (beats - 2.0, 1.8)), ())
    closing = Motif(closing.rhythm, _contour(rng, len(closing.rhythm)))
    low, high = centre - 11, centre + 13
    return Theme((first, second, closing), int(centre + rng.integers(-4, 5)), low, high)


def _motif(rng: np.random.Generator, cells: str, density: float, beats: int) -> Motif:
    rhythm = _rhythm(rng, cells, density, beats)
    while not rhythm:
        rhythm = _rhythm(rng, cells, density, beats)
    return Motif(rhythm, _contour(rng, len(rhythm)))


def _rhythm(
    rng: np.random.Generator, cells: str, density: float, beats: int
) -> tuple[tuple[float, float], ...]:
    notes: list[tuple[float, float]] = []
    at = 0.0
    while at < beats - 1e-6:
        fitting = [c for c in CELLS[cells] if sum(map(abs, c[0])) <= beats - at + 1e-6]
        if not fitting:
            notes.append((at, beats - at))
            break
        weights = np.array([np.interp(density, (0.0, 0.5, 1.0), w) for _, w in fitting]) + 1e-3
        cell = fitting[int(rng.choice(len(fitting), p=weights / weights.sum()))][0]
        for value in cell:
            if value > 0:
                notes.append((at, value))
            at += abs(value)
    return tuple(notes)


def _contour(rng: np.random.Generator, count: int) -> tuple[int, ...]:
    """Walk in scale steps that keep their direction for a while; a turn answers a leap."""
    position, direction, contour = 0, int(rng.choice((-1, 1))), []
    for _ in range(count):
        contour.append(position)
        leap = rng.random() < 0.2
        step = int(rng.integers(2, 5)) if leap else int(rng.random() < 0.88)
        position += direction * step
        if leap or rng.random() < 0.3 or abs(position) > 5:
            direction = -int(np.sign(position)) if abs(position) > 4 else -direction
    return tuple(contour)


def sing(bar: Bar, theme: Theme, tonic: int, mode: str, articulation: float) -> list[Event]:
    """Play the theme's notes in one bar.

    Strong beats take chord tones, others tones of the scale that fit the chord.
    """
    if bar.final:
        chord = bar.spans[0].chord
        pitch = nearest(theme.start, (chord.root,), theme.low, theme.high)
        return [Event(bar.start, float(bar.beats), pitch, 1.0)]
    scheme = SCHEMES[min(bar.section_bars, 4)]
    motif = theme.motifs[2 if bar.last_of_section else scheme[bar.position % len(scheme)]]
    events = []
    for (offset, length), degree in zip(motif.rhythm, motif.contour, strict=True):
        chord = bar.chord_at(bar.start + offset)
        classes = playable_classes(chord, tonic, mode)
        steps = ladder(classes, theme.low - 12, theme.high + 12)
        anchor = min(range(len(steps)), key=lambda i: abs(steps[i] - theme.start))
        pitch = steps[int(np.clip(anchor + degree, 0, len(steps) - 1))]
        strong = offset % 2 == 0 or length >= 1
        pitch = nearest(
            pitch, frozenset(chord.pitch_classes) if strong else classes, theme.low, theme.high
        )
        events.append(
            Event(
                bar.start + offset, length * articulation, pitch, 1.12 if offset % 1 == 0 else 0.95
            )
        )
    return events
