"""How long a loudness-controlled clip takes, and where the time goes.

DITTO (20 steps) and DITTO-2 (M = 1, T' = 2) make the same clips one at a time in one process:
DITTO-2 as it is by default, whose surrogate hears the loudness in x_0 and is corrected by the
output now and then; through the vocoder every time, as in the paper; and in x_0 alone. Beside them
an iteration's phases and its floor: its floating-point operations at the rate of a large matrix
product, in the precision of the networks, on the same threads in the same run.

Seconds, memory and operations depend on a network's shape alone, so that of an untrained network,
such as the papers' UNet, is timed by ``--config`` with random weights.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cache import now
from benchmarks.helped import HELPED_DITTO, Helped
from benchmarks.measures import MSE, STEP_TIME, TIME, RowResult
from benchmarks.report import Claim, Row
from benchmarks.runner import Entry, Results, Table, Versus, figures
from benchmarks.tasks import CONTROLS, Bench, Task
from benchmarks.variants import (
    CHECKPOINTED,
    CTM,
    DITTO,
    MINUTE,
    PUBLISHED_CTM,
    Models,
    Variant,
    checked_device,
    load,
    native_precision,
)
from ditto.controls.base import Control
from ditto.controls.output import Output
from ditto.diffusion.samplers import Chain, ddim
from ditto.errors import DataError
from ditto.methods.ditto import Ditto, checkpointed_call
from ditto.methods.ditto2 import Ditto2
from ditto.methods.proxies import proxied
from ditto.models.model import MusicModel
from ditto.models.profile import MemoryTracker
from ditto.models.student import Student
from ditto.runner import Run
from ditto.training.base import BaseConfig, network_of
from ditto.training.loop import RECIPES, load_config, recipe_path

DEFAULT, PUBLISHED = CTM.with_(name="CTM-1/2 corrected"), PUBLISHED_CTM.with_(name="CTM-1/2")
SLOW = CHECKPOINTED.with_(name="DM-20/20")
KEPT = DITTO.with_(name="DM-20/20, activations kept")
HELPED = HELPED_DITTO.with_(name="DM-20/20 helped")
STUDENT_GUIDANCE = (0.0, 15.0)


@dataclass(frozen=True, eq=False)
class Iteration:
    """One iteration of a method on clip 0, taken apart; without corrections.

    Attributes:
        run: the request.
        render: x_T → x_0.
        control: what the loss is taken of.
    """

    run: Run
    render: Callable[[Tensor], Tensor]
    control: Control

    @classmethod
    def of(cls, bench: Bench, variant: Variant, steps: int | None = None) -> "Iteration":
        """Return a variant's iteration; DITTO's with `steps` in place of its own."""
        run = Run(CONTROLS["loudness"].request(bench, variant, 0), bench.models.of(variant))
        method, problem, control = run.method, run.problem, run.problem.control
        assert control is not None
        if isinstance(method, Ditto2):
            chain: Chain = problem.student_chain(int(method.surrogate_steps))
            control = control.proxy() if method.corrections else control
        else:
            chain = replace(problem.chain(steps or method.steps), call=checkpointed_call)
        return cls(run, partial(ddim, chain), control)

    def __call__(self) -> None:
        """Run forward and backward; `torch.autograd.grad` would escape the counters."""
        latent = self.run.x_T.clone().requires_grad_(True)
        self.control(self.render(latent), self.run.model).sum().backward()

    def flops(self) -> int:
        """Count floating-point operations."""
        with FlopCounterMode(display=False) as counter:
            self()
        return int(counter.get_total_flops())

    def phases(self, repeats: int) -> dict[str, float]:
        """Return the median seconds of each phase, after two repeats to warm up."""
        latent = self.run.x_T.clone().requires_grad_(True)
        adam = torch.optim.Adam([latent], lr=1e-9)
        times = [self._timed(latent, adam) for _ in range(repeats + 2)][2:]
        return {name: statistics.median(each[name] for each in times) for name in times[0]}

    def _timed(self, latent: Tensor, adam: torch.optim.Optimizer) -> dict[str, float]:
        model = self.run.model
        marks = [("", now(model.device))]

        def mark(name: str) -> None:
            marks.append((name, now(model.device)))

        x_0 = self.render(latent)
        mark("denoiser forward")
        held = x_0.detach().requires_grad_(True)
        if getattr(self.control, "domain", "sound") == "sound":
            audio = model.to_audio(held)
            mark("vocoder forward")
            heard = audio.detach().requires_grad_(True)
            loss = self.control.loss(Output(held, model, heard)).sum()
            mark("features forward")
            slope = torch.autograd.grad(loss, heard)[0]
            mark("features backward")
            slope = torch.autograd.grad(audio, held, slope)[0]
            mark("vocoder backward")
        else:
            loss = self.control.loss(Output(held, model)).sum()
            mark("features forward")
            slope = torch.autograd.grad(loss, held)[0]
            mark("features backward")
        latent.grad = torch.autograd.grad(x_0, latent, slope)[0]
        mark("denoiser backward")
        adam.step()
        mark("optimiser")
        return {name: end - start for (_, start), (name, end) in pairwise(marks)}


def whole_seconds(bench: Bench, variant: Variant, repeats: int) -> float:
    """Return the median seconds between iterations as they run, those with corrections left out."""
    method = variant.method
    corrected = isinstance(method, Ditto2) and method.corrections
    task = CONTROLS["loudness, mel" if corrected else "loudness"]
    request = task.request(bench, variant.with_(corrections=0), 0)
    model = bench.models.of(variant)
    marks = [now(model.device) for _ in Run(replace(request, iterations=repeats + 3), model)]
    return statistics.median(end - start for start, end in list(pairwise(marks))[2:])


def correction_seconds(bench: Bench, variant: Variant, repeats: int = 5) -> float:
    """Return the median seconds of decoding, and of calibrating by what is heard."""
    run = Run(CONTROLS["loudness"].request(bench, variant, 0), bench.models.of(variant))
    _, calibrate = proxied(run.problem)
    times = []
    for _ in range(repeats):
        started = now(run.model.device)
        with torch.no_grad():
            calibrate(run.method.decode(run.x_T, run.problem))
        times.append(now(run.model.device) - started)
    return statistics.median(times)


def matmul_rate(size: int, dtype: torch.dtype, device: torch.device, seconds: float = 1.0) -> float:
    """Return the floating-point operations a second of a matrix product of this size."""
    a, b = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    torch.mm(a, b)
    done, started = 0, now(device)
    while time.perf_counter() - started < seconds:
        torch.mm(a, b)
        now(device)
        done += 1
    return 2 * size**3 * done / (now(device) - started)


def costs(bench: Bench, repeats: int = 15) -> list[Row]:
    """Measure an iteration of each method: phases, operations, memory, and the floor."""
    model = bench.models.model
    started = time.perf_counter()
    Iteration.of(bench, DEFAULT)()
    rows = [
        Row.of("model load", "seconds", "s", bench.models.load_seconds),
        Row.of("first iteration", "seconds", "s", now(model.device) - started),
    ]
    size = 8192 if model.device.type == "cuda" else 1536
    rate = matmul_rate(size, model.precision, model.device)
    rows.append(Row.of("floor", "matmul_rate", "GFLOP/s", rate / 1e9))
    for variant in (DEFAULT, PUBLISHED):
        iteration, name = Iteration.of(bench, variant), f"iteration of {variant.name}"
        phases, whole = iteration.phases(repeats), whole_seconds(bench, variant, repeats)
        phases |= {"overhead": whole - sum(phases.values()), "whole": whole}
        rows += [Row.of(f"{name}: {phase}", "seconds", "s", took) for phase, took in phases.items()]
        rows += _cost(variant, iteration, iteration.flops(), rate)
        share = iteration.flops() / rate / whole
        rows.append(Row.of(f"floor of {variant.name}", "share_of_iteration", "", share))
    rows.append(Row.of("a correction", "seconds", "s", correction_seconds(bench, DEFAULT)))
    one, two = (Iteration.of(bench, SLOW, steps).flops() for steps in (1, 2))
    method = SLOW.method
    assert isinstance(method, Ditto)
    # What every step's checkpoint makes anew stays in the counter: all steps would not fit.
    flops = one + (method.steps - 1) * (two - one)
    return rows + _cost(SLOW, Iteration.of(bench, SLOW), flops, rate)


def _cost(variant: Variant, iteration: Iteration, flops: int, rate: float) -> list[Row]:
    """Return what one iteration needs; the weights are not counted in its memory."""
    with MemoryTracker() as alive:
        iteration()
    return [
        Row.of(variant.name, "peak_memory_gb", "GB", alive.peak / 1e9),
        Row.of(variant.name, "gflop_per_iteration", "GFLOP", flops / 1e9),
        Row.of(f"floor of {variant.name}", "seconds_per_iteration", "s", flops / rate),
    ]


def _in_real_time(rows: Results) -> list[Claim]:
    row = rows.get(DEFAULT.name)
    if not isinstance(row, RowResult):
        return []
    seconds = row.judge.model.spec.clip_seconds
    words = f"a clip of {seconds:.2f} s takes no longer than it lasts"
    return Versus(words, DEFAULT.name, None, TIME, most=seconds)(rows)


def _entry(variant: Variant, *, trained: bool, task: Task = CONTROLS["loudness"]) -> Entry:
    papers: dict[Any, float | None] = {}
    if variant is PUBLISHED:
        papers = figures("d2_table2_budget_intensity", "M=1 T=2", {TIME: "runtime s"})
    if variant is SLOW:
        papers = figures("d1_table11_latency", "DITTO", {TIME: "latency s"})
    errors = (MSE,) if trained else ()
    return Entry("", task, variant, (TIME, STEP_TIME, *errors), papers)


def table(name: str = "speed", *, trained: bool = True) -> Table:
    """Return the table; errors and real time are of no interest with random weights."""
    faster = "DITTO-2 (1, 2) {} at least {} times as fast as DITTO (20, 20)"
    claims: list[Callable[[Results], list[Claim]]] = [
        Versus(faster.format("is", 25), SLOW.name, DEFAULT.name, TIME, least=25.0),
        Versus(faster.format("as published is", 10), SLOW.name, PUBLISHED.name, TIME, least=10.0),
        Versus(
            "DITTO-2 (1, 2) is at least 10 times as fast as DITTO with all that it has",
            *(HELPED.name, DEFAULT.name, TIME),
            least=10.0,
        ),
    ]
    if trained:
        words = "DITTO-2's MSE is below DITTO's on the same clips"
        claims += [Versus(words, SLOW.name, DEFAULT.name, MSE), _in_real_time]
    in_mel = PUBLISHED.with_(name="CTM-1/2 mel")
    return Table(
        name,
        "How long a clip takes, and where the time goes",
        (
            _entry(DEFAULT, trained=trained),
            _entry(in_mel, trained=trained, task=CONTROLS["loudness, mel"]),
            _entry(PUBLISHED.with_(clips=MINUTE) if trained else PUBLISHED, trained=trained),
            _entry(SLOW, trained=trained),
            _entry(KEPT, trained=trained),
            _entry(HELPED, trained=trained, task=Helped.of(CONTROLS["loudness"])),
        ),
        claims=tuple(claims),
        extra=lambda bench, *_: costs(bench),
        fresh=True,
        count=32,
    )


def recipe(name: str) -> BaseConfig:
    """Return a base's recipe: "paper" for the papers' UNet, a recipe's name, or a file.

    Raises:
        DataError: there is none.
    """
    short = RECIPES / f"base-{name}.json"
    path = short if short.is_file() else recipe_path(name)
    if not path.is_file():
        raise DataError(
            f"there is no config {name!r}: give a file, or a name such as paper for base-paper"
        )
    return load_config(path, BaseConfig)


def untrained(config: BaseConfig, name: str, device: str) -> Models:
    """Return a model with the network of a recipe, random weights, and a student like it.

    Raises:
        ModelError: there is no such device.
    """
    place = checked_device(device)
    embedded = load(device=place)
    network = network_of(config).requires_grad_(False).eval()
    model = MusicModel(
        network,
        embedded.vocoder,
        replace(embedded.spec, clip_frames=config.frames),
        embedded.vocabulary,
        guidance=embedded.guidance,
        shift=config.data_std if config.shift is None else config.shift,
        name=f"{name}, random weights",
        precision=native_precision(place),
    )
    student = model.new_student().requires_grad_(False).eval()
    for module in (network, student):
        nn.Module.to(module, place)
    return Models(replace(model, distilled=Student(student, "ctm", STUDENT_GUIDANCE, "")))
