"""What a control is: a differentiable feature of the output, a target, and a loss (DITTO §4).

Controls are small objects that add and scale::

    objective = Intensity("crescendo") / 40 + Melody.from_notes("C4:1 E4:1")

A control is called as ``control(x_0, model) -> loss (B,)``. The sum of n controls is the papers'
(1/n)·Σ λ_i 𝓛_i; its parts see one `Output`, so that the vocoder runs once however many controls
listen. A control that counts only part of the time is ``control.during((2.0, 6.0))``; the rest is
"don't care" (DITTO appendix H; Music ControlNet).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from ditto.errors import ControlError
from ditto.models.model import MusicModel
from ditto.plots import Panel

Spans = tuple[tuple[float, float], ...]
"""Stretches of time, (from, to) in seconds."""


@dataclass(frozen=True, eq=False)
class Output:
    """One x_0 (B, 1, n_mels, frames) and its audio, made when first asked for unless it is given.

    Attributes:
        x_0, model: what was made, by what.
        rendered: its audio (B, samples), if it is there already.
        mask: frames that count, (frames,) bool; None is all.
        source: an output that has the audio of this one, and which item of it this is (None: all).
    """

    x_0: Tensor
    model: MusicModel
    rendered: Tensor | None = None
    mask: Tensor | None = None
    source: "tuple[Output, int | None] | None" = None

    @cached_property
    def audio(self) -> Tensor:
        """V(x_0), shape (B, samples)."""
        if self.rendered is not None:
            return self.rendered
        if self.source is None:
            return self.model.to_audio(self.x_0)
        output, item = self.source
        return output.audio if item is None else output.audio[item : item + 1]

    @property
    def frames(self) -> int:
        """Length in mel frames."""
        return self.x_0.shape[-1]

    def item(self, i: int) -> "Output":
        """Item `i` alone; the audio is still made for all at once."""
        return Output(self.x_0[i : i + 1], self.model, mask=self.mask, source=(self, i))

    def during(self, spans: Spans) -> "Output":
        """The same, of which only the frames within `spans` count (and within those that counted
        before).
        """
        seconds = torch.arange(self.frames, device=self.x_0.device) / self.model.spec.frame_rate
        mask = torch.zeros_like(seconds, dtype=torch.bool)
        for start, end in spans:
            mask |= (seconds >= start) & (seconds < end)
        return replace(
            self, mask=mask if self.mask is None else mask & self.mask, source=(self, None)
        )

    def kept(self, values: Tensor) -> Tensor:
        """Of values (…, frames) the frames that count."""
        return values if self.mask is None else values[..., self.mask]


class Control(ABC):
    """A feature, a target and a loss.

    Attributes:
        iterations: K, the papers' for this kind of control.
    """

    iterations: ClassVar[int] = 70

    @abstractmethod
    def loss(self, output: Output) -> Tensor:
        """𝓛(f(x_0), y) of each item, shape (B,), float32; differentiable."""

    @abstractmethod
    def errors(self, output: Output) -> dict[str, Tensor]:
        """What the papers report, by name with its unit (``intensity_mse_db2``), each of shape
        (B,).
        """

    @abstractmethod
    def check(self, model: MusicModel, frames: int) -> None:
        """Refuse a target that does not fit a clip of `frames` frames.

        Raises:
            ControlError: with what to change.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """The control as JSON, for reports."""

    @abstractmethod
    def traces(self, output: Output, item: int) -> list[Panel]:
        """Target beside what was achieved by one item, for pictures."""

    def remarks(self, model: MusicModel, frames: int) -> list[str]:
        """What a user should know about how the target meets a clip of `frames` frames, a line
        each.
        """
        return []

    def estimate(self) -> "Control":
        """The same control by a feature that costs less to hear, if it has one; `calibrated` makes
        up for it.
        """
        return self

    def calibrated(self, decoded: Output) -> "Control":
        """An `estimate` that agrees with the feature proper at `decoded`; constant to autograd."""
        return self

    def during(self, *spans: tuple[float, float]) -> "Control":
        """The control within `spans` (from, to in seconds) alone; the rest of the time is "don't
        care".

        Raises:
            ControlError: a span is empty, starts before 0, or is not finite.
        """
        return Masked(self, spans)

    def __call__(self, x_0: Tensor, model: MusicModel) -> Tensor:
        """Loss (B,) of x_0 (B, 1, n_mels, frames)."""
        return self.loss(Output(x_0, model))

    def error(self, x_0: Tensor, model: MusicModel) -> dict[str, Tensor]:
        """`errors` of x_0."""
        return self.errors(Output(x_0, model))

    def __add__(self, other: "Control") -> "Sum":
        return Sum((*_terms(self), *_terms(other)))

    def __mul__(self, weight: float) -> "Sum":
        return Sum(tuple((control, w * weight) for control, w in _terms(self)))

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> "Sum":
        return self * (1 / divisor)


@dataclass(frozen=True)
class Sum(Control):
    """(1/n)·Σ λ_i 𝓛_i over n controls (DITTO §4, multi-objective).

    Attributes:
        terms: controls with their λ.
    """

    terms: tuple[tuple[Control, float], ...]

    def loss(self, output: Output) -> Tensor:
        """Weighted mean of the parts' losses."""
        losses = [weight * control.loss(output) for control, weight in self.terms]
        return sum(losses[1:], losses[0]) / len(losses)

    def estimate(self) -> "Sum":
        """The sum of the parts' estimates."""
        return Sum(tuple((control.estimate(), weight) for control, weight in self.terms))

    def calibrated(self, decoded: Output) -> "Sum":
        """The sum of the parts, each calibrated."""
        return Sum(tuple((control.calibrated(decoded), weight) for control, weight in self.terms))

    def errors(self, output: Output) -> dict[str, Tensor]:
        """The parts' errors; a second control of one kind gets a number in its names."""
        merged: dict[str, Tensor] = {}
        for control, _ in self.terms:
            for name, value in control.errors(output).items():
                repeats = sum(key.split("#")[0] == name for key in merged)
                merged[f"{name}#{repeats + 1}" if repeats else name] = value
        return merged

    def check(self, model: MusicModel, frames: int) -> None:
        """Check every part."""
        for control, _ in self.terms:
            control.check(model, frames)

    def traces(self, output: Output, item: int) -> list[Panel]:
        """The parts' curves."""
        return [trace for control, _ in self.terms for trace in control.traces(output, item)]

    def remarks(self, model: MusicModel, frames: int) -> list[str]:
        """The parts' remarks."""
        return [remark for control, _ in self.terms for remark in control.remarks(model, frames)]

    def describe(self) -> dict[str, Any]:
        """The parts with their weights."""
        return {
            "control": "sum",
            "terms": [{"weight": w, **control.describe()} for control, w in self.terms],
        }


@dataclass(frozen=True)
class Masked(Control):
    """A control that counts within some spans of time alone.

    Attributes:
        control: what counts.
        spans: when, in seconds.
    """

    control: Control
    spans: Spans

    def __post_init__(self) -> None:
        """Check the spans."""
        for start, end in self.spans or ((0.0, 0.0),):
            if not (math.isfinite(start) and math.isfinite(end) and 0 <= start < end):
                raise ControlError(
                    f"a control must count from some second to a later one, not from {start:g} to {end:g}"
                )

    def loss(self, output: Output) -> Tensor:
        """The control's loss over the frames that count."""
        return self.control.loss(output.during(self.spans))

    def estimate(self) -> "Masked":
        """The control's estimate, within the same spans."""
        return replace(self, control=self.control.estimate())

    def calibrated(self, decoded: Output) -> "Masked":
        """The control calibrated over all frames; those outside do not count later either."""
        return replace(self, control=self.control.calibrated(decoded))

    def errors(self, output: Output) -> dict[str, Tensor]:
        """The control's errors over the frames that count."""
        return self.control.errors(output.during(self.spans))

    def check(self, model: MusicModel, frames: int) -> None:
        """Check the control, and that each span begins within the clip and holds two frames of
        it.
        """
        seconds = model.spec.seconds(frames)
        for start, end in self.spans:
            if min(end, seconds) - start < 2 / model.spec.frame_rate:
                raise ControlError(
                    f"nothing of {start:g} to {end:g} s lies within the clip, which ends at {seconds:.2f} s"
                )
        self.control.check(model, frames)

    def remarks(self, model: MusicModel, frames: int) -> list[str]:
        """The control's remarks."""
        return self.control.remarks(model, frames)

    def traces(self, output: Output, item: int) -> list[Panel]:
        """The control's panels, with what does not count shaded."""
        panels = self.control.traces(output.during(self.spans), item)
        return [replace(panel, during=(*panel.during, *self.spans)) for panel in panels]

    def describe(self) -> dict[str, Any]:
        """The control and the spans."""
        return {**self.control.describe(), "during": [list(span) for span in self.spans]}


def _terms(control: Control) -> tuple[tuple[Control, float], ...]:
    return control.terms if isinstance(control, Sum) else ((control, 1.0),)
