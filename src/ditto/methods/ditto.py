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
from ditto.methods.base import Method, OptimisingMethod, Problem, Sampler, SamplingMethod
from ditto.methods.candidates import MAX_CANDIDATES, begun
from ditto.methods.corrections import CalibratedProxies
from ditto.methods.ditto2 import Ditto2, corrected_adam
from ditto.optimize import LR, MOMENTUM, Objective, Step, best_so_far, optimize


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
        proxies: hear controls by cheap proxies, and take larger steps, as DITTO-2 does with
            corrections.
        candidates: noises to choose the start from: the one whose clip without control is nearest
            the target, by the model's student if it has one; 1 begins at the request's own.
    """

    checkpointing: bool = True
    proxies: bool = False
    candidates: int = 1
    name = "ditto"
    summary = "DITTO, through the whole chain"
    samplers = ("ddim", "dpm++")
    limits = SamplingMethod.limits | OptimisingMethod.limits | {"candidates": (1, MAX_CANDIDATES)}

    def adam(self, iterations: int) -> dict[str, float]:
        """Return Adam's defaults: DITTO-2's with proxies."""
        return corrected_adam(iterations) if self.proxies else super().adam(iterations)

    def optimise(self, x_T: Tensor, problem: Problem) -> Iterator[Step]:
        """Run Algorithm 1 of DITTO, from the best of the candidates."""
        decoder, count = self._decoder(problem), self.candidates
        return begun(x_T, problem, decoder, count, lambda start: self._optimise(start, problem))

    def _decoder(self, problem: Problem) -> Method:
        """Return what decodes candidates: DITTO-2 if there is a student that knows the guidance."""
        student = problem.model.distilled
        if student is None or not student.guidance[0] <= problem.guidance <= student.guidance[1]:
            return self
        return Ditto2().resolve(problem.model, problem.guidance, problem.iterations)

    def _optimise(self, x_T: Tensor, problem: Problem) -> Iterator[Step]:
        heard = CalibratedProxies(problem) if self.proxies and problem.control else None
        steps = ditto(
            x_T,
            self.chain(problem),
            heard or problem.objective,
            sampler=self.sample(problem),
            checkpointing=self.checkpointing,
            **self.settings(problem),
        )
        # A loss from before a calibration does not compare.
        due = heard.due if heard else ()
        return self.until_stopped(best_so_far(steps, lambda step: step.i in due), problem)

    def decode(self, x_T: Tensor, problem: Problem) -> Tensor:
        """Sample x_0 once more."""
        return decode(x_T, self.chain(problem), self.sample(problem))
