"""MusicXML by music21: sounding pitch, repeats as they are played, any way to write a tempo."""

import math
import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree
from zipfile import BadZipFile, ZipFile

from ditto.controls.lines import Line, others, tune_of
from ditto.controls.midi import check_part
from ditto.controls.notes import DEFAULT_BPM, Note, NoteSequence, summary
from ditto.controls.textfiles import file_bytes
from ditto.errors import ControlError
from ditto.paths import StrPath, printable

ENDINGS = (".musicxml", ".mxl", ".xml")
MAX_SCORE_BYTES = 10_000_000
MAX_PLAYED = 2000
"""Measures of a part as its repeats play it: a dozen signs within each other are millions."""

Tempi = tuple[tuple[float, float], ...]
"""(offset in quarter notes, BPM of quarters), rising; the first from 0 on."""


def read_score(
    path: StrPath, *, bpm: float | None = None, part: int | Literal["all"] | None = None
) -> NoteSequence:
    """Read the tune of a MusicXML file as it sounds, repeats played; needs music21.

    Args:
        path: the file.
        bpm: beats (quarter notes) per minute; None is the file's own tempo.
        part: from 0, or "all", of which the highest notes count; None is the part that is most like
            a tune.

    Raises:
        ControlError: music21 is missing, or the file cannot be read, has no such part, or has no
            notes there.
    """
    score, repairs = _parsed(path)
    parts = list(score.parts) or [score]
    check_part(path, "part", part, len(parts))
    tempi = ((0.0, bpm),) if bpm is not None else _tempi(score)
    lines = [
        Line(
            f"part {i}",
            str(getattr(one, "partName", None) or ""),
            tuple(_notes(one, tempi or ((0.0, 120.0),))),
        )
        for i, one in enumerate(parts)
    ]
    sounding = [line for line in lines if line.notes]
    if not sounding or (isinstance(part, int) and not lines[part].notes):
        which = f" in part {part}" if sounding else ""
        raise ControlError(f"the melody {printable(Path(path).name)!r} has no notes{which}")
    if part == "all":
        chosen = Line("all", "", tuple(note for line in lines for note in line.notes))
    else:
        chosen = lines[part] if isinstance(part, int) else tune_of(lines)
    text = f"{summary(chosen.notes)}, {_tempo_said(tempi, bpm)}"
    if len(lines) > 1:
        text += f", {chosen.label} of {len(lines)}"
        rest = "" if part == "all" else others(chosen, lines)
        text += f"; there are also: {rest}" if rest else ""
    return NoteSequence(chosen.notes, Path(path).name, "; ".join([text, *repairs]))


def _parsed(path: StrPath) -> tuple[Any, list[str]]:
    """Return a file's score as it sounds, without ties, and what is to be said of it.

    Raises:
        ControlError: see `read_score`.
    """
    data, repairs = _music_xml(path, file_bytes(path, "the melody", MAX_SCORE_BYTES))
    try:
        from music21 import converter, repeat
    except ImportError:
        raise ControlError(
            "reading MusicXML needs music21: pip install 'ditto-music[musicxml]'"
        ) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # music21 tells its own users what it skips
        # It raises what its parts raise, from ZeroDivisionError to ExpanderException.
        try:
            # From memory: music21 keeps what it has read of a path, and would not look again.
            score: Any = converter.parseData(data, format="musicxml")
            if any(isinstance(e, repeat.RepeatMark) for e in score.recurse()):
                try:
                    score = score.expandRepeats()
                except Exception:
                    repairs.append("its repeats make no sense and are not played")
            score = score.toSoundingPitch().stripTies()
        except Exception:
            raise _damaged(path) from None
    return score, repairs


def _damaged(path: StrPath) -> ControlError:
    return ControlError(
        f"cannot read the melody {printable(path)}: it is damaged or no MusicXML file"
    )


def _music_xml(path: StrPath, data: bytes) -> tuple[str, list[str]]:
    """Return the score's XML, unpacked if need be, without what music21 stumbles over; what is to
    be said of that.

    Raises:
        ControlError: it is no MusicXML.
    """
    try:
        root = ElementTree.fromstring(_unpacked(path, data) if data[:2] == b"PK" else data)
    except (ElementTree.ParseError, BadZipFile, LookupError, ValueError, OSError):
        raise _damaged(path) from None
    if root.tag.rpartition("}")[2] not in ("score-partwise", "score-timewise"):
        raise _damaged(path)
    for direction in root.iter("direction"):
        for kind in direction.findall("direction-type"):
            for mark in kind.findall("metronome"):
                if not _is_tempo(mark.findtext("per-minute")):
                    kind.remove(mark)
                    ElementTree.SubElement(kind, "words").text = " "
    repairs = []
    if max(map(_played, root.iter("part")), default=0) > MAX_PLAYED:
        repairs.append(f"its repeats come to over {MAX_PLAYED} measures and are not played")
        for barline in root.iter("barline"):
            for mark in barline.findall("repeat"):
                barline.remove(mark)
    return ElementTree.tostring(root, encoding="unicode"), repairs


def _played(part: ElementTree.Element) -> int:
    """Return how many measures a part has with its repeats, which may lie within each other.

    Where a section has no sign at its start it is given one, after what was repeated before:
    music21 would go back to the start of all, and of many such sections make millions of measures.
    """
    done, sections, first = 0, [0], None  # measures since each sign that was not gone back to yet
    for measure in part.iter("measure"):
        first = measure if first is None else first
        marks = list(measure.iter("repeat"))
        begun = sum(mark.get("direction") == "forward" for mark in marks)
        ends = [mark for mark in marks if mark.get("direction") == "backward"]
        sections += [0] * begun
        sections[-1] += 1
        within_ending = measure.find("barline/ending") is not None
        if ends and len(sections) == 1 and done and not within_ending:
            sign = ElementTree.Element("barline", location="left")
            ElementTree.SubElement(sign, "repeat", direction="forward")
            first.insert(0, sign)
        for mark in ends:
            times = mark.get("times", "")
            repeated = sections.pop() * (int(times[:9]) if times.isdecimal() else 2)
            if sections:
                sections[-1] += repeated
            else:
                done, sections = done + repeated, [0]
        if ends or within_ending:
            first = None
    return done + sum(sections)


def _is_tempo(text: str | None) -> bool:
    try:
        return 0 < float(text or "") < math.inf
    except ValueError:
        return False


def _unpacked(path: StrPath, data: bytes) -> bytes:
    """Return the score in a compressed MusicXML file: the first that its container names.

    Raises:
        ControlError: it unpacks to too much.
    """
    with ZipFile(BytesIO(data)) as archive:
        names = archive.namelist()
        name = next((n for n in names if n.endswith(("xml",)) and "META-INF" not in n), "")
        if "META-INF/container.xml" in names:
            container = ElementTree.fromstring(_member(path, archive, "META-INF/container.xml"))
            roots = (e.get("full-path") for e in container.iter() if e.tag.endswith("rootfile"))
            name = next((root for root in roots if root in names), name)
        return _member(path, archive, name)


def _member(path: StrPath, archive: ZipFile, name: str) -> bytes:
    with archive.open(name) as file:
        data = file.read(4 * MAX_SCORE_BYTES + 1)
    if len(data) > 4 * MAX_SCORE_BYTES:
        raise ControlError(f"cannot read the melody {printable(path)}: it unpacks to too much")
    return data


def _tempi(score: Any) -> Tempi:
    """Return the score's tempi, from whichever part; () if it has none."""
    from music21 import tempo

    found: dict[float, float] = {}
    for mark in score.flatten().getElementsByClass(tempo.MetronomeMark):
        # `<sound tempo>` counts quarters, whatever the written mark's unit.
        bpm = mark.numberSounding or mark.getQuarterBPM()
        if bpm and 0 < bpm < math.inf:
            found.setdefault(float(mark.offset), float(bpm))
    if not found:
        return ()
    offsets = sorted(found)
    return ((0.0, found[offsets[0]]), *((at, found[at]) for at in offsets if at > 0))


def _tempo_said(tempi: Tempi, bpm: float | None) -> str:
    if bpm is not None:
        return f"{bpm:g} BPM as given"
    if not tempi:
        return f"{DEFAULT_BPM:g} BPM, since the score has no tempo"
    low, high = (f"{value:.4g}" for value in (min(b for _, b in tempi), max(b for _, b in tempi)))
    return f"{low} BPM from the score" if low == high else f"{low}–{high} BPM from the score"


def _seconds(offset: float, tempi: Tempi) -> float:
    """Return when an offset in quarter notes is."""
    total = 0.0
    for (at, bpm), (after, _) in zip(tempi, (*tempi[1:], (math.inf, 0.0)), strict=True):
        if offset > at:
            total += (min(offset, after) - at) * 60 / bpm
    return total


def score_notes(stream: Any, bpm: float) -> Iterator[Note]:
    """Yield the notes of a music21 stream at a tempo, of chords the highest."""
    return _notes(stream, ((0.0, bpm),))


def _notes(stream: Any, tempi: Tempi) -> Iterator[Note]:
    from music21 import chord, harmony, note

    for element in stream.flatten().notes:
        if not isinstance(element, (note.Note, chord.Chord)) or isinstance(
            element, harmony.Harmony
        ):
            continue
        start = _seconds(float(element.offset), tempi)
        end = _seconds(float(element.offset) + float(element.quarterLength), tempi)
        if end > start:
            yield Note(start, end - start, max(round(pitch.ps) for pitch in element.pitches))
