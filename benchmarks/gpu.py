"""What a graphics card makes of it: seconds a clip, memory against the estimate, share of its rate.

Four models: the embedded one, the papers' UNet, and two with random weights of the sizes of Stable
Audio 3 medium and ACE-Step 1.5, whose published weights are not needed to time them. DITTO (T = 20)
and DITTO-2 (M = 1, T' = 2) make 1, 8 and 64 clips at once that follow a loudness curve. A few
iterations are timed and K = 70 are counted. What would not fit the card is not tried, and what
would begin after `BUDGET` seconds is left out; either is said in the row. `torch.compile` is tried
where it could pay, on the embedded networks with one clip: there launching kernels is what takes
the time.

**This was not yet run on a graphics card**: no figure of it is published. It was tested on a CPU
with tiny settings (``--config tiny``).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import published, speed
from benchmarks.cache import now
from benchmarks.report import Report, Row
from ditto.controls.intensity import Intensity
from ditto.diffusion.samplers import ddim
from ditto.methods.base import Method
from ditto.methods.ditto import Ditto, checkpointed_call
from ditto.methods.ditto2 import Ditto2
from ditto.models.device import chosen_device, is_out_of_memory, memory_of
from ditto.models.hub import load
from ditto.models.model import MusicModel
from ditto.models.profile import SLACK, MemoryTracker, Rehearsal, weights_of
from ditto.request import Request
from ditto.runner import Run, run

NAME = "gpu"
ITERATIONS = 70
BUDGET = 300.0
"""Seconds after which nothing new begins; what runs then may take as long again as a sixth."""
Make = Callable[[torch.device], MusicModel]


@dataclass(frozen=True)
class Subject:
    """A model to be timed.

    Attributes:
        name: in rows.
        make: makes it on a device.
        seconds: length of its clips; None is its window.
        compiled: whether `torch.compile` is tried as well.
    """

    name: str
    make: Make
    seconds: float | None = None
    compiled: bool = False


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Attributes:
        subjects: the models.
        batches: clips at once.
        steps: T of DITTO.
        timed: iterations that are timed, after one to warm up.
        matrix: size of the matrix product whose rate is compared with.
    """

    subjects: tuple[Subject, ...]
    batches: tuple[int, ...] = (1, 8, 64)
    steps: int = 20
    timed: int = 2
    matrix: int = 8192


def embedded(device: torch.device) -> MusicModel:
    """Load the embedded model."""
    return load(device=device)


def papers_unet(device: torch.device) -> MusicModel:
    """Make the papers' UNet and a student like it, of random weights."""
    return speed.untrained(speed.recipe("paper"), "paper", device.type).model


def flow_of_medium_size(device: torch.device, **tiny: Any) -> MusicModel:
    """Make a Stable Audio 3 of the size of medium; `tiny` are settings for tests."""
    return published.stable_audio_3(partial(made, device=device), **(published.MEDIUM | tiny))


def ace_step_sized(device: torch.device, **tiny: Any) -> MusicModel:
    """Make an ACE-Step 1.5 turbo; see `flow_of_medium_size`."""
    return published.ace_step(partial(made, device=device), **tiny)


def made(kind: Any, settings: Mapping[str, Any], *, device: torch.device) -> Any:
    """Make a network on a device, in bfloat16 if it is a GPU, of random weights."""
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        network = kind(**settings)
    return nn.Module.to(network, torch.float32 if device.type == "cpu" else torch.bfloat16)


WHOLE = Settings(
    (
        Subject("embedded", embedded, compiled=True),
        Subject("papers' UNet", papers_unet),
        Subject("flow of SA3 medium's size", flow_of_medium_size, seconds=30.0),
        Subject("ACE-Step's size", ace_step_sized, seconds=30.0),
    )
)
TINY = Settings((Subject("embedded", embedded, seconds=1.0),), (1, 2), steps=2, timed=1, matrix=256)
CONFIGS = {None: WHOLE, "tiny": TINY}


def measured(device: str, settings: Settings, *, command: str) -> Report:
    """Measure all models; no weights are kept but of the one that is measured."""
    place, started = chosen_device(device), time.perf_counter()
    rows: list[Row] = []
    described: dict[str, str] = {}
    for subject in settings.subjects:
        model = subject.make(place)
        described = described or {key: model.describe()[key] for key in ("name", "sha256")}
        rows += measured_model(subject, model, settings, started)
        del model
        if place.type == "cuda":
            torch.cuda.empty_cache()
    return Report(
        name=NAME,
        command=command,
        model=described,
        embedding="none",
        count=1,
        seed=0,
        seconds=time.perf_counter() - started,
        settings={"device": str(place), "iterations": ITERATIONS, "steps": settings.steps},
        rows=tuple(rows),
        claims=(),
    )


def measured_model(
    subject: Subject, model: MusicModel, settings: Settings, started: float
) -> list[Row]:
    """Measure one model by each method and batch."""
    weight = next(model.network.parameters())
    dtype = weight.dtype if hasattr(model, "pipe") else model.precision
    rate = speed.matmul_rate(settings.matrix, dtype, model.device, seconds=0.3)
    rows = [Row.of(subject.name, "matmul_rate", "GFLOP/s", rate / 1e9)]
    methods: dict[str, Method] = {
        "DITTO-2": Ditto2(corrections=0),
        "DITTO": Ditto(steps=settings.steps),
    }
    for batch in settings.batches:
        for name, method in methods.items():
            row = f"{subject.name}, {name}, {batch} at once"
            try:
                rows += _rows(row, Case(subject, model, method, batch), settings, rate, started)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                rows.append(missing(row, "out of memory, which the estimate did not say"))
    if subject.compiled and model.device.type == "cuda":
        rows += compiled(subject, model, settings, started)
    return rows


def compiled(subject: Subject, model: MusicModel, settings: Settings, started: float) -> list[Row]:
    """Time DITTO-2 for one clip through `torch.compile`, to be compared with the row without."""
    row = f"{subject.name}, DITTO-2, 1 at once, compiled"
    if time.perf_counter() - started > BUDGET or model.distilled is None:
        return [missing(row, "no time was left")]
    student = replace(model.distilled, network=torch.compile(model.distilled.network))  # pyright: ignore[reportArgumentType]
    case = Case(subject, replace(model, distilled=student), Ditto2(corrections=0), 1)
    try:
        return [Row.of(row, "seconds_per_clip", "s", case.seconds_per_clip(settings.timed))]
    except Exception as error:  # whatever a compiler says, the rest stands
        return [missing(row, f"torch.compile failed: {type(error).__name__}")]


@dataclass(frozen=True, eq=False)
class Case:
    """A model, a method and a number of clips at once."""

    subject: Subject
    model: MusicModel
    method: Method
    batch: int

    def request(self, iterations: int, count: int | None = None) -> Request:
        """Return the request for a loudness curve."""
        return Request(
            Intensity("swell"),
            method=self.method,
            iterations=iterations,
            count=self.batch if count is None else count,
            seconds=self.subject.seconds,
        )

    def seconds_per_clip(self, timed: int) -> float:
        """Time a few iterations and the decoding; count `ITERATIONS` of them."""
        steps = Run(self.request(timed + 1), self.model)
        marks = [now(self.model.device) for _ in steps]
        each = [end - start for start, end in pairwise(marks)]
        result = steps.result()
        return (ITERATIONS * sum(each) / len(each) + result.timings["decode"]) / self.batch

    def flops(self) -> int:
        """Count the floating-point operations of an iteration for one clip."""
        if isinstance(self.method, Ditto):
            one, two = self._flops(1), self._flops(2)
            return one + (self.method.steps - 1) * (two - one)
        return self._flops(1)

    def _flops(self, steps: int) -> int:
        steps_run = Run(self.request(1, 1), self.model)
        problem, latent = steps_run.problem, steps_run.x_T.clone().requires_grad_(True)
        if isinstance(self.method, Ditto):
            chain = replace(problem.chain(steps), call=checkpointed_call)
        else:
            chain = problem.student_chain(steps)
        # `torch.autograd.grad` would escape the counter
        with FlopCounterMode(display=False) as counter:
            problem.objective(ddim(chain, latent)).sum().backward()
        return int(counter.get_total_flops())

    def estimated(self) -> int:
        """Return the bytes that the estimate says, weights included."""
        loss = Intensity("swell")
        rehearsal = Rehearsal.of(self.model, self.subject.seconds, self.batch, None, loss)
        if isinstance(self.method, Ditto2):
            working = rehearsal.ditto2(fast=False) or 0
        else:
            working = rehearsal.ditto(self.method.steps, True)  # pyright: ignore[reportAttributeAccessIssue]
        return weights_of(self.model) + working

    def peak(self) -> int:
        """Return the bytes that an iteration and its decoding take, weights included."""
        device = self.model.device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            run(self.request(1), self.model)
            return torch.cuda.max_memory_allocated(device)
        with MemoryTracker() as memory:
            run(self.request(1), self.model)
        return memory.peak + weights_of(self.model)


def _rows(row: str, case: Case, settings: Settings, rate: float, started: float) -> Sequence[Row]:
    if time.perf_counter() - started > BUDGET:
        return [missing(row, "no time was left")]
    estimate, room = case.estimated(), memory_of(case.model.device)
    rows = [Row.of(row, "estimated_memory_gb", "GB", estimate / 1e9)]
    if room is not None and estimate > room + weights_of(case.model) - SLACK:
        return [*rows, missing(row, f"would need {estimate / 2**30:.1f} GiB")]
    run(case.request(1), case.model)  # tables, and whatever kernels choose at first
    seconds = case.seconds_per_clip(settings.timed)
    share = case.flops() * ITERATIONS / seconds / rate
    return [
        *rows,
        Row.of(row, "seconds_per_clip", "s", seconds),
        Row.of(row, "peak_memory_gb", "GB", case.peak() / 1e9),
        Row.of(row, "share_of_matmul_rate", "", share),
    ]


def missing(row: str, reason: str) -> Row:
    """Return a row that says why there is no figure."""
    return Row(row, "seconds_per_clip", "s", error=reason)
