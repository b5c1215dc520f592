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

from ditto.edit.ending import music_end
from ditto.edit.legacy import model_first
from ditto.edit.result import Edit, Part
from ditto.edit.timeline import FADE_SECONDS, Timeline
from ditto.edit.windows import GapFiller, Progress
from ditto.errors import RequestError
from ditto.models.model import MusicModel, check_model
from ditto.optimize import Stop, never
from ditto.paths import StrPath, printable, shown
from ditto.request import Request

MAX_SECONDS = 3600.0
ROUNDED = 1e-3
"""Seconds by which a region may pass the file's end, whose length is told in milliseconds."""

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
    overlap = edit_number("overlap", overlap)
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
        failures=tuple(filler.failures),
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
    return tuple(dict.fromkeys([*filler.notes, *filler.idle()]))


def edit_number(name: str, value: Any) -> float:
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
        regions = [(edit_number("from", start), edit_number("to", end)) for start, end in regions]
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
        if end > timeline.seconds + ROUNDED:
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
    seconds, overlap = edit_number("seconds", seconds), edit_number("overlap", overlap)
    timeline = opened(recording)
    timeline, notes = _going_on(timeline, begin, overlap, direction == "backwards")
    check_overlap(timeline, overlap)
    if not timeline.seconds < seconds <= MAX_SECONDS:
        raise RequestError(
            f"seconds, the length of the whole, must be above the {length_of(timeline)} and at "
            f"most {MAX_SECONDS:g}, not {seconds:g}"
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
        failures=tuple(filler.failures),
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
                f"what is new can go on from 0 to the {length_of(timeline)}, not from {begin:g} s"
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


def check_overlap(timeline: Timeline, overlap: float) -> None:
    """Raise RequestError unless the overlap lies in the recording."""
    if not overlap > 0 or overlap > timeline.seconds:
        raise RequestError(
            f"the overlap must be above 0 and at most the {length_of(timeline)}, not {overlap:g}"
        )


def length_of(timeline: Timeline) -> str:
    """Return a recording's length and name, for messages."""
    return f"{timeline.seconds:.2f} s of {printable(timeline.name)}"
