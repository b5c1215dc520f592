"""Scales, chords and voice leading, in pitch classes (0 = C) and MIDI pitches."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

NAMES = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")

SCALES: dict[str, tuple[int, ...]] = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "lydian": (0, 2, 4, 6, 7, 9, 11),
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
}

QUALITIES: dict[str, tuple[int, ...]] = {
    "": (0, 4, 7),
    "m": (0, 3, 7),
    "5": (0, 7),
    "dim": (0, 3, 6),
    "sus2": (0, 2, 7),
    "sus4": (0, 5, 7),
    "6": (0, 4, 7, 9),
    "m6": (0, 3, 7, 9),
    "7": (0, 4, 7, 10),
    "m7": (0, 3, 7, 10),
    "maj7": (0, 4, 7, 11),
    "m7b5": (0, 3, 6, 10),
    "dim7": (0, 3, 6, 9),
    "add9": (0, 4, 7, 14),
    "madd9": (0, 3, 7, 14),
    "9": (0, 4, 7, 10, 14),
    "m9": (0, 3, 7, 10, 14),
    "maj9": (0, 4, 7, 11, 14),
    "7b9": (0, 4, 7, 10, 13),
    "13": (0, 4, 10, 14, 21),
    "7#9": (0, 4, 7, 10, 15),
    "maj7#11": (0, 4, 7, 11, 18),
}

_DEGREES = {"I": 0, "II": 2, "III": 4, "IV": 5, "V": 7, "VI": 9, "VII": 11}


@dataclass(frozen=True)
class Chord:
    """A chord on `root` (pitch class); `intervals` are semitones above it, in stacking order."""

    root: int
    quality: str
    roman: str

    @property
    def intervals(self) -> tuple[int, ...]:
        """Semitones above the root."""
        return QUALITIES[self.quality]

    @property
    def pitch_classes(self) -> tuple[int, ...]:
        """Pitch classes in stacking order."""
        return tuple((self.root + i) % 12 for i in self.intervals)

    @property
    def name(self) -> str:
        """For example ``Bbmaj7``."""
        return NAMES[self.root] + self.quality


@lru_cache(maxsize=4096)
def parse_roman(roman: str, tonic: int) -> Chord:
    """Chord from a numeral such as ``bVII``, ``IIm7b5`` or ``V7``: a degree of the major scale and
    a quality.
    """
    shift = {"b": -1, "#": 1}.get(roman[0], 0)
    body = roman[1:] if shift else roman
    numeral = next(n for n in ("VII", "VI", "IV", "V", "III", "II", "I") if body.startswith(n))
    return Chord((tonic + _DEGREES[numeral] + shift) % 12, body[len(numeral) :], roman)


def parse_progression(text: str, tonic: int) -> list[list[Chord]]:
    """Bars of chords from text such as ``IIm7 | V7 | Imaj7 VI7``; the chords of a bar share it
    evenly.
    """
    return [[parse_roman(token, tonic) for token in bar.split()] for bar in text.split("|")]


def scale_pitch_classes(tonic: int, mode: str) -> frozenset[int]:
    """Pitch classes of a mode on `tonic`."""
    return frozenset((tonic + step) % 12 for step in SCALES[mode])


@lru_cache(maxsize=4096)
def playable_classes(chord: Chord, tonic: int, mode: str) -> frozenset[int]:
    """Return the chord's tones and the scale tones that do not clash with its chromatic ones."""
    scale, tones = scale_pitch_classes(tonic, mode), frozenset(chord.pitch_classes)
    chromatic = tones - scale
    clash = {(c + d) % 12 for c in chromatic for d in (-1, 1)}
    return tones | (scale - clash)


def nearest(
    pitch: float, classes: frozenset[int] | Sequence[int], low: int = 0, high: int = 127
) -> int:
    """Find the pitch nearest to `pitch` whose class is among `classes`.

    [low, high] spans an octave or more.
    """
    candidates = [p for p in range(low, high + 1) if p % 12 in classes]
    return min(candidates, key=lambda p: (abs(p - pitch), p))


def ladder(classes: frozenset[int], low: int, high: int) -> list[int]:
    """Return all pitches in [low, high] whose class is among `classes`, ascending."""
    return [p for p in range(low, high + 1) if p % 12 in classes]


def voicing(
    chord: Chord, previous: Sequence[int] | None, low: int, high: int, voices: int = 4
) -> list[int]:
    """Find the close voicing of `chord` inside [low, high] that moves the least from `previous`.

    It has at most `voices` notes.
    """
    classes = _essential(chord, voices)
    candidates = [_stack(bass, classes) for bass in range(low, high - 4) if bass % 12 in classes]
    inside = [c for c in candidates if c[-1] <= high] or candidates[:1]
    centre = (low + high) / 2

    def cost(notes: list[int]) -> float:
        if not previous:
            return abs(sum(notes) / len(notes) - centre)
        pairs = zip(sorted(notes), sorted(previous), strict=False)
        return sum(abs(a - b) for a, b in pairs) + 0.15 * abs(sum(notes) / len(notes) - centre)

    return min(inside, key=cost)


def _essential(chord: Chord, voices: int) -> list[int]:
    """Choose the pitch classes to keep when a chord has more tones than voices.

    The fifth goes first, then the root.
    """
    tones = list(dict.fromkeys(chord.pitch_classes))
    if len(tones) > voices and (chord.root + 7) % 12 in tones:
        tones.remove((chord.root + 7) % 12)
    if len(tones) > voices:
        tones.remove(chord.root)
    return tones[:voices]


def _stack(bass: int, classes: Sequence[int]) -> list[int]:
    """Stack the classes upwards from `bass`, each as low as it can be."""
    rest = sorted((c - bass) % 12 for c in classes)
    return [bass + interval for interval in rest]
