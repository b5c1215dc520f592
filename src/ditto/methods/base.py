"""What a method is: an object that carries its settings, optimises x_T and decodes it.

A method is used as a solver is in optimistix::

    clip = ditto.generate(model, ditto.Intensity("swell"), method=ditto.Ditto2(decode_steps=4))

`Problem` is what every method gets: the model, the objective, the conditioning and the noise.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self, get_args

from torch import Tensor

from ditto.controls.base import Control
from ditto.controls.weights import default_iterations
from ditto.diffusion.consistency import Noise, gamma_sample
from ditto.diffusion.denoiser import Cond
from ditto.diffusion.samplers import (
    NOISE_RATIO,
    Advance,
    Chain,
    ancestral,
    ddim,
    ddim_step,
    ddpm,
    dpm_solver_pp,
)
from ditto.diffusion.schedule import GridName, Spacing
from ditto.errors import RequestError
from ditto.models.conditioning import Tags
from ditto.models.model import MusicModel
from ditto.optimize import (
    LR,
    MOMENTUM,
    Step,
    Stop,
    best_so_far,
    never,
    plateau,
    stop_when,
    tolerance,
)
from ditto.paths import shown

Threshold = Literal["static", "dynamic", "none"]
GRIDS = None, *get_args(GridName)
Sampler = Callable[[Chain, Tensor], Tensor]
"""A whole sampling pass, ``(chain, x_T) -> x_0``."""


@dataclass(frozen=True, eq=False)
class Problem:
    """What a method is asked to solve, after all defaults are resolved.

    Attributes:
        model: makes sound of x_0.
        controls: what the output must follow.
        control: their weighted sum, or None without controls.
        cond: conditioning (B, …).
        guidance: CFG scale w.
        iterations: K.
        new_noise: starts the request's noise again: a source of ε of x_T's shape, each item's from
            a generator of its own.
        stop: the caller's early stop.
        noise_of: starts the noise of one item again.
        seeds: of the items, whose decoder's noise they are.
        tags: of the items, or one for all.
    """

    model: MusicModel
    controls: tuple[Control, ...]
    control: Control | None
    cond: Cond
    guidance: float
    iterations: int
    new_noise: Callable[[], Noise]
    stop: Stop = never
    noise_of: Callable[[int], Noise] | None = None
    seeds: tuple[int, ...] = ()
    tags: tuple[Tags, ...] = ()

    def alone(self, item: int) -> "Problem":
        """Return the problem of one item of the batch, as if it were made alone.

        The caller's early stop is left out, since it looks at the whole batch.
        """
        noise = self.noise_of
        return replace(
            self,
            controls=tuple(control.for_item(item) for control in self.controls),
            control=None if self.control is None else self.control.for_item(item),
            cond=self.cond[item : item + 1],
            new_noise=self.new_noise if noise is None else partial(noise, item),
            stop=never,
            seeds=self.seeds[item : item + 1],
            tags=self.tags[item : item + 1] if len(self.tags) > 1 else self.tags,
        )

    def objective(self, x_0: Tensor, x_T: Tensor | None = None) -> Tensor:
        """Return 𝓛(f(x_0), y) of each item, shape (B,).

        Args:
            x_0: shape (B, …).
            x_T: the latent that it is of, where there is one: pulls on x_T need it.

        Raises:
            ValueError: there is no control.
        """
        if self.control is None:
            raise ValueError("there is no control to follow")
        return self.control(x_0, self.model, x_T, self.seeds)

    def chain(
        self, steps: int, spacing: Spacing | None = None, threshold: Threshold = "static"
    ) -> Chain:
        """Return the base model's sampling chain.

        Args:
            steps: T.
            spacing: of the grid; None is the model's.
            threshold: of x̂_0 at every step, see `SamplingMethod`.

        Raises:
            RequestError: the model has no so many timesteps, or a latent is to be thresholded.
        """
        model = self.model
        try:
            grid = model.schedule.timesteps(steps, spacing)
        except ValueError as error:
            raise RequestError(f"{error} for {model.name!r}") from None
        denoiser = model.denoiser
        if threshold == "dynamic":
            if denoiser.limit is None:
                raise RequestError(
                    f"the x_0 of {model.name!r} has no bounds: leave out the threshold"
                )
            denoiser = replace(denoiser, limit=model.compressed)
        bounded = threshold != "none"
        return Chain(denoiser, model.schedule, grid, self.cond, self.guidance, bounded)

    def student_chain(self, steps: int | None) -> Chain:
        """Return the student's sampling chain of T' = `steps`; None is the student's default.

        Raises:
            RequestError: the model has no student.
        """
        model = self.model
        if model.student is None or model.distilled is None:
            raise RequestError(
                f"the model {model.name!r} has no student, which this method needs: choose ditto"
            )
        grid = model.student_schedule.timesteps(steps or model.distilled.steps)
        return Chain(model.student, model.student_schedule, grid, self.cond, self.guidance)


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A way from x_T to a clip that follows the controls; its fields are its settings.

    Subclasses are frozen dataclasses. A new method is one file here, one line in
    `ditto.methods.METHODS`, and one test.

    Attributes:
        name: on the command line and in reports.
        summary: one line for help.
        optimises: whether it optimises x_T.
        needs_control: whether it refuses a problem without any.
        limits: ranges of its numbers, ``field -> (lowest, highest)``; ints stay whole.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    optimises: ClassVar[bool] = False
    needs_control: ClassVar[bool] = False
    limits: ClassVar[dict[str, tuple[float, float]]] = {}

    def __post_init__(self) -> None:
        """Check the range of every setting.

        Raises:
            RequestError: a setting is out of range.
        """
        for field in dataclasses.fields(self):
            value, limits = getattr(self, field.name), self.limits.get(field.name)
            optional = type(None) in get_args(field.type)
            if limits and not (optional and value is None):
                object.__setattr__(self, field.name, check_number(field.name, value, *limits))
            if field.type is bool and not isinstance(value, bool):
                raise RequestError(f"{field.name} must be True or False, not {shown(value)}")

    def suited(self, controls: Sequence[Control]) -> Self:
        """Return the method with the defaults filled in that depend on the controls."""
        return self

    def default_iterations(self, controls: Sequence[Control]) -> int:
        """Return K for these controls, if a request has none: the papers'."""
        return default_iterations(controls)

    def resolve(self, model: MusicModel, guidance: float, iterations: int) -> Self:
        """Return the method with the defaults filled in that depend on the model or on K.

        Raises:
            RequestError: the model cannot be used with this method.
        """
        return self

    def prepared(self, model: MusicModel, controls: Sequence[Control]) -> MusicModel:
        """Return the model that the problem is posed on; most methods take it as it is.

        Raises:
            DittoError: the method cannot use it for these controls.
        """
        return model

    def check(self, problem: Problem) -> None:  # noqa: B027 - most methods take any problem
        """Refuse a problem that the method cannot solve, before any work.

        Raises:
            DittoError: with what to change.
        """

    def optimise(self, x_T: Tensor, problem: Problem) -> Iterator[Step]:
        """Optimise x_T (B, …), yielding every iteration; methods without one yield nothing."""
        yield from ()

    def total(self, problem: Problem) -> int:
        """Return the number of steps that `optimise` yields at most, for progress bars."""
        return problem.iterations if self.optimises and problem.controls else 0

    @abstractmethod
    def decode(self, x_T: Tensor, problem: Problem) -> Tensor:
        """Return x_0 (B, …) of x_T; called without gradients."""

    def uncontrolled(self, x_T: Tensor, problem: Problem) -> Tensor | None:
        """Return x_0 (B, …) that x_T gives without control, if that costs little; else None.

        Args:
            x_T: the noise that optimising began from.
            problem: what was asked.
        """
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return name and settings as JSON."""
        return {"name": self.name} | dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class SamplingMethod(Method):
    """A method that samples with the base model.

    Attributes:
        steps: T, sampling steps.
        sampler: ddim, dpm++, ddpm or ping-pong, as far as the method admits it; None, where that is
            its default, is the model's own.
        grid: where the steps lie: "trailing", from pure noise on, even in the timestep; "karras",
            the same, by noise levels; or "leading", from a step below, as latents of inversions
            need; by default the latent's, or the model's.
        threshold: of every step's estimate: "static" clips it to the log-mel's range, "dynamic" is
            Imagen's (the papers'), by the percentile of each clip, and "none" leaves it.
    """

    steps: int = 20
    sampler: str | None = "ddim"
    grid: GridName | None = None
    threshold: Threshold = "static"
    samplers: ClassVar[tuple[str, ...]] = ("ddim",)
    limits: ClassVar[dict[str, tuple[float, float]]] = {"steps": (1, 1000)}

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            RequestError: one is out of range, or the method cannot use the sampler.
        """
        super().__post_init__()
        own = None if type(self).sampler is None else self.samplers[0]
        if self.sampler not in (own, *self.samplers):
            raise RequestError(
                f"the method {self.name} does not sample by {shown(self.sampler)}: "
                f"choose {' or '.join(self.samplers)}"
            )
        for name, words in (("grid", GRIDS), ("threshold", get_args(Threshold))):
            value = getattr(self, name)
            if not isinstance(value, str | None) or value not in words:
                choice = " or ".join(word for word in words if word)
                raise RequestError(f"{name} must be {choice}, not {shown(value)}")

    def chain(self, problem: Problem) -> Chain:
        """Return the base model's chain with these settings."""
        return problem.chain(self.steps, self.grid, self.threshold)

    def sample(self, problem: Problem) -> Sampler:
        """Return the sampler; a stochastic one starts the problem's noise anew."""
        if self.sampler == "ping-pong":
            noise = problem.new_noise()
            return lambda chain, x_T: gamma_sample(chain, x_T, 1.0, noise)
        if self.sampler == "ddpm":
            noise, kept = problem.new_noise(), NOISE_RATIO * problem.model.data_std
            return lambda chain, x_T: ddpm(chain, x_T, noise, kept)
        return {"ddim": ddim, "dpm++": dpm_solver_pp}[self.sampler or "ddim"]

    def advance(self, problem: Problem, noise: Noise) -> Advance:
        """Return one step of the sampler, for methods that guide every step."""
        kept = NOISE_RATIO * problem.model.data_std
        return ancestral(noise, kept) if self.sampler == "ddpm" else ddim_step


@dataclass(frozen=True, kw_only=True)
class OptimisingMethod(Method):
    """A method that optimises x_T with Adam.

    Attributes:
        lr: Adam's learning rate on x_T; by default the papers' 5e-3.
        momentum: Adam's β₁; by default 0.9.
        tolerance: stop once every item's loss is at most this.
        patience: stop once no item's loss has fallen by 1 % within this many iterations.
    """

    lr: float | None = None
    momentum: float | None = None
    tolerance: float | None = None
    patience: int | None = None
    optimises = True
    limits: ClassVar[dict[str, tuple[float, float]]] = {
        "lr": (1e-6, 1.0),
        "momentum": (0.0, 0.999),
        "tolerance": (-1e9, 1e9),
        "patience": (1, 10_000),
    }

    def resolve(self, model: MusicModel, guidance: float, iterations: int) -> Self:
        """Fill in Adam's settings."""
        defaults = self.adam(iterations)
        missing = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return replace(self, **missing)

    def adam(self, iterations: int) -> dict[str, float]:
        """Return Adam's default ``lr`` and ``momentum`` for K iterations."""
        return {"lr": LR, "momentum": MOMENTUM}

    def settings(self, problem: Problem) -> dict[str, Any]:
        """Return the keyword arguments of `ditto.optimize.optimize`."""
        adam = self.adam(problem.iterations)
        return {
            "iterations": problem.iterations,
            "lr": adam["lr"] if self.lr is None else self.lr,
            "momentum": float(adam["momentum"] if self.momentum is None else self.momentum),
        }

    def uncontrolled(self, x_T: Tensor, problem: Problem) -> Tensor:
        """Decode x_T as it was before it was optimised."""
        return self.decode(x_T, problem)

    def stops(self, problem: Problem) -> list[Stop]:
        """Return the early stops of the method and of the caller."""
        stops = [problem.stop]
        stops += [] if self.tolerance is None else [tolerance(self.tolerance)]
        stops += [] if self.patience is None else [plateau(self.patience)]
        return stops

    def best(self, steps: Iterator[Step], problem: Problem) -> Iterator[Step]:
        """Yield the steps with the best so far, until one of the stops."""
        return self.until_stopped(best_so_far(steps), problem)

    def until_stopped(self, steps: Iterator[Step], problem: Problem) -> Iterator[Step]:
        """Yield the steps until an early stop, of the method or of the caller."""
        return stop_when(steps, self.stops(problem))


def check_number(name: str, value: Any, low: float, high: float) -> int | float:
    """Return a setting as a plain number; whole limits ask for a whole number.

    Args:
        name: of the setting, for the message.
        value: a number of Python's or NumPy's.
        low: the least that is allowed.
        high: the most that is allowed.

    Raises:
        RequestError: it is something else, not finite, or out of range.
    """
    whole = isinstance(low, int) and isinstance(high, int)
    kind: Any = Integral if whole else Real
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
        number = "whole number" if whole else "number"
        limits = f"{low} to {high}" if whole else f"{low:g} to {high:g}"
        raise RequestError(f"{name} must be a {number} from {limits}, not {shown(value)}")
    return int(value) if isinstance(value, Integral) else float(value)
