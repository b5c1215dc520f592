"""Sampling without control, which every other method is compared with."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from ditto.methods.base import Method, Problem, SamplingMethod
from ditto.models.model import MusicModel


@dataclass(frozen=True, kw_only=True)
class Uncontrolled(SamplingMethod):
    """Plain sampling; controls are measured, not followed.

    Attributes:
        sampler: ddim, dpm++, ddpm or ping-pong; by default the model's own on its own grid, and
            ddim on another that is given, as latents of inversions need.
    """

    sampler: str | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    name = "none"
    summary = "no control"
    samplers = ("ddim", "dpm++", "ddpm", "ping-pong")

    def __post_init__(self) -> None:
        """Check the settings that are given.

        Raises:
            RequestError: one is out of range, or the sampler is another.
        """
        if self.sampler is None:
            Method.__post_init__(self)
            replace(self, sampler=self.samplers[0])  # checks the rest
        else:
            super().__post_init__()

    def resolve(self, model: MusicModel, guidance: float, iterations: int) -> Self:
        """Fill in what the model is sampled by, unless a sampler or another grid is given."""
        if self.sampler is None and self.grid in (None, model.own_grid):
            return replace(self, sampler=model.own_sampler, grid=model.own_grid)
        return replace(self, sampler=self.sampler or "ddim")

    @torch.no_grad()
    def decode(self, x_T: Tensor, problem: Problem) -> Tensor:
        """Sample x_0."""
        return self.sample(problem)(self.chain(problem), x_T)
