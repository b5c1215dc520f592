"""Chords: the chord that fits every moment best follows a progression.

The chroma of all octaves is compared with templates, one for each chord, as chord recognisers do
(Fujishima 1999). The loss is done with a frame as soon as its chord fits better than every other by
a margin, and leaves everything else to play.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from numbers import Real
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d

from ditto.audio.chroma import CLASSES, POWER_FLOOR, mel_semitone_power, octave_power
from ditto.audio.features import full_precision
from ditto.audio.spec import AudioSpec
from ditto.controls.base import Control, Effort, Option, ParseContext
from ditto.controls.melody import accuracy, hinge, nll
from ditto.controls.notes import DEFAULT_BPM, REST
from ditto.controls.numbers import checked_number
from ditto.controls.output import Output, Window
from ditto.errors import ControlError
from ditto.models.model import MusicModel
from ditto.panels import ChromaPanel, Panel
from ditto.paths import printable, shown

QUALITIES: dict[str, tuple[int, ...]] = {
    "": (0, 4, 7),
    "m": (0, 3, 7),
    "7": (0, 4, 7, 10),
    "maj7": (0, 4, 7, 11),
    "m7": (0, 3, 7, 10),
    "6": (0, 4, 7, 9),
    "m6": (0, 3, 7, 9),
    "dim": (0, 3, 6),
    "aug": (0, 4, 8),
    "sus2": (0, 2, 7),
    "sus4": (0, 5, 7),
    "5": (0, 7),
}
"""Semitones above the root."""
SPELLINGS = {"maj": "", "M": "", "min": "m", "-": "m", "min7": "m7", "-7": "m7", "M7": "maj7"}
SPELLINGS |= {"min6": "m6", "o": "dim", "°": "dim", "+": "aug", "sus": "sus4"}
TRIADS = "", "m"
"""Always among the chords that could be heard."""

LOWEST = 48
"""MIDI pitch from which notes are heard: below C3 a chroma's windows cannot tell semitones."""
SMOOTH_SECONDS = 0.25
"""Over which the chroma is averaged: a chord is heard in more than one note."""
MARGIN, MAX_MARGIN = 0.6, 10.0
"""In nats; the best chord of a clip without control leads the next by 0.3 to 0.4."""
MAX_CHORDS, MAX_LISTED = 10_000, 4096
Measure = Literal["margin", "nll"]
SHARPNESS = 20.0
"""Nats for 1 of the cosine."""

_CHORD = re.compile(r"([A-G])([#♯b♭]?)([^:/]*)(?::(\d+(?:\.\d*)?|\d*\.\d+)(s?))?")
_REST = re.compile(r"[RN](?::(\d+(?:\.\d*)?|\d*\.\d+)(s?))?")
_STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_ALTERATIONS = {"": 0, "#": 1, "♯": 1, "b": -1, "♭": -1}
_NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")

Chord = tuple[int, str]
"""Root, 0 (C) to 11, and a quality of `QUALITIES`."""


@dataclass(frozen=True)
class Progression:
    """Chords in order.

    Attributes:
        chords: (chord or None for a rest, seconds), at least one chord.
        repeat: begin again after the last, until the clip ends.
        start: how far into the progression the clip begins, in seconds.
        name: label, e.g. the text that it was read from.
    """

    chords: tuple[tuple[Chord | None, float], ...]
    repeat: bool = True
    start: float = 0.0
    name: str = field(default="chords", compare=False)

    def __post_init__(self) -> None:
        """Check the chords.

        Raises:
            ControlError: no chord, too many, or one has no length.
        """
        if not any(chord for chord, _ in self.chords) or len(self.chords) > MAX_CHORDS:
            raise ControlError(f"a progression has 1 to {MAX_CHORDS} chords, such as 'C:4 Am:4'")
        for chord, seconds in self.chords:
            if not 0 < seconds < math.inf:
                raise ControlError(f"{spelt(chord)} must last some time, not {seconds:g} s")
            if chord is not None and (chord[0] not in range(12) or chord[1] not in QUALITIES):
                raise ControlError(f"{shown(chord)} is no chord")

    @property
    def seconds(self) -> float:
        """Length of the progression, once."""
        return sum(seconds for _, seconds in self.chords)

    @property
    def heard(self) -> tuple[Chord, ...]:
        """All chords that could be heard: triads, and what has a quality asked for.

        Of chords with the same notes (Caug and Eaug, C6 and Am7) there is one.
        """
        asked = {chord[1] for chord, _ in self.chords if chord is not None}
        qualities = [name for name in QUALITIES if name in TRIADS or name in asked]
        every = [(root, name) for name in qualities for root in range(CLASSES)]
        return tuple({notes(chord): chord for chord in reversed(every)}.values())[::-1]

    def classes(self, frames: int, spec: AudioSpec) -> Tensor:
        """Return each frame's chord, its place in `heard` or `REST`; shape (frames,), int64."""
        return _classes(self, frames, spec).clone()


@lru_cache(maxsize=64)
def _classes(progression: Progression, frames: int, spec: AudioSpec) -> Tensor:
    heard = {notes(chord): i for i, chord in enumerate(progression.heard)}
    numbers = torch.tensor([heard[notes(c)] if c else REST for c, _ in progression.chords])
    lengths = torch.tensor([seconds for _, seconds in progression.chords], dtype=torch.float64)
    at = torch.arange(frames, dtype=torch.float64) / spec.frame_rate + progression.start + 1e-9
    over = at >= progression.seconds
    at = at % progression.seconds if progression.repeat else at
    index = torch.searchsorted(lengths.cumsum(0), at, right=True).clamp(max=len(lengths) - 1)
    with torch.inference_mode(False):
        found = numbers[index]
        return found if progression.repeat else torch.where(over, REST, found)


def parse_chords(text: str, bpm: float = DEFAULT_BPM, *, repeat: bool = True) -> Progression:
    """Read a progression, ``"C:4 Am:4 F:2 G7:2"``: names with beats, or with seconds (``C:2s``).

    Args:
        text: one beat where no length is given; R is a rest.
        bpm: beats per minute.
        repeat: see `Progression`.

    Raises:
        ControlError: a name cannot be read, or there is none.
    """
    if not isinstance(text, str):
        raise ControlError(f"chords are written as 'C:4 Am:4', not {shown(text)}")
    number = isinstance(bpm, Real) and not isinstance(bpm, bool)
    if not number or not 10 <= bpm <= 1000:
        raise ControlError(f"a tempo of chords must be 10 to 1000 beats per minute: {shown(bpm)}")
    chords = []
    for word in text.replace(",", " ").split():
        rest, chord = _REST.fullmatch(word), _CHORD.fullmatch(word)
        found = None
        if rest is not None:
            length, unit = rest[1], rest[2]
        elif chord is not None:
            found, length, unit = _chord(chord, word), chord[4], chord[5]
        else:
            raise ControlError(_unread(word))
        chords.append((found, float(length or 1) * (1.0 if unit else 60 / float(bpm))))
    return Progression(tuple(chords), repeat, name=text)


def _chord(match: re.Match[str], word: str) -> Chord:
    quality = SPELLINGS.get(match[3], match[3])
    if quality not in QUALITIES:
        raise ControlError(_unread(word))
    return (_STEPS[match[1]] + _ALTERATIONS[match[2]]) % CLASSES, quality


def _unread(word: str) -> str:
    kinds = ", ".join(f"C{name}" for name in QUALITIES)
    return (
        f"cannot read {printable(word)!r} in the chords: write names with beats, 'C:4 Am:4 F:2 "
        f"G7:2', or seconds, 'C:2s'; there are {kinds}, and R for a rest"
    )


def notes(chord: Chord) -> frozenset[int]:
    """Return a chord's pitch classes."""
    return frozenset((chord[0] + step) % CLASSES for step in QUALITIES[chord[1]])


def spelt(chord: Chord | None) -> str:
    """Return a chord's name, "R" for a rest."""
    return "R" if chord is None else f"{_NAMES[chord[0]]}{chord[1]}"


def chord_chroma(audio: Tensor, spec: AudioSpec) -> Tensor:
    """Compute the chroma that chords are heard in: unit vectors of amplitudes of pitch classes.

    The square root of each class's share of the power from `LOWEST` up, averaged over
    `SMOOTH_SECONDS`.

    Args:
        audio: shape (B, samples).
        spec: rates and sizes.

    Returns:
        Shape (B, 12, samples // hop).
    """
    return chroma_of(octave_power(audio, spec), spec)


@full_precision
def chroma_of(power: Tensor, spec: AudioSpec) -> Tensor:
    """Compute the chroma that chords are heard in from the power of all semitones.

    Args:
        power: by MIDI pitch, shape (B, 128, frames).
        spec: rates and sizes.

    Returns:
        Shape (B, 12, frames).
    """
    power = power[:, LOWEST:]
    short = -power.shape[1] % CLASSES
    folded = torch.nn.functional.pad(power, (0, 0, 0, short)).unflatten(1, (-1, CLASSES)).sum(dim=1)
    size = min(2 * round(SMOOTH_SECONDS * spec.frame_rate / 2) + 1, 2 * (folded.shape[-1] // 2) - 1)
    mean = avg_pool1d(folded, size, 1, padding=size // 2, count_include_pad=False) + POWER_FLOOR
    return (mean / mean.sum(dim=1, keepdim=True)).sqrt()


def templates(chords: tuple[Chord, ...]) -> Tensor:
    """Return a unit vector for each chord, equal at all its notes; shape (chords, 12)."""
    rows = torch.zeros(len(chords), CLASSES)
    for row, chord in zip(rows, chords, strict=True):
        row[sorted(notes(chord))] = 1.0
    return rows / rows.norm(dim=1, keepdim=True)


@dataclass(frozen=True, init=False)
class Chords(Control):
    """f = 20·cos of V(x_0)'s chroma and every chord's template, y = a chord per frame.

    𝓛 is the mean over frames with a chord of max(0, margin − (f(y) − the largest f of another)), or
    of −ln of the chord's share of e^f, in nats.

    Attributes:
        progression: the target.
        measure: "margin" or "nll".
        margin: in nats.
        domain: where the loss takes the chroma from: "sound", or "mel", an estimate from x_0 that
            spares the vocoder. Errors are those of the sound in either case.
        offset: ln of the power of the sound's semitones minus that of the estimate's by
            `calibrate`, shape (B, 128, frames), or None.
    """

    progression: Progression
    measure: Measure
    margin: float
    domain: Literal["sound", "mel"] = "sound"
    offset: Tensor | None = field(default=None, compare=False, repr=False)
    kind = "chords"
    iterations: ClassVar[int] = 150
    corrected: ClassVar[Effort] = Effort(40)
    help = "Chords: 'C:4 Am:4 F:4 G:4' (name, beats; or seconds, 'C:2s'); they repeat."
    noun = "chords"
    options = (
        Option("chords_bpm", float, "The chords' tempo; by default the tags', or 120."),
        Option("chords_once", bool, "Do not begin again after the last chord."),
        Option("chords_loss", str, "margin; or nll: the chord alone, as far as it goes."),
    )

    def __init__(
        self,
        progression: str | Progression,
        measure: Measure = "margin",
        margin: float = MARGIN,
        *,
        bpm: float = DEFAULT_BPM,
        repeat: bool = True,
        domain: Literal["sound", "mel"] = "sound",
        offset: Tensor | None = None,
    ) -> None:
        """Take a `Progression`, or the text of one (see `parse_chords`).

        Args:
            progression: the target.
            measure: see the class.
            margin: see the class.
            bpm: of a text, beats per minute.
            repeat: of a text, see `Progression`.
            domain: see the class.
            offset: see the class.

        Raises:
            ControlError: it cannot be read, the loss is unknown, or the margin is out of range.
        """
        if not isinstance(progression, Progression):
            progression = parse_chords(progression, bpm, repeat=repeat)
        if measure not in ("margin", "nll"):
            raise ControlError(f"the loss of chords is 'margin' or 'nll', not {measure!r}")
        if domain not in ("sound", "mel"):
            raise ControlError(f"chords are heard in 'sound' or 'mel', not {shown(domain)}")
        margin = checked_number(
            "the margin of chords", margin, 0, MAX_MARGIN, "nats", left_out="low"
        )
        object.__setattr__(self, "progression", progression)
        object.__setattr__(self, "measure", measure)
        object.__setattr__(self, "margin", margin)
        object.__setattr__(self, "domain", domain)
        object.__setattr__(self, "offset", offset)

    @classmethod
    def parse(cls, text: str, context: ParseContext) -> "Chords":
        """Return the control that ``--chords`` asks for."""
        options, bpm = context.options, context.options.get("chords_bpm")
        bpm = context.tempo if bpm is None else bpm
        return cls(
            text,
            options.get("chords_loss") or "margin",
            bpm=DEFAULT_BPM if bpm is None else bpm,
            repeat=not options.get("chords_once"),
        )

    def target(self, output: Output) -> Tensor:
        """Return the target y, shape (frames,): places in `Progression.heard`, or `REST`."""
        classes = self.progression.classes(output.frames, output.model.spec)
        return classes.to(output.x_0.device)

    def feature(self, output: Output) -> Tensor:
        """Return f(x_0), the fit of every chord, shape (B, chords, frames), in [0, 20]."""
        return self._fits(chord_chroma(output.audio, output.model.spec))

    def _fits(self, chroma: Tensor) -> Tensor:
        """Return the fit of every chord to a chroma (B, 12, frames)."""
        return SHARPNESS * templates(self.progression.heard).to(chroma) @ chroma

    def _power(self, output: Output) -> Tensor:
        """Return the power of the semitones that the loss takes, shape (B, 128, frames)."""
        if self.domain == "sound" or not output.model.has_mel:
            return octave_power(output.audio, output.model.spec) + POWER_FLOOR
        power = mel_semitone_power(output.mel, output.model.spec) + POWER_FLOOR
        return power if self.offset is None else power * self.offset.exp()

    def proxy(self) -> "Chords":
        """Return the same control with the chroma estimated from x_0."""
        return replace(self, domain="mel", offset=None)

    def calibrate(self, decoded: Output) -> "Chords":
        """Return the estimating control with sound minus estimate of `decoded` as its offset."""
        if self.domain == "sound":
            return self
        with torch.no_grad():
            mel, sound = self.proxy(), replace(self, domain="sound")
            return replace(mel, offset=(sound._power(decoded) / mel._power(decoded)).log())

    def loss(self, output: Output) -> Tensor:
        """Return 𝓛 of each item, shape (B,)."""
        fits = self._fits(chroma_of(self._power(output), output.model.spec))
        fits, target = output.masked(fits), output.masked(self.target(output))
        if self.measure == "nll":
            return nll(fits.log_softmax(dim=1), target)
        return hinge(fits, target, self.margin)

    def errors(self, output: Output) -> dict[str, Tensor]:
        """Return how many of the frames with a chord fit it best, in %; at random 4."""
        fits, target = output.masked(self.feature(output)), output.masked(self.target(output))
        return {"chords_accuracy_percent": accuracy(fits, target)}

    def check(self, model: MusicModel, frames: int) -> None:
        """Refuse chords of which nothing falls into the clip."""
        if bool((self.progression.classes(frames, model.spec) == REST).all()):
            raise ControlError(
                f"there is no chord before the clip ends at {model.spec.seconds(frames):.2f} s"
            )

    def warnings(self, model: MusicModel, frames: int) -> list[str]:
        """Return what is cut of chords that go on beyond the clip."""
        end, whole = model.spec.seconds(frames), self.progression
        left = whole.seconds - whole.start
        if left <= end + 0.06:
            return []
        return [f"the chords last {left:.2f} s: what comes after {end:.2f} s was cut"]

    def in_window(self, window: Window, spec: AudioSpec) -> "Chords | None":
        """Return the chords as they go on from the window's start, or None if they are over."""
        whole = self.progression
        start = whole.start + window.start
        if not whole.repeat and start >= whole.seconds:
            return None
        moved = replace(whole, start=start % whole.seconds if whole.repeat else start)
        frames = spec.clip_frames
        silent = bool((moved.classes(frames, spec) == REST).all())
        return None if silent else replace(self, progression=moved)

    def panels(self, output: Output, item: int) -> list[Panel]:
        """Return the chroma, with the chords' roots as a line."""
        chroma = chord_chroma(output.audio, output.model.spec)[item].detach().square()
        heard = torch.tensor([root for root, _ in self.progression.heard])
        target = self.target(output).cpu()
        roots = torch.where(target == REST, REST, heard[target.clamp(min=0)])
        title = f"chords (the line is the root): {printable(self.progression.name)}"
        return [ChromaPanel(title=title, shares=chroma.cpu().numpy(), target=roots.cpu().numpy())]

    def to_dict(self) -> dict[str, Any]:
        """Return the loss and, unless there are very many, the chords as [name, seconds]."""
        whole = self.progression
        chords = [[spelt(chord), seconds] for chord, seconds in whole.chords]
        return {
            "control": self.kind,
            "progression": whole.name,
            "chords": chords if len(chords) <= MAX_LISTED else len(chords),
            "repeat": whole.repeat,
            **({"start": whole.start} if whole.start else {}),
            "measure": self.measure,
            "margin": self.margin,
            **({} if self.domain == "sound" else {"domain": self.domain}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Chords":
        """Return the control that `to_dict` wrote."""
        names = parse_chords(" ".join(str(name) for name, _ in values["chords"])).chords
        lengths = [float(seconds) for _, seconds in values["chords"]]
        chords = tuple((chord, s) for (chord, _), s in zip(names, lengths, strict=True))
        start, name = float(values.get("start", 0.0)), str(values["progression"])
        whole = Progression(chords, bool(values["repeat"]), start, name)
        domain = values.get("domain", "sound")
        return cls(whole, values["measure"], float(values["margin"]), domain=domain)
