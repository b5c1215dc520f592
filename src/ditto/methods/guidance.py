"""Guidance by gradients at sampling time: FreeDoM and Guidance Gradients.

Yu et al. 2023 and Levy et al. 2023. Both descend the loss of the present estimate x̂_0(x_t) a
little at every step (DITTO §5.4)::

    x_t ← x_t − η_t · ∇_{x_t} 𝓛(f(x̂_0(x_t)), y)

One sampling pass with one backward pass through one model call a step: far cheaper than DITTO, and
blind to what the later steps make of it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ditto.diffusion.consistency import Noise
from ditto.diffusion.samplers import Advance, Chain, ddim_step
from ditto.diffusion.schedule import Schedule
from ditto.errors import RequestError
from ditto.methods.base import Problem, SamplingMethod
from ditto.methods.masking import Known, known_region

Objective = Callable[[Tensor], Tensor]
"""x_0 → a loss for each item; no single x_T belongs to an estimate on the way."""
SMALL = 1e-15
"""Largest value of a gradient below which its squares lose digits, or all of themselves."""
FREEDOM_STRENGTH, GG_STRENGTH = 0.00625, 0.04
"""Defaults. On the embedded model half of FreeDoM's follows tunes and forms far less closely, and
with twice of it the clips fit their tags far less well. Guidance Gradients' is for the mean square
error of a region."""


def freedom(
    x_T: Tensor,
    chain: Chain,
    objective: Objective,
    noise: Noise,
    *,
    strength: float = FREEDOM_STRENGTH,
    time_travel: int = 3,
    travel: tuple[float, float] = (0.3, 0.7),
    advance: Advance = ddim_step,
) -> Tensor:
    """Run FreeDoM, algorithm 2, with its efficient time travel.

    The step size is a function of the gradient's norm, η_t = strength · √(1 − ᾱ_t) / rms(∇), so
    that a step moves x_t by a fixed share of its noise whatever the loss is measured in. In the
    travelled part of the grid each step is made `time_travel` times, going back to its noise level
    in between.

    Args:
        x_T: initial latents (B, …).
        chain: denoiser, grid, conditioning and CFG scale.
        objective: 𝓛(f(x_0), y) as a function of x_0, one value an item.
        noise: fresh ε of x_T's shape for travelling back, each item's from its own generator.
        strength: see above.
        time_travel: how often a travelled step is made; 1 is algorithm 1, without time travel.
        travel: part of the steps that is travelled, in shares of the grid from x_T on.
        advance: `ddim_step`, or `ancestral(noise)` for "DDPM + FreeDoM" (Table 10).

    Returns:
        x_0.
    """
    x_t, pairs, schedule = x_T, chain.pairs(), chain.schedule
    for i, (t, t_next) in enumerate(pairs):
        travelled = travel[0] * len(pairs) <= i < travel[1] * len(pairs)
        for left in reversed(range(time_travel if travelled else 1)):
            x_0, gradient = estimate_and_gradient(chain, x_t, t, objective)
            size = strength * schedule.scales(t, x_t)[1]
            x_next = advance(schedule, x_t, x_0, t, t_next) - scaled(gradient, size)
            x_t = back_to(schedule, x_next, t_next, t, noise()) if left else x_next
    return x_t


def guidance_gradients(
    x_T: Tensor,
    chain: Chain,
    objective: Objective,
    *,
    strength: float = GG_STRENGTH,
    values: int | None = None,
    known: Known | None = None,
    advance: Advance = ddim_step,
) -> Tensor:
    """Run Guidance Gradients: a constant step size and, for a linear feature, data consistency.

    x_t ← x_t − strength · d · ∇𝓛, where d is the number of values that the loss is a mean over: it
    thus counts as their sum, and a step moves each as far whatever their number. Then x̂_0 is set to
    the reference where it is known, and the sampler steps on.

    Args:
        x_T: initial latents (B, …).
        chain: denoiser, grid, conditioning and CFG scale.
        objective: 𝓛(f(x_0), y) as a function of x_0, one value an item.
        strength: constant, for a mean square error of x_0; divide it as the loss is multiplied. On
            the embedded model 0.04 follows a region and 0.1 overshoots, which shows as x_0 of too
            large a spread.
        values: d; None is the number of the known values, or without any of all of an item.
        known: the region that a linear feature masks, with its reference; None without data
            consistency.
        advance: as for `freedom`.

    Returns:
        x_0, equal to the reference where it is known.
    """
    x_t, schedule = x_T, chain.schedule
    if values is None:
        values = x_T[0].numel() if known is None else known.values(x_T)
    for t, t_next in chain.pairs():
        x_0, gradient = estimate_and_gradient(chain, x_t, t, objective)
        x_t = x_t - strength * values * gradient
        if known is not None:
            x_0 = known.blend(x_0, known.reference)
        x_t = advance(schedule, x_t, x_0, t, t_next)
    return x_t


def estimate_and_gradient(
    chain: Chain, x_t: Tensor, t: int, objective: Objective
) -> tuple[Tensor, Tensor]:
    """Return x̂_0(x_t) and ∇_{x_t} 𝓛(x̂_0(x_t)), detached, of x_t's shape.

    Works under `torch.no_grad` too.
    """
    with torch.enable_grad():
        leaf = x_t.detach().requires_grad_()
        x_0 = chain.predict(leaf, t)
        gradient = gradient_of(objective(x_0), leaf)
    return x_0.detach(), gradient


def gradient_of(losses: Tensor, leaf: Tensor) -> Tensor:
    """Return the gradient of the losses (B,) by what they are of.

    Raises:
        RequestError: they are not of it, as pulls on x_T alone.
    """
    if not losses.requires_grad:
        raise RequestError(
            "nothing is asked of the music: guidance needs a control beside pulls on x_T"
        )
    return torch.autograd.grad(losses.sum(), leaf)[0]


def back_to(schedule: Schedule, x_next: Tensor, t_next: int, t: int, noise: Tensor) -> Tensor:
    """Travel in time: run the forward process from t_next back up to t."""
    ratio = schedule.at(t, x_next) / schedule.at(t_next, x_next)
    return ratio.sqrt() * x_next + (1 - ratio).sqrt() * noise


def scaled(gradient: Tensor, size: Tensor) -> Tensor:
    """Scale each item's gradient (B, …) to a root mean square of `size`; one of zeros stays."""
    step = size / rms(gradient) * gradient
    return torch.where(gradient == 0, gradient, step)


def rms(x: Tensor) -> Tensor:
    """Return the root mean square of each item, (B, 1, …), also of values whose square is 0."""
    over = tuple(range(1, x.ndim))
    peak = x.abs().amax(dim=over, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    exact = x.square().mean(dim=over, keepdim=True).sqrt()
    small = (x / peak).square().mean(dim=over, keepdim=True).sqrt() * peak
    return torch.where(peak < SMALL, small, exact)


@dataclass(frozen=True, kw_only=True)
class GuidanceMethod(SamplingMethod):
    """A method that guides the sampling by gradients of the controls.

    Attributes:
        strength: how far each step descends; by default the method's.
    """

    strength: float | None = None
    samplers = ("ddim", "ddpm")
    needs_control = True
    limits = SamplingMethod.limits | {"strength": (0.0, 1e3)}

    def check(self, problem: Problem) -> None:
        """Refuse a problem without controls."""
        if not problem.controls:
            raise RequestError(
                "this method guides the sampling by a control: give one, or choose the method none"
            )


@dataclass(frozen=True, kw_only=True)
class FreeDoM(GuidanceMethod):
    """FreeDoM's guidance with time travel (Yu et al. 2023).

    Attributes:
        strength: share of a step's noise that a step descends.
        time_travel: how often a travelled step is made; 1 is without.
    """

    strength: float | None = FREEDOM_STRENGTH
    time_travel: int = 3
    limits = GuidanceMethod.limits | {"time_travel": (1, 100)}
    name = "freedom"
    summary = "FreeDoM's guidance with time travel"

    def decode(self, x_T: Tensor, problem: Problem) -> Tensor:
        """Sample x_0, guided at every step."""
        noise = problem.new_noise()
        return freedom(
            x_T,
            self.chain(problem),
            problem.objective,
            noise,
            strength=FREEDOM_STRENGTH if self.strength is None else self.strength,
            time_travel=self.time_travel,
            advance=self.advance(problem, noise),
        )


@dataclass(frozen=True, kw_only=True)
class GuidanceGradients(GuidanceMethod):
    """Guidance Gradients (Levy et al. 2023).

    Attributes:
        strength: by default 0.04 for a single region; other losses need one for their scale.
    """

    name = "gg"
    summary = "Guidance Gradients"

    def check(self, problem: Problem) -> None:
        """Refuse a problem without controls, or with others than a region and no strength."""
        super().check(problem)
        if self.strength is None and known_region(problem.controls) is None:
            raise RequestError(
                "gg's strength has a default for a single region only, since it depends on the "
                "loss's scale: give one, or choose freedom"
            )

    def decode(self, x_T: Tensor, problem: Problem) -> Tensor:
        """Sample x_0, guided at every step."""
        known = known_region(problem.controls)
        # A region's loss is of log-mels: its gradient in the model space is smaller by the square
        # of the space's unit.
        default = GG_STRENGTH / problem.model.bands.variance
        return guidance_gradients(
            x_T,
            self.chain(problem),
            problem.objective,
            strength=default if self.strength is None else self.strength,
            known=None if known is None else known.like(x_T),
            advance=self.advance(problem, problem.new_noise()),
        )
