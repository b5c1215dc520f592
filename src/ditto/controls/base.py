"""What a control is: a differentiable feature of the output, a target, and a loss (METHOD §5).

Controls are small objects that add and scale::

    objective = Intensity("crescendo") / 40 + Melody.from_notes("C4:1 E4:1")

A control is called as ``control(x_0, model) -> loss (B,)``. The sum of n controls is the papers' (1/n)·Σ λ_i 𝓛_i; its
parts see one `Output`, so that the vocoder runs once however many controls listen.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from ditto.models.music_model import MusicModel
from ditto.pictures import Trace


@dataclass(frozen=True, eq=False)
class Output:
    """One x_0 (B, 1, n_mels, frames) and its audio, made when first asked for unless it is given."""

    x_0: Tensor
    model: MusicModel
    rendered: Tensor | None = None

    @cached_property
    def audio(self) -> Tensor:
        """V(x_0), shape (B, samples)."""
        return self.model.to_audio(self.x_0) if self.rendered is None else self.rendered

    @property
    def frames(self) -> int:
        """Length in mel frames."""
        return self.x_0.shape[-1]


class Control(ABC):
    """A feature, a target and a loss."""

    @abstractmethod
    def loss(self, output: Output) -> Tensor:
        """𝓛(f(x_0), y) of each item, shape (B,), float32; differentiable."""

    @abstractmethod
    def errors(self, output: Output) -> dict[str, Tensor]:
        """What the papers report, by name with its unit (``intensity_mse_db2``), each of shape (B,)."""

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
    def traces(self, output: Output, item: int) -> list[Trace]:
        """Target and achieved curves of one item, for pictures."""

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

    def traces(self, output: Output, item: int) -> list[Trace]:
        """The parts' curves."""
        return [trace for control, _ in self.terms for trace in control.traces(output, item)]

    def describe(self) -> dict[str, Any]:
        """The parts with their weights."""
        return {"control": "sum", "terms": [{"weight": w, **control.describe()} for control, w in self.terms]}


def _terms(control: Control) -> tuple[tuple[Control, float], ...]:
    return control.terms if isinstance(control, Sum) else ((control, 1.0),)
