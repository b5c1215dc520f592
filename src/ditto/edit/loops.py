"""Loops: the end of a clip or of a recording leads back into its start (DITTO §4)."""

from dataclasses import replace
from typing import Any

import numpy as np

from ditto.audio.limiter import CEILING
from ditto.controls.regions import SelfLoop
from ditto.edit.edits import (
    MAX_SECONDS,
    check_overlap,
    edit_number,
    length_of,
    opened,
    request_of,
    told,
)
from ditto.edit.legacy import model_first
from ditto.edit.result import Edit, Part
from ditto.edit.timeline import FADE_SECONDS, Known, Timeline, crossfaded, silence
from ditto.edit.windows import GapFiller, ModelWindow, Progress, WindowPlan, possible
from ditto.errors import RequestError
from ditto.methods.base import check_number
from ditto.models.model import MusicModel, check_model
from ditto.optimize import Stop, never
from ditto.paths import StrPath
from ditto.request import Request
from ditto.runner import Run, Watch, run

MAX_REPEATS = 1000
BEATS_PER_BAR = 4
SELF_OVERLAP, SHORTEST_OVERLAP = 0.5, 0.1
"""Seconds by which a loop without a recording repeats its start (the paper's), and the least of
them."""


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
    overlap, repeats = edit_number("overlap", overlap), check_repeats(repeats)
    timeline = opened(recording)
    check_overlap(timeline, overlap)
    window = model.spec.seconds(model.shape(None)[-1])
    if seconds is None:
        whole = timeline.seconds + max(window - 2 * overlap - 0.01, 0.5)
    else:
        whole = edit_number("seconds", seconds)
    if not timeline.seconds + 0.05 <= whole <= MAX_SECONDS:
        raise RequestError(
            f"the loop must be longer than the {length_of(timeline)}, so that a way back to its "
            f"start can be made: not {whole:g} s"
        )
    filler = GapFiller("loop", model, request, overlap, whole, progress=progress, stop=stop)
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
        failures=tuple(filler.failures),
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

    A clip without the loop is made first: the loop begins as it does, and returns there. One that
    does not fit the model's window is begun with a window, continued, and led back to its start.

    Args:
        model: from `ditto.load`.
        seconds: length of the loop.
        request: tags, method and what else makes the music; its controls are in the loop's time,
            and their relative curves stretch over it.
        overlap: seconds that are made twice, at least 0.1; less is taken if the window has no room.
        repeats: how often the loop is written.
        progress: called with (part, parts, step).
        stop: called with every step; True ends the optimisation of a part.
        settings: fields of `Request`, in place of `request`.

    Raises:
        RequestError: the length or the overlap is out of range.
    """
    check_model(model)
    seconds, overlap = edit_number("seconds", seconds), edit_number("overlap", overlap)
    repeats = check_repeats(repeats)
    spec, asked = model.spec, request_of(request, settings)
    frames = model.shape(None)[-1]
    window = spec.seconds(frames)
    if not SHORTEST_OVERLAP <= overlap <= seconds or not seconds <= MAX_SECONDS:
        raise RequestError(
            f"a loop lasts from its overlap of {overlap:g} s to {MAX_SECONDS:g} s, not {seconds:g}"
        )
    whole = silence(model, seconds)
    filler = GapFiller("loop", model, asked, overlap, whole.seconds, progress=progress, stop=stop)
    arguments = {"seconds": seconds, "overlap": overlap, "repeats": repeats}
    if seconds + SHORTEST_OVERLAP > window:
        return _long_loop(filler, whole, repeats, arguments)
    period = round(seconds * spec.frame_rate)
    # The clip is as long as the window, of which the loop is the first part: its controls are too.
    controls = tuple(filler.controls(whole, WindowPlan((0, whole.length), 0)))
    candidate = asked.candidate_of(0)
    begun = replace(asked, controls=controls, seconds=None, count=1, candidate=candidate)
    count = 1 + bool(controls)

    def watch(part: int) -> Watch:
        return lambda step: progress(part, count, step) if progress is not None else None

    shared = min(round(overlap * spec.frame_rate), frames - period, period)
    closing = SelfLoop(period, shared)
    request = replace(begun, controls=(closing, *controls))
    Run(request, model)  # a method that cannot close the loop is refused before any work
    plain = run(possible(begun), model, watch=watch(0), stop=stop, compare=False)
    request = replace(request, controls=(replace(closing, start=plain.x_0[0]), *controls))
    result = run(request, model, watch=watch(count - 1), stop=stop)
    sound = np.atleast_2d((result.audio[0] if result.sound is None else result.sound[0]).numpy())
    once = closed(sound, whole.length, round(FADE_SECONDS * spec.sample_rate))
    made = Part.of(result)
    return Edit(
        kind="loop",
        model=model,
        timeline=Timeline(once, Known(whole.length), spec.sample_rate),
        parts=(replace(made, seconds=made.seconds + sum(plain.timings.values())),),
        gaps=((0, whole.length),),
        repeats=repeats,
        request=asked,
        asked=arguments,
        notes=(*result.remarks(), *filler.idle()),
        failures=(*plain.notes, *result.notes),
    )


def _long_loop(filler: GapFiller, whole: Timeline, repeats: int, asked: dict[str, Any]) -> Edit:
    """Return a loop of several windows: the first, and what leads from it back to its start."""
    window = ModelWindow.of(whole, filler.model, filler.overlap)
    # The way back needs as much room as it shares with either side.
    first = min(window.length, whole.length - window.overlap)
    begun = filler.begin(whole, first)
    timeline = replace(whole, samples=whole.samples[:, :first], known=whole.known[:first])
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
