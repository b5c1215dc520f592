"""LatCH: guidance through heads that read the control's feature off x̂_0 (Novack et al. 2026).

arXiv 2603.04366, "Low-Resource Guidance for Controllable Latent Audio Diffusion". No decoder runs
while sampling, so a guided step costs little more than a plain one.

Of the paper, as its abstract, its project's page and others' implementations tell it (the full text
was not at hand): small heads that read a feature off latents; training-free guidance (TFG, Ye et
al. 2024, arXiv 2409.15761, algorithm 1) through them instead of through the decoder, that is

- *variance guidance*, a step in x_t along the gradient of 𝓛(c(x̂_0(x_t))), through the denoiser,
- *mean guidance*, several steps in x̂_0 along that of 𝓛(c(x̂_0)), through the head alone;

and *selective* TFG: only a part of the steps is guided (theirs: the first fifth of 100).

Ours: the control's own estimate (`Control.proxy`), a head's or the mel's, which knows clean x_0 and
is told no noise level; steps of a fixed share of x_t's noise whatever the loss is measured in, as
`freedom`'s; the defaults, for 20 steps of the embedded model. Left out: TFG's recurrence, which the
paper sets to 1, and its smoothing by noise.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ditto.diffusion.denoiser import Limit, limit_of
from ditto.diffusion.samplers import Advance, Chain, ddim_step
from ditto.errors import RequestError
from ditto.methods.base import Problem, SamplingMethod
from ditto.methods.guidance import Objective, estimate_and_gradient, gradient_of, scaled

VARIANCE, MEAN, MEAN_STEPS = 0.00625, 0.01, 4
START, END = 0.0, 1.0


def latch(
    x_T: Tensor,
    chain: Chain,
    objective: Objective,
    *,
    variance: float = VARIANCE,
    mean: float = MEAN,
    mean_steps: int = MEAN_STEPS,
    window: tuple[float, float] = (START, END),
    advance: Advance = ddim_step,
) -> Tensor:
    """Sample with variance and mean guidance in a part of the steps.

    Args:
        x_T: initial latents (B, …).
        chain: denoiser, grid, conditioning and CFG scale.
        objective: 𝓛(c(x_0), y) as a function of x_0, one value an item; without a decoder.
        variance: ρ, root mean square of a step in x_t, in shares of its noise; 0 is none, and then
            no gradient goes through the denoiser.
        mean: μ, of each step in x̂_0, in the same shares.
        mean_steps: steps in x̂_0.
        window: part of the steps that is guided, in shares of the grid from x_T on.
        advance: `ddim_step`, or `ancestral(noise)`.

    Returns:
        x_0.
    """
    x_t, pairs, schedule = x_T, chain.pairs(), chain.schedule
    for i, (t, t_next) in enumerate(pairs):
        if not window[0] * len(pairs) <= i < window[1] * len(pairs):
            x_t = advance(schedule, x_t, chain.predict(x_t, t, t_next), t, t_next)
            continue
        noise = schedule.scales(t, x_t)[1]
        if variance:
            x_0, gradient = estimate_and_gradient(chain, x_t, t, objective)
            along = scaled(gradient, variance * noise)
        else:
            x_0, along = chain.predict(x_t, t).detach(), torch.zeros_like(x_t)
        limit = limit_of(chain.denoiser) if chain.threshold else None
        steps = mean_steps if mean else 0
        towards = descended(x_0, objective, mean * noise, steps, limit) - x_0
        signal = schedule.at(t_next, x_t).sqrt()
        x_t = advance(schedule, x_t, x_0, t, t_next) + signal * towards - along
    return x_t


def descended(
    x_0: Tensor, objective: Objective, size: Tensor, steps: int, limit: Limit | None = None
) -> Tensor:
    """Return x_0 after `steps` steps of root mean square `size` down the objective.

    A gradient may lie on few values, which then move far; `limit` holds them where data are.
    """
    moved = x_0.detach()
    for _ in range(steps):
        with torch.enable_grad():
            leaf = moved.requires_grad_()
            gradient = gradient_of(objective(leaf), leaf)
        moved = leaf.detach() - scaled(gradient, size)
        moved = moved if limit is None else limit(moved)
    return moved


@dataclass(frozen=True, kw_only=True)
class LatCH(SamplingMethod):
    """Guidance through heads, without the decoder (Novack et al. 2026, arXiv 2603.04366).

    Attributes:
        variance: ρ, share of a step's noise that x_t descends; 0 spares the gradient through the
            denoiser.
        mean: μ, share of it that x̂_0 descends in each of `mean_steps`.
        mean_steps: how often.
        guide_from, guide_to: part of the steps that is guided, 0 to 1 from noise on.
    """

    variance: float = VARIANCE
    mean: float = MEAN
    mean_steps: int = MEAN_STEPS
    guide_from: float = START
    guide_to: float = END
    samplers = ("ddim", "ddpm")
    needs_control = True
    limits = SamplingMethod.limits | {
        "variance": (0.0, 1e3),
        "mean": (0.0, 1e3),
        "mean_steps": (1, 100),
        "guide_from": (0.0, 1.0),
        "guide_to": (0.0, 1.0),
    }
    name = "latch"
    summary = "LatCH's guidance through heads, without the decoder"

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            RequestError: one is out of range, or no step is guided.
        """
        super().__post_init__()
        if not self.guide_from <= self.guide_to:
            raise RequestError(
                "latch guides from guide_from to a later guide_to, not from "
                f"{self.guide_from:g} to {self.guide_to:g}"
            )

    def check(self, problem: Problem) -> None:
        """Refuse a problem without controls, and a model of which nothing is read.

        Raises:
            RequestError: it is one.
        """
        if not problem.controls:
            raise RequestError(
                "this method guides the sampling by a control: give one, or choose the method none"
            )
        if not problem.model.has_mel and problem.model.readers is None:
            raise RequestError(
                f"latch reads features off x_0 by heads, and the model {problem.model.name!r} has "
                "none: train them with `ditto-music train heads`, or choose freedom"
            )

    def decode(self, x_T: Tensor, problem: Problem) -> Tensor:
        """Sample x_0, guided in a part of the steps."""
        assert problem.control is not None
        proxy, fast = problem.control.proxy(), problem.model.fast
        return latch(
            x_T,
            self.chain(problem),
            lambda x_0: proxy(x_0, fast),
            variance=self.variance,
            mean=self.mean,
            mean_steps=self.mean_steps,
            window=(self.guide_from, self.guide_to),
            advance=self.advance(problem, problem.new_noise()),
        )
