"""Deterministic and stochastic samplers as pure, differentiable steps.

Each sampler is a generator-free loop over a falling timestep grid; a step is a function of tensors
alone, so it can be recomputed under gradient checkpointing. They agree with diffusers' schedulers
step by step (tests).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ditto.diffusion.denoiser import Cond, Denoiser, limit_of
from ditto.diffusion.schedule import CLEAN, Schedule

Call = Callable[..., Tensor]
"""How a sampler calls the denoiser: plainly, or through gradient checkpointing."""


def plain_call(function: Callable[..., Tensor], *args: object) -> Tensor:
    """Call `function`; the counterpart of checkpointing."""
    return function(*args)


@dataclass(frozen=True)
class Chain:
    """Everything that a sampling chain holds fixed: x_0 = sampler(x_T; chain).

    Attributes:
        denoiser: ``(x_t, t, cond, guidance) -> x̂_0``.
        schedule: ᾱ.
        timesteps: falling grid; the chain ends at clean data after the last.
        cond: conditioning of the batch.
        guidance: CFG scale w (0 unconditional, 1 conditional).
        threshold: dynamic thresholding of x̂_0 at every step, as far as the denoiser has a `limit`;
            ε̂ follows from the thresholded x̂_0 (diffusers' ``use_clipped_model_output``).
        call: how each model call is made; `ditto.methods.ditto` passes gradient checkpointing.
    """

    denoiser: Denoiser
    schedule: Schedule
    timesteps: Sequence[int]
    cond: Cond
    guidance: float = 1.0
    threshold: bool = True
    call: Call = plain_call

    def predict(self, x_t: Tensor, t: int) -> Tensor:
        """x̂_0 at timestep `t`, thresholded if the chain says so."""
        times = torch.full((len(x_t),), t, dtype=torch.long, device=x_t.device)
        return self.call(self._estimate, x_t, times)

    def _estimate(self, x_t: Tensor, times: Tensor) -> Tensor:
        # With the thresholding inside the checkpoint, x_t is all that a step keeps for the backward
        # pass.
        x_0 = self.denoiser(x_t, times, self.cond, self.guidance)
        return limit_of(self.denoiser)(x_0) if self.threshold else x_0

    def pairs(self) -> list[tuple[int, int]]:
        """(t, next t) along the grid; the last next is `CLEAN`."""
        return list(zip(self.timesteps, [*self.timesteps, CLEAN][1:], strict=True))


def ddim_step(schedule: Schedule, x_t: Tensor, x_0: Tensor, t: int, t_next: int) -> Tensor:
    """One deterministic DDIM step (Song et al. 2021, eq. 12, η=0) from t to t_next given x̂_0."""
    return schedule.add_noise(x_0, schedule.to_epsilon(x_0, x_t, t), t_next)


def ddim(chain: Chain, x_T: Tensor) -> Tensor:
    """DDIM with η=0: x_T (B, …) → x_0."""
    x_t = x_T
    for t, t_next in chain.pairs():
        x_t = ddim_step(chain.schedule, x_t, chain.predict(x_t, t), t, t_next)
    return x_t


Advance = Callable[[Schedule, Tensor, Tensor, int, int], Tensor]
"""One step ``(schedule, x_t, x̂_0, t, t_next) -> x at t_next``: `ddim_step`, or what `ancestral`
makes."""


def ddpm_step(
    schedule: Schedule, x_t: Tensor, x_0: Tensor, t: int, t_next: int, noise: Callable[[], Tensor]
) -> Tensor:
    """One ancestral step: DDIM's with η=1 (Song et al. 2021, eq. 16); the one to clean data draws
    no noise.
    """
    epsilon = schedule.to_epsilon(x_0, x_t, t)
    now, after = schedule.at(t, x_t), schedule.at(t_next, x_t)
    variance = (1 - after) / (1 - now) * (1 - now / after)
    mean = after.sqrt() * x_0 + (1 - after - variance).clamp(min=0).sqrt() * epsilon
    return mean if t_next == CLEAN else mean + variance.sqrt() * noise()


def ancestral(noise: Callable[[], Tensor]) -> Advance:
    """`ddpm_step` with its noise, for methods that take either kind of step."""

    def step(schedule: Schedule, x_t: Tensor, x_0: Tensor, t: int, t_next: int) -> Tensor:
        return ddpm_step(schedule, x_t, x_0, t, t_next, noise)

    return step


def ddpm(chain: Chain, x_T: Tensor, noise: Callable[[], Tensor]) -> Tensor:
    """Ancestral sampling: x_T (B, …) → x_0; `noise()` gives ε of x_T's shape."""
    x_t = x_T
    for t, t_next in chain.pairs():
        x_t = ddpm_step(chain.schedule, x_t, chain.predict(x_t, t), t, t_next, noise)
    return x_t


def dpm_solver_pp(chain: Chain, x_T: Tensor) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2), first order at the ends: x_T (B, …) → x_0.

    The last step goes to clean data, where every order gives x̂_0 itself.
    """
    schedule, x_t = chain.schedule, x_T
    previous: Tensor | None = None
    h_previous: Tensor | None = None
    for t, t_next in chain.pairs():
        x_0 = chain.predict(x_t, t)
        if t_next == CLEAN:
            return x_0
        h = _log_snr(schedule, t_next, x_t) - _log_snr(schedule, t, x_t)
        estimate = x_0
        if previous is not None and h_previous is not None:
            estimate = x_0 + 0.5 * (h / h_previous) * (x_0 - previous)
        _, spread = schedule.scales(t, x_t)
        signal_next, spread_next = schedule.scales(t_next, x_t)
        x_t = spread_next / spread * x_t - signal_next * torch.expm1(-h) * estimate
        previous, h_previous = x_0, h
    raise ValueError("a chain needs at least one timestep")


def _log_snr(schedule: Schedule, t: int, like: Tensor) -> Tensor:
    """λ_t = ln √ᾱ_t − ln √(1 − ᾱ_t)."""
    return -torch.log(schedule.sigma(t, like))


def ddim_invert(chain: Chain, x_0: Tensor) -> Tensor:
    """DDIM inversion: the grid walked upwards, x_0 → x_T (Song et al. 2021, §4.3), as diffusers'
    DDIMInverse does it.

    From t_next to t the network is asked at t, as on the way down, but sees x of the level t_next:
    all the error is there, and it vanishes with small steps.
    """
    return ddim_invert_path(chain, x_0)[0]


def ddim_invert_path(chain: Chain, x_0: Tensor) -> list[Tensor]:
    """All x_t of `ddim_invert` in the order of sampling: x_T first, x_0 itself last, T + 1 tensors
    (B, …).
    """
    schedule, path = chain.schedule, [x_0]
    for t, t_next in reversed(chain.pairs()):
        epsilon = schedule.to_epsilon(chain.predict(path[0], t), path[0], t)
        clean = schedule.to_x_0(epsilon, path[0], t_next, "epsilon")
        path.insert(0, schedule.add_noise(clean, epsilon, t))
    return path
