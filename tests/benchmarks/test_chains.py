"""The benchmark of sampling chains, on the tiny model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.targets import random_tags

from benchmarks import chains
from ditto.diffusion.samplers import Chain, ddim, dpm_solver_pp
from ditto.models.hub import load


def test_distances_are_those_from_the_exact_chain_and_shrink(model_folder: Path) -> None:
    settings = chains.Settings(steps=(2, 30), exact=60, batch=2)
    report = chains.measured(settings, count=3, seed=5, model=str(model_folder), command="")
    model = load(model_folder, precision="float32")
    made = {"exact": [], "ddim": []}
    for i in (5, 6, 7):
        x_T = model.noise(model.shape(), torch.Generator().manual_seed(i))[None]
        tags = random_tags(np.random.default_rng([i, 9]), model.vocabulary)
        grids = {"exact": (60, dpm_solver_pp), "ddim": (2, ddim)}
        for name, (steps, sample) in grids.items():
            grid = model.schedule.timesteps(steps, "karras")
            with torch.no_grad():
                chain = Chain(model.denoiser, model.schedule, grid, model.cond(tags))
                made[name].append(sample(chain, x_T))
    exact, few = (torch.cat(each) for each in made.values())
    name = "DDIM in 2, Karras' grid"
    expected = ((few - exact).square().mean() / exact.var()).item()
    assert report.value(name, "distance") == pytest.approx(expected, rel=1e-4)
    assert report.value(name, "deviation") == pytest.approx(few.std().item(), rel=1e-4)
    for sampler in chains.SAMPLERS:
        for words in chains.GRIDS:
            two, thirty = (report.value(f"{sampler} in {n}, {words}", "distance") for n in (2, 30))
            assert two is not None
            assert thirty is not None
            assert thirty < two
