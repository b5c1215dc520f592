"""Fill gaps of a recording: the core of inpainting, outpainting and looping (DITTO section 4).

A gap is filled in one window of the model, or in several that overlap what is there already by
`overlap` seconds. In each, DITTO makes a clip whose known frames match the recording's, and the
clip's sound takes the gap's place.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ditto.controls.base import Control, shortest_span
from ditto.controls.output import FrameSpans, Window
from ditto.controls.regions import Region
from ditto.edit.result import mel_columns
from ditto.edit.timeline import FADE_SECONDS, Timeline, clip_at_rate
from ditto.errors import RequestError
from ditto.latents import item_seed
from ditto.methods.none import Uncontrolled
from ditto.models.conditioning import Tags
from ditto.models.model import MusicModel
from ditto.optimize import GradientError, Step, Stop, never
from ditto.request import Request
from ditto.result import Result
from ditto.runner import run

CANCELLING, SILENT_POWER = 1000.0, 1e-9
"""Power of the channels over that of their mean from which they cancel out, and what is silence."""
COLUMNS = 512
"""Of a whole song's log-mel, as the form of the whole sees it."""

Progress = Callable[[int, int, Step], None]
"""Called with (part, parts, step) after every iteration."""


@dataclass(frozen=True)
class WindowPlan:
    """One window: what it fills, and where it begins, in samples of the recording."""

    gap: tuple[int, int]
    start: int


@dataclass(frozen=True)
class ModelWindow:
    """The model's window in a recording's samples.

    Attributes:
        frames: of the model.
        length: samples of the recording that they stand for, rounded down.
        overlap: samples that a window shares with what is known before or after its gap.
    """

    frames: int
    length: int
    overlap: int

    @classmethod
    def of(cls, timeline: Timeline, model: MusicModel, overlap: float) -> "ModelWindow":
        """Measure one window of the model.

        Raises:
            RequestError: the overlap is not positive, or leaves less than a quarter of the window
                to fill.
        """
        frames = model.shape(None)[-1]
        seconds = model.spec.seconds(frames)
        if not 0 < overlap <= 0.75 * seconds:
            raise RequestError(
                f"the overlap must be above 0 and at most {0.75 * seconds:.2f} s, not {overlap:g}"
            )
        return cls(frames, int(seconds * timeline.sample_rate) - 64, timeline.at(overlap))


def plan_windows(
    gap: tuple[int, int], window: ModelWindow, left: bool, right: bool, length: int
) -> list[WindowPlan]:
    """Return windows that fill a gap in turn, from the left if it is known there, else the right.

    Args:
        gap: samples, (first, after the last).
        window: the model's.
        left: whether the sound before the gap is known.
        right: whether the sound after it is known.
        length: of the recording, which windows keep within where they can.
    """
    first, last = gap
    found = []
    step = window.length - window.overlap
    # Between two known sides with an overlap of half the window or more, the last window shares
    # less than the overlap with its left, but makes something in any case.
    room = max(window.length - window.overlap * (left + right), step // 2, 1)
    while last - first > room:
        # Of a wide gap between two known sides the last window must reach both.
        size = min(step, last - first - 1)
        if left:
            found.append(WindowPlan((first, first + size), first - window.overlap))
            first += size
        else:
            found.append(WindowPlan((last - size, last), last + window.overlap - window.length))
            last -= size
    return [*found, WindowPlan((first, last), _start(first, last, window, left, right, length))]


def _start(first: int, last: int, window: ModelWindow, left: bool, right: bool, length: int) -> int:
    """Return where the last window begins."""
    if left and right:
        centred = first - (window.length - (last - first)) // 2
        inside = min(max(centred, 0), max(length - window.length, 0))
        return min(
            max(inside, last + min(window.overlap, length - last) - window.length), first - 1
        )
    return first - window.overlap if left else last + window.overlap - window.length


@dataclass(frozen=True, eq=False)
class GapFiller:
    """Fills gaps, window by window.

    Attributes:
        kind: "inpaint", "outpaint", "loop" or "song".
        model, request: what makes the music; the request's controls are asked for in the gaps, in
            the recording's time.
        overlap: seconds of context that a window shares with each side.
        total: length in seconds of the whole that the controls are of; by default the timeline's.
        all_context: match all that the window holds, not only the overlap.
        halt: asked after every window; True leaves what is not filled yet as it is.
        fade: seconds of the cross-fades; 0 is a bare cut.
        progress: see `Progress`.
        stop: called with every step; True ends the window's optimisation.
        unfilled: what `fill` left as it was, in samples: after a halt, or a failure of a window.
        notes: what a user should know about how it went.
        failures: why windows failed, of which the best so far was kept, or nothing.
        followed: which of the request's controls had something to follow in what is new.
    """

    kind: str
    model: MusicModel
    request: Request
    overlap: float = 1.0
    total: float | None = None
    all_context: bool = False
    fade: float = FADE_SECONDS
    progress: Progress | None = None
    stop: Stop = never
    halt: Callable[[], bool] | None = None
    unfilled: list[tuple[int, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    followed: set[int] = field(default_factory=set)

    def fill(
        self, timeline: Timeline, gaps: Sequence[tuple[int, int]], made: int = 0
    ) -> Iterator[Result]:
        """Fill all gaps of a recording, in place, window by window.

        Args:
            timeline: the recording.
            gaps: samples, (first, after the last).
            made: windows before these, which progress and seeds count on from.

        Yields:
            What was made for each window.

        Raises:
            DittoError: a gap has nothing known beside it, or the request does not fit.
            GradientError: the first window failed; after that, what is done is kept.
        """
        timeline.forget(gaps)
        plan = list(self._plan(timeline, gaps))
        for i, piece in enumerate(plan):
            try:
                yield self._fill(timeline, piece, made + i, made + len(plan))
            except GradientError as error:
                if made + i == 0:
                    raise
                self.notes.append(f"ended before window {made + i + 1}: {error}")
                self.failures.append(str(error))
                self._leave(plan[i:])
                return
            if i + 1 < len(plan) and self.halt is not None and self.halt():
                self.notes.append(f"stopped after window {i + 1} of {len(plan)}")
                self._leave(plan[i + 1 :])
                return

    def begin(self, timeline: Timeline, length: int) -> Result:
        """Make the first window of music that has no recording, in place.

        Args:
            timeline: nothing of it known.
            length: samples to make, at most a window's.
        """
        rest = list(self._plan(timeline, [(length, timeline.length)]))
        return self._fill(timeline, WindowPlan((0, length), 0), 0, 1 + len(rest))

    def _leave(self, plan: Sequence[WindowPlan]) -> None:
        """Remember what was not filled, windows that touch as one."""
        for first, last in sorted(piece.gap for piece in plan):
            if self.unfilled and self.unfilled[-1][1] == first:
                first = self.unfilled.pop()[0]
            self.unfilled.append((first, last))

    def done(self, gaps: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
        """Return what was filled of the gaps, in samples."""
        found = []
        for first, last in sorted(gaps):
            cuts = [span for span in self.unfilled if first <= span[0] and span[1] <= last]
            edges = [first, *(edge for span in cuts for edge in span), last]
            pairs = zip(edges[::2], edges[1::2], strict=True)
            found += [(start, end) for start, end in pairs if start < end]
        return tuple(found)

    def joins(self, timeline: Timeline, gaps: Sequence[tuple[int, int]]) -> tuple[int, ...]:
        """Return where the windows that fill the gaps begin and end, in samples."""
        return tuple(sorted({edge for piece in self._plan(timeline, gaps) for edge in piece.gap}))

    def _plan(self, timeline: Timeline, gaps: Sequence[tuple[int, int]]) -> Iterator[WindowPlan]:
        window = ModelWindow.of(timeline, self.model, self.overlap)
        for first, last in sorted(gaps):
            left = first > 0
            right = last < timeline.length
            if not left and not right:
                raise RequestError(
                    "nothing of the recording would be left: keep some of it to go on from"
                )
            yield from plan_windows((first, last), window, left, right, timeline.length)

    def _fill(self, timeline: Timeline, piece: WindowPlan, i: int, of: int) -> Result:
        """Make a window's clip and put it in place."""
        region = [self._region(timeline, piece)] if timeline.known.any() else []
        start = (piece.start - timeline.origin) / timeline.sample_rate
        request = replace(
            self.request,
            controls=(*region, *self.controls(timeline, piece)),
            seed=item_seed(self.request.seed, i),
            tags=self._tags(start),
            seconds=None,
            count=1,
            start=None,
            candidate=self.request.candidate_of(i),
        )

        def watch(step: Step) -> None:
            if self.progress is not None:
                self.progress(i, of, step)

        result = run(possible(request), self.model, watch=watch, stop=self.stop)
        self.notes.extend(f"window {i + 1} of {of}: {note}" for note in result.remarks())
        self.failures.extend(result.notes)
        sound = result.audio[0] if result.sound is None else result.sound[0]
        clip = timeline.spread(clip_at_rate(sound, self.model, timeline.sample_rate), piece.start)
        fade = min(timeline.at(self.fade), timeline.at(self.overlap))
        timeline.fill(piece.gap, clip, piece.start, fade)
        return result

    def _region(self, timeline: Timeline, piece: WindowPlan) -> Region:
        """Return the region that the window's clip has to match."""
        spec, frames = self.model.spec, self.model.shape(None)[-1]
        margin = spec.margin_frames
        self._check_heard(timeline, piece)
        with torch.no_grad():
            heard = timeline.heard(piece.start, frames, margin, spec)[None].to(self.model.device)
            reference = self.model.encode(heard)[0, ..., margin : margin + frames].float().cpu()
        known = timeline.known_frames(piece.start, frames, spec)
        if not self.all_context:
            known &= self._near(timeline, piece, frames)
        if not known.any():
            at = piece.gap[0] / timeline.sample_rate
            least = (spec.n_fft + spec.hop) / spec.sample_rate
            raise RequestError(
                f"there is too little sound to go on from at {at:.2f} s: the recording needs at "
                f"least {least:.2f} s beside what is to be made"
            )
        return Region("outpaint" if self.kind == "song" else self.kind, reference, _spans(known))

    def _check_heard(self, timeline: Timeline, piece: WindowPlan) -> None:
        """Note a recording whose channels cancel out, of which the model hears nothing."""
        reach = timeline.at(self.overlap)
        around = slice(max(piece.gap[0] - reach, 0), piece.gap[1] + reach)
        sound = timeline.samples[:, around][:, timeline.known[around]].astype(np.float64)
        if len(sound) < 2 or not sound.size:
            return
        mono, loudness = (sound.mean(axis=0) ** 2).mean(), (sound**2).mean()
        if loudness > SILENT_POWER and mono < loudness / CANCELLING:
            at = piece.gap[0] / timeline.sample_rate
            self.notes.append(
                f"around {at:.2f} s the channels cancel out (one is the other upside down): the "
                "model, which hears their mean, hears next to nothing there; mend the recording's "
                "polarity first"
            )

    def _near(self, timeline: Timeline, piece: WindowPlan, frames: int) -> np.ndarray:
        """Return which frames lie within the overlap of the gap, shape (frames,), bool."""
        ratio = timeline.sample_rate / self.model.spec.sample_rate
        at = piece.start + np.arange(frames) * self.model.spec.hop * ratio
        reach = timeline.at(self.overlap)
        return (at >= piece.gap[0] - reach) & (at < piece.gap[1] + reach)

    def controls(self, timeline: Timeline, piece: WindowPlan) -> Iterator[Control]:
        """Yield the request's own controls as seen from this window, counting in its gap."""
        rate, spec = timeline.sample_rate, self.model.spec
        length = spec.seconds(self.model.shape(None)[-1])
        start = piece.start / rate
        new = (max(piece.gap[0] / rate - start, 0.0), min(piece.gap[1] / rate - start, length))
        if new[1] - new[0] < shortest_span(spec):
            return
        before = partial(self._before, timeline, piece) if self.kind == "song" else None
        whole = Window(start, timeline.seconds if self.total is None else self.total, new, before)
        for i, control in enumerate(self.request.controls):
            moved = control.in_window(whole, spec)
            if moved is not None:
                if not moved.absent((new,)):
                    self.followed.add(i)
                yield moved.during(new)

    def idle(self) -> list[str]:
        """Return a note for each control that had nothing to follow in what is new."""
        idle = (c for i, c in enumerate(self.request.controls) if i not in self.followed)
        return [
            f"nothing of {control.bare().noun} lies in what is new, so it had no effect: its times "
            "are those of the whole"
            for control in idle
        ]

    def _before(self, timeline: Timeline, piece: WindowPlan) -> tuple[Tensor, int]:
        """Return `Window.before`: at most `COLUMNS` columns for the whole, however long it is."""
        spec = self.model.spec
        stride = max(1, round(timeline.seconds * spec.frame_rate / COLUMNS))
        first = piece.gap[0]
        if not first:
            return torch.zeros(spec.n_mels, 0), stride
        past = replace(timeline, samples=timeline.samples[:, :first], known=timeline.known[:first])
        return mel_columns(past, spec, stride), stride

    def _tags(self, start: float) -> Tags:
        """Return the tags, with beats counted on to `start` seconds of the recording."""
        tags = self.request.tags
        if tags.tempo is None or tags.beat is None:
            return tags
        return replace(tags, beat=tags.beat + start * tags.tempo / 60)


def possible(request: Request) -> Request:
    """Return a request, by plain sampling where its method needs a control and there is none.

    The first window of music from nothing has nothing to match yet; those after it have.
    """
    method = request.method
    if request.controls or method is None or not method.needs_control:
        return request
    steps = getattr(method, "steps", None)
    return replace(request, method=Uncontrolled(**({"steps": steps} if steps else {})))


def _spans(known: np.ndarray) -> FrameSpans:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], known.astype(np.int8), [0]]))).tolist()
    return tuple(zip(edges[::2], edges[1::2], strict=True))
