"""Sampling without control, which every other method is compared with."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ditto.methods.base import Problem, SamplingMethod


@dataclass(frozen=True, kw_only=True)
class Uncontrolled(SamplingMethod):
    """Plain sampling; controls are measured, not followed."""

    name = "none"
    summary = "no control"
    samplers = ("ddim", "dpm++", "ddpm")

    @torch.no_grad()
    def decode(self, x_T: Tensor, problem: Problem) -> Tensor:
        """Sample x_0."""
        return self.sample(problem)(self.chain(problem), x_T)
