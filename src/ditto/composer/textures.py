"""Accompaniment: turns the chords of a bar into notes by a texture's pattern (see
`ditto.composer.rhythms`).

Inside a piece time is counted in beats (quarter notes) and touch as a factor around 1; seconds and
MIDI velocities come in `ditto.composer.compose`.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ditto.composer.rhythms import ARPEGGIOS, BASSES, BLOCKS, Tiers
from ditto.composer.theory import Chord, nearest, playable_classes, voicing

ACCENT = {"X": 1.2, "x": 1.0, "o": 0.62}
STRUM_BEATS = 0.03  # delay from string to string
MUTED = {
    "chicka": 0.15,
    "clav": 0.22,
    "stabs": 0.3,
    "montuno": 0.3,
    "mambo": 0.35,
    "guajeo": 0.3,
    "gate": 0.22,
    "arp": 0.25,
    "four": 0.3,
}  # beats that a hit lasts at most


class Event(NamedTuple):
    """A note in beats; `touch` scales the part's velocity."""

    beat: float
    length: float
    pitch: int
    touch: float


class Span(NamedTuple):
    """A chord within a bar, from `beat` for `length` beats."""

    beat: float
    length: float
    chord: Chord


@dataclass(frozen=True)
class Bar:
    """One bar: its chords, where it stands in the form, and how full (`density`) and strong
    (`energy`) it is, 0..1.
    """

    index: int
    start: float
    beats: int
    spans: tuple[Span, ...]
    next_root: int
    letter: str
    position: int
    section_bars: int
    density: float
    energy: float
    final: bool

    @property
    def last_of_section(self) -> bool:
        """Whether the section ends with this bar."""
        return self.position == self.section_bars - 1

    @property
    def tier(self) -> str:
        """Name of the texture's pattern set that fits the density."""
        return "light" if self.density < 0.38 else "main" if self.density < 0.78 else "busy"

    def chord_at(self, beat: float) -> Chord:
        """Find the chord that sounds at `beat` (absolute)."""
        return [s for s in self.spans if s.beat <= beat + 1e-6][-1].chord


@dataclass
class Voice:
    """What a part remembers from bar to bar.

    That is its range, key, choice of patterns and last voicing.
    """

    texture: str
    low: int
    high: int
    tonic: int
    mode: str
    choice: int
    articulation: float = 1.0
    last: list[int] = field(default_factory=list)


def play(bar: Bar, voice: Voice, rng: np.random.Generator) -> list[Event]:
    """Play one part in one bar."""
    if bar.final:
        return _final(bar, voice)
    if voice.texture == "walking":
        return _walking(bar, voice, rng)
    for tables, player in ((BLOCKS, _blocks), (ARPEGGIOS, _arpeggio), (BASSES, _bass)):
        if voice.texture in tables:
            return player(bar, voice, _pattern(tables, bar, voice))
    raise KeyError(voice.texture)


def parse(pattern: str) -> list[tuple[float, float, str]]:
    """Return (beat, length, character) of each hit in a pattern of sixteenths."""
    hits = []
    for i, character in enumerate(pattern):
        if character in "-.":
            continue
        end = i + 1
        while end < len(pattern) and pattern[end] == "-":
            end += 1
        hits.append((i / 4, (end - i) / 4, character))
    return hits


def _pattern(tables: dict[str, Tiers], bar: Bar, voice: Voice) -> str:
    """Choose the part's pattern for this bar.

    Letter and parity fix it, so that sections keep their own feel.
    """
    triple = voice.texture + "3"
    tiers = tables[triple] if bar.beats == 3 and triple in tables else tables[voice.texture]
    patterns = tiers[bar.tier]
    return patterns[(voice.choice + ord(bar.letter) + (bar.position % 4 == 3)) % len(patterns)][
        : 4 * bar.beats
    ]


def _revoice(voice: Voice, chord: Chord, voices: int = 4) -> list[int]:
    voice.last = voicing(chord, voice.last, voice.low, voice.high, voices)
    return voice.last


def _blocks(bar: Bar, voice: Voice, pattern: str) -> list[Event]:
    """Chords struck together; power chords are root, fifth and octave; strums spread the
    strings.
    """
    events: list[Event] = []
    voicings = {span: _chord_notes(voice, span.chord) for span in bar.spans}
    for i, (offset, length, character) in enumerate(_retrigger(parse(pattern), bar)):
        span = [s for s in bar.spans if s.beat <= bar.start + offset + 1e-6][-1]
        notes = voicings[span]
        length = min(length * voice.articulation, MUTED.get(voice.texture, 8.0))
        upwards = voice.texture == "strum" and i % 2 == 1
        for k, pitch in enumerate(reversed(notes) if upwards else notes):
            delay = STRUM_BEATS * k if voice.texture == "strum" else 0.0
            events.append(Event(bar.start + offset + delay, length, pitch, ACCENT[character]))
    return events


def _retrigger(hits: list[tuple[float, float, str]], bar: Bar) -> list[tuple[float, float, str]]:
    """Cut held hits at chord changes and strike the new chord there."""
    changes = [s.beat - bar.start for s in bar.spans[1:]]
    result: list[tuple[float, float, str]] = []
    for offset, length, character in hits:
        inside = [c for c in changes if offset < c < offset + length]
        edges = [offset, *inside, offset + length]
        result += [(a, b - a, character) for a, b in pairwise(edges)]
    return result


def _chord_notes(voice: Voice, chord: Chord) -> list[int]:
    if voice.texture.startswith("power"):
        root = nearest(voice.low + 5, (chord.root,), voice.low, voice.low + 12)
        return [root, root + 7, root + 12]
    if voice.texture == "strum":
        notes = _revoice(voice, chord)
        return [nearest(notes[0] - 9, (chord.root,), 36, 67), *notes]
    return _revoice(
        voice,
        chord,
        3 if voice.texture in ("chicka", "clav", "stabs", "mambo", "shout", "four") else 4,
    )


def _arpeggio(bar: Bar, voice: Voice, pattern: str) -> list[Event]:
    """Single notes of the voicing in the pattern's order; a montuno doubles them in octaves."""
    ladders = {s: _climb(_revoice(voice, s.chord)) for s in bar.spans}
    events: list[Event] = []
    for offset, length, character in parse(pattern):
        beat = bar.start + offset
        notes = ladders[[s for s in bar.spans if s.beat <= beat + 1e-6][-1]]
        pitch = notes[int(character) % len(notes)]
        ring = min(length * voice.articulation, MUTED.get(voice.texture, 8.0))
        events.append(Event(beat, ring, pitch, 1.1 if offset % 1 == 0 else 0.9))
        if voice.texture == "montuno":
            events.append(Event(beat, ring, pitch - 12, 0.9))
    return events


def _climb(notes: list[int]) -> list[int]:
    return notes + [n + 12 for n in notes if n + 12 <= 100]


def _bass(bar: Bar, voice: Voice, pattern: str) -> list[Event]:
    events = []
    for offset, length, character in _retrigger(parse(pattern), bar):
        beat = bar.start + offset
        pitch = _degree(bar, voice, bar.chord_at(beat), character)
        length = min(length, 0.3) if voice.texture == "slap" and character == "8" else length
        events.append(
            Event(beat, length * voice.articulation, pitch, 1.1 if character in "18" else 0.95)
        )
    return events


def _degree(bar: Bar, voice: Voice, chord: Chord, character: str) -> int:
    """Pitch of a bass pattern's character over `chord`."""
    root = nearest(voice.low + 6, (chord.root,), voice.low, voice.low + 12)
    if character == "a":
        target = nearest(root, (bar.next_root,), voice.low, voice.high)
        return target - 1 if target >= root else target + 1
    steps = {
        1: 0,
        8: 12,
        3: chord.intervals[1] if len(chord.intervals) > 2 else 12,
        5: _fifth(chord),
        7: _seventh(chord),
    }
    return root + steps[int(character)]


def _fifth(chord: Chord) -> int:
    return next((i for i in chord.intervals if i in (6, 7)), 7)


def _seventh(chord: Chord) -> int:
    return next((i for i in chord.intervals if i in (9, 10, 11)), 10)


def _walking(bar: Bar, voice: Voice, rng: np.random.Generator) -> list[Event]:
    """Play a note a beat: root on each change, tones between, a semitone into the next root."""
    events = []
    previous = voice.last[0] if voice.last else voice.low + 8
    if bar.tier == "light":
        return _bass(bar, voice, "1-------5-------")
    for k in range(bar.beats):
        beat = bar.start + k
        chord = bar.chord_at(beat)
        change = any(abs(s.beat - beat) < 1e-6 for s in bar.spans)
        pitch = _walk_step(bar, voice, chord, previous, change, k, rng)
        touch = 1.05 if k % 2 else 0.95
        events.append(Event(beat, 0.95, pitch, touch))
        if bar.tier == "busy" and k % 2 == 1 and rng.random() < 0.5:
            events.append(Event(beat + 0.5, 0.3, pitch, 0.7))
        previous = pitch
    voice.last = [previous]
    return events


def _walk_step(
    bar: Bar,
    voice: Voice,
    chord: Chord,
    previous: int,
    change: bool,
    k: int,
    rng: np.random.Generator,
) -> int:
    if change:
        return nearest(previous, (chord.root,), voice.low, voice.high)
    if k == bar.beats - 1:
        target = nearest(previous, (bar.next_root,), voice.low, voice.high)
        return target - 1 if previous < target else target + 1
    direction = (
        1
        if previous < voice.low + 9
        else -1
        if previous > voice.high - 5
        else int(rng.choice((-1, 1)))
    )
    classes = (
        chord.pitch_classes if k % 2 == 0 else playable_classes(chord, voice.tonic, voice.mode)
    )
    return nearest(
        previous + 2.6 * direction, frozenset(classes) - {previous % 12}, voice.low, voice.high
    )


def _final(bar: Bar, voice: Voice) -> list[Event]:
    """Play the last bar: one long chord or root."""
    chord = bar.spans[0].chord
    if voice.texture == "walking" or voice.texture in BASSES:
        notes = [nearest(voice.low + 6, (chord.root,), voice.low, voice.low + 12)]
    else:
        notes = _chord_notes(voice, chord)
    return [Event(bar.start, float(bar.beats), pitch, 1.0) for pitch in notes]
