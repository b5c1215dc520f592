"""What learns in a training: a network with its optimisers, by the settings of a recipe."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from accelerate import Accelerator
from pydantic import Field
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ditto.errors import DataError
from ditto.training import fsdp
from ditto.training.loop import Tensors, load_optimizer, optimizer_tensors, warmup_stable_decay

Count = Annotated[int, Field(ge=0)]
Every = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""Ranges of a recipe's numbers, which are checked where its file is read."""


@dataclass(frozen=True)
class Recipe:
    """What determines the weights in every training, given the data.

    Each recipe's config adds its own.

    Attributes:
        steps, batch_size: optimiser steps and examples a step.
        optimizer: "adamw", or "muon": Muon (Jordan et al. 2024) for the matrices of the network's
            blocks, at the rate that gives its steps the size of AdamW's, and AdamW for the rest.
        lr: the highest learning rate.
        decay: share of the steps, the last ones, over which it falls to 0.
        lr_decay: shape of the fall, "linear" or "cosine".
        warmup: steps of its linear rise at the start.
        weight_decay: of both optimisers.
        betas: AdamW's.
        clip_norm: upper bound of the gradient's norm.
        seed: of initial weights and all draws.
        log_every, checkpoint_every: in steps.
        fused: which of AdamW's implementations; they round differently.
    """

    steps: Count
    lr: NotNegative
    decay: Share
    lr_decay: Literal["linear", "cosine"] = "linear"
    optimizer: Literal["adamw", "muon"] = "adamw"
    batch_size: Every = 16
    warmup: Count = 100
    weight_decay: NotNegative = 0.0
    betas: tuple[Decay, Decay] = (0.9, 0.99)
    clip_norm: Positive = 1.0
    seed: Count = 0
    log_every: Every = 20
    checkpoint_every: Every = 100
    fused: ClassVar[bool] = True
    __pydantic_config__: ClassVar = {"extra": "forbid"}

    def rate(self, step: int) -> float:
        """Compute the learning rate's factor at a step, 0 to 1."""
        return warmup_stable_decay(
            step, steps=self.steps, warmup=self.warmup, decay=self.decay, shape=self.lr_decay
        )


def optimizers(network: nn.Module, recipe: Recipe, lr: float) -> list[torch.optim.Optimizer]:
    """Build a recipe's optimisers of the parameters that need a gradient, AdamW first.

    Raises:
        DataError: Muon is asked for, and the network has no blocks' matrices, or has them in parts.
    """
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    matrices: dict[str, nn.Parameter] = {}
    if recipe.optimizer == "muon":
        matrices = {n: p for n, p in trained.items() if p.ndim == 2 and _in_block(n)}
        if not matrices:
            raise DataError("muon is for matrices of a transformer's blocks: choose adamw")
        if any(isinstance(p, DTensor) for p in matrices.values()):
            raise DataError("muon needs its matrices whole: leave out --fsdp, or choose adamw")
    adamw = torch.optim.AdamW(
        [p for name, p in trained.items() if name not in matrices],
        lr=lr,
        betas=recipe.betas,
        weight_decay=recipe.weight_decay,
        fused=recipe.fused or None,
    )
    if not matrices:
        return [adamw]
    muon = torch.optim.Muon(
        list(matrices.values()),
        lr=lr,
        weight_decay=recipe.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    return [adamw, muon]


def _in_block(name: str) -> bool:
    """Tell whether a parameter is a layer's weight within one of a network's blocks."""
    return name.endswith(".weight") and any(f"{part}." in name for part in fsdp.BLOCKS)


class Learner:
    """A network with its optimisers.

    Args:
        accelerator: moves the network to its device.
        network: what learns. Its parameters that need no gradient are frozen, and left out of
            checkpoints.
        recipe: its optimiser's settings.
        lr: highest learning rate; by default the recipe's.
        names: the groups of a checkpoint that hold its weights and its optimiser's state.
        in_parts: whether each process keeps a part of it, see `ditto.training.fsdp`.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        network: nn.Module,
        recipe: Recipe,
        *,
        lr: float | None = None,
        names: tuple[str, str] = ("model", "optimizer"),
        in_parts: bool = False,
    ) -> None:
        self.accelerator, self.network, self.recipe, self.names = (
            accelerator,
            network,
            recipe,
            names,
        )
        self.lr = recipe.lr if lr is None else lr
        # Both before the optimiser takes hold of the parameters.
        network.to(accelerator.device)
        if in_parts:
            fsdp.share_out(network, accelerator)
        made = optimizers(network, recipe, self.lr)
        self.model = network if in_parts else accelerator.prepare(network)
        self.optimizers = [accelerator.prepare(optimizer) for optimizer in made]

    def descend(self, loss: Tensor, step: int) -> None:
        """Lower a scalar loss by a clipped step, at the recipe's rate for step `step`."""
        self.zero_grad()
        self.accelerator.backward(loss)
        self.follow(step)

    def zero_grad(self) -> None:
        """Forget the gradients that are there."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def follow(self, step: int) -> None:
        """Make a step along the gradients that are there."""
        self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.lr * self.recipe.rate(step)
            optimizer.step()

    def tensors(self) -> dict[str, Tensors]:
        """Return all that a checkpoint needs."""
        frozen, state = self._frozen(), self.network.state_dict()
        weights = {name: tensor for name, tensor in state.items() if name not in frozen}
        moments = {
            name: optimizer_tensors(optimizer)
            for name, optimizer in zip(self._moments(), self.optimizers, strict=True)
        }
        return {self.names[0]: weights, **moments}

    def _moments(self) -> list[str]:
        """Return the checkpoint's groups that hold the optimisers' states."""
        return [self.names[1], f"{self.names[1]}_matrices"][: len(self.optimizers)]

    def load(self, groups: Mapping[str, Tensors]) -> None:
        """Put back what `tensors` gave.

        Raises:
            DataError: it is of another network.
        """
        state = self.network.state_dict()
        weights = fsdp.parts_like(groups[self.names[0]], state)
        missing, unknown = self.network.load_state_dict(weights, strict=False)
        if unknown or set(missing) != self._frozen():
            raise DataError(
                "the run's checkpoint is of another network: was it begun by another version "
                "of Ditto?"
            )
        for group, optimizer in zip(self._moments(), self.optimizers, strict=True):
            trained = [p for part in optimizer.param_groups for p in part["params"]]
            moments = {
                name: fsdp.part_like(tensor, trained[int(name.partition(".")[0])])
                for name, tensor in groups[group].items()
            }
            load_optimizer(optimizer, moments)

    def _frozen(self) -> set[str]:
        return {
            name
            for name, parameter in self.network.named_parameters()
            if not parameter.requires_grad
        }
