"""How far sampling chains end from the exact one: samplers and grids over T.

The exact chain is one of ten times as many steps as are common. All begin at the same noise, with
tags at random; nothing is decoded. Beside the distance stands the deviation of x_0: a chain of too
few steps between levels where a whole clip's loudness and colour form ends at flatter clips.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.report import Report, Row
from benchmarks.targets import random_tags
from ditto.diffusion.samplers import Chain, ddim, dpm_solver_pp
from ditto.diffusion.schedule import GridName
from ditto.eval.bootstrap import mean_interval
from ditto.models.hub import load
from ditto.models.model import MusicModel

NAME, COUNT = "chains", 16
SAMPLERS: dict[str, Callable[[Chain, Tensor], Tensor]] = {
    "DDIM": ddim,
    "DPM-Solver++": dpm_solver_pp,
}
GRIDS: dict[str, GridName] = {"even steps": "trailing", "Karras' grid": "karras"}


@dataclass(frozen=True)
class Settings:
    """How much is made.

    Attributes:
        steps: T of the chains.
        exact: steps of the one that they are compared with, DPM-Solver++ on Karras' grid.
        batch: clips at once.
    """

    steps: tuple[int, ...] = (10, 20, 40)
    exact: int = 200
    batch: int = 8


def measured(
    settings: Settings | None = None,
    *,
    count: int = COUNT,
    seed: int = 0,
    model: str | None,
    command: str,
) -> Report:
    """Sample clips by every chain.

    Args:
        settings: how much is made.
        count: clips.
        seed: of the first one's noise and tags.
        model: a folder or Hub id; None is the embedded one.
        command: to say how this was made.
    """
    settings, loaded, begun = (
        settings or Settings(),
        load(model, precision="float32"),
        time.perf_counter(),
    )
    rows = tuple(_rows(settings, loaded, count, seed))
    return Report(
        name=NAME,
        command=command,
        model=loaded.describe(),
        embedding="none",
        count=count,
        seed=seed,
        seconds=time.perf_counter() - begun,
        settings={"title": "Distance of sampling chains from the exact one", "guidance": 1.0},
        rows=rows,
        claims=(),
    )


def _rows(settings: Settings, model: MusicModel, count: int, seed: int) -> Iterator[Row]:
    exact = _sampled(model, dpm_solver_pp, settings.exact, "karras", settings, count, seed)
    yield Row.of("exact", "deviation", "", exact.std().item(), count=count)
    for sampler, sample in SAMPLERS.items():
        for words, grid in GRIDS.items():
            for steps in settings.steps:
                x_0 = _sampled(model, sample, steps, grid, settings, count, seed)
                distances = (x_0 - exact).square().flatten(1).mean(dim=1) / exact.var()
                name = f"{sampler} in {steps}, {words}"
                yield Row.of(
                    name, "distance", "variances", mean_interval(distances.tolist()), count=count
                )
                yield Row.of(name, "deviation", "", x_0.std().item(), count=count)


@torch.no_grad()
def _sampled(
    model: MusicModel,
    sample: Callable[[Chain, Tensor], Tensor],
    steps: int,
    grid: GridName,
    settings: Settings,
    count: int,
    seed: int,
) -> Tensor:
    """Return x_0 of all clips, (N, …)."""
    timesteps, made = model.schedule.timesteps(steps, grid), []
    for first in range(seed, seed + count, settings.batch):
        seeds = range(first, min(first + settings.batch, seed + count))
        noise = [model.noise(model.shape(), torch.Generator().manual_seed(i)) for i in seeds]
        tags = [random_tags(np.random.default_rng([i, 9]), model.vocabulary) for i in seeds]
        chain = Chain(model.denoiser, model.schedule, timesteps, model.cond_each(tags))
        made.append(sample(chain, torch.stack(noise)))
    return torch.cat(made)
