"""Melodies as note sequences: from note names, a MIDI or MusicXML file, or a recording.

Times are in seconds. Of notes that sound together the highest counts, as it does to a listener.
"""

import math
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import mido
import torch
from torch import Tensor

from ditto.audio.chroma import chroma_power
from ditto.audio.io import SUBTYPES, read_mono
from ditto.audio.spec import AudioSpec
from ditto.errors import ControlError
from ditto.paths import StrPath, printable, shown
from ditto.tables import table

REST = -1
"""Class of a frame that asks for nothing."""

DEFAULT_BPM = 120.0
MAX_NOTES, MAX_SCORE_BYTES = 100_000, 10_000_000
DRUMS = 9
"""The MIDI channel whose notes are drums."""

QUIET_DB = 40.0
"""Frames of a recording that lie this far under its loudest have no melody."""

MIDI_ENDINGS, SCORE_ENDINGS = (".mid", ".midi"), (".musicxml", ".mxl", ".xml")
_NOTE = re.compile(r"([A-Ga-g])([#♯b♭]?)(\d)?(?::(\d+(?:\.\d*)?|\d*\.\d+))?")
_REST = re.compile(r"[Rr](?::(\d+(?:\.\d*)?|\d*\.\d+))?")
_STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_ALTERATIONS = {"": 0, "#": 1, "♯": 1, "b": -1, "♭": -1}


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
    """

    notes: tuple[Note, ...]
    name: str = "notes"

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
        return NoteSequence(left, self.name) if left else None


@table(maxsize=64)
def _pitches(melody: NoteSequence, frames: int, spec: AudioSpec, device: torch.device) -> Tensor:
    pitches = torch.full((frames,), REST)
    for note in sorted(melody.notes, key=lambda n: n.pitch):
        first, last = (math.ceil(t * spec.frame_rate - 1e-6) for t in (note.onset, note.end))
        pitches[min(first, frames) : min(last, frames)] = note.pitch
    return pitches.to(device)


def parse_melody(
    text: str, spec: AudioSpec, *, bpm: float | None = None, track: int | None = None
) -> NoteSequence:
    """Read a melody: note names, or the path of a MIDI, MusicXML or sound file.

    Args:
        text: e.g. "C4:1 E4:1 G4:2", "tune.mid", "song.musicxml", "humming.wav".
        spec: of the model, for the chroma of a recording.
        bpm: beats per minute; None is the file's own tempo, or 120.
        track: of a file with several, from 0; None takes the top line of all.

    Raises:
        ControlError: if it is none of these.
        AudioFileError: if a sound file cannot be read.
    """
    if bpm is not None and not 10 <= bpm <= 1000:
        raise ControlError(f"a melody's tempo must be 10 to 1000 beats per minute, not {bpm:g}")
    ending = Path(text).suffix.lower()
    if ending in MIDI_ENDINGS:
        return read_midi(text, bpm=bpm, track=track)
    if ending in SCORE_ENDINGS:
        return read_score(text, bpm=bpm, part=track)
    if track is not None:
        raise ControlError("a track can be chosen of a MIDI or MusicXML file only")
    return (
        transcribe_recording(text, spec)
        if ending in SUBTYPES
        else parse_notes(text, bpm or DEFAULT_BPM)
    )


def names_file(text: str) -> bool:
    """Tell whether a melody's text is the path of a file: notes end in no such ending."""
    return Path(text).suffix.lower() in (*MIDI_ENDINGS, *SCORE_ENDINGS, *SUBTYPES)


def parse_notes(text: str, bpm: float = DEFAULT_BPM) -> NoteSequence:
    """Read note names with beats, ``"C4:1 F#4:0.5 Bb3 R:1"``.

    Args:
        text: octave 4 and one beat where none is given; R is a rest.
        bpm: beats per minute.

    Raises:
        ControlError: if a name cannot be read, or there is none.
    """
    if not isinstance(text, str):
        raise ControlError(f"a melody is written as 'C4:1 E4:1', not {shown(text)}")
    if not isinstance(bpm, Real) or not 0 < bpm < math.inf:
        raise ControlError(f"a melody's bpm must be a number above 0, not {shown(bpm)}")
    beat, now, notes = 60.0 / float(bpm), 0.0, []
    for word in text.replace(",", " ").split():
        rest, name = _REST.fullmatch(word), _NOTE.fullmatch(word)
        if rest is None and name is None:
            raise ControlError(
                f"cannot read {printable(word)!r} in the melody: write notes such as "
                "'C4:1 F#4:0.5 R:1 G4:2' (name, octave, beats), or give a .mid, .musicxml or sound "
                "file"
            )
        beats = rest[1] if rest is not None else name[4] if name is not None else None
        length = float(beats or 1) * beat
        if name is not None and length > 0:
            notes.append(Note(now, length, _pitch(*name.group(1, 2, 3))))
        now += length
    return NoteSequence(tuple(notes), text)


def _pitch(step: str, alteration: str, octave: str | None) -> int:
    return 12 * (int(octave or 4) + 1) + _STEPS[step.upper()] + _ALTERATIONS[alteration]


def read_midi(path: StrPath, *, bpm: float | None = None, track: int | None = None) -> NoteSequence:
    """Read the notes of a MIDI file, without drums.

    Args:
        path: the file.
        bpm: beats per minute; None is the file's own tempo.
        track: from 0; None is all.

    Raises:
        ControlError: the file cannot be read, has no such track, or has no notes there.
    """
    midi = _open_midi(path, "melody", track)
    return NoteSequence(tuple(_midi_notes(midi, bpm, track)), Path(path).name)


def read_hits(
    path: StrPath, *, bpm: float | None = None, track: int | None = None
) -> list[tuple[float, int]]:
    """Read when notes of a MIDI file begin: those of its drums, or of all if it has none.

    Args:
        path: the file.
        bpm: beats per minute; None is the file's own tempo.
        track: from 0; None is all.

    Returns:
        (seconds, velocity from 1 to 127), rising.

    Raises:
        ControlError: the file cannot be read, has no such track, or has no notes there.
    """
    midi = _open_midi(path, "beats", track)
    struck = [
        (now, message)
        for now, index, message in _midi_times(midi, bpm)
        if message.type == "note_on" and message.velocity > 0 and track in (None, index)
    ]
    drums = [hit for hit in struck if hit[1].channel == DRUMS]
    hits = [(now, message.velocity) for now, message in drums or struck]
    if not 1 <= len(hits) <= MAX_NOTES:
        raise ControlError(
            f"{printable(path)} has {len(hits)} notes there: beats take 1 to {MAX_NOTES}, give "
            "another file or track"
        )
    return hits


def _open_midi(path: StrPath, what: str, track: int | None) -> mido.MidiFile:
    _check_file(path, what)
    try:
        midi = mido.MidiFile(path, clip=True)
    except (OSError, EOFError, ValueError, LookupError, TypeError, mido.KeySignatureError) as error:
        reason = getattr(error, "strerror", None) or "it is damaged or no MIDI file"
        raise ControlError(f"cannot read the {what} {printable(path)}: {reason}") from None
    if midi.ticks_per_beat <= 0:
        raise ControlError(
            f"cannot read the {what} {printable(path)}: it counts film frames in place of beats"
        )
    _check_part(path, "track", track, len(midi.tracks))
    return midi


def _midi_notes(midi: mido.MidiFile, bpm: float | None, track: int | None) -> Iterator[Note]:
    """Yield the file's notes in the order in which they end."""
    begun: dict[tuple[int, int, int], float] = {}
    now = 0.0
    for now, index, message in _midi_times(midi, bpm):
        if (
            message.type not in ("note_on", "note_off")
            or message.channel == DRUMS
            or track not in (None, index)
        ):
            continue
        key = index, message.channel, message.note
        start = begun.pop(key, now)
        if start < now:
            yield Note(start, now - start, message.note)
        if message.type == "note_on" and message.velocity > 0:
            begun[key] = now
    yield from (
        Note(start, now - start, pitch) for (_, _, pitch), start in begun.items() if start < now
    )


def _midi_times(midi: mido.MidiFile, bpm: float | None) -> Iterator[tuple[float, int, Any]]:
    """Yield (seconds, track, message) of all tracks, by the file's tempo or at `bpm`."""
    now, tick, tempo = 0.0, 0, 60e6 / (bpm or DEFAULT_BPM)
    for at, index, message in _midi_events(midi):
        now += (at - tick) * tempo / midi.ticks_per_beat / 1e6
        tick = at
        if message.type == "set_tempo" and bpm is None:
            tempo = message.tempo
        yield now, index, message


def _midi_events(midi: mido.MidiFile) -> list[tuple[int, int, Any]]:
    """Return (tick, track, message) of all tracks, sorted; notes end before others begin."""
    events = []
    for index, track in enumerate(midi.tracks):
        tick = 0
        for message in track:
            tick += message.time
            events.append((tick, index, message))
    return sorted(
        events, key=lambda event: (event[0], event[2].type == "note_on" and event[2].velocity > 0)
    )


def read_score(path: StrPath, *, bpm: float | None = None, part: int | None = None) -> NoteSequence:
    """Read the notes of a MusicXML file; needs music21.

    Args:
        path: the file.
        bpm: beats per minute; None is the file's own tempo.
        part: from 0; None is all.

    Raises:
        ControlError: music21 is missing, or the file cannot be read, has no such part, or has no
            notes there.
    """
    _check_file(path)
    try:
        from music21 import converter, exceptions21
    except ImportError:
        raise ControlError(
            "reading MusicXML needs music21: pip install 'ditto-music[musicxml]'"
        ) from None
    try:
        score: Any = converter.parse(Path(path), format="musicxml").stripTies()
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        SyntaxError,
        exceptions21.Music21Exception,
    ):
        raise ControlError(
            f"cannot read the melody {printable(path)}: it is damaged or no MusicXML file"
        ) from None
    _check_part(path, "part", part, len(score.parts))
    chosen = score if part is None else score.parts[part]
    return NoteSequence(tuple(score_notes(chosen, bpm)), Path(path).name)


def score_notes(stream: Any, bpm: float | None) -> Iterator[Note]:
    """Yield the notes of a music21 stream, of chords the highest, at its own tempo or at `bpm`."""
    from music21 import chord, harmony, note

    for element, onset, duration in _in_beats(stream, bpm) if bpm else _in_seconds(stream):
        if not isinstance(element, (note.Note, chord.Chord)) or isinstance(
            element, harmony.Harmony
        ):
            continue
        if duration > 0:
            yield Note(
                float(onset), float(duration), max(round(pitch.ps) for pitch in element.pitches)
            )


def _in_beats(stream: Any, bpm: float) -> Iterator[tuple[Any, float, float]]:
    return (
        (e, float(e.offset) * 60 / bpm, float(e.quarterLength) * 60 / bpm)
        for e in stream.flatten().notes
    )


def _in_seconds(stream: Any) -> Iterator[tuple[Any, float, float]]:
    return (
        (e["element"], e["offsetSeconds"], e["durationSeconds"])
        for e in stream.flatten().secondsMap
    )


def transcribe_recording(
    path: StrPath, spec: AudioSpec, seconds: float | None = None
) -> NoteSequence:
    """Return the strongest pitch class of every frame of a recording's beginning, as notes.

    Args:
        path: a sound file.
        spec: of the model.
        seconds: how much of it; by default the model's window.

    Raises:
        AudioFileError: if the file cannot be read or is silent.
        ControlError: if nothing in it lies above middle C.
    """
    audio = torch.from_numpy(read_mono(path, spec, seconds=seconds or spec.clip_seconds))
    return transcribe(audio, spec, Path(path).name)


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


def _check_file(path: StrPath, what: str = "melody") -> None:
    """Refuse what is no regular file of a sane size."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "a file's name cannot hold a null character"
        raise ControlError(f"cannot read the {what} {printable(path)}: {reason}") from None
    if not stat.S_ISREG(status.st_mode):
        raise ControlError(f"cannot read the {what} {printable(path)}: it is not a regular file")
    if not 0 < status.st_size <= MAX_SCORE_BYTES:
        size = f"over {MAX_SCORE_BYTES // 10**6} MB"
        raise ControlError(f"cannot read the {what} {printable(path)}: it is empty, or {size}")


def _check_part(path: StrPath, kind: str, chosen: int | None, count: int) -> None:
    if chosen is not None and not 0 <= chosen < count:
        raise ControlError(
            f"{printable(path)} has no {kind} {chosen}: it has {kind}s 0 to {count - 1}"
        )
