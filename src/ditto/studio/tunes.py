"""Tunes between files and the page's piano roll: one voice, in beats."""

from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from itertools import pairwise
from pathlib import Path

import mido

from ditto.audio.spec import AudioSpec
from ditto.controls import scores
from ditto.controls.midi import read_midi
from ditto.controls.notes import DEFAULT_BPM, Note, NoteSequence
from ditto.controls.tunes import transcribe_recording
from ditto.errors import ControlError
from ditto.paths import atomic_file

Beats = list[tuple[float, float, int]]
"""(start, length, pitch), start and length in beats."""

TICKS = 480
LEAST_TEMPO, MOST_TEMPO = 4.0, 1000.0
"""Beats per minute of a file: it has 24 bits for the microseconds of a beat."""
SHORTEST_HEARD = 0.12
"""Seconds of the shortest note that is taken from a voice or an instrument."""


def read_tune(path: Path, tempo: float | None, seconds: float) -> Beats:
    """Read the tune of a MIDI or MusicXML file.

    Args:
        path: the file.
        tempo: at which its beats are to be played; None is the file's own.
        seconds: how much of it.

    Raises:
        ControlError: the file cannot be read, or has no note so early.
    """
    score = path.suffix.lower() in scores.ENDINGS
    tune = (scores.read_score if score else read_midi)(path, bpm=tempo)
    found = in_beats(top_line(tune.notes, seconds), tempo or DEFAULT_BPM)
    if not found:
        raise ControlError(f"{path.name} has no note within the first {seconds:.2f} s")
    return found


def hear_tune(path: Path, spec: AudioSpec, tempo: float | None, seconds: float) -> Beats:
    """Return the strongest pitches of a recording, such as humming, on a grid of sixteenths.

    Raises:
        AudioFileError: it cannot be read, or is silent.
        ControlError: nothing in it lies above middle C, or lasts.
    """
    heard = transcribe_recording(path, spec, seconds)
    bpm = tempo or DEFAULT_BPM
    lasting = [note for note in joined(heard.notes) if note.duration >= SHORTEST_HEARD]
    found: Beats = []
    for start, length, pitch in in_beats(lasting, bpm):
        begin, end = round(start * 4) / 4, max(round((start + length) * 4) / 4, 0.25)
        if found and begin < found[-1][0] + found[-1][1]:
            begin = found[-1][0] + found[-1][1]
        if begin < end and begin * 60 / bpm < seconds:
            found.append((begin, end - begin, pitch))
    if not found:
        raise ControlError(f"no note was heard in {path.name}: sing or play nearer, and longer")
    return found


def joined(notes: Sequence[Note], gap: float = 0.06) -> list[Note]:
    """Join neighbours of one pitch with at most `gap` seconds between them."""
    found: list[Note] = []
    for note in sorted(notes, key=lambda note: note.onset):
        last = found[-1] if found else None
        if last and last.pitch == note.pitch and note.onset - last.end <= gap:
            found[-1] = Note(last.onset, note.end - last.onset, last.pitch)
        else:
            found.append(note)
    return found


def top_line(notes: Sequence[Note], seconds: float) -> list[Note]:
    """Return what is highest at each moment of the first `seconds`, as notes one by one."""
    early = sorted((note for note in notes if note.onset < seconds), key=lambda note: note.onset)
    times = sorted({t for note in early for t in (note.onset, min(note.end, seconds))})
    sounding: list[tuple[int, float, int, Note]] = []
    found: list[tuple[Note, float, float]] = []
    begun = 0
    for start, end in pairwise(times):
        while begun < len(early) and early[begun].onset <= start:
            note = early[begun]
            heappush(sounding, (-note.pitch, -note.end, begun, note))
            begun += 1
        while sounding and sounding[0][-1].end <= start:
            heappop(sounding)
        if not sounding:
            continue
        note = sounding[0][-1]
        if found and found[-1][0] is note and found[-1][2] == start:
            found[-1] = note, found[-1][1], end
        else:
            found.append((note, start, end))
    return [Note(start, end - start, note.pitch) for note, start, end in found]


def in_beats(notes: Sequence[Note], bpm: float) -> Beats:
    """Return notes in beats, rounded to a thousandth."""
    beat = 60 / bpm
    return [
        (round(note.onset / beat, 3), round(note.duration / beat, 3), note.pitch)
        for note in notes
        if round(note.duration / beat, 3) > 0
    ]


def write_midi(path: Path, tune: NoteSequence, bpm: float | None) -> None:
    """Write a tune as a MIDI file of one track, at a tempo that such a file can hold."""
    bpm = bpm or DEFAULT_BPM
    while bpm < LEAST_TEMPO:  # the same times by other beats
        bpm *= 2
    while bpm > MOST_TEMPO:
        bpm /= 2
    track = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(bpm))])
    now = 0
    for tick, kind, pitch in sorted(_events(tune, bpm)):
        track.append(mido.Message(kind, note=pitch, velocity=80, time=tick - now))
        now = tick
    with atomic_file(path) as temporary:
        mido.MidiFile(ticks_per_beat=TICKS, tracks=[track]).save(temporary)


def _events(tune: NoteSequence, bpm: float) -> Iterator[tuple[int, str, int]]:
    for note in tune.notes:
        yield round(note.onset * bpm / 60 * TICKS), "note_on", note.pitch
        # "note_off" sorts before "note_on": a note ends before the next one begins.
        yield round(note.end * bpm / 60 * TICKS), "note_off", note.pitch
