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
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ditto.controls.base import Control
from ditto.diffusion.consistency import Noise
from ditto.errors import OutOfMemoryError, RequestError
from ditto.latents import CANDIDATE_SEED, NOISE_SEED, draw_x_T, item_noise, item_seed, item_seeds
from ditto.methods.base import Problem
from ditto.methods.candidates import candidate
from ditto.models.conditioning import Tags
from ditto.models.device import is_out_of_memory, one_by_one
from ditto.models.model import MusicModel, check_model
from ditto.optimize import GradientError, Step, Stop, never, side_by_side
from ditto.request import Request
from ditto.result import Result

Watch = Callable[[Step], None]
"""Called after every iteration, for progress bars and previews; an exception cancels."""


HALF_REMEDY = "float16 holds no number above 65504, take --precision bfloat16 or float32"


class Run:
    """A request being carried out: an iterator over its optimisation's steps, then a result.

    On the CPU the items of a batch are made one by one, side by side: none depends on its
    neighbours, so each is bit for bit what it would be alone, and a batch costs no more. On a
    graphics card they share their arithmetic, which rounds differently for different counts.

    An item whose gradient is not finite ends there and keeps the best so far; the others go on.

    Attributes:
        request: resolved.
        model: what it runs on.
        problem: what its method is given.
        x_T: the best latents so far, (B, …); decoded by `result`.
        total: iterations that there will be at most; 0 for methods that do not optimise.
        losses: (B,) of every step; NaN for an item that had ended.
        candidate: (B,) the number of each item's noise, where one was asked for or chosen.
        failures: why items ended early, by item.
    """

    def __init__(
        self, request: Request, model: MusicModel, stop: Stop = never, *, compare: bool = True
    ) -> None:
        """Check the request and draw x_T.

        Args:
            request: what to make.
            model: from `ditto.load`.
            stop: called with every step; True ends the optimisation.
            compare: whether reports say how much of the clip without control is kept.

        Raises:
            DittoError: the request does not fit the model (unknown tag, a curve beyond the clip's
                end, …).
        """
        check_model(model)
        self.request, self.model = request.resolved(model), model
        shape = checked_shape(self.request, model)
        with memory_errors(self.request, model):
            self.problem = problem_of(self.request, model, shape, stop)
            self.method.check(self.problem)
            self.x_T = initial_x_T(self.request, model, shape)
            number = self.request.candidate_of(0)
            if number is not None:
                self.x_T = candidate(number, self.x_T, self.problem, self.method)
            if number and not hasattr(self.method, "decode_steps"):
                # x_T came out of the noise that a sampler would begin with: that has another.
                self.problem = replace(self.problem, **noises(self.request, shape, model))
        self.compare, self._begun = compare, self.x_T
        self.total = self.method.total(self.problem.alone(0) if self.one_by_one else self.problem)
        self.losses: list[Tensor] = []
        self.failures: dict[int, str] = {}
        self._told: set[int] = set()
        chosen = None if number is None else torch.full((self.request.count,), number)
        self.candidate: Tensor | None = chosen
        self.seconds = 0.0
        self._steps = self._optimise() if self.total else iter(())

    def begin_with(self, x_T: Tensor) -> None:
        """Begin from other latents (B, …) than those that were drawn, before the first step."""
        self.x_T = self._begun = x_T

    @property
    def method(self) -> Any:
        """The resolved request's method."""
        return self.request.method

    @property
    def one_by_one(self) -> bool:
        """Whether items are made one by one, and so do not depend on each other."""
        return one_by_one(self.model.device, self.request.count)

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
            step = next(self._steps)
        self.x_T = step.best_x_T
        if step.candidate is not None and step.begun is not None:
            self.candidate, self._begun = step.candidate, step.begun
        self.seconds += time.perf_counter() - started
        return step

    def _optimise(self) -> Iterator[Step]:
        """Yield the method's steps, of all items together."""
        if not self.one_by_one:
            yield from self._together()
            return
        items = [
            self.method.optimise(x_T.clone(), self.problem.alone(i))
            for i, x_T in enumerate(self.x_T.split(1))
        ]
        latest: dict[int, Step] = {}
        going = dict(enumerate(items))
        while going:
            for i, steps in list(going.items()):
                step = self._step_of(i, steps, latest.get(i))
                if step is None:
                    del going[i]
                else:
                    latest[i] = step
            if not going:
                return
            if len(latest) < len(items):  # an item failed at its first iteration: it stays noise
                latest |= self._as_drawn(latest)
            loss = torch.cat([latest[i].loss for i in range(len(items))])
            ended = torch.tensor([i not in going for i in range(len(items))])
            self.losses.append(loss.masked_fill(ended, torch.nan))
            whole = side_by_side([latest[i] for i in range(len(items))])
            yield replace(whole, warnings=(*whole.warnings, *self._news()))
            if self.problem.stop(whole):
                return

    def _step_of(self, item: int, steps: Iterator[Step], before: Step | None) -> Step | None:
        """Return an item's next step; None where it has ended, with the reason if it failed."""
        try:
            return next(steps, None)
        except GradientError as error:
            self.failures[item] = self._said(error)
            if before is None and len(self.failures) == len(self.x_T):
                raise GradientError(self._said(error)) from None
            return None

    def _said(self, error: GradientError) -> str:
        """Return an error's words, with what to do where the precision is to blame."""
        half = torch.float16 in (self.model.precision, self.model.decoder_precision)
        return f"{error}: {HALF_REMEDY}" if half and "finite" in str(error) else str(error)

    def _as_drawn(self, latest: Mapping[int, Step]) -> dict[int, Step]:
        """Return a step for each item that has none: x_T as it was drawn."""
        found = {}
        for i, x_T in enumerate(self.x_T.split(1)):
            if i not in latest:
                loss = torch.full((1,), torch.nan)
                found[i] = Step(0, loss, x_T, best_loss=loss, best_x_T=x_T)
        return found

    def _news(self) -> Iterator[str]:
        """Yield what went wrong in the last iteration."""
        for item, why in self.failures.items():
            if item not in self._told:
                self._told.add(item)
                yield f"clip {item + 1} keeps its best so far: {why}"

    def _together(self) -> Iterator[Step]:
        """Yield the steps of a batch that shares its arithmetic, or of a single clip."""
        try:
            for step in self.method.optimise(self.x_T, self.problem):
                self.losses.append(step.loss)
                if step.failed is not None:
                    error = GradientError("its loss or gradient is not finite")
                    ended = step.failed.nonzero().flatten().tolist()
                    self.failures |= dict.fromkeys(ended, self._said(error))
                yield step
        except GradientError as error:
            if not self.losses:
                raise GradientError(self._said(error)) from None
            self.failures |= dict.fromkeys(range(len(self.x_T)), self._said(error))

    def decode(self) -> Tensor:
        """Return x_0 (B, …) of the best latents so far."""
        if not self.one_by_one:
            return self.method.decode(self.x_T, self.problem)
        items = enumerate(self.x_T.split(1))
        return torch.cat([self.method.decode(x.clone(), self.problem.alone(i)) for i, x in items])

    def result(self) -> Result:
        """Decode the best latents so far; may be called before the last step.

        Raises:
            OutOfMemoryError: with what would fit.
        """
        started = time.perf_counter()
        with torch.no_grad(), memory_errors(self.request, self.model):
            x_0 = self.decode()
            losses = torch.stack(self.losses) if self.losses else torch.zeros(0, len(self.x_T))
            timings = {"optimize": self.seconds}
            notes = tuple(f"clip {i + 1}: {why}" for i, why in sorted(self.failures.items()))
            result = Result.of(
                self.request,
                self.model,
                self.x_T,
                x_0,
                losses,
                timings,
                seeds=self.problem.seeds,
                notes=notes,
                candidate=None if self.candidate is None else self.candidate.cpu(),
                without=self._uncontrolled if self._comparable else None,
            )
        timings["decode"] = time.perf_counter() - started
        return result

    @property
    def _comparable(self) -> bool:
        """Whether there is a clip without control, which edits and inversions have not."""
        controls = self.request.controls
        kept = any(term.bare().known_region() for c in controls for term, _ in c.bare().terms())
        return self.compare and bool(controls) and not kept

    @torch.no_grad()
    def _uncontrolled(self) -> Tensor | None:
        """Return x_0 (B, …) of the noise that optimising began from, without control."""
        if not self.one_by_one:
            return self.method.uncontrolled(self._begun, self.problem)
        items = enumerate(self._begun.split(1))
        made = [self.method.uncontrolled(x.clone(), self.problem.alone(i)) for i, x in items]
        whole = [x_0 for x_0 in made if x_0 is not None]
        return torch.cat(whole) if len(whole) == len(made) else None


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
    request: Request,
    model: MusicModel,
    *,
    watch: Watch | None = None,
    stop: Stop = never,
    compare: bool = True,
) -> Result:
    """Carry out a request.

    Args:
        request: what to make.
        model: from `ditto.load`.
        watch: called after every iteration.
        stop: called with every step; True ends the optimisation.
        compare: see `Run`.

    Raises:
        DittoError: the request does not fit the model (an unknown tag, a curve beyond the clip's
            end, …).
    """
    steps = Run(request, model, stop, compare=compare)
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
    compare: bool = True,
    **settings: Any,
) -> Run:
    """Return the optimisation's steps one by one; ``.result()`` decodes the best so far.

    Args:
        model: from `ditto.load`.
        controls: one control or several.
        tags: `Tags`, a mapping with genre, mood and tempo, or text such as "genre=jazz tempo=110";
            for a model that reads prompts also a mapping with prompt.
        stop: see `run`.
        compare: see `Run`.
        settings: the other fields of `Request` (seed, count, method, …); an unknown name is a
            TypeError.

    Raises:
        DittoError: see `Request` and `run`.
    """
    return Run(Request(controls, tags, **settings), model, stop, compare=compare)


def generate(
    model: MusicModel,
    controls: Sequence[Control] | Control = (),
    *,
    tags: Tags | Mapping[str, Any] | str | None = None,
    watch: Watch | None = None,
    stop: Stop = never,
    compare: bool = True,
    **settings: Any,
) -> Result:
    """Make music that follows the controls: `run` in one call.

    Args:
        model: from `ditto.load`.
        controls: one control or several.
        tags: see `steps`.
        watch: called after every iteration.
        stop: see `run`.
        compare: see `Run`.
        settings: see `steps`.

    Raises:
        DittoError: see `Request` and `run`.
    """
    request = Request(controls, tags, **settings)
    return run(request, model, watch=watch, stop=stop, compare=compare)


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
        if getattr(request.method, "candidates", 1) > 1:
            raise RequestError(
                "candidates are noises of other seeds, and this begins from a latent: leave one out"
            )
        if request.candidate is not None:
            raise RequestError(
                "a candidate is a noise, and this begins from a latent: leave one out"
            )
    if request.candidate is not None:
        if getattr(request.method, "candidates", 1) > 1:
            raise RequestError(
                "a candidate is where to begin, and candidates are to choose from: leave one out"
            )
        if isinstance(request.candidate, tuple):
            raise RequestError("candidates of several windows go with an edit or a song")
    for control in request.controls:
        control.check(model, shape[-1])
        if control.items not in (None, request.count):
            raise RequestError(
                f"{control.noun} is given for each of {control.items} clips, and count is "
                f"{request.count}"
            )
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
    model, seconds = request.method.prepared(model, request.controls), request.seconds
    if seconds is None and request.start is not None:
        seconds = model.spec.seconds(shape[-1])  # the latent's own length
    controls, control = request.controls, request.control
    if request.count == 1 and control is not None:  # a search over noises makes several of one clip
        controls = tuple(one.for_item(0) for one in controls)
        control = control.for_item(0)
    return Problem(
        model=model,
        controls=controls,
        control=control,
        cond=model.cond(request.tags, request.count, seconds),
        guidance=request.guidance,
        iterations=request.iterations,
        stop=stop,
        **noises(request, shape, model, NOISE_SEED),
        seeds=item_seeds(request.seed, request.count),
        tags=(request.tags,),
    )


def noises(
    request: Request, shape: Sequence[int], model: MusicModel, first: int = CANDIDATE_SEED
) -> dict[str, Any]:
    """Return `Problem.new_noise` and `Problem.noise_of`.

    Args:
        request: whose seed and count are meant.
        shape: of x_0 without the batch.
        model: on whose device.
        first: what seeds are counted from.
    """

    def noise(item: int, count: int = 1) -> Noise:
        return item_noise(shape, item_seed(request.seed, item), count, model.device, first=first)

    return {"new_noise": partial(noise, 0, request.count), "noise_of": noise}


def initial_x_T(request: Request, model: MusicModel, shape: Sequence[int]) -> Tensor:  # noqa: N802 - the papers' name
    """Return x_T (count, *shape) where a request begins: noise by its seeds, or its latent."""
    if request.start is not None:
        return request.start.x_T.expand(request.count, *shape).clone().to(model.device)
    return draw_x_T(shape, request.seed, request.count, model.noise).to(model.device)
