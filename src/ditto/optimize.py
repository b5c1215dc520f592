"""The one optimisation loop: Adam on the initial noise latent x_T (Algorithm 1 of DITTO and of
DITTO-2).

It knows nothing of music. `render` maps x_T to x_0 (a whole chain, or one jump of a distilled
model) and `objective` maps x_0 to one loss an item; both must be differentiable. It is a generator,
so that the caller owns progress bars, early stops, cancelling and previews.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ditto.diffusion.schedule import expand_like

LR, MOMENTUM, SECOND_MOMENT = 5e-3, 0.9, 0.999
"""The papers' learning rate for Adam, and its usual β₁ and β₂."""

Render = Callable[[Tensor], Tensor]
Objective = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Step:
    """What one iteration found.

    Attributes:
        i: iteration, from 0.
        loss: (B,) float32, of `x_T` before this iteration's update.
        x_T: the latent that gave `loss`, a copy.
        best_loss: (B,) lowest loss of each item so far.
        best_x_T: the latent of each item's lowest loss so far, a copy.
    """

    i: int
    loss: Tensor
    x_T: Tensor
    best_loss: Tensor
    best_x_T: Tensor


class GradientError(RuntimeError):
    """The loss does not depend on x_T, or its gradient is not finite: a bug in `render` or
    `objective`.
    """


Stop = Callable[[Step], bool]


def never(step: Step) -> bool:
    """Run all iterations."""
    return False


def tolerance(loss: float) -> Stop:
    """Stop once every item's best loss is at most `loss`."""
    return lambda step: bool((step.best_loss <= loss).all())


def plateau(patience: int, improvement: float = 0.01) -> Stop:
    """Stop once no item's best loss has fallen by the share `improvement` of its size within
    `patience` iterations.

    A best loss that rises is that of another objective, as when DITTO-2 changes its budget:
    counting begins anew.
    """
    history: list[Tensor] = []

    def stop(step: Step) -> bool:
        if history and bool((step.best_loss > history[-1]).any()):
            history.clear()
        history.append(step.best_loss)
        if len(history) <= patience:
            return False
        before = history[-1 - patience]
        return bool((before - step.best_loss < improvement * before.abs()).all())

    return stop


def optimize(
    x_T: Tensor,
    render: Render,
    objective: Objective,
    *,
    iterations: int,
    lr: float = LR,
    momentum: float = MOMENTUM,
    stop: Stop = never,
) -> Iterator[Step]:
    """Minimise ``objective(render(x_T))`` over x_T with Adam, yielding every iteration.

    Each item of the batch has its own loss, and Adam works elementwise, so an item goes the way
    that it would go alone.

    Args:
        x_T: initial latents (B, …), float32; left as they are.
        render: x_T → x_0.
        objective: x_0 → losses (B,).
        iterations: K, at least 1.
        lr: Adam's learning rate.
        momentum: Adam's β₁.
        stop: called with every step; True ends the loop.

    Raises:
        GradientError: if no gradient reaches x_T, or a loss or the gradient is not finite.
    """
    latent = x_T.detach().clone().requires_grad_(True)
    adam = torch.optim.Adam([latent], lr=lr, betas=(momentum, SECOND_MOMENT))
    best_loss = torch.full((len(latent),), torch.inf, device=latent.device)
    best_x_T = latent.detach().clone()
    for i in range(iterations):
        with torch.enable_grad():
            loss = objective(render(latent)).float()
            latent.grad = _gradient(loss, latent)
        better = loss.detach() < best_loss
        best_loss = torch.where(better, loss.detach(), best_loss)
        best_x_T = torch.where(expand_like(better, latent), latent.detach(), best_x_T)
        step = Step(i, loss.detach(), latent.detach().clone(), best_loss, best_x_T)
        yield step
        if stop(step):
            return
        adam.step()


def _gradient(loss: Tensor, latent: Tensor) -> Tensor:
    gradient = (
        torch.autograd.grad(loss.sum(), latent, allow_unused=True)[0]
        if loss.requires_grad
        else None
    )
    if gradient is None:
        raise GradientError(
            "no gradient reaches x_T: something between x_T and the loss is detached"
        )
    if not bool(torch.isfinite(gradient).all() & torch.isfinite(loss).all()):
        losses = ", ".join(f"{value:.4g}" for value in loss.tolist())
        raise GradientError(f"a loss or the gradient of x_T is not finite (losses {losses})")
    return gradient
