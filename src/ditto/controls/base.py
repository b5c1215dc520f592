"""What a control is: a differentiable feature of the output, a target, and a loss (DITTO §4).

Controls are small objects that add and scale::

    objective = Intensity("crescendo") / 40 + Melody.from_notes("C4:1 E4:1")

A control is called as ``control(x_0, model) -> loss (B,)``. The sum of n controls is the papers'
(1/n)·Σ λ_i 𝓛_i; its parts share one `Output`, so the vocoder runs once however many controls need
sound. ``control.during((2.0, 6.0))`` counts part of the time only; the rest is "don't care" (DITTO
appendix H; Music ControlNet).

A new control is one file beside this one, one line in `ditto.controls`, and one test.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from ditto.audio.spec import AudioSpec
from ditto.controls.output import FrameSpans, Output, Window
from ditto.controls.parsing import Option, ParseContext
from ditto.errors import ControlError
from ditto.models.model import MusicModel
from ditto.panels import Panel, Spans
from ditto.paths import shown


@dataclass(frozen=True)
class Effort:
    """How DITTO-2 with corrections follows a control, where its settings say nothing else.

    Attributes:
        iterations: K; its steps are longer than the papers'.
        travel: K · lr at most. The music is kept where x_T stays near the noise that the model
            knows, and so by the next two.
        regulariser: λ of the pull of x_T's statistics towards those of noise (`LatentStatistics`),
            beside the control's loss.
        candidates: noises of which the best begins.
        tag_pull: λ of the pull towards the tags (`ditto.controls.held`) beside the control's loss.
    """

    iterations: int = 70
    travel: float = 1.05
    regulariser: float = 0.0
    candidates: int = 1
    tag_pull: float = 0.0


class Control(ABC):
    """A feature, a target and a loss.

    Attributes:
        kind: name in reports, and of the command line's option.
        iterations: K, the papers' for this kind of control.
        corrected: how DITTO-2 with corrections follows it.
        help: what the command line's ``--<kind>`` takes.
        like_help: what ``--<kind>-like`` takes; empty for controls that have none.
        noun: what it is called in messages.
        other_names: other spellings of the option.
        options: further options that go with it.
        grows_evenly: whether the feature grows with the clip's length, and not with its square: it
            is then measured over a whole song.
    """

    kind: str
    iterations: ClassVar[int] = 70
    corrected: ClassVar[Effort] = Effort()
    help: ClassVar[str] = ""
    like_help: ClassVar[str] = ""
    noun: ClassVar[str] = "the control"
    other_names: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[tuple[Option, ...]] = ()
    grows_evenly: bool = True

    @abstractmethod
    def loss(self, output: Output) -> Tensor:
        """Return 𝓛(f(x_0), y) of each item, shape (B,), float32; differentiable."""

    @abstractmethod
    def errors(self, output: Output) -> dict[str, Tensor]:
        """Return what the papers report, each (B,), by name with unit (``intensity_mse_db2``)."""

    @abstractmethod
    def check(self, model: MusicModel, frames: int) -> None:
        """Refuse a target that does not fit a clip of `frames` frames.

        Raises:
            ControlError: with what to change.
        """

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return the control as JSON; `ditto.controls.control_from_dict` reads it."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Control":
        """Return the control that `to_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError: the description is incomplete (a recording's, or one
                of very many points).
        """
        raise ValueError(f"a {values.get('control')} control cannot be read from a report")

    @classmethod
    def parse(cls, text: str, context: ParseContext) -> "Control":
        """Return the control that ``--<kind> TEXT`` asks for.

        Raises:
            ControlError: the text cannot be read.
        """
        return cls(text)  # pyright: ignore[reportCallIssue]

    @classmethod
    def parse_like(cls, path: Path, context: ParseContext) -> "Control":
        """Return the control that ``--<kind>-like RECORDING`` asks for.

        Raises:
            AudioFileError: the recording cannot be read.
        """
        raise ControlError(f"there is no recording to take {cls.noun} from")

    def panels(self, output: Output, item: int) -> list[Panel]:
        """Return target and achieved curves of one item, for pictures."""
        return []

    def understood(self) -> list[str]:
        """Return what was understood of what a user gave, a line each, to show before the work."""
        return []

    def warnings(self, model: MusicModel, frames: int) -> list[str]:
        """Return what a user should know about the target and a clip of `frames` frames."""
        return []

    def absent(self, spans: Spans) -> bool:
        """Tell whether there is nothing to follow within spans of the clip, in seconds."""
        return False

    def proxy(self) -> "Control":
        """Return the same control by a cheaper feature, if it has one; see `calibrate`."""
        return self

    def calibrate(self, decoded: Output) -> "Control":
        """Return a proxy that agrees with the true feature at `decoded`; constant to autograd."""
        return self

    def default_weight(self, others: "Sequence[Control]") -> float:
        """Return λ beside `others`, where no control has a weight of its own."""
        return 1.0

    def bare(self) -> "Control":
        """Return the control without what wraps it (spans of time)."""
        return self

    def terms(self) -> "tuple[tuple[Control, float], ...]":
        """Return the controls it is a sum of, with their weights."""
        return ((self, 1.0),)

    def in_window(self, window: Window, spec: AudioSpec) -> "Control | None":
        """Return a control in a recording's time as seen from one window of it.

        Args:
            window: its place in the recording; relative targets stretch over the whole recording.
            spec: of the model.

        Returns:
            The control in the window's time, or None where it asks for nothing.

        Raises:
            ControlError: it cannot be taken apart into windows.
        """
        return self

    def known_region(self) -> tuple[Tensor, FrameSpans] | None:
        """Return the reference (…, frames) and the frames of x_0 that are known, if this keeps any.

        Masking methods and Guidance Gradients use it.
        """
        return None

    @property
    def items(self) -> int | None:
        """How many clips a batch must have, if each has something of its own; else None."""
        return None

    def for_item(self, item: int) -> "Control":
        """Return what one item of a batch follows: the same, unless each has one of its own."""
        return self

    def adapter_target(self, model: MusicModel, frames: int) -> tuple[str, Tensor] | None:
        """Return what a ControlNet is fed: ("levels" in dB or "classes", (frames,)), or None."""
        return None

    def during(self, *spans: tuple[float, float]) -> "Control":
        """Return the control within `spans` (from, to in seconds); the rest is "don't care".

        Raises:
            ControlError: a span is empty, starts before 0, or is not finite.
        """
        return Masked(self, spans)

    def __call__(
        self, x_0: Tensor, model: MusicModel, x_T: Tensor | None = None, seeds: tuple[int, ...] = ()
    ) -> Tensor:
        """Return the loss (B,) of x_0 (B, 1, n_mels, frames), and of x_T if it is given.

        Args:
            x_0: what is heard.
            model: makes it sound.
            x_T: the latent that it is of.
            seeds: of the decoder's noise, see `MusicModel.to_audio`.
        """
        return self.loss(Output(x_0, model, x_T=x_T, seeds=seeds))

    def error(self, x_0: Tensor, model: MusicModel) -> dict[str, Tensor]:
        """Return `errors` of x_0."""
        return self.errors(Output(x_0, model))

    def __add__(self, other: "Control") -> "Sum":
        if not isinstance(other, Control):
            return NotImplemented
        return Sum((*self.terms(), *other.terms()))

    def __radd__(self, other: Any) -> "Control":
        """Begin a sum: ``sum([a, b])`` adds the first control to 0."""
        return self if other == 0 and isinstance(other, Real) else NotImplemented

    def __mul__(self, weight: float) -> "Sum":
        if not isinstance(weight, Real):
            return NotImplemented
        return Sum(tuple((control, w * weight) for control, w in self.terms()))

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> "Sum":
        if not isinstance(divisor, Real):
            return NotImplemented
        if divisor == 0:
            raise ControlError("a control cannot be divided by 0")
        return self * (1 / divisor)


@dataclass(frozen=True)
class Sum(Control):
    """(1/n)·Σ λ_i 𝓛_i over n controls (DITTO appendix H).

    Attributes:
        parts: controls with their λ.
    """

    parts: tuple[tuple[Control, float], ...]
    kind = "sum"

    def __post_init__(self) -> None:
        """Check the weights, and that parts of several clips are of equally many.

        Raises:
            ControlError: they are not.
        """
        for _, weight in self.parts:
            if not isinstance(weight, Real) or not math.isfinite(weight):
                raise ControlError(f"a control's weight must be a number, not {shown(weight)}")
        counts = {control.items for control, _ in self.parts} - {None}
        if len(counts) > 1:
            told = " and ".join(str(count) for count in sorted(counts, key=str))
            raise ControlError(f"controls are given for {told} clips: give all for equally many")
        parts = tuple((control, float(weight)) for control, weight in self.parts)
        object.__setattr__(self, "parts", parts)
        evenly = all(control.bare().grows_evenly for control, _ in parts)
        object.__setattr__(self, "grows_evenly", evenly)

    def terms(self) -> tuple[tuple[Control, float], ...]:
        """Return the parts."""
        return self.parts

    def loss(self, output: Output) -> Tensor:
        """Return the weighted mean of the parts' losses."""
        losses = [weight * control.loss(output) for control, weight in self.parts]
        return sum(losses[1:], losses[0]) / len(losses)

    def proxy(self) -> "Sum":
        """Return the sum of the parts' proxies."""
        return Sum(tuple((control.proxy(), weight) for control, weight in self.parts))

    def calibrate(self, decoded: Output) -> "Sum":
        """Return the sum of the parts, each calibrated."""
        return Sum(tuple((control.calibrate(decoded), weight) for control, weight in self.parts))

    def errors(self, output: Output) -> dict[str, Tensor]:
        """Return the parts' errors; a second control of one kind gets a number in its names."""
        merged: dict[str, Tensor] = {}
        for control, _ in self.parts:
            for name, value in control.errors(output).items():
                repeats = sum(key.split("#")[0] == name for key in merged)
                merged[f"{name}#{repeats + 1}" if repeats else name] = value
        return merged

    def check(self, model: MusicModel, frames: int) -> None:
        """Check every part."""
        for control, _ in self.parts:
            control.check(model, frames)

    def panels(self, output: Output, item: int) -> list[Panel]:
        """Return the parts' panels."""
        return [panel for control, _ in self.parts for panel in control.panels(output, item)]

    def understood(self) -> list[str]:
        """Return what was understood of the parts."""
        return [line for control, _ in self.parts for line in control.understood()]

    def warnings(self, model: MusicModel, frames: int) -> list[str]:
        """Return the parts' warnings."""
        return [line for control, _ in self.parts for line in control.warnings(model, frames)]

    def in_window(self, window: Window, spec: AudioSpec) -> "Sum | None":
        """Return the sum of what the parts ask for in the window."""
        moved = [(control.in_window(window, spec), weight) for control, weight in self.parts]
        parts = tuple((control, weight) for control, weight in moved if control is not None)
        return Sum(parts) if parts else None

    @property
    def items(self) -> int | None:
        """How many clips a part is of."""
        return next((n for control, _ in self.parts if (n := control.items) is not None), None)

    def for_item(self, item: int) -> "Sum":
        """Return the sum of what the item follows."""
        return Sum(tuple((control.for_item(item), weight) for control, weight in self.parts))

    def to_dict(self) -> dict[str, Any]:
        """Return the parts with their weights."""
        terms = [{"weight": weight, **control.to_dict()} for control, weight in self.parts]
        return {"control": self.kind, "terms": terms}


@dataclass(frozen=True)
class Masked(Control):
    """A control that counts within some spans of time.

    Attributes:
        control: what counts.
        spans: when, in seconds.
    """

    control: Control
    spans: Spans
    kind = "masked"

    def __post_init__(self) -> None:
        """Check the spans."""
        try:
            spans = tuple((float(start), float(end)) for start, end in self.spans)
        except (TypeError, ValueError):
            raise ControlError(
                f"a control counts during pairs of seconds, such as (2.0, 6.0), not "
                f"{shown(self.spans)}"
            ) from None
        object.__setattr__(self, "spans", spans)
        for start, end in spans or ((0.0, 0.0),):
            if not (math.isfinite(start) and math.isfinite(end) and 0 <= start < end):
                raise ControlError(
                    "a control must count from some second to a later one, not from "
                    f"{start:g} to {end:g}"
                )

    def bare(self) -> Control:
        """Return the control itself."""
        return self.control.bare()

    def during(self, *spans: tuple[float, float]) -> "Masked":
        """Return the control within what `spans` and its own have in common.

        Raises:
            ControlError: they have nothing in common, or a span makes no sense.
        """
        other = Masked(self.control, spans)
        common = self._common(other.spans)
        if not common:
            raise ControlError("the spans in which a control is to count have nothing in common")
        return Masked(self.control, common)

    def _common(self, spans: Spans) -> Spans:
        """Return what spans and the control's own have in common."""
        return tuple(
            (max(a, c), min(b, d)) for a, b in self.spans for c, d in spans if a < d and c < b
        )

    def loss(self, output: Output) -> Tensor:
        """Return the control's loss over the frames that count."""
        return self.control.loss(output.during(self.spans))

    def proxy(self) -> "Masked":
        """Return the control's proxy within the same spans."""
        return replace(self, control=self.control.proxy())

    def calibrate(self, decoded: Output) -> "Masked":
        """Return the control calibrated over all frames."""
        return replace(self, control=self.control.calibrate(decoded))

    def understood(self) -> list[str]:
        """Return what was understood of the control."""
        return self.control.understood()

    def errors(self, output: Output) -> dict[str, Tensor]:
        """Return the control's errors over the frames that count."""
        return self.control.errors(output.during(self.spans))

    def check(self, model: MusicModel, frames: int) -> None:
        """Check the control, that each span holds two frames of the clip, and regions one."""
        seconds = model.spec.seconds(frames)
        for start, end in self.spans:
            if min(end, seconds) - start < 2 / model.spec.frame_rate:
                raise ControlError(
                    f"nothing of {start:g} to {end:g} s lies within the clip, which ends at "
                    f"{seconds:.2f} s"
                )
        for control, _ in self.bare().terms():
            known = control.bare().known_region()
            # The mean square error of no frame is no number, and has no gradient.
            if known is not None and not self._reaches(known[1], model.spec.frame_rate):
                when = ", ".join(f"{start:g} to {end:g} s" for start, end in self.spans)
                raise ControlError(f"nothing of the region to {control.kind} lies within {when}")
        self.control.check(model, frames)

    def _reaches(self, frames: FrameSpans, rate: float) -> bool:
        """Tell whether a frame of some stretches counts, at so many frames a second."""
        counted = (frame / rate for first, last in frames for frame in range(first, last))
        return any(start <= at < end for at in counted for start, end in self.spans)

    def warnings(self, model: MusicModel, frames: int) -> list[str]:
        """Return the control's warnings, and whether there is nothing to follow."""
        found = self.control.warnings(model, frames)
        if self.absent(self.spans):
            when = ", ".join(f"{start:g} to {end:g} s" for start, end in self.spans)
            found.append(f"nothing of {self.bare().noun} lies within {when}: it has no effect")
        return found

    def absent(self, spans: Spans) -> bool:
        """Tell whether there is nothing to follow within spans of the clip."""
        common = self._common(spans)
        return not common or self.control.absent(common)

    def panels(self, output: Output, item: int) -> list[Panel]:
        """Return the control's panels, marked with the spans."""
        panels = self.control.panels(output.during(self.spans), item)
        return [replace(panel, during=(*panel.during, *self.spans)) for panel in panels]

    def in_window(self, window: Window, spec: AudioSpec) -> "Control | None":
        """Return the control within the part of the spans that is new in the window."""
        first, last = window.new
        clipped = [
            (max(start - window.start, first), min(end - window.start, last))
            for start, end in self.spans
        ]
        spans = tuple((start, end) for start, end in clipped if end - start >= shortest_span(spec))
        moved = self.control.in_window(window, spec) if spans else None
        return None if moved is None else moved.during(*spans)

    @property
    def items(self) -> int | None:
        """How many clips the control is of."""
        return self.control.items

    def for_item(self, item: int) -> "Masked":
        """Return what the item follows, within the same spans."""
        return replace(self, control=self.control.for_item(item))

    def default_weight(self, others: Sequence[Control]) -> float:
        """Return the control's weight."""
        return self.control.default_weight(others)

    def to_dict(self) -> dict[str, Any]:
        """Return the control and the spans."""
        return {**self.control.to_dict(), "during": [list(span) for span in self.spans]}


def shortest_span(spec: AudioSpec) -> float:
    """Return the shortest stretch of time in seconds that a control may count in: three frames."""
    return 3 / spec.frame_rate
