"""DOODL (Wallace et al. 2023; DITTO appendices B and L): optimise x_T through EDICT.

EDICT is a sampler that can be undone::

    repeat K times:
        x_0 ← EDICT(x_T, x_T), two coupled chains
        x_T ← Adam(x_T, ∇ 𝓛(f(x_0), y))
        x_T ← x_T + noise, then renormalised to the length that it began with

Two ways to have the gradient. *Checkpointed*, as DOODL's authors run it, every model call is made
again in the backward pass: 4 calls a sampling step. *Invertible*, only the last pair is kept and
every step is first undone: 6 calls a sampling step, and memory that does not grow with T at all.
Their gradients agree.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ditto.diffusion.consistency import Noise
from ditto.diffusion.edict import edict, edict_step, edict_timesteps, edict_unstep, mixing
from ditto.diffusion.samplers import Chain, remembers
from ditto.diffusion.schedule import GridName, expand_like
from ditto.errors import RequestError
from ditto.methods.base import OptimisingMethod, Problem, SamplingMethod
from ditto.methods.ditto import checkpointed_call
from ditto.optimize import LR, MOMENTUM, Objective, Step, optimize
from ditto.paths import shown
from ditto.tables import widened

Formulation = Literal["checkpointed", "invertible"]


def doodl(
    x_T: Tensor,
    chain: Chain,
    objective: Objective,
    *,
    iterations: int = 70,
    lr: float = LR,
    momentum: float = MOMENTUM,
    p: float | None = None,
    formulation: Formulation = "checkpointed",
    noise: Noise | None = None,
    noise_std: float = 1e-3,
) -> Iterator[Step]:
    """Run DOODL with DITTO's learning rate, as DITTO compares with it; `decode_doodl` the best x_T.

    Args:
        x_T: initial latents (B, …).
        chain: as for `ditto`; only the length of its grid counts (see `edict_timesteps`).
        objective: 𝓛(f(x_0), y) as a function of x_0 and x_T, one value per item.
        iterations: K.
        lr: Adam's learning rate.
        momentum: Adam's β₁.
        p: EDICT's mixing coefficient; by default the papers' for the number of steps (`mixing`).
        formulation: how the gradient is computed, see above.
        noise: fresh ε of x_T's shape, each item's from its own generator; None injects nothing.
        noise_std: share of it that is added to x_T before every iteration. DITTO does not say how
            much.
    """
    length = _length(x_T)
    drift, used, latent = torch.zeros_like(x_T), x_T, x_T

    def render(x: Tensor) -> Tensor:
        nonlocal drift, used, latent
        if noise is not None:
            drift = drift + noise_std * noise()
        latent = (x + drift) * (length / _length(x + drift))
        used = latent.detach().clone()
        mix = mixing(len(chain.timesteps)) if p is None else p
        return RENDERS[formulation](_coupled(chain), latent, mix)

    steps = optimize(
        x_T,
        render,
        lambda x_0, _: objective(x_0, latent),
        iterations=iterations,
        lr=lr,
        momentum=momentum,
    )
    for step in steps:
        # The latents that were sampled from are the renormalised ones.
        yield replace(step, x_T=used, best_x_T=used)


@torch.no_grad()
def decode_doodl(x_T: Tensor, chain: Chain, p: float | None = None) -> Tensor:
    """Return x_0 of an optimised x_T by EDICT: the last sampling pass."""
    mix = mixing(len(chain.timesteps)) if p is None else p
    return edict(_coupled(chain), x_T, mix)[0].to(x_T.dtype).to(x_T.device)


def checkpointed(chain: Chain, x_T: Tensor, p: float) -> Tensor:
    """Return EDICT's x_0 with every model call under gradient checkpointing."""
    x_0 = edict(replace(chain, call=checkpointed_call), x_T, p)[0]
    return x_0.to(x_T.dtype).to(x_T.device)


def invertible(chain: Chain, x_T: Tensor, p: float) -> Tensor:
    """Return EDICT's x_0 with a backward pass that keeps nothing but the last pair.

    Differentiable with regard to x_T only.
    """
    return _Invertible.apply(x_T, chain, p)  # pyright: ignore[reportReturnType]


RENDERS: dict[Formulation, Callable[[Chain, Tensor, float], Tensor]] = {
    "checkpointed": checkpointed,
    "invertible": invertible,
}


class _Invertible(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_T: Tensor, chain: Chain, p: float) -> Tensor:
        ctx.chain, ctx.p, ctx.dtype, ctx.device = chain, p, x_T.dtype, x_T.device
        x_0, y_0 = edict(chain, x_T, p)
        ctx.save_for_backward(x_0, y_0)
        return x_0.to(x_T.dtype).to(x_T.device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        pair = ctx.saved_tensors
        slope = widened(grad_outputs[0]), torch.zeros_like(pair[1])
        for t, t_next in reversed(ctx.chain.pairs()):
            pair = edict_unstep(ctx.chain, pair, t, t_next, ctx.p, ctx.dtype)
            with torch.enable_grad():
                before = pair[0].detach().requires_grad_(), pair[1].detach().requires_grad_()
                after = edict_step(ctx.chain, before, t, t_next, ctx.p, ctx.dtype)
                slope = torch.autograd.grad(after, before, slope)
        return (slope[0] + slope[1]).to(ctx.dtype).to(ctx.device), None, None


def _coupled(chain: Chain) -> Chain:
    return replace(chain, timesteps=edict_timesteps(chain.schedule, len(chain.timesteps)))


def _length(x: Tensor) -> Tensor:
    """Return the Euclidean length of each item, (B, 1, …)."""
    return expand_like(x.flatten(1).norm(dim=1), x)


@dataclass(frozen=True, kw_only=True)
class Doodl(OptimisingMethod, SamplingMethod):
    """DOODL: optimise through EDICT's two chains (Wallace et al. 2023).

    Attributes:
        formulation: of the gradient, "checkpointed" or "invertible".
    """

    grid: GridName | None = "leading"
    formulation: Formulation = "checkpointed"
    name = "doodl"
    summary = "DOODL, through EDICT's two chains"
    limits = SamplingMethod.limits | OptimisingMethod.limits

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            RequestError: one is out of range, or the formulation is unknown.
        """
        super().__post_init__()
        if self.grid != "leading":
            raise RequestError(f"the grid of EDICT's chains is leading, not {shown(self.grid)}")
        if self.formulation not in (*RENDERS,):
            raise RequestError(
                f"doodl has no formulation {shown(self.formulation)}: choose {' or '.join(RENDERS)}"
            )

    def check(self, problem: Problem) -> None:
        """Refuse guidance that cannot be undone.

        Raises:
            RequestError: a step depends on the ones before.
        """
        if remembers(problem.model.denoiser, problem.guidance):
            raise RequestError(
                "doodl cannot undo this model's guidance, which depends on the steps before: "
                "choose ditto, or guidance 1"
            )

    def optimise(self, x_T: Tensor, problem: Problem) -> Iterator[Step]:
        """Run DOODL."""
        steps = doodl(
            x_T,
            self.chain(problem),
            problem.objective,
            formulation=self.formulation,
            noise=problem.new_noise(),
            **self.settings(problem),
        )
        return self.best(steps, problem)

    def decode(self, x_T: Tensor, problem: Problem) -> Tensor:
        """Sample x_0 by EDICT."""
        return decode_doodl(x_T, self.chain(problem))
