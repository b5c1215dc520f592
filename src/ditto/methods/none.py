"""Sampling without control, which every other method is compared with."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from ditto.methods.base import Problem, SamplingMethod
from ditto.models.model import MusicModel


@dataclass(frozen=True, kw_only=True)
class Uncontrolled(SamplingMethod):
    """Plain sampling; controls are measured, not followed.

    Attributes:
        sampler: ddim, dpm++, ddpm or ping-pong; by default the model's own on its own grid, and
            ddim on another that is given, as latents of inversions need.
    """

    sampler: str | None = None
    name = "none"
    summary = "no control"
    samplers = ("ddim", "dpm++", "ddpm", "ping-pong")

    def resolve(self, model: MusicModel, guidance: float, iterations: int) -> Self:
        """Fill in what the model is sampled by, unless a sampler or another grid is given."""
        if self.sampler is None and self.grid in (None, model.spacing):
            return replace(self, sampler=model.own_sampler, grid=model.spacing)
        return replace(self, sampler=self.sampler or "ddim")

    @torch.no_grad()
    def decode(self, x_T: Tensor, problem: Problem) -> Tensor:
        """Sample x_0."""
        return self.sample(problem)(self.chain(problem), x_T)
