"""DITTO (arXiv 2401.12179, Algorithm 1): optimise x_T through the whole sampling chain.

    repeat K times:
        x_0 ← sampler(x_T), every model call under gradient checkpointing
        x_T ← Adam(x_T, ∇ 𝓛(f(x_0), y))
    return sampler(x_T)

Checkpointing keeps one model call's activations and T small tensors; it costs one more forward pass
a step.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ditto.diffusion.samplers import Chain, ddim
from ditto.optimize import LR, MOMENTUM, Objective, Step, Stop, never, optimize

Sampler = Callable[[Chain, Tensor], Tensor]


def checkpointed_call(function: Callable[..., Tensor], *args: object) -> Tensor:
    """Call `function`, keeping only its arguments for the backward pass."""
    # Nothing in a deterministic chain draws random numbers, so their state need not be kept.
    return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)  # pyright: ignore[reportReturnType]


def ditto(
    x_T: Tensor,
    chain: Chain,
    objective: Objective,
    *,
    iterations: int = 70,
    lr: float = LR,
    momentum: float = MOMENTUM,
    stop: Stop = never,
    sampler: Sampler = ddim,
    checkpointing: bool = True,
) -> Iterator[Step]:
    """Algorithm 1 of DITTO.

    Args:
        x_T: initial latents (B, 1, n_mels, frames).
        chain: denoiser, timestep grid (T, the papers' 20), conditioning and CFG scale.
        objective: 𝓛(f(x_0), y) as a function of x_0, one value an item.
        iterations: K (the papers' 70; 150 for melody and structure).
        lr: Adam's learning rate.
        momentum: Adam's β₁.
        stop: early stop.
        sampler: a deterministic sampler (`ddim`, `dpm_solver_pp`).
        checkpointing: off, memory grows with T and a third of the time is saved; the gradient is
            the same.

    Yields:
        Every `Step`; decode the last one's `best_x_T` with `decode`.
    """
    chain = replace(chain, call=checkpointed_call) if checkpointing else chain
    return optimize(
        x_T,
        lambda x: sampler(chain, x),
        objective,
        iterations=iterations,
        lr=lr,
        momentum=momentum,
        stop=stop,
    )


@torch.no_grad()
def decode(x_T: Tensor, chain: Chain, sampler: Sampler = ddim) -> Tensor:
    """The last sampling pass: x_0 of an optimised x_T."""
    return sampler(chain, x_T)
