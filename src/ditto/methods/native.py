"""Inpainting that a model was trained for, to set beside ours.

Stable Audio 3 adds the known latent and its mask to every block of its transformer; ACE-Step
("repaint") gets them as context, with an instruction of its own in the prompt. Neither needs a
gradient, and neither blends: what is known comes out nearly, not exactly, as it was, as with ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from ditto.controls.base import Control
from ditto.methods.base import Problem
from ditto.methods.masking import MaskingMethod, only_region
from ditto.models.model import MusicModel

STEPS = 20
"""Of a model that was not distilled to fewer."""


@dataclass(frozen=True, kw_only=True)
class NativeInpainting(MaskingMethod):
    """The model's own inpainting; of models that have one.

    Attributes:
        steps: T, sampling steps; by default 20, of a model that is its own student 8.
        sampler: ddim or ping-pong; by default the pipeline's own.
    """

    steps: int | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    sampler: str | None = None
    name = "native"
    summary = "the model's own inpainting"
    samplers = ("ddim", "ping-pong")

    def resolve(self, model: MusicModel, guidance: float, iterations: int) -> Self:
        """Fill in steps and sampler."""
        student = model.distilled
        steps = student.steps if student is not None and student.own else STEPS
        return replace(self, steps=self.steps or steps, sampler=self.sampler or model.own_sampler)

    def prepared(self, model: MusicModel, controls: Sequence[Control]) -> MusicModel:
        """Return the model that is told of the region.

        Raises:
            ControlError: there is not exactly one region.
            RequestError: the model has no inpainting of its own.
        """
        known = only_region(controls)
        return model.keeping(known.mask, known.reference)

    @torch.no_grad()
    def decode(self, x_T: Tensor, problem: Problem) -> Tensor:
        """Sample x_0."""
        return self.sample(problem)(self.chain(problem), x_T)
