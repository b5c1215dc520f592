"""What tests of method objects share: a clip's shape, two controls, and a request of three
iterations for two clips."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ditto.controls.base import Control
from ditto.controls.intensity import Intensity
from ditto.controls.regions import Region
from ditto.diffusion.consistency import Noise
from ditto.diffusion.samplers import Chain
from ditto.latents import draw_x_T, item_noise
from ditto.methods.base import Method, Problem
from ditto.models.conditioning import Tags
from ditto.models.model import MusicModel
from ditto.request import Request
from ditto.result import Result
from ditto.runner import problem_of, run

HELD_OUT = Path(__file__).parents[1] / "golden" / "heldout.safetensors"
"""Three held-out clips of 3 s, of as many genres: log-mels in steps of 1/127, and conditions."""
SHAPE = (1, 16, 64)
LOUDNESS = Intensity("swell")
SEEDS = (5, 6)
"""Of the two clips."""
REGION = Region.inpaint(torch.linspace(-1, 0, 16 * 64).reshape(SHAPE), ((20, 40),))


def made(model: MusicModel, method: Method, *controls: Control, **settings: Any) -> Result:
    """What a method makes of the request that `start` belongs to."""
    settings = {"seed": 5, "count": 2, "iterations": 3} | settings
    return run(Request(controls, method=method, **settings), model)


def start(model: MusicModel, steps: int = 4) -> tuple[Chain, Tensor, Noise]:
    """Chain, x_T and noise of the request of `made`, from their own modules."""
    grid = model.schedule.timesteps(steps)
    chain = Chain(model.denoiser, model.schedule, grid, model.cond(Tags(), 2, None), model.guidance)
    return chain, draw_x_T(SHAPE, 5, 2), item_noise(SHAPE, 5, 2)


def problem(model: MusicModel, *controls: Control, **settings: Any) -> Problem:
    """The problem of a request."""
    request = Request(controls, **{"seed": 5, "count": 2, "iterations": 3} | settings)
    return problem_of(request.resolved(model), model, SHAPE)
