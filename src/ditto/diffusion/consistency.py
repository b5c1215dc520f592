"""Consistency models (CM) and consistency trajectory models (CTM) (DITTO-2 §3–4).

A student is a `Denoiser` that estimates the end of the teacher's chain in one call. CM jumps to
that end; CTM, in the 1-step Euler parameterisation, to any noise level before it. In VE
coordinates, x^VE = x_t / √ᾱ_t and σ = √(1−ᾱ)/√ᾱ::

    G(x, t→s) = (σ_s / σ_t) · x^VE + (1 − σ_s / σ_t) · g(x, c, w, t)

This is a DDIM step along g: it adds no parameters, and G(x, t→t) = x by construction. As in CTM's
paper, g may be told s (`StudentDenoiser.told_end`): where a jump should end depends on how far it
goes, and a g that is not told answers with a mean, too sharp for short jumps.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ditto.diffusion.denoiser import Cond, Limit, dynamic_threshold
from ditto.diffusion.samplers import Chain
from ditto.diffusion.schedule import CLEAN, Prediction, Schedule

Noise = Callable[[], Tensor]
"""Draws ε of x_T's shape, with one generator per item, so that batching changes nothing."""


@dataclass(frozen=True)
class StudentDenoiser:
    """Make a distilled network a `Denoiser`; the CFG scale is an input, so a step is one call.

    Attributes:
        network: ``(x_t, t, cond, w (B,)) -> output``, or ``(x_t, t, cond, w, s (B,)) -> output`` of
            one that is told the timestep s at which the jump ends.
        schedule: ᾱ.
        prediction, skip_std: parameterisation of the output, see `Schedule.to_x_0`.
        limit: see `GuidedDenoiser`.
        told_end: whether the network takes s.
        end: s of the next jump, one or (B,); `CLEAN` is the end of the chain.
    """

    network: Callable[..., Tensor]
    schedule: Schedule
    prediction: Prediction
    skip_std: float = 0.0
    limit: Limit | None = dynamic_threshold
    told_end: bool = False
    end: int | Tensor = CLEAN

    def towards(self, end: int | Tensor) -> "StudentDenoiser":
        """Return the denoiser whose jumps end at timestep `end`, one or one per item (B,)."""
        return replace(self, end=end) if self.told_end else self

    def __call__(
        self, x_t: Tensor, t: Tensor, cond: Cond, guidance: float | Tensor = 1.0
    ) -> Tensor:
        """Compute x̂_0 = g(x_t, c, w, t); `guidance` is w, a number or one per item (B,)."""
        if isinstance(guidance, Tensor):
            w = guidance.to(x_t.device, torch.float32).expand(len(x_t))
        else:
            w = torch.full((len(x_t),), guidance, dtype=torch.float32, device=x_t.device)
        ends = (torch.as_tensor(self.end, device=t.device).expand_as(t),) if self.told_end else ()
        output = self.network(x_t, t, cond, w, *ends)
        return self.schedule.to_x_0(output, x_t, t, self.prediction, skip_std=self.skip_std)


def euler_jump(schedule: Schedule, x_t: Tensor, x_0: Tensor, t: int, sigma: Tensor) -> Tensor:
    """Compute G(x_t, t→σ) in VE coordinates from the student's x̂_0 at x_t.

    Args:
        schedule: ᾱ.
        x_t: (B, …), in the usual (VP) coordinates.
        x_0: the student's estimate, of x_t's shape.
        t: timestep of x_t.
        sigma: noise level after the jump, a scalar tensor in [0, σ_t].
    """
    share = sigma / schedule.sigma(t, x_t)
    return share * (x_t / schedule.at(t, x_t).sqrt()) + (1 - share) * x_0


def gamma_sample(chain: Chain, x_T: Tensor, gamma: float, noise: Noise) -> Tensor:
    """Sample by CTM's γ-sampling (DITTO-2 Algorithm 1, lines 8–12), x_T (B, …) → x_0.

    For each τ_t → τ_{t−1} of the chain's grid: jump to σ̂ = √(1−γ²)·σ_{t−1}, then add γ·σ_{t−1}·ε.
    γ=1 is CM's multistep ("ping-pong") sampling, γ=0 is deterministic. The last step goes to clean
    data and adds no noise. This γ is not TCD's, which halves the way in timesteps.

    Raises:
        ValueError: γ is not in [0, 1], or the chain is empty.
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must be between 0 and 1, not {gamma}")
    schedule, x_t = chain.schedule, x_T
    for t, t_next in chain.pairs():
        if t_next == CLEAN:
            return chain.predict(x_t, t)
        sigma = schedule.sigma(t_next, x_t)
        lower = (1 - gamma**2) ** 0.5 * sigma
        x_0 = chain.predict(x_t, t, _end(schedule, t_next, gamma, lower))
        x_ve = euler_jump(schedule, x_t, x_0, t, lower)
        if gamma > 0:
            x_ve = x_ve + gamma * sigma * noise()
        x_t = schedule.at(t_next, x_t).sqrt() * x_ve
    raise ValueError("a chain needs at least one timestep")


def _end(schedule: Schedule, t_next: int, gamma: float, sigma: Tensor) -> int:
    """Return the timestep nearest to σ̂, where a jump of γ-sampling ends."""
    if gamma in (0, 1):
        return CLEAN if gamma else t_next
    return int(schedule.nearest(sigma.flatten()[0].cpu()))
