"""``ditto-music bench speed --config paper``: what DITTO and DITTO-2 cost with a network that is
yet to be trained.

Seconds, memory and operations depend on a network's shape alone, not on what it has learnt. So the
network of a base's config, and a student like it, get random weights here, and what their clips
sound like is not measured. The vocoder is the embedded model's.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import charts
from benchmarks.budget import FIG_4, TABLE_2, Budget, Setting
from benchmarks.intensity import drawn_targets
from benchmarks.report import Claim, Report, Row
from benchmarks.speed import DEFAULT, iteration_flops, matmul_rate
from ditto.controls.per_item import PerItem
from ditto.diffusion.samplers import ddim
from ditto.errors import DataError
from ditto.eval.bootstrap import mean_interval, ratio_interval
from ditto.methods.ditto import checkpointed_call
from ditto.models.device import native_precision
from ditto.models.hub import load
from ditto.models.model import MusicModel, Student
from ditto.models.profile import MemoryTracker
from ditto.optimize import LR
from ditto.request import GAMMAS
from ditto.training.base import network_of
from ditto.training.denoising import BaseConfig
from ditto.training.loop import RECIPES, load_config

PAPERS, DITTO = TABLE_2[1], FIG_4[1]
"""(M, T') = (1, 2) and (20, 20), with the seconds a clip that DITTO-2's Table 2 has, on an A100."""
ROWS = (DEFAULT, PAPERS, DITTO)
STUDENTS_GUIDANCE = (0.0, 15.0)
PAPERS_SPEED_UP = 10.0
CONFIGS = RECIPES


def run_speed_untrained(
    config: str,
    *,
    device: str = "cpu",
    count: int = 4,
    seed: int = 0,
    iterations: int = 70,
    guidance: float | None = None,
    out: Path = Path("docs/results"),
    command: str | None = None,
) -> Report:
    """Measure and write speed-NAME.json, .md and .png into `out`, where NAME is the config's.

    Args:
        config: a base's config, or "paper" for the recipe base-paper.
        device: "cpu" or "cuda".
        count: clips, made one at a time.
        seed: item i draws curve, tags and x_T from ``seed + i``; the weights are drawn by the
            config's seed.
        iterations: K.
        guidance: CFG scale w; None is the embedded model's default.
        out: folder of the results.
        command: what the report says it was run by.

    Raises:
        DataError: there is no such config, or it is damaged, or there is no such device here.
        OutputError: the results cannot be written.
    """
    path = config_path(config)
    model = untrained(load_config(path, BaseConfig), checked_device(device), path.stem)
    scale = model.guidance if guidance is None else guidance
    setting = Setting(model, None, None, seed, iterations, LR, scale, GAMMAS["ctm"])
    rate = matmul_rate(8192 if device == "cuda" else 1536, device=device)
    started = time.perf_counter()
    _iteration(setting, PAPERS)  # warms up: a GPU chooses its kernels at their first call
    costs = {budget: Cost.of(setting, budget, count) for budget in ROWS}
    rows = [row for budget, cost in costs.items() for row in cost.rows(budget, rate)]
    about = {
        "iterations": iterations,
        "guidance": scale,
        "device": device,
        "config": str(path),
        "weights": "random",
        "parameters": sum(p.numel() for p in model.network.parameters()),
        "matmul_gflop_per_second": rate / 1e9,
    }
    report = Report(
        f"speed-{path.stem.removeprefix('base-')}",
        command or f"ditto-music bench speed --config {config}",
        model.describe(),
        "none",
        count,
        seed,
        time.perf_counter() - started,
        about,
        tuple(rows),
        tuple(_claims(costs)),
    )
    report.write(out, charts.table(report))
    return report


def config_path(name: str) -> Path:
    """The file of a config's name, or the file itself.

    Raises:
        DataError: there is none.
    """
    for path in (Path(name), CONFIGS / f"base-{name}.json"):
        if path.is_file():
            return path
    raise DataError(
        f"there is no config {name!r}: give a file, or a name such as paper for base-paper"
    )


def checked_device(name: str) -> torch.device:
    """The device of a name.

    Raises:
        DataError: it is unknown, or not there.
    """
    if name not in ("cpu", "cuda"):
        raise DataError(f"unknown device {name!r}: choose cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise DataError("there is no CUDA device here: choose --device cpu")
    return torch.device(name)


def untrained(recipe: BaseConfig, device: torch.device, name: str) -> MusicModel:
    """A model with the network of a recipe, random weights, and a student like it."""
    embedded = load(device=device)
    network = network_of(recipe).requires_grad_(False).eval()
    model = MusicModel(
        network,
        embedded.vocoder,
        replace(embedded.spec, clip_frames=recipe.frames),
        embedded.vocabulary,
        guidance=embedded.guidance,
        shift=recipe.data_std if recipe.shift is None else recipe.shift,
        name=f"{name}, random weights",
        precision=native_precision(device),
    )
    student = model.new_student().requires_grad_(False).eval()
    for module in (network, student):
        nn.Module.to(module, device)
    return replace(model, distilled=Student(student, "ctm", STUDENTS_GUIDANCE, ""))


@dataclass(frozen=True)
class Cost:
    """What a row costs.

    Attributes:
        seconds: of each clip.
        iteration: seconds of an iteration, corrections included.
        memory_gb: the most that one iteration's tensors took at once, GB = 10⁹ bytes; the weights
            not counted.
        flops: of one iteration without corrections.
    """

    seconds: tuple[float, ...]
    iteration: float
    memory_gb: float
    flops: int

    @classmethod
    def of(cls, setting: Setting, budget: Budget, count: int) -> "Cost":
        """Make `count` clips, and count another iteration's memory and operations."""
        clips = [_clip_seconds(setting, budget, i) for i in range(count)]
        with MemoryTracker() as alive:
            _iteration(setting, budget)
        seconds = [optimised + decoded for optimised, decoded in clips]
        iteration = sum(optimised for optimised, _ in clips) / count / setting.iterations
        flops = (chain_flops if budget.kind == "DM" else iteration_flops)(setting, budget)
        return cls(tuple(seconds), iteration, alive.peak / 1e9, flops)

    def rows(self, budget: Budget, rate: float) -> list[Row]:
        """The table's rows; utilisation is of the rate of a large matrix product on the same
        device.
        """
        name = budget.row
        paper = dict(budget.paper).get("seconds_per_clip")
        return [
            Row.of(name, "seconds_per_clip", "s", mean_interval(np.array(self.seconds)), paper),
            Row.of(name, "seconds_per_iteration", "s", self.iteration),
            Row.of(name, "peak_memory_gb", "GB", self.memory_gb),
            Row.of(name, "gflop_per_iteration", "GFLOP", self.flops / 1e9),
            Row.of(name, "utilisation", "", self.flops / self.iteration / rate),
        ]


def _drawn(setting: Setting, i: int) -> tuple[PerItem, Tensor, Tensor]:
    """Target, condition and x_T of clip i, on the model's device."""
    control, tags, x_T = drawn_targets(setting.model, setting.seed, i, i + 1)
    return control, tags.to(setting.model.device), x_T.to(setting.model.device)


def _clip_seconds(setting: Setting, budget: Budget, i: int) -> tuple[float, float]:
    """Seconds of optimising a clip, and of decoding it and making its sound."""
    control, tags, x_T = _drawn(setting, i)
    marks = [_now(x_T)]
    optimised = _last(setting.steps(budget, control, tags, x_T, setting.iterations, i))
    marks.append(_now(x_T))
    setting.model.to_audio(setting.decoded(budget, tags, i, optimised))
    marks.append(_now(x_T))
    return marks[1] - marks[0], marks[2] - marks[1]


def _last(steps: Iterable[Any]) -> Tensor:
    *_, last = steps
    return last.best_x_T


def _now(tensor: Tensor) -> float:
    """The time, once the tensor's device has done its work."""
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
    return time.perf_counter()


def chain_flops(setting: Setting, budget: Budget) -> int:
    """Floating-point operations of one iteration through a whole chain.

    They are those of one step and as many more as a second one adds: the counter keeps what every
    step's checkpoint makes anew, and with all steps that would not fit the memory.
    """
    counts = []
    for steps in (1, 2):
        with FlopCounterMode(display=False) as counter:
            _iteration(setting, replace(budget, decode=steps))
        counts.append(int(counter.get_total_flops()))
    return counts[0] + (budget.decode - 1) * (counts[1] - counts[0])


def _iteration(setting: Setting, budget: Budget) -> None:
    """Forward and backward of one iteration without corrections, as the optimisation does them."""
    control, tags, x_T = _drawn(setting, 0)
    chain = replace(setting.chain(budget, tags), call=checkpointed_call)
    render = partial(ddim, chain) if budget.kind == "DM" else setting.surrogate(tags)
    heard = control.estimate() if budget.corrections else control
    latent = x_T.clone().requires_grad_(True)
    heard(
        render(latent), setting.model
    ).sum().backward()  # FlopCounterMode cannot follow autograd.grad


def _claims(costs: dict[Budget, Cost]) -> list[Claim]:
    slow = np.array(costs[DITTO].seconds)
    return [
        Claim.at_least(
            f"{budget.row} is at least 10 times as fast as {DITTO.row}",
            ratio_interval(slow, np.array(costs[budget].seconds), paired=True),
            PAPERS_SPEED_UP,
        )
        for budget in (DEFAULT, PAPERS)
    ]
