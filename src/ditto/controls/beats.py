"""Beats: sounds begin on the beats of a tempo, or where those of a drum track or recording do.

What is compared is an onset envelope: how much the spectrum rises, in dB. The loss is done with a
beat as soon as it stands out of what is around it, and leaves the rest of the rhythm alone.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ditto.audio.excerpt import Begin, read_from
from ditto.audio.io import SUBTYPES
from ditto.audio.onsets import (
    BEAT_WINDOW,
    ONSET_WINDOW,
    f_measure,
    heard_envelope,
    onset_envelope,
    pick_onsets,
    tap_beats,
)
from ditto.audio.scales import FASTEST, SLOWEST
from ditto.audio.spec import AudioSpec
from ditto.controls.base import Control, Effort, Option, ParseContext
from ditto.controls.intensity import pearson
from ditto.controls.midi import ENDINGS, read_hits
from ditto.controls.numbers import checked_number
from ditto.controls.output import Output, Window
from ditto.controls.places import Places, places
from ditto.errors import ControlError
from ditto.models.model import MusicModel
from ditto.panels import CurvePanel, Panel
from ditto.paths import StrPath, printable, shown

MAX_OFFSET = 3600.0
ACCENT = 1.5
"""How many times as strong the first beat of a bar is."""
STRENGTHS = 0.5, 2.0
"""Of hits, where 1 is usual."""
MAX_HITS, MAX_LISTED = 100_000, 4096
MERGED = 0.03
"""Seconds within which hits are one."""

FIRST = 0.06
"""Seconds: nothing is heard to begin before, since there is nothing that it rises from."""
FLOOR_DB = 0.1
"""Added to envelopes before their logarithm: a rise that is nothing."""
MARGIN, MAX_MARGIN = 1.0, 5.0
"""In nats. Beats of the embedded model's own tempo lead by 0.7 to 1.1."""
Measure = Literal["margin", "correlation"]


@dataclass(frozen=True)
class Grid:
    """Beats of a steady tempo.

    Attributes:
        bpm: beats per minute.
        offset: when a first beat of a bar falls, in seconds; beats lie before it, too.
        per_bar: beats of a bar, whose first is accented; 1 accents none.
    """

    bpm: float
    offset: float = 0.0
    per_bar: int = 1

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ControlError: one is out of range.
        """
        for what, value, low, high in (
            ("the tempo of beats", self.bpm, SLOWEST, FASTEST),
            ("the offset of beats", self.offset, -MAX_OFFSET, MAX_OFFSET),
            ("beats per bar", self.per_bar, 1, 32),
        ):
            number = isinstance(value, Real) and not isinstance(value, bool)
            if not number or not low <= value <= high:
                unit = {"t": " beats per minute", "o": " seconds"}.get(what[4:5], "")
                raise ControlError(f"{what} must be {low:g} to {high:g}{unit}, not {shown(value)}")
        if self.per_bar != int(self.per_bar):
            raise ControlError(f"beats per bar must be a whole number, not {self.per_bar:g}")

    @property
    def name(self) -> str:
        """The tempo in words."""
        return f"{self.bpm:g} beats per minute"

    def hits(self, seconds: float) -> tuple[tuple[float, float], ...]:
        """Return (seconds, strength) of the beats of a clip."""
        beat = 60 / self.bpm
        first = math.ceil(-self.offset / beat - 1e-9)
        last = math.ceil((seconds - self.offset) / beat - 1e-9)
        return tuple(
            (self.offset + n * beat, ACCENT if self.per_bar > 1 and n % self.per_bar == 0 else 1.0)
            for n in range(first, last)
        )

    def from_(self, start: float) -> "Grid":
        """Return the grid in the time of a window that begins at `start` seconds."""
        bar = 60 / self.bpm * self.per_bar
        return replace(self, offset=(self.offset - start) % bar)


@dataclass(frozen=True)
class Hits:
    """Onsets at any times.

    Attributes:
        points: (seconds, strength), rising; a strength of 1 is usual.
        name: label used in reports, e.g. a file's name.
    """

    points: tuple[tuple[float, float], ...]
    name: str = field(default="hits", compare=False)

    def __post_init__(self) -> None:
        """Check the points.

        Raises:
            ControlError: there are none, too many, or one is out of range or order.
        """
        if not 1 <= len(self.points) <= MAX_HITS:
            raise ControlError(f"a rhythm has 1 to {MAX_HITS} onsets, not {len(self.points)}")
        before = -1.0
        for time, strength in self.points:
            if not (math.isfinite(time) and time >= 0 and time > before):
                raise ControlError(
                    f"a rhythm's onsets must rise from 0 s, but {time:g} s comes after "
                    f"{max(before, 0):g} s"
                )
            if not STRENGTHS[0] <= strength <= STRENGTHS[1]:
                raise ControlError(
                    f"an onset's strength must be {STRENGTHS[0]:g} to {STRENGTHS[1]:g}, not "
                    f"{strength:g}"
                )
            before = time

    @classmethod
    def of(cls, hits: list[tuple[float, float]], name: str) -> "Hits":
        """Merge hits that sound as one, and scale their strengths to a mean of 1."""
        merged: list[tuple[float, float]] = []
        for time, strength in sorted(hits):
            if merged and time - merged[-1][0] < MERGED:
                merged[-1] = merged[-1][0], max(strength, merged[-1][1])
            else:
                merged.append((time, strength))
        mean = sum(strength for _, strength in merged) / max(len(merged), 1)
        low, high = STRENGTHS
        return cls(tuple((t, min(max(s / mean, low), high)) for t, s in merged), name)

    def hits(self, seconds: float) -> tuple[tuple[float, float], ...]:
        """Return (seconds, strength) of the onsets of a clip."""
        return tuple(point for point in self.points if point[0] < seconds)

    def from_(self, start: float) -> "Hits | None":
        """Return the onsets in the time of a window that begins at `start`; None if none is."""
        left = tuple((time - start, strength) for time, strength in self.points if time >= start)
        return Hits(left, self.name) if left else None


@dataclass(frozen=True, init=False)
class Beats(Control):
    """f = onset envelope o of x_0 in dB, y = beats τ, 𝓛 = by how much they fail to stand out.

    A beat's lead is ln o(τ) − ln o(around), o(τ) being the mean within 20 ms or so, o(around) that
    from 70 ms on, half-way to the next beat. "margin" is the mean over beats of
    max(0, margin + ln strength − lead); "correlation" is −ρ of o and bells at the beats, which
    wants silence between them. The loss listens to x_0's log-mel, without a vocoder; errors are
    those of the sound.

    Attributes:
        rhythm: a `Grid` or `Hits`.
        measure: of the loss.
        margin: in nats.
    """

    rhythm: Grid | Hits
    measure: Measure
    margin: float
    kind = "beats"
    corrected: ClassVar[Effort] = Effort(40)
    help = "Beats per minute, e.g. 120; or a MIDI file, whose drums are followed."
    like_help = "Have sounds begin where those of this recording do."
    noun = "a rhythm"
    options = (
        Option("beats_offset", float, "When the first beat of a bar falls, in seconds; 0."),
        Option("beats_per_bar", int, "Beats of a bar, to accent the first; by default none is."),
        Option("beats_track", int, "Track of the MIDI file, from 0; by default all."),
        Option("beats_loss", str, "margin; or correlation: nothing between the beats."),
    )

    def __init__(
        self,
        rhythm: float | str | Grid | Hits,
        measure: Measure = "margin",
        margin: float = MARGIN,
        *,
        offset: float = 0.0,
        per_bar: int = 1,
    ) -> None:
        """Take a tempo in beats per minute, or a rhythm.

        Args:
            rhythm: of the beats.
            measure: see the class.
            margin: see the class.
            offset: of a tempo's, see `Grid`.
            per_bar: of a tempo's, see `Grid`.

        Raises:
            ControlError: it is no tempo, the loss is unknown, or a number is out of range.
        """
        if not isinstance(rhythm, Grid | Hits):
            rhythm = Grid(_tempo(rhythm), offset, per_bar)
        elif offset or per_bar != 1:
            raise ControlError("an offset and beats per bar go with a tempo, e.g. ditto.Beats(120)")
        if measure not in ("margin", "correlation"):
            raise ControlError(f"the loss of beats is 'margin' or 'correlation', not {measure!r}")
        margin = checked_number(
            "the margin of beats", margin, 0, MAX_MARGIN, "nats", left_out="low"
        )
        object.__setattr__(self, "rhythm", rhythm)
        object.__setattr__(self, "measure", measure)
        object.__setattr__(self, "margin", margin)

    @classmethod
    def parse(cls, text: str, context: ParseContext) -> "Beats":
        """Return the control that ``--beats`` asks for."""
        options = context.options
        offset, per_bar = options.get("beats_offset"), options.get("beats_per_bar")
        track, measure = options.get("beats_track"), options.get("beats_loss") or "margin"
        if Path(text).suffix.lower() in ENDINGS:
            if offset is not None or per_bar is not None:
                raise ControlError("--beats-offset and --beats-per-bar go with a tempo, not a file")
            return replace(cls.from_midi(text, track=track), measure=measure)
        if track is not None:
            raise ControlError("--beats-track chooses a track of a MIDI file: give one to --beats")
        return cls(text, measure, offset=offset or 0.0, per_bar=1 if per_bar is None else per_bar)

    @classmethod
    def parse_like(cls, path: Path, context: ParseContext) -> "Beats":
        """Return the control that ``--beats-like`` asks for."""
        others = "beats_offset", "beats_per_bar", "beats_track"
        given = [name for name in others if context.options.get(name) is not None]
        if given:
            raise ControlError(f"--{given[0].replace('_', '-')} goes with --beats, not a recording")
        measure = context.options.get("beats_loss") or "margin"
        found = cls.of_recording(
            path, context.spec(), seconds=context.heard_seconds, begin=context.like_begin
        )
        return replace(found, measure=measure)

    @classmethod
    def from_midi(
        cls, path: StrPath, *, bpm: float | None = None, track: int | None = None
    ) -> "Beats":
        """Follow the drums of a MIDI file, or all its notes if it has none.

        Args:
            path: the file.
            bpm: beats per minute; None is the file's own tempo.
            track: from 0; None is all.
        """
        hits = [(time, float(velocity)) for time, velocity in read_hits(path, bpm=bpm, track=track)]
        return cls(Hits.of(hits, Path(path).name))

    @classmethod
    def of_recording(
        cls,
        path: StrPath,
        spec: AudioSpec | None = None,
        *,
        seconds: float | None = None,
        begin: Begin = 0.0,
    ) -> "Beats":
        """Follow the onsets of a recording.

        Args:
            path: a sound file.
            spec: of the model.
            seconds: how much of it; by default the model's window.
            begin: where in it, in seconds; "auto" is its first sound.

        Raises:
            AudioFileError: the file cannot be read or is silent there.
            ControlError: nothing begins in it.
        """
        spec = spec or AudioSpec()
        part = read_from(path, spec, seconds or spec.clip_seconds, begin)
        audio = torch.from_numpy(part.samples)
        if audio.numel() <= spec.n_fft // 2:
            raise ControlError(f"{printable(path)} is too short to have a rhythm")
        envelope = heard_envelope(audio[None], spec)[0].numpy()
        times = pick_onsets(envelope, spec.frame_rate)
        if not len(times):
            raise ControlError(f"no sound begins in {printable(path)}: give a more rhythmic one")
        strengths = envelope[np.round(times * spec.frame_rate).astype(int)]
        hits = list(zip(times.tolist(), strengths.tolist(), strict=True))
        return cls(Hits.of(hits, Path(path).name))

    def feature(self, output: Output) -> Tensor:
        """Return f(x_0), shape (B, frames), in dB."""
        return onset_envelope(output.mel, output.model.spec)

    def target(self, output: Output) -> Tensor:
        """Return bells at the beats as high as they are strong, shape (frames,)."""
        return self._places(output).bells().to(output.x_0.device)

    def loss(self, output: Output) -> Tensor:
        """Return 𝓛 of each item, shape (B,)."""
        envelope = self.feature(output)
        if self.measure == "correlation":
            return -pearson(output.masked(envelope), output.masked(self.target(output)))
        strength = self._places(output).strength.to(envelope.device)
        short = self.margin + strength.log() - self.leads(envelope, output)
        counted = self._counted(output)
        return (short.clamp(min=0) * counted).sum(dim=1) / counted.sum().clamp(min=1)

    def leads(self, envelope: Tensor, output: Output) -> Tensor:
        """Return each beat's lead in nats, shape (B, beats), of an envelope (B, frames)."""
        on, off = self._places(output).heights(envelope)
        return (on + FLOOR_DB).log() - (off + FLOOR_DB).log()

    def errors(self, output: Output) -> dict[str, Tensor]:
        """Return the F-measure of the beats in %, and how many times they stand out of the rest.

        What is heard is, for a tempo, where a listener who knows it would tap (70 ms off at most);
        else every onset (50 ms).
        """
        spec = output.model.spec
        envelope = heard_envelope(output.audio, spec).detach()
        asked = np.array([time for time, _ in self._hits(output)])
        counted = self._counted(output)
        asked = asked[counted.bool().cpu().numpy()]
        scores = [self._score(asked, clip, output) for clip in envelope.cpu().double().numpy()]
        leads = (self.leads(envelope, output) * counted).sum(dim=1) / counted.sum().clamp(min=1)
        return {
            "beats_f_measure_percent": 100 * torch.tensor(scores, device=envelope.device),
            "beats_stand_out_times": leads.exp(),
        }

    def _score(self, asked: np.ndarray, envelope: np.ndarray, output: Output) -> float:
        rate = output.model.spec.frame_rate
        if isinstance(self.rhythm, Grid):
            heard, window = tap_beats(envelope, rate, self.rhythm.bpm), BEAT_WINDOW
        else:
            heard, window = pick_onsets(envelope, rate), ONSET_WINDOW
        heard = heard[heard >= FIRST]
        if output.mask is not None:
            frames = np.round(heard * rate).astype(int).clip(max=output.frames - 1)
            heard = heard[output.mask.cpu().numpy()[frames]]
        return f_measure(asked, heard, window)

    def check(self, model: MusicModel, frames: int) -> None:
        """Refuse a rhythm of which nothing falls into the clip."""
        seconds = model.spec.seconds(frames)
        if not self._within(seconds):
            raise ControlError(
                f"no beat of {printable(self.rhythm.name)} falls before the clip ends at "
                f"{seconds:.2f} s"
            )

    def in_window(self, window: Window, spec: AudioSpec) -> "Beats | None":
        """Return the rhythm as it goes on from the window's start, or None if it is over."""
        rhythm = self.rhythm.from_(window.start)
        moved = None if rhythm is None else replace(self, rhythm=rhythm)
        return moved if moved is not None and moved._within(spec.clip_seconds) else None

    def panels(self, output: Output, item: int) -> list[Panel]:
        """Return the sound's onset envelope, and the beats drawn as high."""
        achieved = heard_envelope(output.audio, output.model.spec)[item].detach().cpu().numpy()
        target = self.target(output).cpu().numpy()
        scale = achieved.max() / max(float(target.max()), 1e-9)
        return [CurvePanel(title="beats", unit="dB", target=target * scale, achieved=achieved)]

    def to_dict(self) -> dict[str, Any]:
        """Return the tempo, or name and, unless there are very many, onsets; and the loss."""
        if isinstance(self.rhythm, Grid):
            grid = self.rhythm
            rhythm = {"bpm": grid.bpm, "offset": grid.offset, "per_bar": grid.per_bar}
        else:
            points = [list(point) for point in self.rhythm.points]
            onsets = points if len(points) <= MAX_LISTED else len(points)
            rhythm = {"rhythm": self.rhythm.name, "onsets": onsets}
        return {"control": self.kind, **rhythm, "measure": self.measure, "margin": self.margin}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Beats":
        """Return the control that `to_dict` wrote."""
        if "bpm" in values:
            rhythm = Grid(values["bpm"], values["offset"], values["per_bar"])
        else:
            points = tuple((float(time), float(s)) for time, s in values["onsets"])
            rhythm = Hits(points, values["rhythm"])
        return cls(rhythm, values["measure"], float(values["margin"]))

    def _hits(self, output: Output) -> tuple[tuple[float, float], ...]:
        return self._within(output.model.spec.seconds(output.frames))

    def _within(self, seconds: float) -> tuple[tuple[float, float], ...]:
        """Return the beats of a clip that can be heard."""
        return tuple(hit for hit in self.rhythm.hits(seconds) if hit[0] >= FIRST)

    def _places(self, output: Output) -> Places:
        return places(self._hits(output), output.frames, output.model.spec)

    def _counted(self, output: Output) -> Tensor:
        """Return 1 for beats within the frames that count, else 0; shape (beats,)."""
        centre = self._places(output).centre.to(output.x_0.device)
        if output.mask is None:
            return torch.ones(len(centre), device=centre.device)
        return output.mask[centre].float()


def _tempo(value: float | str) -> float:
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        hint = "a recording goes with --beats-like" if _is_sound(value) else "or a MIDI file"
        raise ControlError(
            f"cannot read the beats {shown(value)}: give beats per minute, e.g. 120, {hint}"
        ) from None


def _is_sound(value: Any) -> bool:
    return isinstance(value, str) and Path(value).suffix.lower() in SUBTYPES
