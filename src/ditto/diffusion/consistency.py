"""Jumps and samplers of consistency models (CM) and consistency trajectory models (CTM) (DITTO-2
§3–4).

A student is a `Denoiser` that estimates in one call where the teacher's whole chain ends. CM goes
there; CTM, in the 1-step Euler parameterisation, may stop anywhere on the way. In VE coordinates,
x^VE = x_t / √ᾱ_t and σ = √(1−ᾱ)/√ᾱ::

    G(x, t→s) = (σ_s / σ_t) · x^VE + (1 − σ_s / σ_t) · g(x, c, w, t)

It adds no parameters, and G(x, t→t) = x holds by construction. It is a DDIM step along g.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ditto.diffusion.denoiser import Cond, Limit, dynamic_threshold
from ditto.diffusion.samplers import Chain
from ditto.diffusion.schedule import CLEAN, Prediction, Schedule

Noise = Callable[[], Tensor]
"""Fresh ε of x_T's shape; each item's from a generator of its own, so that it does not depend on
the batch."""


@dataclass(frozen=True)
class StudentDenoiser:
    """A distilled network as a `Denoiser`: the CFG scale is one of its inputs, so that a step is
    one call.

    Attributes:
        network: ``(x_t, t, cond, w (B,)) -> output``.
        schedule: ᾱ.
        prediction, skip_std: what the output means, see `Schedule.to_x_0`.
        limit: see `GuidedDenoiser`.
    """

    network: Callable[[Tensor, Tensor, Cond, Tensor], Tensor]
    schedule: Schedule
    prediction: Prediction
    skip_std: float = 0.0
    limit: Limit | None = dynamic_threshold

    def __call__(
        self, x_t: Tensor, t: Tensor, cond: Cond, guidance: float | Tensor = 1.0
    ) -> Tensor:
        """g(x_t, c, w, t), the estimate x̂_0; `guidance` may be one w an item (B,)."""
        w = torch.as_tensor(guidance, dtype=torch.float32, device=x_t.device).expand(len(x_t))
        return self.schedule.to_x_0(
            self.network(x_t, t, cond, w), x_t, t, self.prediction, self.skip_std
        )


def euler_jump(schedule: Schedule, x_t: Tensor, x_0: Tensor, t: int, sigma: Tensor) -> Tensor:
    """G(x_t, t→σ) in VE coordinates, given the student's x̂_0 at x_t.

    Args:
        schedule: ᾱ.
        x_t: (B, …), in the usual (VP) coordinates.
        x_0: the student's estimate, of x_t's shape.
        t: timestep of x_t.
        sigma: noise level to stop at, a scalar tensor in [0, σ_t].
    """
    share = sigma / schedule.sigma(t, x_t)
    return share * (x_t / schedule.at(t, x_t).sqrt()) + (1 - share) * x_0


def gamma_sample(chain: Chain, x_T: Tensor, gamma: float, noise: Noise) -> Tensor:
    """CTM γ-sampling (DITTO-2 Algorithm 1, lines 8–12), x_T (B, …) → x_0.

    For each τ_t → τ_{t−1} of the chain's grid: jump to σ̂ = √(1−γ²)·σ_{t−1}, then add γ·σ_{t−1}·ε.
    γ=1 is CM's multistep ("ping-pong") sampling and γ=0 is deterministic. The last step goes to
    clean data and adds no noise. This γ is not TCD's η (see `tcd_sample`).
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must be between 0 and 1, not {gamma}")
    schedule, x_t = chain.schedule, x_T
    for t, t_next in chain.pairs():
        x_0 = chain.predict(x_t, t)
        if t_next == CLEAN:
            return x_0
        sigma = schedule.sigma(t_next, x_t)
        x_ve = euler_jump(schedule, x_t, x_0, t, (1 - gamma**2) ** 0.5 * sigma)
        if gamma > 0:
            x_ve = x_ve + gamma * sigma * noise()
        x_t = schedule.at(t_next, x_t).sqrt() * x_ve
    raise ValueError("a chain needs at least one timestep")


def tcd_sample(chain: Chain, x_T: Tensor, eta: float, noise: Noise) -> Tensor:
    """Strategic stochastic sampling of TCD (Zheng et al. 2024, algorithm 4), which halves the way
    in *timesteps*.

    For each t → t_next: jump to s = ⌊(1 − η)·t_next⌋, then noise forward from s to t_next. η is
    called γ there, but gives quite other noise levels than CTM's γ.
    """
    schedule, x_t = chain.schedule, x_T
    for t, t_next in chain.pairs():
        x_0 = chain.predict(x_t, t)
        if t_next == CLEAN:
            return x_0
        s = int((1 - eta) * t_next)
        x_s = schedule.add_noise(x_0, schedule.to_epsilon(x_0, x_t, t), s)
        ratio = schedule.at(t_next, x_t) / schedule.at(s, x_t)
        x_t = ratio.sqrt() * x_s + (1 - ratio).clamp(min=0).sqrt() * (
            noise() if eta > 0 else torch.zeros_like(x_s)
        )
    raise ValueError("a chain needs at least one timestep")
