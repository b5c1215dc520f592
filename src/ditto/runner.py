"""From a request to a result: what the command line, the API, edits and benchmarks all call.

``run`` does everything; `Run` lets a caller drive the loop::

    model = ditto.load()
    steps = ditto.steps(model, ditto.Intensity("crescendo"), seed=7)
    for step in steps:
        print(step.i, step.best_loss.item())
    steps.result().save("out.wav")
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ditto.controls.base import Control
from ditto.errors import OutOfMemoryError
from ditto.latents import draw_x_T, item_noise
from ditto.methods.base import Problem
from ditto.models.conditioning import Tags
from ditto.models.device import is_out_of_memory
from ditto.models.model import MusicModel
from ditto.optimize import GradientError, Step, Stop, never
from ditto.request import Request
from ditto.result import Result

Watch = Callable[[Step], None]
"""Called after every iteration, for progress bars and previews; an exception cancels."""


HALF_REMEDY = "float16 holds no number above 65504, take --precision bfloat16 or float32"


class Run:
    """A request being carried out: an iterator over its optimisation's steps, then a result.

    Attributes:
        request: resolved.
        model: what it runs on.
        problem: what its method is given.
        x_T: the best latents so far, (B, …); decoded by `result`.
        total: iterations that there will be at most; 0 for methods that do not optimise.
    """

    def __init__(self, request: Request, model: MusicModel, stop: Stop = never) -> None:
        """Check the request and draw x_T.

        Args:
            request: what to make.
            model: from `ditto.load`.
            stop: called with every step; True ends the optimisation.

        Raises:
            DittoError: the request does not fit the model (unknown tag, a curve beyond the clip's
                end, …).
        """
        self.request, self.model = request.resolved(model), model
        shape = checked_shape(self.request, model)
        with memory_errors(self.request, model):
            self.problem = problem_of(self.request, model, shape, stop)
            self.method.check(self.problem)
            self.x_T = initial_x_T(self.request, model, shape)
        self.total = self.method.total(self.problem)
        self.losses: list[Tensor] = []
        self.seconds = 0.0
        self._steps = self.method.optimise(self.x_T, self.problem) if self.total else iter(())

    @property
    def method(self) -> Any:
        """The resolved request's method."""
        return self.request.method

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        """Make one iteration.

        Raises:
            GradientError: see `ditto.optimize.optimize`.
            OutOfMemoryError: with what would fit.
        """
        started = time.perf_counter()
        with memory_errors(self.request, self.model):
            try:
                step = next(self._steps)
            except GradientError as error:
                half = torch.float16 in (self.model.precision, self.model.decoder_precision)
                if not half or "finite" not in str(error):
                    raise
                raise GradientError(f"{error}: {HALF_REMEDY}") from None
        self.losses.append(step.loss)
        self.x_T = step.best_x_T
        self.seconds += time.perf_counter() - started
        return step

    def result(self) -> Result:
        """Decode the best latents so far; may be called before the last step.

        Raises:
            OutOfMemoryError: with what would fit.
        """
        started = time.perf_counter()
        with torch.no_grad(), memory_errors(self.request, self.model):
            x_0 = self.method.decode(self.x_T, self.problem)
            losses = torch.stack(self.losses) if self.losses else torch.zeros(0, len(self.x_T))
            timings = {"optimize": self.seconds}
            result = Result.of(self.request, self.model, self.x_T, x_0, losses, timings)
        timings["decode"] = time.perf_counter() - started
        return result


@contextmanager
def memory_errors(request: Request, model: MusicModel) -> Iterator[None]:
    """Turn a lack of memory in the block into one line about what would fit.

    Args:
        request: resolved.
        model: what it runs on.

    Raises:
        OutOfMemoryError: in place of what PyTorch raises on any device.
    """
    try:
        yield
        return
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # beyond the handler, whose error would keep the tensors of the block
    from ditto.models.profile import what_fits  # slow to import

    seconds = request.seconds or model.spec.clip_seconds
    clips = "a clip" if request.count == 1 else f"{request.count} clips"
    raise OutOfMemoryError(
        f"{model.device} has not enough memory for {clips} of {seconds:.2f} s: "
        + what_fits(model, seconds, request.count, request.guidance or 0.0)
    )


def run(
    request: Request, model: MusicModel, *, watch: Watch | None = None, stop: Stop = never
) -> Result:
    """Carry out a request.

    Args:
        request: what to make.
        model: from `ditto.load`.
        watch: called after every iteration.
        stop: called with every step; True ends the optimisation.

    Raises:
        DittoError: the request does not fit the model (an unknown tag, a curve beyond the clip's
            end, …).
    """
    steps = Run(request, model, stop)
    for step in steps:
        if watch is not None:
            watch(step)
    return steps.result()


def steps(
    model: MusicModel,
    controls: Sequence[Control] | Control = (),
    *,
    tags: Tags | Mapping[str, Any] | str | None = None,
    stop: Stop = never,
    **settings: Any,
) -> Run:
    """Return the optimisation's steps one by one; ``.result()`` decodes the best so far.

    Args:
        model: from `ditto.load`.
        controls: one control or several.
        tags: `Tags`, a mapping with genre, mood and tempo, or text such as "genre=jazz tempo=110";
            for a model that reads prompts also a mapping with prompt.
        stop: see `run`.
        settings: the other fields of `Request` (seed, count, method, …); an unknown name is a
            TypeError.

    Raises:
        DittoError: see `Request` and `run`.
    """
    return Run(Request(controls, tags, **settings), model, stop)


def generate(
    model: MusicModel,
    controls: Sequence[Control] | Control = (),
    *,
    tags: Tags | Mapping[str, Any] | str | None = None,
    watch: Watch | None = None,
    stop: Stop = never,
    **settings: Any,
) -> Result:
    """Make music that follows the controls: `run` in one call.

    Args:
        model: from `ditto.load`.
        controls: one control or several.
        tags: see `steps`.
        watch: called after every iteration.
        stop: see `run`.
        settings: see `steps`.

    Raises:
        DittoError: see `Request` and `run`.
    """
    return run(Request(controls, tags, **settings), model, watch=watch, stop=stop)


def checked_shape(request: Request, model: MusicModel) -> tuple[int, ...]:
    """Return x_0's shape without the batch, after checking controls and latent against the model.

    Raises:
        DittoError: they do not fit.
    """
    shape = model.shape(request.seconds)
    if request.start is not None:
        frames = request.start.x_T.shape[-1] if request.seconds is None else shape[-1]
        shape = (*shape[:-1], frames)
        request.start.check(model, shape)
    for control in request.controls:
        control.check(model, shape[-1])
    return shape


def problem_of(
    request: Request, model: MusicModel, shape: Sequence[int], stop: Stop = never
) -> Problem:
    """Return what a resolved request asks of its method.

    Args:
        request: resolved.
        model: what it runs on.
        shape: of x_0 without the batch.
        stop: the caller's early stop.
    """
    assert request.guidance is not None
    assert request.iterations is not None
    assert request.method is not None
    model = request.method.prepared(model, request.controls)
    return Problem(
        model=model,
        controls=request.controls,
        control=request.control,
        cond=model.cond(request.tags, request.count, request.seconds),
        guidance=request.guidance,
        iterations=request.iterations,
        new_noise=partial(item_noise, shape, request.seed, request.count, model.device),
        stop=stop,
    )


def initial_x_T(request: Request, model: MusicModel, shape: Sequence[int]) -> Tensor:  # noqa: N802 - the papers' name
    """Return x_T (count, *shape) where a request begins: noise by its seeds, or its latent."""
    if request.start is not None:
        return request.start.x_T.expand(request.count, *shape).clone().to(model.device)
    return draw_x_T(shape, request.seed, request.count, model.noise).to(model.device)
