"""Inpaint, outpaint and loop: a file of the same rate, depth and channels (DITTO §4).

>>> ditto.outpaint(model, "song.wav", seconds=30, tags="genre=jazz tempo=110").save("longer.wav")

Every edit takes the fields of `Request` as keywords (controls, tags, seed, method, …), or a whole
`request`.
"""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from numbers import Real
from typing import Any, Literal

import numpy as np

from ditto.audio.limiter import CEILING
from ditto.controls.regions import SelfLoop
from ditto.edit.ending import music_end
from ditto.edit.legacy import model_first
from ditto.edit.result import Edit, Part
from ditto.edit.timeline import FADE_SECONDS, Known, Timeline, crossfaded, silence
from ditto.edit.windows import GapFiller, ModelWindow, Progress
from ditto.errors import RequestError
from ditto.methods.base import check_number
from ditto.models.model import MusicModel, check_model
from ditto.optimize import Step, Stop, never
from ditto.paths import StrPath, printable, shown
from ditto.request import Request
from ditto.runner import run

MAX_SECONDS, MAX_REPEATS = 3600.0, 1000
BEATS_PER_BAR = 4
SELF_OVERLAP, SHORTEST_OVERLAP = 0.5, 0.1
"""Seconds by which a loop without a recording repeats its start (the paper's), and the least of
them."""

Halt = Callable[[], bool]
"""Asked between the parts of an edit; True ends it there."""


@model_first
def inpaint(
    model: MusicModel,
    recording: StrPath | Timeline,
    regions: Sequence[tuple[float, float]],
    request: Request | None = None,
    *,
    overlap: float = 1.0,
    progress: Progress | None = None,
    stop: Stop = never,
    halt: Halt | None = None,
    **settings: Any,
) -> Edit:
    """Make regions of a recording anew, so that they fit what is around them.

    All that the model's window holds besides the region is matched. A region longer than the window
    less twice the overlap is filled from its left in several steps; one that touches an end of the
    file goes on from the other side.

    Args:
        model: from `ditto.load`.
        recording: a sound file, or what `Timeline.read` made of one (changed in place).
        regions: (from, to) in seconds.
        request: tags, method and what else makes the music; its controls count within the regions,
            in the file's time.
        overlap: seconds of context that are shared at least with each side, where there are so
            many.
        progress: called with (part, parts, step).
        stop: called with every step; True ends the optimisation of a part.
        halt: asked after every part; True ends the edit there and keeps the parts that are done.
        settings: fields of `Request`, in place of `request`.

    Raises:
        RequestError: a region is empty, outside the file, or overlaps another, or nothing would be
            kept.
        AudioFileError: the file cannot be read.
    """
    check_model(model)
    request = request_of(request, settings)
    overlap = _number("overlap", overlap)
    timeline = opened(recording)
    gaps = _gaps(timeline, regions)
    filler = GapFiller(
        "inpaint",
        model,
        request,
        overlap,
        all_context=True,
        progress=progress,
        stop=stop,
        halt=halt,
    )
    joins = filler.joins(timeline, gaps)
    parts = tuple(map(Part.of, filler.fill(timeline, gaps)))
    timeline.restore(gaps, filler.unfilled)
    done = filler.done(gaps)
    return Edit(
        kind="inpaint",
        model=model,
        timeline=timeline,
        parts=parts,
        gaps=done,
        before=timeline.original,
        joins=tuple(at for at in joins if any(first <= at <= last for first, last in done)),
        request=request,
        asked={"regions": [list(region) for region in regions], "overlap": overlap},
        notes=told(filler),
    )


def opened(recording: StrPath | Timeline) -> Timeline:
    """Return a recording, read if it is a path.

    Raises:
        RequestError: it is neither.
        AudioFileError: the file cannot be read.
    """
    if isinstance(recording, Timeline):
        return recording
    if not isinstance(recording, str | os.PathLike):
        raise RequestError(f"a recording is the path of a sound file, not {shown(recording)}")
    return Timeline.read(recording)


def told(filler: GapFiller) -> tuple[str, ...]:
    """Return the notes of a filler, each once."""
    return tuple(dict.fromkeys(filler.notes))


def _number(name: str, value: Any) -> float:
    """Return a number of a call as a plain float; its range is checked where it is used.

    Raises:
        RequestError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise RequestError(f"{name} must be a number, not {shown(value)}")
    return float(value)


def request_of(request: Request | None, settings: dict[str, Any]) -> Request:
    """Return the request of an edit: a given one, or one of these settings.

    Raises:
        RequestError: something else is given as a request.
        TypeError: both are given.
    """
    if not isinstance(request, Request | None):
        raise RequestError(f"{shown(request)} is no request: give ditto.Request(…), or keywords")
    if request is not None and settings:
        raise TypeError(f"give either a request, or {', '.join(settings)} as keywords")
    return Request(**settings) if request is None else request


def _gaps(timeline: Timeline, regions: Sequence[tuple[float, float]]) -> list[tuple[int, int]]:
    name = printable(timeline.name)
    if not isinstance(regions, Iterable) or isinstance(regions, str):
        raise RequestError(f"regions are pairs of seconds, [(2.0, 4.0)], not {shown(regions)}")
    try:
        regions = [(_number("from", start), _number("to", end)) for start, end in regions]
    except (TypeError, ValueError):
        raise RequestError(
            f"regions are pairs of seconds, [(2.0, 4.0)], not {shown(regions)}"
        ) from None
    if not regions:
        raise RequestError("give at least one region to inpaint, from and to in seconds")
    for start, end in regions:
        if not (math.isfinite(start) and math.isfinite(end) and 0 <= start < end):
            raise RequestError(
                f"a region must go from some second to a later one, not from {start:g} to {end:g}"
            )
        if end > timeline.seconds + 1e-6:
            raise RequestError(
                f"the region {start:g} to {end:g} s is outside {name}, which ends at "
                f"{timeline.seconds:.3f} s"
            )
        if end - start < 0.05:
            raise RequestError(
                f"the region {start:g} to {end:g} s is too short: at least 0.05 s can be made"
            )
    ordered = sorted(regions)
    for (_, end), (start, _) in pairwise(ordered):
        if start < end + 2 * FADE_SECONDS:
            raise RequestError(
                f"the regions around {start:g} s overlap or nearly touch: give them as one"
            )
    return [(timeline.at(start), min(timeline.at(end), timeline.length)) for start, end in ordered]


@model_first
def outpaint(
    model: MusicModel,
    recording: StrPath | Timeline,
    seconds: float,
    request: Request | None = None,
    *,
    overlap: float = 1.0,
    direction: Literal["forwards", "backwards"] = "forwards",
    begin: float | None = None,
    progress: Progress | None = None,
    stop: Stop = never,
    halt: Halt | None = None,
    **settings: Any,
) -> Edit:
    """Make a recording longer, in windows that each go on from the end of the one before.

    With a tempo in the tags the beats are counted on from ``tags.beat`` at the file's start.

    Args:
        model: from `ditto.load`.
        recording: a sound file, or what `Timeline.read` made of one (changed in place).
        seconds: length of the whole in the end.
        request: tags, method and what else makes the music; its controls count in what is new, in
            the time of the whole.
        overlap: seconds that a window shares with what is there (the paper: 1, 2 or 3).
        direction: where it grows; "backwards" is a new beginning.
        begin: where in the recording to go on from, in seconds; what lies beyond is dropped. By
            default its end, or, where that is a fade-out or silence, the last of its music.
        progress: called with (part, parts, step).
        stop: called with every step; True ends the optimisation of a part.
        halt: asked after every part; True ends the edit there and keeps the parts that are done.
        settings: fields of `Request`, in place of `request`.

    Raises:
        RequestError: the length is not above the file's, or the overlap longer than the file.
        AudioFileError: the file cannot be read.
    """
    check_model(model)
    request = request_of(request, settings)
    if direction not in ("forwards", "backwards"):
        raise RequestError(f"direction is 'forwards' or 'backwards', not {shown(direction)}")
    seconds, overlap = _number("seconds", seconds), _number("overlap", overlap)
    timeline = opened(recording)
    timeline, notes = _going_on(timeline, begin, overlap, direction == "backwards")
    _check_overlap(timeline, overlap)
    if not timeline.seconds < seconds <= MAX_SECONDS:
        raise RequestError(
            f"seconds, the length of the whole, must be above the {_length(timeline)} and at most "
            f"{MAX_SECONDS:g}, not {seconds:g}"
        )
    new = timeline.at(seconds) - timeline.length
    backwards = direction == "backwards"
    longer = timeline.extended(new if backwards else 0, 0 if backwards else new)
    gap = (0, new) if backwards else (timeline.length, longer.length)
    filler = GapFiller("outpaint", model, request, overlap, progress=progress, stop=stop, halt=halt)
    joins = filler.joins(longer, [gap])
    del timeline, recording  # held once: what is longer has the samples too
    parts = tuple(map(Part.of, filler.fill(longer, [gap])))
    (gap,) = filler.done([gap])
    if filler.unfilled:  # stopped early: what was made is what the recording has become
        start, end = (gap[0], longer.length) if backwards else (0, gap[1])
        longer, gap = longer.between(start, end), (gap[0] - start, gap[1] - start)
        joins = tuple(at - start for at in joins if start <= at <= end)
    return Edit(
        kind="outpaint",
        model=model,
        timeline=longer,
        parts=parts,
        gaps=(gap,),
        before=longer.original,
        joins=joins,
        request=request,
        asked={"seconds": seconds, "overlap": overlap, "direction": direction, "begin": begin},
        notes=(*notes, *told(filler)),
    )


def _going_on(
    timeline: Timeline, begin: float | None, overlap: float, backwards: bool
) -> tuple[Timeline, tuple[str, ...]]:
    """Return the part of a recording that something new can go on from, and what to say of it.

    Args:
        timeline: the recording.
        begin: where to go on from, in seconds, if it was said.
        overlap: seconds that are shared.
        backwards: whether what is new comes before.

    Raises:
        RequestError: `begin` is not within the recording.
    """
    notes: tuple[str, ...] = ()
    if begin is not None:
        if not (math.isfinite(begin) and 0 <= begin <= timeline.seconds):
            raise RequestError(
                f"what is new can go on from 0 to the {_length(timeline)}, not from {begin:g} s"
            )
        at = timeline.at(begin)
    else:
        forwards = timeline.samples[:, ::-1] if backwards else timeline.samples
        end = music_end(forwards, timeline.sample_rate, overlap)
        if end is None:
            return timeline, ()
        at = timeline.length - end if backwards else end
        seconds = at / timeline.sample_rate
        what = "begins with a fade-in or silence" if backwards else "ends in a fade-out or silence"
        notes = (
            f"{printable(timeline.name)} {what}: what is new joins its music at {seconds:.2f} s "
            "(begin, --from: another second)",
        )
    part = timeline.between(*((at, timeline.length) if backwards else (0, at)))
    return replace(part, skipped=at if backwards else 0, own=part.length), notes


def _check_overlap(timeline: Timeline, overlap: float) -> None:
    if not overlap > 0 or overlap > timeline.seconds:
        raise RequestError(
            f"the overlap must be above 0 and at most the {_length(timeline)}, not {overlap:g}"
        )


def _length(timeline: Timeline) -> str:
    """Return a recording's length and name, for messages."""
    return f"{timeline.seconds:.2f} s of {printable(timeline.name)}"


def loop_seconds(bpm: float, bars: int) -> float:
    """Return the length in seconds of `bars` bars of four beats.

    Raises:
        RequestError: the tempo or the number of bars is out of range.
    """
    bpm = check_number("bpm", bpm, 20.0, 400.0)
    bars = int(check_number("bars", bars, 1, 256))
    return bars * BEATS_PER_BAR * 60.0 / bpm


@model_first
def loop_recording(
    model: MusicModel,
    recording: StrPath | Timeline,
    request: Request | None = None,
    *,
    seconds: float | None = None,
    overlap: float = 1.0,
    repeats: int = 1,
    progress: Progress | None = None,
    stop: Stop = never,
    **settings: Any,
) -> Edit:
    """Make a recording a loop: add what leads from its end back to its start.

    Args:
        model: from `ditto.load`.
        recording: a sound file, or what `Timeline.read` made of one (changed in place).
        request: tags, method and what else makes the music.
        seconds: length of the loop, above the file's; by default one window is added, less the
            overlap at either end.
        overlap: seconds of the file's end and of its start that the new part matches.
        repeats: how often the loop is written.
        progress: called with (part, parts, step).
        stop: called with every step; True ends the optimisation of a part.
        settings: fields of `Request`, in place of `request`.

    Raises:
        RequestError: the length or the overlap does not fit the file.
        AudioFileError: the file cannot be read.
    """
    check_model(model)
    request = request_of(request, settings)
    overlap, repeats = _number("overlap", overlap), check_repeats(repeats)
    timeline = opened(recording)
    _check_overlap(timeline, overlap)
    window = model.spec.seconds(model.shape(None)[-1])
    if seconds is None:
        whole = timeline.seconds + max(window - 2 * overlap - 0.01, 0.5)
    else:
        whole = _number("seconds", seconds)
    if not timeline.seconds + 0.05 <= whole <= MAX_SECONDS:
        raise RequestError(
            f"the loop must be longer than the {_length(timeline)}, so that a way back to its "
            f"start can be made: not {whole:g} s"
        )
    filler = GapFiller("loop", model, request, overlap, progress=progress, stop=stop)
    asked = {"seconds": seconds, "overlap": overlap, "repeats": repeats}
    return _led_back(filler, timeline, timeline.at(whole), repeats, asked)


def _led_back(
    filler: GapFiller,
    timeline: Timeline,
    length: int,
    repeats: int,
    asked: dict[str, Any],
    begun: tuple[Part, ...] = (),
) -> Edit:
    """Return a loop of `length` samples: a recording, and what leads back to its start.

    Args:
        filler: makes what is missing.
        timeline: the recording, shorter than the loop.
        length: samples of a round.
        repeats: how often it is written.
        asked: what the user asked for.
        begun: what the recording was made by, where it is none of the user's.
    """
    own = timeline.length
    again = min(own, timeline.at(filler.overlap + 0.2))
    # The loop unrolled: the recording, the gap, and the recording's start once more.
    unrolled = timeline.extended(0, length - own + again)
    unrolled.samples[:, length:], unrolled.known[length:] = unrolled.samples[:, :again], True
    gap = (own, length)
    joins = filler.joins(unrolled, [gap])
    parts = tuple(map(Part.of, filler.fill(unrolled, [gap], len(begun))))
    if filler.unfilled:
        raise RequestError(f"the loop could not be closed: {'; '.join(filler.notes)}")
    fade = min(unrolled.at(FADE_SECONDS), again)
    unrolled.put(0, unrolled.samples[:, length : length + fade].copy())
    once = unrolled.between(0, length)
    return Edit(
        kind="loop",
        model=filler.model,
        timeline=once,
        parts=(*begun, *parts),
        gaps=((0 if begun else own, length),),
        before=None if begun else once.original,
        joins=joins,
        repeats=repeats,
        request=filler.request,
        asked=asked,
        notes=told(filler),
    )


def loop(
    model: MusicModel,
    seconds: float,
    request: Request | None = None,
    *,
    overlap: float = SELF_OVERLAP,
    repeats: int = 1,
    progress: Progress | None = None,
    stop: Stop = never,
    **settings: Any,
) -> Edit:
    """Make a loop from nothing, exact to the sample: a clip that returns to its start (appendix E).

    One that does not fit the model's window is begun with a window, continued, and led back to its
    start.

    Args:
        model: from `ditto.load`.
        seconds: length of the loop.
        request: tags, method, controls and what else makes the music.
        overlap: seconds that are made twice, at least 0.1; less is taken if the window has no room.
        repeats: how often the loop is written.
        progress: called with (part, parts, step).
        stop: called with every step; True ends the optimisation of a part.
        settings: fields of `Request`, in place of `request`.

    Raises:
        RequestError: the length or the overlap is out of range.
    """
    check_model(model)
    seconds, overlap = _number("seconds", seconds), _number("overlap", overlap)
    repeats = check_repeats(repeats)
    spec, asked = model.spec, request_of(request, settings)
    frames = model.shape(None)[-1]
    window = spec.seconds(frames)
    if not SHORTEST_OVERLAP <= overlap <= seconds or not seconds <= MAX_SECONDS:
        raise RequestError(
            f"a loop lasts from its overlap of {overlap:g} s to {MAX_SECONDS:g} s, not {seconds:g}"
        )
    if seconds + SHORTEST_OVERLAP > window:
        filler = GapFiller("loop", model, asked, overlap, progress=progress, stop=stop)
        return _long_loop(filler, seconds, repeats)
    period = round(seconds * spec.frame_rate)
    control = SelfLoop(period, min(round(overlap * spec.frame_rate), frames - period, period))
    request = replace(asked, controls=(control, *asked.controls), seconds=None, count=1)

    def watch(step: Step) -> None:
        if progress is not None:
            progress(0, 1, step)

    result = run(request, model, watch=watch, stop=stop)
    sound = np.atleast_2d((result.audio[0] if result.sound is None else result.sound[0]).numpy())
    length = round(seconds * spec.sample_rate)
    once = closed(sound, length, round(FADE_SECONDS * spec.sample_rate))
    return Edit(
        kind="loop",
        model=model,
        timeline=Timeline(once, Known(length), spec.sample_rate),
        parts=(Part.of(result),),
        gaps=((0, length),),
        repeats=repeats,
        request=asked,
        asked={"seconds": seconds, "overlap": overlap, "repeats": repeats},
        notes=result.notes,
    )


def _long_loop(filler: GapFiller, seconds: float, repeats: int) -> Edit:
    """Return a loop of several windows: the first, and what leads from it back to its start."""
    whole = silence(filler.model, seconds)
    window = ModelWindow.of(whole, filler.model, filler.overlap)
    # The way back needs as much room as it shares with either side.
    first = min(window.length, whole.length - window.overlap)
    begun = filler.begin(whole, first)
    timeline = replace(whole, samples=whole.samples[:, :first], known=whole.known[:first])
    asked = {"seconds": seconds, "overlap": filler.overlap, "repeats": repeats}
    return _led_back(filler, timeline, whole.length, repeats, asked, (Part.of(begun),))


def closed(sound: np.ndarray, length: int, fade: int) -> np.ndarray:
    """Cut one round of a loop out of a clip that returns to its start.

    Args:
        sound: the clip, shape (channels, n).
        length: samples of a round, at most n.
        fade: samples by which what follows the round fades into its start, or as many as there
            are; 0 cuts.

    Returns:
        Shape (channels, length).
    """
    once = sound[:, :length].copy()
    if fade := min(fade, sound.shape[1] - length):
        once[:, :fade] = crossfaded(sound[:, length : length + fade], sound[:, :fade])
    return np.clip(once, -CEILING, CEILING)


def check_repeats(repeats: Any) -> int:
    """Return how often a loop is written.

    Raises:
        RequestError: it is out of range.
    """
    return int(check_number("repeats", repeats, 1, MAX_REPEATS))
