"""Melodies as note sequences, and their writing as note names with beats.

Times are in seconds. Of notes that sound together the highest counts, as it does to a listener.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from numbers import Real

import torch
from torch import Tensor

from ditto.audio.spec import AudioSpec
from ditto.errors import ControlError
from ditto.paths import printable, shown
from ditto.tables import table

REST = -1
"""Class of a frame that asks for nothing."""

DEFAULT_BPM = 120.0
MAX_NOTES = 100_000

_ALTERATIONS = {
    **{"": 0, "#": 1, "♯": 1, "b": -1, "♭": -1},
    **{"##": 2, "♯♯": 2, "x": 2, "𝄪": 2, "bb": -2, "♭♭": -2, "𝄫": -2},
}
_LENGTH = r"(?::(?P<beats>\d+/\d+|\d+(?:\.\d*)?|\d*\.\d+)|/(?P<value>\d+)(?P<dots>\.{0,2}))?"
_NOTE = re.compile(
    rf"(?P<step>[A-Ga-g])(?P<alteration>##|♯♯|bb|♭♭|[#♯b♭x𝄪𝄫])?(?P<octave>\d)?{_LENGTH}"
)
_REST = re.compile(f"[Rr]{_LENGTH}")
_STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")


@dataclass(frozen=True)
class Note:
    """One note: onset and duration in seconds, pitch as a MIDI number (60 is middle C)."""

    onset: float
    duration: float
    pitch: int

    @property
    def end(self) -> float:
        """When it stops, in seconds."""
        return self.onset + self.duration


@dataclass(frozen=True)
class NoteSequence:
    """Notes of any order; rests are where there are none.

    Attributes:
        notes: at least one.
        name: label used in reports, e.g. a file's name.
        about: what was understood, on one line, e.g. "12 notes, D4–A5, 92 BPM from the score".
        heard: whether it is a recording's, of which a clip takes as much as it needs.
    """

    notes: tuple[Note, ...]
    name: str = "notes"
    about: str = field(default="", compare=False)
    heard: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        """Check the notes.

        Raises:
            ControlError: no note, too many, or times and pitches out of range.
        """
        name = f"the melody {printable(self.name)!r}"
        if not self.notes:
            raise ControlError(f"{name} has no notes: give another file, track, or names")
        if len(self.notes) > MAX_NOTES:
            raise ControlError(f"{name} has over {MAX_NOTES} notes: give a shorter one")
        for note in self.notes:
            if not (
                0 <= note.onset < math.inf
                and 0 < note.duration < math.inf
                and 0 <= note.pitch < 128
            ):
                raise ControlError(f"{name} has a note out of range: {note}")

    @property
    def begin(self) -> float:
        """When the first note begins."""
        return min(note.onset for note in self.notes)

    @property
    def seconds(self) -> float:
        """When the last note ends."""
        return max(note.end for note in self.notes)

    def classes(self, frames: int, spec: AudioSpec, device: torch.device | str = "cpu") -> Tensor:
        """Return each frame's pitch class, 0 (C) to 11, or `REST`; shape (frames,), int64."""
        pitches = _pitches(self, frames, spec, torch.device(device))
        return torch.where(pitches == REST, pitches, pitches % 12)

    def pitches(self, frames: int, spec: AudioSpec, device: torch.device | str = "cpu") -> Tensor:
        """Return each frame's MIDI pitch, or `REST`; shape (frames,), int64."""
        return _pitches(self, frames, spec, torch.device(device)).clone()

    def later(self, seconds: float) -> "NoteSequence | None":
        """Return the notes `seconds` later (negative: earlier), cut at 0; None if none is left."""
        moved = (
            Note(max(n.onset + seconds, 0.0), min(n.duration, n.end + seconds), n.pitch)
            for n in self.notes
        )
        left = tuple(note for note in moved if note.duration > 1e-6)
        return replace(self, notes=left) if left else None


@table(maxsize=64)
def _pitches(melody: NoteSequence, frames: int, spec: AudioSpec, device: torch.device) -> Tensor:
    pitches = torch.full((frames,), REST)
    for note in sorted(melody.notes, key=lambda n: n.pitch):
        first, last = (math.ceil(t * spec.frame_rate - 1e-6) for t in (note.onset, note.end))
        pitches[min(first, frames) : min(last, frames)] = note.pitch
    return pitches.to(device)


def parse_notes(text: str, bpm: float = DEFAULT_BPM, *, tempo_from: str = "") -> NoteSequence:
    """Read note names with lengths, ``"C4:1 F#4:0.5 Bb3 R:1 Ebb5:1/2 C4/4."``.

    Args:
        text: octave 4 and one beat where none is given; R is a rest. After a colon stand beats, a
            number or a fraction; after a slash the note's value (4 is a quarter, which is a beat),
            dotted or not.
        bpm: beats per minute.
        tempo_from: where the tempo is from, to be said.

    Raises:
        ControlError: if a name cannot be read, or there is none.
    """
    if not isinstance(text, str):
        raise ControlError(f"a melody is written as 'C4:1 E4:1', not {shown(text)}")
    if not isinstance(bpm, Real) or not 0 < bpm < math.inf:
        raise ControlError(f"a melody's bpm must be a number above 0, not {shown(bpm)}")
    beat, now, notes = 60.0 / float(bpm), 0.0, []
    for word in text.replace(",", " ").split():
        name = _NOTE.fullmatch(word)
        found = name or _REST.fullmatch(word)
        length = None if found is None else _beats(found)
        if length is None:
            raise ControlError(
                f"cannot read {printable(word)!r} in the melody: write notes such as "
                "'C4:1 F#4:0.5 R:1 G4:2' (name, octave, beats), or give a .mid, .musicxml or sound "
                "file"
            )
        if name is not None and length > 0:
            notes.append(Note(now, length * beat, _pitch(name)))
        now += length * beat
    about = f"{summary(notes)}, {bpm:g} BPM {tempo_from}".strip() if notes else ""
    return NoteSequence(tuple(notes), text, about)


def _beats(found: re.Match[str]) -> float | None:
    """Return the length that a word gives, in beats; None if it divides by zero."""
    if found["value"] is not None:
        value, dots = int(found["value"]), len(found["dots"])
        return 4 / value * (2 - 0.5**dots) if value else None
    above, _, below = (found["beats"] or "1").partition("/")
    return float(above) / float(below or 1) if float(below or 1) else None


def _pitch(found: re.Match[str]) -> int:
    step, alteration = _STEPS[found["step"].upper()], _ALTERATIONS[found["alteration"] or ""]
    return 12 * (int(found["octave"] or 4) + 1) + step + alteration


def pitch_name(pitch: int) -> str:
    """Return a MIDI number's name, "C4" for 60."""
    return f"{_NAMES[pitch % 12]}{pitch // 12 - 1}"


def summary(notes: Sequence[Note]) -> str:
    """Return number and range of some notes, "12 notes, D4–A5"."""
    low, high = min(n.pitch for n in notes), max(n.pitch for n in notes)
    span = pitch_name(low) if low == high else f"{pitch_name(low)}–{pitch_name(high)}"
    return f"{len(notes)} note{'s' * (len(notes) != 1)}, {span}"
