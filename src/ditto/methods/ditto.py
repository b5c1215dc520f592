"""DITTO (arXiv 2401.12179, Algorithm 1): optimise x_T through the whole sampling chain.

    repeat K times:
        x_0 ← sampler(x_T), every model call under gradient checkpointing
        x_T ← Adam(x_T, ∇ 𝓛(f(x_0), y))
    return sampler(x_T)

Checkpointing keeps one model call's activations and T small tensors; it costs one more forward
pass per step.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ditto.diffusion.samplers import Chain, ddim
from ditto.methods.base import OptimisingMethod, Problem, Sampler, SamplingMethod
from ditto.optimize import LR, MOMENTUM, Objective, Step, optimize


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
    sampler: Sampler = ddim,
    checkpointing: bool = True,
) -> Iterator[Step]:
    """Run Algorithm 1 of DITTO, yielding every iteration; `decode` the best x_T.

    Args:
        x_T: initial latents (B, 1, n_mels, frames).
        chain: denoiser, timestep grid (T, the papers' 20), conditioning and CFG scale.
        objective: 𝓛(f(x_0), y) as a function of x_0 and x_T, one value per item.
        iterations: K (the papers' 70; 150 for melody and structure).
        lr: Adam's learning rate.
        momentum: Adam's β₁.
        sampler: a deterministic sampler (`ddim`, `dpm_solver_pp`).
        checkpointing: without it memory grows with T and a third of the time is saved; the
            gradient is the same.
    """
    chain = replace(chain, call=checkpointed_call) if checkpointing else chain
    return optimize(
        x_T, lambda x: sampler(chain, x), objective, iterations=iterations, lr=lr, momentum=momentum
    )


@torch.no_grad()
def decode(x_T: Tensor, chain: Chain, sampler: Sampler = ddim) -> Tensor:
    """Return x_0 of an optimised x_T: the last sampling pass."""
    return sampler(chain, x_T)


@dataclass(frozen=True, kw_only=True)
class Ditto(OptimisingMethod, SamplingMethod):
    """DITTO: optimise through the whole chain (arXiv 2401.12179).

    Attributes:
        checkpointing: recompute activations in the backward pass, so that memory does not grow
            with T; costs a third of the time.
    """

    checkpointing: bool = True
    name = "ditto"
    summary = "DITTO, through the whole chain"
    samplers = ("ddim", "dpm++")
    limits = SamplingMethod.limits | OptimisingMethod.limits

    def optimise(self, x_T: Tensor, problem: Problem) -> Iterator[Step]:
        """Run Algorithm 1 of DITTO."""
        steps = ditto(
            x_T,
            self.chain(problem),
            problem.objective,
            sampler=self.sample(problem),
            checkpointing=self.checkpointing,
            **self.settings(problem),
        )
        return self.best(steps, problem)

    def decode(self, x_T: Tensor, problem: Problem) -> Tensor:
        """Sample x_0 once more."""
        return decode(x_T, self.chain(problem), self.sample(problem))
