"""A tune from whatever it is given as: note names, a MIDI or MusicXML file, or a recording."""

from collections.abc import Callable
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ditto.audio.chroma import chroma_power
from ditto.audio.excerpt import Begin, begin_of, read_from
from ditto.audio.opening import is_recording
from ditto.audio.spec import AudioSpec
from ditto.controls import midi, scores
from ditto.controls.notes import DEFAULT_BPM, REST, Note, NoteSequence, parse_notes, summary
from ditto.errors import ControlError
from ditto.paths import StrPath, found_path, printable, shown

QUIET_DB = 40.0
"""Frames of a recording that lie this far under its loudest have no melody."""


def parse_melody(
    text: str,
    spec: AudioSpec | Callable[[], AudioSpec],
    *,
    bpm: float | None = None,
    tempo: float | None = None,
    track: int | Literal["all"] | None = None,
    channel: int | None = None,
    begin: Begin = 0.0,
    seconds: float | None = None,
) -> NoteSequence:
    """Read a melody: note names, or the path of a MIDI, MusicXML or sound file.

    Args:
        text: e.g. "C4:1 E4:1 G4:2", "tune.mid", "song.musicxml", "humming.wav".
        spec: of the model, for the chroma of a recording; or what returns it.
        bpm: beats per minute; None is the file's own tempo, or of written notes `tempo`.
        tempo: of the tags: what written notes have without `bpm`.
        track: of a file with several, from 0, or "all"; None is the line most like a tune.
        channel: of a MIDI file, from 1.
        begin: where in it to begin, in seconds; "auto" is its first note or sound.
        seconds: how much of a recording; by default the model's window.

    Raises:
        ControlError: if it is none of these.
        AudioFileError: if a sound file cannot be read.
    """
    if bpm is not None and not 10 <= bpm <= 1000:
        raise ControlError(f"a melody's tempo must be 10 to 1000 beats per minute, not {bpm:g}")
    kind = kind_of(text)
    if channel is not None and kind != "midi":
        raise ControlError("a channel can be chosen of a MIDI file only")
    if track is not None and kind not in ("midi", "score"):
        raise ControlError("a track can be chosen of a MIDI or MusicXML file only")
    if kind == "recording":
        heard_by = spec if isinstance(spec, AudioSpec) else spec()
        return transcribe_recording(text, heard_by, seconds, begin=begin)
    if kind == "midi":
        tune = midi.read_midi(text, bpm=bpm, track=track, channel=channel)
    elif kind == "score":
        tune = scores.read_score(text, bpm=bpm, part=track)
    elif bpm is not None or tempo is None:
        said = "as given" if bpm is not None else "by default"
        tune = parse_notes(text, bpm or DEFAULT_BPM, tempo_from=said)
    else:
        tune = parse_notes(text, tempo, tempo_from="from the tags")
    return tune_from(tune, begin)


def track_of(value: Any, option: str) -> int | Literal["all"] | None:
    """Return a track from a whole number, its text, "all", or None.

    Raises:
        ControlError: it is something else.
    """
    if value is None or value == "all":
        return value
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if isinstance(number, bool) or not isinstance(number, Integral):
        raise ControlError(f"{option} is a whole number, from 0 on, or all, not {shown(value)}")
    return int(number)


def kind_of(text: str) -> Literal["midi", "score", "recording", "notes"]:
    """Tell what a melody's text is: by its ending, else by what the file of that name holds."""
    ending = Path(text).suffix.lower()
    if ending in midi.ENDINGS:
        return "midi"
    if ending in scores.ENDINGS:
        return "score"
    if is_recording(text):
        return "recording"
    head = _head(text)
    if head.startswith(b"MThd") or (head.startswith(b"RIFF") and head[8:12] == b"RMID"):
        return "midi"
    if b"<score-" in head:
        return "score"
    return "recording" if head else "notes"


def _head(text: str) -> bytes:
    """Return the first bytes of a file, b"" if there is none."""
    try:
        with open(found_path(text), "rb") as file:
            return file.read(2000)
    except (OSError, ValueError):
        return b""


def tune_from(tune: NoteSequence, begin: Begin) -> NoteSequence:
    """Return a tune from some second on, or from its first note ("auto").

    Raises:
        ControlError: nothing of it comes after.
    """
    begin = begin_of(begin)
    start = tune.begin if begin == "auto" else begin
    if start == 0:
        return tune
    later = tune.later(-start)
    if later is None:
        raise ControlError(
            f"the melody {printable(tune.name)!r} ends at {tune.seconds:.2f} s: it cannot begin at "
            f"{start:g} s"
        )
    return replace(later, about=f"{tune.about}; from {start:.2f} s on" if tune.about else "")


def transcribe_recording(
    path: StrPath, spec: AudioSpec, seconds: float | None = None, *, begin: Begin = 0.0
) -> NoteSequence:
    """Return the strongest pitch class of every frame of a recording, as notes.

    Args:
        path: a sound file.
        spec: of the model.
        seconds: how much of it; by default the model's window.
        begin: where in it, in seconds; "auto" is its first sound.

    Raises:
        AudioFileError: if the file cannot be read or is silent there.
        ControlError: if nothing in it lies above middle C.
    """
    part = read_from(path, spec, seconds or spec.clip_seconds, begin)
    tune = transcribe(torch.from_numpy(part.samples), spec, Path(path).name)
    about = f"{summary(tune.notes)} (of any octave), heard in {part.about}"
    return replace(tune, about=about, heard=True)


def transcribe(audio: Tensor, spec: AudioSpec, name: str = "recording") -> NoteSequence:
    """Return audio (samples,) as notes of octave 5: runs of frames with one strongest class.

    Quiet frames are rests.
    """
    with torch.no_grad():
        power = chroma_power(audio[None], spec)[0]
    loudness = 10 * torch.log10(power.sum(dim=0) + 1e-12)
    sounding = (loudness > loudness.max() - QUIET_DB) & (loudness > -90)
    classes = torch.where(sounding, power.argmax(dim=0), REST)
    values, lengths = torch.unique_consecutive(classes, return_counts=True)
    ends = lengths.cumsum(0)
    # Half a frame early, so that no frame lies on a border.
    runs = zip(values.tolist(), (ends - lengths).tolist(), ends.tolist(), strict=True)
    notes = (_run(value, start, end, spec) for value, start, end in runs if value != REST)
    return NoteSequence(tuple(notes), name)


def _run(value: int, start: int, end: int, spec: AudioSpec) -> Note:
    onset = max(start - 0.5, 0.0) / spec.frame_rate
    return Note(onset, (end - 0.5) / spec.frame_rate - onset, 72 + value)
