"""``ditto-music bench speed``: how long a loudness-controlled clip takes, and where the time goes.

DITTO (20 steps) and DITTO-2 (M=1, T'=2) make the same clips one at a time, one after the other, in one process. Beside
them: the mel-domain surrogate, which hears the loudness in x_0 and leaves the vocoder to the end; a table of where an
iteration's time goes; and the floor, which is the iteration's floating-point operations at the rate of a large matrix
product on the same threads in the same run.
"""

import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch.utils.flop_counter import FlopCounterMode

from ditto.bench.budget import Budget, Setting, made
from ditto.bench.clips import weights_digest
from ditto.bench.intensity import drawn_targets
from ditto.bench.report import Claim, Partial, Report, Row, Tensors, model_entry
from ditto.controls.base import Output
from ditto.errors import ModelError
from ditto.metrics.bootstrap import mean_interval, ratio_interval
from ditto.models.loading import load
from ditto.request import GAMMAS

DITTO = Budget("DM", 20, 20)
FAST = Budget("CTM", 1, 2)
MEL = replace(FAST, surrogate="mel")
PHASES = (
    "denoiser forward", "vocoder forward", "features forward", "features backward", "vocoder backward",
    "denoiser backward", "optimiser",
)  # fmt: skip
SPEED_UP, OVERHEAD = 25.0, 0.1


def run_speed(
    folder: str | Path | None = None, *, count: int = 32, ditto_count: int | None = None, seed: int = 0,
    out: Path = Path("docs/results"), iterations: int = 70, guidance: float | None = None, gamma: float | None = None,
    cache: Path = Path("runs/bench"), resume: bool = True, show: bool = True, command: str | None = None,
) -> Report:  # fmt: skip
    """Measure and write speed.json, speed.md and speed.png into `out`.

    Args:
        folder: of the model; None is the embedded one. It must have a CTM student.
        count: clips.
        ditto_count: clips of them that DITTO makes too; None is all.
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
        raise ModelError("this model has no student to be fast with: distil one with `ditto-music distill ctm`")
    scale = model.guidance if guidance is None else guidance
    gamma = GAMMAS["ctm"] if gamma is None else gamma
    setting = Setting(model, None, None, seed, iterations, 5e-3, scale, gamma)
    first_call = _first_call(setting)
    settings: dict[str, Any] = {"iterations": iterations, "guidance": scale, "gamma": gamma, "lr": 5e-3}
    identity = settings | {"model": weights_digest(model), "seed": seed, "threads": torch.get_num_threads()}
    parts = Partial(cache, "speed", identity, batch=1, resume=resume, show=show)
    number = count if ditto_count is None else min(ditto_count, count)
    found = {
        budget.row: parts.gathered(budget.row.replace("/", "-"), clips, Clips(setting, budget))
        for budget, clips in ((FAST, count), (MEL, count), (DITTO, number))
    }
    phases, whole = iteration_phases(setting)
    rows = [*_rows(found), *_phase_rows(phases, whole), *_floor_rows(setting, whole)]
    rows += [Row.of("model load", "seconds", "s", load_seconds), Row.of("first iteration", "seconds", "s", first_call)]
    report = Report(
        "speed", command or f"ditto-music bench speed --count {count}", model_entry(model), "none", count, seed,
        sum(f["seconds"].sum().item() for f in found.values()), settings | {"ditto_count": number}, tuple(rows),
        tuple(_claims(found, phases, whole, model.spec.clip_seconds)),
    )  # fmt: skip
    report.write(out, _picture(phases, whole))
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


def iteration_phases(setting: Setting, repeats: int = 15) -> tuple[dict[str, float], float]:
    """Median seconds of each of `PHASES`, taken apart, and of an iteration of the optimisation as it runs."""
    model = setting.model
    control, tags, x_T = drawn_targets(model, setting.seed, 0, 1)
    surrogate = setting.surrogate(tags)
    adam = torch.optim.Adam([latent := x_T.clone().requires_grad_(True)], lr=1e-9)
    times: list[list[float]] = []
    for _ in range(repeats + 2):
        marks = [time.perf_counter()]

        def mark(marks: list[float] = marks) -> None:
            marks.append(time.perf_counter())

        x_0 = surrogate(latent)
        mark()
        audio = model.to_audio(held := x_0.detach().requires_grad_(True))
        mark()
        loss = control.loss(Output(held, model, heard := audio.detach().requires_grad_(True))).sum()
        mark()
        slope = torch.autograd.grad(loss, heard)[0]
        mark()
        slope = torch.autograd.grad(audio, held, slope)[0]
        mark()
        latent.grad = torch.autograd.grad(x_0, latent, slope)[0]
        mark()
        adam.step()
        mark()
        times.append(np.diff(marks).tolist())
    medians = [statistics.median(phase) for phase in zip(*times[2:], strict=True)]
    return dict(zip(PHASES, medians, strict=True)), _iteration_seconds(setting, repeats)


def _iteration_seconds(setting: Setting, repeats: int) -> float:
    """Median seconds between the iterations of `ditto2`."""
    control, tags, x_T = drawn_targets(setting.model, setting.seed, 0, 1)
    marks = [time.perf_counter() for _ in setting.steps(FAST, control, tags, x_T, repeats + 3)]
    return float(np.median(np.diff(marks)[2:]))


def _first_call(setting: Setting) -> float:
    """Seconds of the first iteration in this process, whatever is made on first use included."""
    control, tags, x_T = drawn_targets(setting.model, setting.seed, 0, 1)
    started = time.perf_counter()
    next(iter(setting.steps(FAST, control, tags, x_T, 1)))
    return time.perf_counter() - started


def iteration_flops(setting: Setting) -> int:
    """Floating-point operations of the matrix products, convolutions and attention of one iteration."""
    control, tags, x_T = drawn_targets(setting.model, setting.seed, 0, 1)
    latent = x_T.clone().requires_grad_(True)
    with FlopCounterMode(display=False) as counter:
        loss = control(setting.surrogate(tags)(latent), setting.model).sum()
        loss.backward()  # the counter cannot follow autograd.grad
    return int(counter.get_total_flops())


def matmul_rate(size: int = 1536, seconds: float = 1.0) -> float:
    """Floating-point operations a second of a float32 matrix product of this size, on torch's present threads."""
    a, b = torch.ones(size, size), torch.ones(size, size)
    torch.mm(a, b)
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        torch.mm(a, b)
        done += 1
    return 2 * size**3 * done / (time.perf_counter() - started)


def _floor_rows(setting: Setting, whole: float) -> list[Row]:
    flops, rate = iteration_flops(setting), matmul_rate()
    return [
        Row.of("floor", "gflop_per_iteration", "GFLOP", flops / 1e9),
        Row.of("floor", "matmul_rate", "GFLOP/s", rate / 1e9),
        Row.of("floor", "seconds_per_iteration", "s", flops / rate),
        Row.of("floor", "share_of_iteration", "", flops / rate / whole),
    ]


def _rows(found: dict[str, Tensors]) -> list[Row]:
    rows = []
    for name, f in found.items():
        rows.append(Row.of(name, "seconds_per_clip", "s", mean_interval(f["clip_seconds"].numpy())))
        rows.append(Row.of(name, "intensity_mse", "dB^2", mean_interval(f["mse"].double().numpy())))
        rows.append(Row.of(name, "intensity_mse_median", "dB^2", float(np.median(f["mse"].numpy()))))
    return rows


def _phase_rows(phases: dict[str, float], whole: float) -> list[Row]:
    rows = [Row.of(f"iteration: {name}", "seconds", "s", seconds) for name, seconds in phases.items()]
    rows.append(Row.of("iteration: overhead", "seconds", "s", whole - sum(phases.values())))
    return [*rows, Row.of("iteration: whole", "seconds", "s", whole)]


def _claims(
    found: dict[str, Tensors], phases: dict[str, float], whole: float, clip_seconds: float
) -> list[Claim]:  # fmt: skip
    slow, fast = found[DITTO.row], found[FAST.row]
    number = len(slow["mse"])

    def ratio(column: str) -> Any:
        above, below = slow[column].double().numpy(), fast[column].double().numpy()[:number]
        return ratio_interval(above, below, paired=True)

    times = mean_interval(fast["clip_seconds"].numpy())
    overhead = (whole - sum(phases.values())) / whole
    return [
        Claim.at_least(
            "DITTO-2 (1, 2) is at least 25 times as fast as DITTO (20, 20)", ratio("clip_seconds"), SPEED_UP
        ),
        Claim.at_least("its MSE is no larger than DITTO's on the same clips", ratio("mse"), 1.0),
        Claim.at_most(f"a clip of {clip_seconds:.2f} s takes no longer than it lasts", times, clip_seconds),
        Claim.at_most("overhead is under a tenth of an iteration", type(times)(overhead, overhead, overhead), OVERHEAD),
    ]


def _picture(phases: dict[str, float], whole: float) -> Figure:
    """Where an iteration's time goes."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    left = 0.0
    for name, seconds in {**phases, "overhead": max(whole - sum(phases.values()), 0.0)}.items():
        axes.barh(0, 1e3 * seconds, left=left, label=f"{name}, {1e3 * seconds:.1f} ms")
        left += 1e3 * seconds
    axes.set(xlabel="milliseconds of one DITTO-2 iteration", yticks=[])
    axes.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.35))
    return figure
