"""Melody: the strongest pitch class of every frame follows a tune (DITTO section 4).

The papers' −log C falls as long as anything else sounds, so it ends in a tune alone. "margin" is
done with a frame as soon as its class leads every other by a margin, and leaves the rest to play.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from ditto.audio.chroma import (
    CLASSES,
    POWER_FLOOR,
    log_chroma,
    mel_log_chroma,
    mel_octave_power,
    octave_power,
)
from ditto.audio.excerpt import LONGEST_SECONDS, Begin, begin_of
from ditto.audio.spec import AudioSpec
from ditto.controls.base import Control, Effort, Option, ParseContext
from ditto.controls.midi import read_midi
from ditto.controls.notes import DEFAULT_BPM, REST, Note, NoteSequence, parse_notes
from ditto.controls.numbers import checked_number
from ditto.controls.output import Output, Window
from ditto.controls.scores import read_score
from ditto.controls.tunes import parse_melody, track_of, transcribe_recording, tune_from
from ditto.errors import ControlError
from ditto.models.model import MusicModel
from ditto.panels import ChromaPanel, Panel, Spans
from ditto.paths import StrPath, shown

MARGIN, MAX_MARGIN = 0.6, 10.0
"""Nats: by how much a tune leads by default, and at most. Defaults are chosen by rows of
``python -m benchmarks tradeoff``."""
MAX_NOTES_LISTED = 4096
"""Notes that reports list; of longer melodies they give the number."""
WITH_FORM = 1 / 4
"""Default weight beside a form, whose loss is smaller: with 1 the form is hardly followed."""
WITH_GIVEN = 3.0
"""Default weight where some of the music is given, as in a song's windows: it has a key, and what
goes on from it keeps to that key rather than to the tune where both count alike. Of the first
song of ``python -m benchmarks song`` 1.2 % of the frames miss the tune with 3, and 3.9 % with 1."""
MIDDLE_C = 60
"""Octaves below this, unless the tune goes there, are the bass's: the chroma is high-passed too."""

MAX_OCTAVES = 11
Measure = Literal["nll", "margin"]


@dataclass(frozen=True)
class Melody(Control):
    """f = log C(V(x_0)), y = a pitch class per frame, 𝓛 in nats, the mean over notes.

    Attributes:
        tune: the target.
        measure: "margin": max(0, margin − (log C(y) − the largest other log C)), which is 0 where
            the class leads by the margin; or "nll", the papers' −log C(y).
        margin: in nats.
        octave: ask for the octave too. The energy of the note's own semitone then has to stand out,
            by the same measure, from its class's other octaves above middle C (or above the note,
            where that is lower).
        domain: where the loss takes the chroma from: "sound", or "mel", an estimate from x_0 (its
            spectrogram, or a head's) that spares the vocoder. Errors are those of the sound in
            either case.
        offset: ln of sound's chroma minus the estimate's by `calibrate`, shape (B, 12, frames), or
            None; and so of the power of the semitones, (B, 128, frames), with `octave`.
    """

    tune: NoteSequence
    measure: Measure = "margin"
    margin: float = MARGIN
    octave: bool = False
    domain: Literal["sound", "mel"] = "sound"
    offset: Tensor | None = field(default=None, compare=False, repr=False)
    octave_offset: Tensor | None = field(default=None, compare=False, repr=False)
    kind = "melody"
    iterations: ClassVar[int] = 150
    corrected: ClassVar[Effort] = Effort(40, 0.3, 0.3, 64, tag_pull=0.15)
    help = (
        "Melody: notes 'C4:1 E4:1 R:1 G4:2' (name, octave, beats), or a .mid, .musicxml or sound "
        "file."
    )
    noun = "a melody"
    options = (
        Option("bpm", float, "The melody's tempo; by default the tags' or the file's own."),
        Option(
            "melody_track",
            str,
            "Track of the MIDI file, or part of the score, from 0, or all; by default the line "
            "most like a tune.",
            ("--track",),
        ),
        Option("melody_loss", str, "margin: leave alone what the tune leads; or nll, the papers'."),
        Option("melody_margin", float, "By how much the tune leads, in nats; by default 0.6."),
        Option("melody_octave", bool, "Ask for the octave in which the melody is written."),
        Option("melody_channel", int, "Channel of the MIDI file, from 1."),
        Option(
            "melody_from",
            str,
            "Where in the file the melody begins, in seconds; auto: at its first note or sound.",
            ("--melody-begin",),
        ),
    )

    def __post_init__(self) -> None:
        """Check the tune and the loss.

        Raises:
            ControlError: it is no tune, the loss is unknown, or the margin is out of range.
        """
        if not isinstance(self.tune, NoteSequence):
            raise ControlError(
                f"{shown(self.tune)} is no tune: give ditto.Melody.from_notes('C4:1 E4:1') or "
                "from_midi"
            )
        if self.measure not in ("nll", "margin"):
            raise ControlError(f"a melody's loss is 'nll' or 'margin', not {shown(self.measure)}")
        if self.domain not in ("sound", "mel"):
            raise ControlError(f"a melody is heard in 'sound' or 'mel', not {shown(self.domain)}")
        margin = checked_number(
            "a melody's margin", self.margin, 0, MAX_MARGIN, "nats", left_out="low"
        )
        object.__setattr__(self, "margin", margin)

    @classmethod
    def parse(cls, text: str, context: ParseContext) -> "Melody":
        """Return the control that ``--melody`` asks for.

        Written notes take their tempo from ``--bpm`` or the tags; a file has its own.
        """
        options = context.options
        margin = options.get("melody_margin")
        measure = options.get("melody_loss") or "margin"
        if margin is not None and measure != "margin":
            raise ControlError("--melody-margin needs --melody-loss margin to go with")
        tune = parse_melody(
            text,
            context.spec,
            bpm=options.get("bpm"),
            tempo=context.tempo,
            track=track_of(options.get("melody_track"), "--melody-track"),
            channel=options.get("melody_channel"),
            begin=begin_of(options.get("melody_from") or 0.0, "--melody-from"),
            seconds=context.seconds or (LONGEST_SECONDS if context.edit else None),
        )
        octave = bool(options.get("melody_octave"))
        return cls(tune, measure, MARGIN if margin is None else margin, octave)

    @classmethod
    def from_notes(cls, text: str, bpm: float = DEFAULT_BPM) -> "Melody":
        """Read names with beats, ``"C4:1 E4:1 G4:2"``."""
        return cls(parse_notes(text, bpm))

    @classmethod
    def from_midi(
        cls,
        path: StrPath,
        *,
        bpm: float | None = None,
        track: int | Literal["all"] | None = None,
        channel: int | None = None,
        begin: Begin = 0.0,
    ) -> "Melody":
        """Read a MIDI file.

        Args:
            path: the file.
            bpm: beats per minute; None is the file's own tempo.
            track: from 0, or "all", whose highest notes count.
            channel: from 1 to 16. Without it and `track` it is the line most like a tune.
            begin: where in the file, in seconds; "auto" is the first note.

        Raises:
            ControlError: the file cannot be read, or has no notes there.
        """
        track = track_of(track, "track")
        return cls(tune_from(read_midi(path, bpm=bpm, track=track, channel=channel), begin))

    @classmethod
    def from_score(
        cls,
        path: StrPath,
        *,
        bpm: float | None = None,
        part: int | Literal["all"] | None = None,
        begin: Begin = 0.0,
    ) -> "Melody":
        """Read a MusicXML file as it sounds, repeats played; needs music21.

        Args:
            path: the file.
            bpm: quarter notes per minute; None is the file's own tempo.
            part: from 0, or "all", whose highest notes count; None is the part most like a tune.
            begin: where in the score, in seconds; "auto" is the first note.

        Raises:
            ControlError: the file cannot be read, or has no notes there.
        """
        return cls(tune_from(read_score(path, bpm=bpm, part=track_of(part, "part")), begin))

    @classmethod
    def of_recording(
        cls,
        path: StrPath,
        spec: AudioSpec | None = None,
        *,
        seconds: float | None = None,
        begin: Begin = 0.0,
    ) -> "Melody":
        """Return the control whose target is a recording's own strongest pitch classes.

        Args:
            path: a sound file.
            spec: of the model; by default that of the embedded one.
            seconds: how much of the recording; by default the model's window, or without `spec` all
                that a clip may need.
            begin: where in the recording, in seconds; "auto" is its first sound.

        Raises:
            AudioFileError: the file cannot be read or is silent there.
        """
        if spec is None:
            spec, seconds = AudioSpec(), seconds or LONGEST_SECONDS
        return cls(transcribe_recording(path, spec, seconds, begin=begin))

    def target(self, output: Output) -> Tensor:
        """Return the target y, shape (frames,): 0 (C) to 11, or `REST` without a note."""
        return self.tune.classes(output.frames, output.model.spec, output.x_0.device)

    def feature(self, output: Output) -> Tensor:
        """Return f(x_0) = log C, shape (B, 12, frames)."""
        return log_chroma(output.audio, output.model.spec)

    def loss(self, output: Output) -> Tensor:
        """Return 𝓛 of each item, shape (B,)."""
        feature, target = output.masked(self._chroma(output)), output.masked(self.target(output))
        if self.measure == "margin":
            loss = hinge(feature, target, self.margin)
        else:
            loss = nll(feature, target)
        return loss + self._octave_loss(output) if self.octave else loss

    def _chroma(self, output: Output) -> Tensor:
        """Return the log C that the loss takes, shape (B, 12, frames)."""
        estimate = None
        if self.domain == "mel":
            estimate = output.read("chroma", mel_log_chroma)
        if estimate is None:
            return self.feature(output)
        # Powers are corrected by factors, and so are shares but for their sum.
        return estimate if self.offset is None else log_softmax(estimate + self.offset, dim=1)

    def _octaves(self, output: Output) -> Tensor:
        """Return the power of the semitones that the loss takes, shape (B, 128, frames)."""
        if self.domain == "sound" or not output.model.has_mel:
            return octave_power(output.audio, output.model.spec) + POWER_FLOOR
        power = mel_octave_power(output.mel, output.model.spec) + POWER_FLOOR
        return power if self.octave_offset is None else power * self.octave_offset.exp()

    def proxy(self) -> "Melody":
        """Return the same control with the chroma estimated from x_0."""
        return replace(self, domain="mel", offset=None, octave_offset=None)

    def calibrate(self, decoded: Output) -> "Melody":
        """Return the estimating control with sound minus estimate of `decoded` as its offset."""
        if self.domain == "sound":
            return self
        with torch.no_grad():
            mel, sound = self.proxy(), replace(self, domain="sound")
            offset = sound._chroma(decoded) - mel._chroma(decoded)
            octaves = None
            if self.octave:
                octaves = (sound._octaves(decoded) / mel._octaves(decoded)).log()
            return replace(mel, offset=offset, octave_offset=octaves)

    def _octave_loss(self, output: Output) -> Tensor:
        pitches = self.tune.pitches(output.frames, output.model.spec, output.x_0.device)
        pitches = output.masked(pitches)
        power = output.masked(self._octaves(output))
        shares, octaves = log_octaves(power, pitches)
        if self.measure == "margin":
            return hinge(shares, octaves, self.margin)
        return nll(shares, octaves)

    def errors(self, output: Output) -> dict[str, Tensor]:
        """Return the accuracy in % of the frames with a note (chance: 8.3), and 𝓛."""
        feature, target = output.masked(self.feature(output)), output.masked(self.target(output))
        return {
            "melody_accuracy_percent": accuracy(feature, target),
            "melody_nll": nll(feature, target),
        }

    def check(self, model: MusicModel, frames: int) -> None:
        """Refuse a melody of which nothing falls into the clip."""
        if bool((self.tune.classes(frames, model.spec) == REST).all()):
            raise ControlError(
                f"the melody has no note before the clip ends at {model.spec.seconds(frames):.2f} "
                f"s: it begins at {self.tune.begin:.2f} s, so let it begin there (begin, "
                '--melody-from: seconds, or "auto")'
            )

    def understood(self) -> list[str]:
        """Return what was understood of the tune."""
        return [self.tune.about] if self.tune.about else []

    def warnings(self, model: MusicModel, frames: int) -> list[str]:
        """Return what is cut of a melody that goes on beyond the clip."""
        end, last = model.spec.seconds(frames), self.tune.seconds
        if last <= end + 0.06 or self.tune.heard:
            return []
        cut = sum(note.onset >= end for note in self.tune.notes)
        return [
            f"the melody lasts {last:.2f} s: what comes after {end:.2f} s was cut ({cut} of its "
            "notes whole)"
        ]

    def absent(self, spans: Spans) -> bool:
        """Tell whether no note sounds within the spans."""
        return not any(
            note.onset < end and note.onset + note.duration > start
            for note in self.tune.notes
            for start, end in spans
        )

    def default_weight(self, others: Sequence[Control]) -> float:
        """Return λ: `WITH_FORM` beside a form, whose loss is small, else `WITH_GIVEN` in edits."""
        if any(other.kind == "structure" for other in others):
            return WITH_FORM
        return WITH_GIVEN if any(other.known_region() for other in others) else 1.0

    def in_window(self, window: Window, spec: AudioSpec) -> "Melody | None":
        """Return the melody as it goes on from the window's start, or None if it is over."""
        tune = self.tune.later(-window.start)
        if tune is None or min(note.onset for note in tune.notes) >= spec.clip_seconds:
            return None
        return replace(self, tune=tune)

    def adapter_target(self, model: MusicModel, frames: int) -> tuple[str, Tensor]:
        """Return the pitch class of every frame."""
        return "classes", self.tune.classes(frames, model.spec)

    def panels(self, output: Output, item: int) -> list[Panel]:
        """Return the chroma, with the target as a line."""
        shares = self.feature(output)[item].detach().exp().cpu().numpy()
        target = self.target(output).cpu().numpy()
        return [ChromaPanel(title="melody", shares=shares, target=target)]

    def to_dict(self) -> dict[str, Any]:
        """Return name, length and, unless there are very many, notes as [onset, seconds, pitch].

        Times are not rounded: a note that ends at a frame's time would end in another frame.
        """
        notes = [[n.onset, n.duration, n.pitch] for n in self.tune.notes]
        return {
            "control": self.kind,
            "tune": self.tune.name,
            "seconds": round(self.tune.seconds, 3),
            "notes": notes if len(notes) <= MAX_NOTES_LISTED else len(notes),
            **({} if self.measure == "nll" else {"measure": self.measure, "margin": self.margin}),
            **({"octave": True} if self.octave else {}),
            **({} if self.domain == "sound" else {"domain": self.domain}),
            **({"understood": self.tune.about} if self.tune.about else {}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Melody":
        """Return the control that `to_dict` wrote."""
        notes = tuple(Note(float(a), float(b), int(c)) for a, b, c in values["notes"])
        return cls(
            NoteSequence(notes, values["tune"], str(values.get("understood", ""))),
            values.get("measure", "nll"),
            float(values.get("margin", 0.3)),
            bool(values.get("octave", False)),
            values.get("domain", "sound"),
        )


def nll(log_shares: Tensor, classes: Tensor) -> Tensor:
    """Return the mean of −log C at the frames' classes; 0 where no frame has one.

    Args:
        log_shares: log C, shape (B, 12, frames).
        classes: shape (frames,), `REST` for none.

    Returns:
        Shape (B,), in nats.
    """
    sounding = classes != REST
    chosen = log_shares.gather(1, classes.clamp(min=0).expand(len(log_shares), 1, -1))[:, 0]
    return -(chosen * sounding).sum(dim=-1) / sounding.sum().clamp(min=1)


def hinge(log_shares: Tensor, classes: Tensor, margin: float) -> Tensor:
    """Return the mean of max(0, margin − lead), the lead being log C(y) − the largest other log C.

    A frame in which the lead is large enough has no gradient.

    Args:
        log_shares: log C, shape (B, classes, frames).
        classes: shape (frames,), `REST` for none.
        margin: in nats.

    Returns:
        Shape (B,), in nats; 0 where no frame has a class.
    """
    sounding, index = classes != REST, classes.clamp(min=0).expand(len(log_shares), 1, -1)
    chosen = log_shares.gather(1, index)[:, 0]
    others = log_shares.scatter(1, index, -torch.inf).amax(dim=1)
    short = (margin - (chosen - others)).clamp(min=0) * sounding
    return short.sum(dim=-1) / sounding.sum().clamp(min=1)


def log_octaves(power: Tensor, pitches: Tensor) -> tuple[Tensor, Tensor]:
    """Return how the power of each frame's class is shared by octaves, and which is asked for.

    Args:
        power: of every semitone, shape (B, 128, frames), above 0.
        pitches: shape (frames,), `REST` for none.

    Returns:
        ln of the shares, shape (B, 11, frames), and the octaves from MIDI pitch 0, shape (frames,),
        `REST` for none. Octaves below both middle C and the note get hardly anything.
    """
    known = pitches.clamp(min=0)
    octaves = torch.arange(MAX_OCTAVES, device=power.device)[:, None]
    of_class = known % CLASSES + CLASSES * octaves
    counted = (of_class >= known.clamp(max=MIDDLE_C)) & (of_class < power.shape[1])
    index = of_class.clamp(max=power.shape[1] - 1).expand(len(power), -1, -1)
    shared = torch.where(counted, power.gather(1, index), POWER_FLOOR**2)
    shares = shared.log() - shared.sum(dim=1, keepdim=True).log()
    return shares, torch.where(pitches == REST, pitches, known // CLASSES)


def accuracy(log_shares: Tensor, classes: Tensor) -> Tensor:
    """Return how many of the frames with a class have it as their strongest one, in %.

    Args:
        log_shares: log C, shape (B, 12, frames).
        classes: shape (frames,), `REST` for none.

    Returns:
        Shape (B,).
    """
    sounding = classes != REST
    right = (log_shares.argmax(dim=1) == classes) & sounding
    return 100 * right.sum(dim=-1) / sounding.sum().clamp(min=1).to(torch.float32)
