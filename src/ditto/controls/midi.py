"""MIDI files as people have them: RIFF and karaoke, cut short, with junk between their parts.

The file is walked here, event by event, so that what is whole is kept; mido decodes the events.
"""

import struct
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import mido
import numpy as np

from ditto.controls.lines import Line, others, tune_of
from ditto.controls.notes import DEFAULT_BPM, MAX_NOTES, Note, NoteSequence, summary
from ditto.controls.textfiles import file_bytes
from ditto.errors import ControlError
from ditto.paths import StrPath, printable

ENDINGS = (".mid", ".midi", ".smf", ".kar", ".rmi")
MAX_MIDI_BYTES = 10_000_000
DRUMS = 9
"""The MIDI channel, from 0, whose notes are drums."""

_FRAME_RATES = {24: 24.0, 25: 25.0, 29: 30 / 1.001, 30: 30.0}
Event = tuple[int, Any]
"""(tick, mido's message)."""


@dataclass
class MidiFile:
    """What a MIDI file holds.

    Attributes:
        kind: its format: 0, 1, or 2 (tracks that do not belong together).
        division: ticks a beat; or negative, SMPTE frames and ticks of these, as in the header.
        tracks: events in order.
        repairs: what is wrong with the file, in words.
    """

    kind: int
    division: int
    tracks: list[list[Event]] = field(default_factory=list)
    repairs: list[str] = field(default_factory=list)


def read_midi(
    path: StrPath,
    *,
    bpm: float | None = None,
    track: int | Literal["all"] | None = None,
    channel: int | None = None,
) -> NoteSequence:
    """Read the tune of a MIDI file.

    Args:
        path: the file.
        bpm: beats per minute; None is the file's own tempo.
        track: from 0, or "all"; of what is chosen the highest notes count.
        channel: from 1 to 16. With neither the line is taken that is most like a tune.

    Raises:
        ControlError: the file cannot be read, has no such track or channel, or has no notes there.
    """
    midi = open_midi(path)
    if midi.division < 0 and bpm is not None:
        raise ControlError(f"{printable(path)} counts film frames, not beats: leave out the tempo")
    if track not in (None, "all"):
        check_part(path, "track", track, len(midi.tracks))
    elif midi.kind == 2 and len(midi.tracks) > 1:
        midi.repairs.append("its tracks are separate pieces: the first is read")
        track = next((i for i, events in enumerate(midi.tracks) if _pitched(events)), 0)
    clock = Clock.of(midi, bpm, track if midi.kind == 2 and isinstance(track, int) else None)
    lines = midi_lines(midi, clock)
    kept = _chosen(path, lines, track, channel)
    notes = tuple(note for line in kept.values() for note in line.notes)
    return NoteSequence(notes, Path(path).name, _about(midi, lines, kept, notes, clock, bpm))


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
    midi = open_midi(path, "the beats")
    check_part(path, "track", track, len(midi.tracks))
    clock = Clock.of(midi, bpm, None)
    struck = sorted(
        (clock.seconds(tick), message.velocity, message.channel == DRUMS)
        for index, events in enumerate(midi.tracks)
        for tick, message in events
        if message.type == "note_on" and message.velocity > 0 and track in (None, index)
    )
    drums = [hit for hit in struck if hit[2]]
    hits = [(now, velocity) for now, velocity, _ in drums or struck]
    if not 1 <= len(hits) <= MAX_NOTES:
        raise ControlError(
            f"{printable(path)} has {len(hits)} notes there: beats take 1 to {MAX_NOTES}, give "
            "another file or track"
        )
    return hits


def open_midi(path: StrPath, noun: str = "the melody") -> MidiFile:
    """Read a MIDI file's events; see `parse_midi`.

    Raises:
        ControlError: it cannot be read.
    """
    return parse_midi(file_bytes(path, noun, MAX_MIDI_BYTES), path, noun)


Key = tuple[int, int]
"""(track, channel), both from 0."""


def _chosen(
    path: StrPath, lines: dict[Key, Line], track: int | str | None, channel: int | None
) -> dict[Key, Line]:
    """Return the lines that are asked for; the most tune-like one if nothing is.

    Raises:
        ControlError: there are no notes.
    """
    name = printable(path)
    if channel is not None and not 1 <= channel <= 16:
        raise ControlError(f"a MIDI channel is a number from 1 to 16, not {channel}")
    pitched = {key: line for key, line in lines.items() if not line.drums}
    if not pitched:
        raise ControlError(f"{name} has no notes" + (" but drums" if lines else ""))
    if channel is None and track is None:
        tune = tune_of(list(pitched.values()))
        return {key: line for key, line in pitched.items() if line is tune}
    if channel is not None and channel not in {c + 1 for _, c in pitched}:
        there = ", ".join(str(c) for c in sorted({c + 1 for _, c in pitched}))
        raise ControlError(f"{name} has no notes on channel {channel}: it has channels {there}")
    kept = {
        key: line
        for key, line in pitched.items()
        if track in (None, "all", key[0]) and channel in (None, key[1] + 1)
    }
    if not kept:
        there = ", ".join(str(t) for t in sorted({t for t, _ in pitched}))
        raise ControlError(f"{name} has no notes on track {track}: tracks with notes are {there}")
    return kept


def _about(
    midi: MidiFile,
    lines: dict[Key, Line],
    kept: dict[Key, Line],
    notes: Sequence[Note],
    clock: "Clock",
    bpm: float | None,
) -> str:
    """Return what was understood, on one line."""
    said = [summary(notes), "tempo as given" if bpm is not None else clock.about()]
    if bpm is not None:
        said[1] = f"{bpm:g} BPM as given"
    if len(lines) > 1:
        said.append(" and ".join(line.label for line in kept.values()) if len(kept) < 3 else "all")
        said[-1] += f" of {len(lines)}"
    text = ", ".join(said)
    if len(kept) == 1 and len(lines) > 1:
        text += f"; there are also: {others(next(iter(kept.values())), list(lines.values()))}"
    return "; ".join([text, *midi.repairs])


def midi_lines(midi: MidiFile, clock: "Clock") -> dict[Key, Line]:
    """Return the notes of each track and channel, in the order of the tracks."""
    found: dict[Key, list[Note]] = {}
    names: dict[int, str] = {}
    for index, events in enumerate(midi.tracks):
        for _, message in events:
            if message.type == "track_name" and index not in names:
                names[index] = message.name
        for channel, notes in sorted(_notes(events, clock).items()):
            found[index, channel] = notes
    tracks, channels = {t for t, _ in found}, {c for _, c in found}
    lines = {}
    for (track, channel), notes in found.items():
        words = [f"track {track}"] * (len(tracks) > 1)
        words += [f"channel {channel + 1}"] * (len(tracks) == 1 or len(channels) > 1)
        lines[track, channel] = Line(
            " ".join(words),
            names.get(track, "") if len(tracks) > 1 else "",
            tuple(notes),
            channel == DRUMS,
        )
    return lines


def _pitched(events: Sequence[Event]) -> bool:
    return any(
        message.type == "note_on" and message.velocity > 0 and message.channel != DRUMS
        for _, message in events
    )


def _notes(events: Sequence[Event], clock: "Clock") -> dict[int, list[Note]]:
    """Return a track's notes by channel, in the order in which they end."""
    begun: dict[Key, int] = {}
    ended: dict[Key, int] = {}
    found: dict[int, list[Note]] = defaultdict(list)
    tick = 0

    def end(key: Key) -> None:
        start, stop = clock.seconds(begun.pop(key)), clock.seconds(tick)
        ended[key] = tick
        if stop > start:
            found[key[0]].append(Note(start, stop - start, key[1]))

    for tick, message in events:
        if message.type not in ("note_on", "note_off"):
            continue
        key = message.channel, message.note
        begins = message.type == "note_on" and message.velocity > 0
        # An end at the tick where the note was struck again belongs to the one before.
        if key in begun and not (not begins and begun[key] == tick == ended.get(key)):
            end(key)
        if begins:
            begun[key] = tick
    for key in list(begun):
        end(key)
    return found


@dataclass(frozen=True)
class Clock:
    """Ticks to seconds.

    Attributes:
        ticks: where the tempo changes; the first is 0.
        starts: when, in seconds.
        rates: seconds a tick from there on.
        tempi: in BPM, of the file; empty if it has none.
        frames: whether ticks are parts of film frames.
    """

    ticks: tuple[int, ...]
    starts: tuple[float, ...]
    rates: tuple[float, ...]
    tempi: tuple[float, ...] = ()
    frames: bool = False

    @classmethod
    def of(cls, midi: MidiFile, bpm: float | None, track: int | None) -> "Clock":
        """Read a file's tempi, of one track or of all; or take one that is given.

        Args:
            midi: the file.
            bpm: beats per minute; None are the file's.
            track: whose tempi count; None are all.
        """
        if midi.division < 0:
            frames, parts = -(midi.division >> 8), midi.division & 0xFF
            return cls((0,), (0.0,), (1 / (_FRAME_RATES[frames] * parts),), frames=True)
        changes = {
            tick: message.tempo
            for index, events in enumerate(midi.tracks)
            if track in (None, index)
            for tick, message in events
            if message.type == "set_tempo" and message.tempo > 0
        }
        beat = 60e6 / (bpm or DEFAULT_BPM)
        tempi = {0: beat} if bpm is not None else {0: beat, **changes}
        ticks = sorted(tempi)
        rates = [tempi[tick] / midi.division / 1e6 for tick in ticks]
        steps = [(b - a) * rate for (a, b), rate in zip(pairwise(ticks), rates, strict=False)]
        starts = np.concatenate([[0.0], np.cumsum(steps)]).tolist()
        own = () if bpm is not None else tuple(60e6 / changes[tick] for tick in sorted(changes))
        return cls(tuple(ticks), tuple(starts), tuple(rates), own)

    def seconds(self, tick: int) -> float:
        """Return when a tick is, in seconds."""
        i = int(np.searchsorted(self.ticks, tick, side="right")) - 1
        return self.starts[i] + (tick - self.ticks[i]) * self.rates[i]

    def about(self) -> str:
        """Return the tempo in words."""
        if self.frames:
            return "timed by film frames"
        if not self.tempi:
            return f"{DEFAULT_BPM:g} BPM, since the file has no tempo"
        low, high = (f"{tempo:.4g}" for tempo in (min(self.tempi), max(self.tempi)))
        return f"{low} BPM from the file" if low == high else f"{low}–{high} BPM from the file"


def check_part(path: StrPath, kind: str, chosen: int | str | None, count: int) -> None:
    """Refuse a track or part that a file does not have.

    Raises:
        ControlError: with those that there are.
    """
    if isinstance(chosen, int) and not 0 <= chosen < count:
        raise ControlError(
            f"{printable(path)} has no {kind} {chosen}: it has {kind}s 0 to {count - 1}"
        )


def parse_midi(data: bytes, path: StrPath = "a MIDI file", noun: str = "the melody") -> MidiFile:
    """Read a MIDI file's events, as many as are whole.

    A RIFF or other wrapping is skipped, and so are chunks that are not tracks, which the standard
    asks for, and bytes that belong to nothing.

    Raises:
        ControlError: there is no header, or it makes no sense.
    """
    head = data.find(b"MThd")
    if head < 0 or len(data) < head + 14:
        raise ControlError(f"cannot read {noun} {printable(path)}: it is damaged or no MIDI file")
    size, kind, count, division = struct.unpack(">LhHh", data[head + 4 : head + 14])
    frames, parts = -(division >> 8), division & 0xFF
    if division == 0 or (division < 0 and (frames not in _FRAME_RATES or not parts)):
        raise ControlError(
            f"cannot read {noun} {printable(path)}: it is damaged (its header has no unit of time)"
        )
    midi = MidiFile(kind, division)
    position = head + 8 + max(size, 6) if size < len(data) else head + 14
    while (start := _next_track(data, position, midi)) is not None:
        position = _add_track(data, start, midi)
    if not midi.tracks and count:
        raise ControlError(f"cannot read {noun} {printable(path)}: it is damaged: it has no track")
    midi.repairs = list(dict.fromkeys(midi.repairs))
    return midi


def _next_track(data: bytes, position: int, midi: MidiFile) -> int | None:
    """Return where the next track's chunk begins, or None."""
    while data[position : position + 4] != b"MTrk":
        size = _chunk(data, position)
        if size is None:
            position = data.find(b"MTrk", position)
            if position < 0:
                return None
            if len(data) < position + 8:  # cut within its header
                return None
            midi.repairs.append("what lies between its tracks was skipped")
            return position
        position += size
    return position if len(data) >= position + 8 else None


def _chunk(data: bytes, position: int) -> int | None:
    """Return the size of a chunk with its header, or None if there is none."""
    name = data[position : position + 4]
    if len(data) < position + 8 or not all(32 <= byte < 127 for byte in name):
        return None
    size = 8 + struct.unpack(">L", data[position + 4 : position + 8])[0]
    return size if position + size <= len(data) else None


def _add_track(data: bytes, start: int, midi: MidiFile) -> int:
    """Read one track; return where it ends."""
    end = start + 8 + struct.unpack(">L", data[start + 4 : start + 8])[0]
    sound = end <= len(data) and (len(data) - end < 2 or _chunk(data, end) is not None)
    following = data.find(b"MTrk", start + 8)
    # A length that leads nowhere is no length: the track goes on to its own end.
    limit = end if sound else (len(data) if following < 0 else following)
    events, stop, whole = _events(data[:limit], start + 8)
    midi.tracks.append(events)
    if not whole:
        cut = limit == len(data)
        midi.repairs.append(
            "the file is cut short: what is whole was read"
            if cut
            else f"track {len(midi.tracks) - 1} is damaged: what comes before was read"
        )
    return end if sound else stop if whole else limit


def _events(data: bytes, position: int) -> tuple[list[Event], int, bool]:
    """Return a track's events, where they stop, and whether its end was there."""
    events: list[Event] = []
    tick, status = 0, 0
    try:
        while True:
            delta, position = _variable(data, position)
            tick += delta
            if data[position] == 0xFF:
                kind = data[position + 1]
                size, position = _variable(data, position + 2)
                body, position = data[position : position + size], position + size
                if kind == 0x2F:
                    return [*events, (tick, mido.MetaMessage("end_of_track"))], position, True
                events += [(tick, message) for message in _meta(kind, body)]
            elif data[position] in (0xF0, 0xF7):
                size, position = _variable(data, position + 1)
                position += size
            elif data[position] >= 0xF8:
                position += 1
            else:
                if data[position] >= 0x80:
                    status, position = data[position], position + 1
                size = 1 if 0xC0 <= status < 0xE0 else 2
                if not 0x80 <= status < 0xF0:
                    return events, position, False
                values = [min(data[position + i], 127) for i in range(size)]
                events.append((tick, mido.Message.from_bytes([status, *values])))
                position += size
    except IndexError:  # the data ends
        return [*events, (tick, mido.MetaMessage("end_of_track"))], len(data), False


def _variable(data: bytes, position: int) -> tuple[int, int]:
    """Return a number of variable length, and where it ends."""
    value = 0
    while True:
        byte = data[position]
        value, position = value << 7 | byte & 0x7F, position + 1
        if byte < 0x80:
            return value, position


def _meta(kind: int, body: bytes) -> list[Any]:
    """Return a meta event that can be decoded, or none: a strange key signature harms no notes."""
    if kind not in (0x03, 0x51):
        return []
    size = [len(body)] if len(body) < 0x80 else [0x80 | len(body) >> 7 & 0x7F, len(body) & 0x7F]
    try:
        return [mido.MetaMessage.from_bytes([0xFF, kind, *size, *body])]
    except (ValueError, LookupError):
        return []
