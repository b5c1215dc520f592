"""``ditto-music bench speed``: how long a loudness-controlled clip takes, and where the time goes.

DITTO (20 steps) and DITTO-2 (M=1, T'=2) make the same clips one at a time, one after the other, in
one process: DITTO-2 as it is by default, whose surrogate hears the loudness in x_0 and is corrected
by the output now and then; through the vocoder every time, as in the paper; and in x_0 alone.
Beside them a table of where an iteration's time goes, and the floor, which is the iteration's
floating-point operations at the rate of a large matrix product, in the precision of the networks,
on the same threads in the same run.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ditto.methods.ways import estimates
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.budget import Budget, Setting, made
from benchmarks.clips import weights_digest
from benchmarks.intensity import drawn_targets
from benchmarks.report import Claim, Partial, Report, Row, Tensors
from ditto.controls.base import Control, Output
from ditto.errors import ModelError
from ditto.eval.bootstrap import mean_interval, ratio_interval
from ditto.methods.ditto2 import CORRECTIONS
from ditto.models.hub import load
from ditto.models.model import MusicModel
from ditto.optimize import LR
from ditto.request import GAMMAS

DITTO = Budget("DM", 20, 20)
PAPERS = Budget("CTM", 1, 2)
MEL = replace(PAPERS, surrogate="mel")
DEFAULT = replace(PAPERS, corrections=CORRECTIONS)
PHASES = (
    "denoiser forward",
    "vocoder forward",
    "features forward",
    "features backward",
    "vocoder backward",
    "denoiser backward",
    "optimiser",
    "overhead",
)
SPEED_UP, OVERHEAD = 25.0, 0.1


def run_speed(
    folder: str | Path | None = None,
    *,
    count: int = 32,
    slow_count: int | None = None,
    seed: int = 0,
    out: Path = Path("docs/results"),
    iterations: int = 70,
    guidance: float | None = None,
    gamma: float | None = None,
    cache: Path = Path("runs/bench"),
    resume: bool = True,
    show: bool = True,
    command: str | None = None,
) -> Report:
    """Measure and write speed.json, speed.md and speed.png into `out`.

    Args:
        folder: of the model; None is the embedded one. It must have a CTM student.
        count: clips.
        slow_count: clips of them that DITTO makes too, and DITTO-2 through the vocoder; None is
            all.
        seed: item i draws curve, tags and x_T from ``seed + i``.
        out: folder of the results.
        iterations: K.
        guidance: CFG scale w; None is the model's default.
        gamma: γ of the student's decoding; None is that of `ditto.request.GAMMAS`.
        cache: where finished clips are kept, so that a killed run goes on.
        resume: use those.
        show: progress.
        command: what the report says it was run by.

    Raises:
        ModelError: the model has no CTM student.
        OutputError: the results cannot be written.
    """
    started = time.perf_counter()
    model = load(folder)
    load_seconds = time.perf_counter() - started
    if model.distilled is None:
        raise ModelError(
            "this model has no student to be fast with: distil one with `ditto-music distill ctm`"
        )
    scale = model.guidance if guidance is None else guidance
    gamma = GAMMAS["ctm"] if gamma is None else gamma
    setting = Setting(model, None, None, seed, iterations, LR, scale, gamma)
    first_call = _first_call(setting)
    settings: dict[str, Any] = {
        "iterations": iterations,
        "guidance": scale,
        "gamma": gamma,
        "lr": LR,
    }
    settings |= {f"corrected {name}": value for name, value in DEFAULT.adam(iterations).items()}
    identity = settings | {
        "model": weights_digest(model),
        "seed": seed,
        "threads": torch.get_num_threads(),
    }
    parts = Partial(cache, "speed", identity, batch=1, resume=resume, show=show)
    number = count if slow_count is None else min(slow_count, count)
    found = {
        budget.row: parts.gathered(budget.row.replace("/", "-"), clips, Clips(setting, budget))
        for budget, clips in ((DEFAULT, count), (MEL, count), (PAPERS, number), (DITTO, number))
    }
    timed = {budget: Iteration.of(setting, budget) for budget in (DEFAULT, PAPERS)}
    rows = [*_rows(found), *(row for iteration in timed.values() for row in iteration.rows())]
    rows += _floor_rows(setting, timed)
    rows += [
        Row.of("model load", "seconds", "s", load_seconds),
        Row.of("first iteration", "seconds", "s", first_call),
    ]
    report = Report(
        "speed",
        command or f"ditto-music bench speed --count {count}",
        model.describe(),
        "none",
        count,
        seed,
        sum(f["seconds"].sum().item() for f in found.values()),
        settings | {"slow_count": number},
        tuple(rows),
        tuple(_claims(found, timed[DEFAULT], model.spec.clip_seconds)),
    )
    report.write(out, _picture(timed))
    return report


@dataclass(frozen=True, eq=False)
class Clips:
    """Makes and measures the clips of one row."""

    setting: Setting
    budget: Budget

    def __call__(self, first: int, last: int) -> Tensors:
        """Seconds and errors of the clips `first` … `last` − 1."""
        control, tags, x_T = drawn_targets(self.setting.model, self.setting.seed, first, last)
        started = time.perf_counter()
        x_0 = made(self.setting, self.budget, control, tags, x_T, first)
        audio = self.setting.model.to_audio(x_0).detach()
        seconds = time.perf_counter() - started
        errors = control.errors(Output(x_0, self.setting.model, audio))
        return {
            "clip_seconds": torch.full((len(x_T),), seconds / len(x_T), dtype=torch.float64),
            "mse": errors["intensity_mse_db2"],
        }


@dataclass(frozen=True)
class Iteration:
    """Where the time of one iteration goes.

    Attributes:
        row: what is optimised through.
        phases: median seconds of each phase, taken apart.
        whole: median seconds of an iteration of the optimisation as it runs.
        correction: seconds of one correction; 0 where there are none.
    """

    row: str
    phases: dict[str, float]
    whole: float
    correction: float

    @classmethod
    def of(cls, setting: Setting, budget: Budget, repeats: int = 15) -> "Iteration":
        """Time `repeats` iterations of a row, after two to warm up."""
        control, tags, x_T = drawn_targets(setting.model, setting.seed, 0, 1)
        control = control.estimate() if budget.corrections else control
        surrogate, latent = setting.surrogate(tags), x_T.clone().requires_grad_(True)
        adam = torch.optim.Adam([latent], lr=1e-9)
        timed = partial(
            _timed, surrogate, control, setting.model, adam, latent, sound=not budget.corrections
        )
        times = [timed() for _ in range(repeats + 2)][2:]
        phases = {name: statistics.median(phase[name] for phase in times) for name in times[0]}
        correction = _correction_seconds(setting, budget) if budget.corrections else 0.0
        return cls(budget.row, phases, _iteration_seconds(setting, budget, repeats), correction)

    @property
    def overhead(self) -> float:
        """Share of an iteration that is no phase's."""
        return (self.whole - sum(self.phases.values())) / self.whole

    def rows(self) -> list[Row]:
        """The table's rows."""
        about = f"iteration of {self.row}"
        rows = [
            Row.of(f"{about}: {name}", "seconds", "s", seconds)
            for name, seconds in self.phases.items()
        ]
        rows.append(Row.of(f"{about}: overhead", "seconds", "s", self.overhead * self.whole))
        rows.append(Row.of(f"{about}: whole", "seconds", "s", self.whole))
        return rows + (
            [Row.of("a correction", "seconds", "s", self.correction)] if self.correction else []
        )


def _timed(
    surrogate: Callable[[Tensor], Tensor],
    control: Control,
    model: MusicModel,
    adam: torch.optim.Optimizer,
    latent: Tensor,
    *,
    sound: bool,
) -> dict[str, float]:
    """Seconds of each phase of one iteration, through the vocoder if the control hears the
    `sound`.
    """
    marks = [("", time.perf_counter())]

    def mark(name: str) -> None:
        marks.append((name, time.perf_counter()))

    x_0 = surrogate(latent)
    mark("denoiser forward")
    held = x_0.detach().requires_grad_(True)
    if sound:
        audio = model.to_audio(held)
        mark("vocoder forward")
        heard = audio.detach().requires_grad_(True)
        loss = control.loss(Output(held, model, heard)).sum()
        mark("features forward")
        slope = torch.autograd.grad(loss, heard)[0]
        mark("features backward")
        slope = torch.autograd.grad(audio, held, slope)[0]
        mark("vocoder backward")
    else:
        loss = control.loss(Output(held, model)).sum()
        mark("features forward")
        slope = torch.autograd.grad(loss, held)[0]
        mark("features backward")
    latent.grad = torch.autograd.grad(x_0, latent, slope)[0]
    mark("denoiser backward")
    adam.step()
    mark("optimiser")
    return {name: end - start for (_, start), (name, end) in pairwise(marks)}


def _correction_seconds(setting: Setting, budget: Budget, repeats: int = 5) -> float:
    """Median seconds of decoding and of calibrating by what is heard."""
    control, tags, x_T = drawn_targets(setting.model, setting.seed, 0, 1)
    _, calibrate = estimates(control, setting.model)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        calibrate(setting.decoded(budget, tags, 0, x_T))
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _iteration_seconds(setting: Setting, budget: Budget, repeats: int) -> float:
    """Median seconds between the iterations of `ditto2`, those with a correction left out."""
    control, tags, x_T = drawn_targets(setting.model, setting.seed, 0, 1)
    budget = replace(budget, corrections=0, surrogate="mel") if budget.corrections else budget
    marks = [time.perf_counter() for _ in setting.steps(budget, control, tags, x_T, repeats + 3)]
    return float(np.median(np.diff(marks)[2:]))


def _first_call(setting: Setting) -> float:
    """Seconds of the first iteration in this process, whatever is made on first use included."""
    control, tags, x_T = drawn_targets(setting.model, setting.seed, 0, 1)
    started = time.perf_counter()
    next(iter(setting.steps(DEFAULT, control, tags, x_T, 1)))
    return time.perf_counter() - started


def iteration_flops(setting: Setting, budget: Budget) -> int:
    """Floating-point operations of the matrix products, convolutions and attention of one iteration
    of a row.
    """
    control, tags, x_T = drawn_targets(setting.model, setting.seed, 0, 1)
    control = control.estimate() if budget.corrections else control
    device = setting.model.device
    latent = x_T.to(device, copy=True).requires_grad_(True)
    with FlopCounterMode(display=False) as counter:
        loss = control(setting.surrogate(tags.to(device))(latent), setting.model).sum()
        loss.backward()  # the counter cannot follow autograd.grad
    return int(counter.get_total_flops())


def matmul_rate(
    size: int = 1536,
    seconds: float = 1.0,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> float:
    """Floating-point operations a second of a matrix product of this size, on a device or torch's
    present threads.
    """
    a, b = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    torch.mm(a, b)[0, 0].item()
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        # Reading an element waits for the device.
        torch.mm(a, b)[0, 0].item()
        done += 1
    return 2 * size**3 * done / (time.perf_counter() - started)


def _floor_rows(setting: Setting, timed: Mapping[Budget, Iteration]) -> list[Row]:
    rate = matmul_rate(dtype=setting.model.precision)
    rows = [Row.of("floor", "matmul_rate", "GFLOP/s", rate / 1e9)]
    for budget, iteration in timed.items():
        flops, row = iteration_flops(setting, budget), f"floor of {budget.row}"
        rows.append(Row.of(row, "gflop_per_iteration", "GFLOP", flops / 1e9))
        rows.append(Row.of(row, "seconds_per_iteration", "s", flops / rate))
        rows.append(Row.of(row, "share_of_iteration", "", flops / rate / iteration.whole))
    return rows


def _rows(found: dict[str, Tensors]) -> list[Row]:
    rows = []
    for name, f in found.items():
        rows.append(Row.of(name, "seconds_per_clip", "s", mean_interval(f["clip_seconds"].numpy())))
        rows.append(Row.of(name, "intensity_mse", "dB^2", mean_interval(f["mse"].double().numpy())))
        rows.append(
            Row.of(name, "intensity_mse_median", "dB^2", float(np.median(f["mse"].numpy())))
        )
    return rows


def _claims(found: dict[str, Tensors], iteration: Iteration, clip_seconds: float) -> list[Claim]:
    slow, papers, fast = (found[budget.row] for budget in (DITTO, PAPERS, DEFAULT))

    def ratio(other: Tensors, column: str) -> Any:
        number = min(len(slow[column]), len(other[column]))
        above, below = (
            slow[column].double().numpy()[:number],
            other[column].double().numpy()[:number],
        )
        return ratio_interval(above, below, paired=True)

    times = mean_interval(fast["clip_seconds"].numpy())
    share = iteration.overhead
    return [
        Claim.at_least(
            "DITTO-2 (1, 2) is at least 25 times as fast as DITTO (20, 20)",
            ratio(fast, "clip_seconds"),
            SPEED_UP,
        ),
        Claim.at_least(
            "the paper's DITTO-2 (1, 2) is at least 10 times as fast as DITTO",
            ratio(papers, "clip_seconds"),
            10.0,
        ),
        Claim.at_least(
            "DITTO-2's MSE is no larger than DITTO's on the same clips", ratio(fast, "mse"), 1.0
        ),
        Claim.at_most(
            f"a clip of {clip_seconds:.2f} s takes no longer than it lasts", times, clip_seconds
        ),
        Claim.at_most(
            "overhead is under a tenth of an iteration", type(times)(share, share, share), OVERHEAD
        ),
    ]


def _picture(timed: Mapping[Budget, Iteration]) -> Figure:
    """Where an iteration's time goes."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colours = {name: f"C{i}" for i, name in enumerate(PHASES)}
    for y, iteration in enumerate(timed.values()):
        left = 0.0
        for name, seconds in {
            **iteration.phases,
            PHASES[-1]: max(iteration.overhead * iteration.whole, 0.0),
        }.items():
            axes.barh(
                y,
                1e3 * seconds,
                left=left,
                color=colours[name],
                label=None if y < len(timed) - 1 else name,
            )
            left += 1e3 * seconds
    axes.set(xlabel="milliseconds of one iteration")
    axes.set_yticks(range(len(timed)), [iteration.row for iteration in timed.values()])
    axes.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.25))
    return figure
