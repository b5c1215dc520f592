"""Deterministic and stochastic samplers as loops of pure, differentiable steps.

A step is a function of tensors alone, so it can be recomputed under gradient checkpointing. Tests
hold every sampler to diffusers' scheduler of that name, step by step.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from ditto.diffusion.denoiser import Cond, Denoiser, ProjectedDenoiser, limit_of, towards
from ditto.diffusion.schedule import CLEAN, Schedule

Call = Callable[..., Tensor]
"""Calls a function with arguments: directly, or through gradient checkpointing."""


def plain_call(function: Callable[..., Tensor], *args: object) -> Tensor:
    """Call `function` directly, without checkpointing."""
    return function(*args)


@dataclass(frozen=True)
class Chain:
    """Fix everything but x_T of a sampling chain: x_0 = sampler(chain, x_T).

    Attributes:
        denoiser: ``(x_t, t, cond, guidance) -> x̂_0``.
        schedule: ᾱ.
        timesteps: falling grid; after the last, the chain ends at clean data.
        cond: conditioning of the batch.
        guidance: CFG scale w (0 unconditional, 1 conditional).
        threshold: dynamic thresholding of x̂_0 at every step, as far as the denoiser has a `limit`;
            ε̂ follows from the thresholded x̂_0 (diffusers' ``use_clipped_model_output``).
        call: how each model call is made; `ditto.methods.ditto` passes gradient checkpointing.
        memory: what a denoiser whose guidance depends on the step before told of each timestep, in
            the present pass.
    """

    denoiser: Denoiser
    schedule: Schedule
    timesteps: Sequence[int]
    cond: Cond
    guidance: float = 1.0
    threshold: bool = True
    call: Call = plain_call
    memory: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def predict(self, x_t: Tensor, t: int, end: int = CLEAN) -> Tensor:
        """Estimate x̂_0 at timestep `t`, thresholded if the chain asks for it.

        Args:
            x_t: (B, …).
            t: its timestep.
            end: where the step along x̂_0 goes, for students that are told (`StudentDenoiser`).
        """
        times = torch.full((len(x_t),), t, dtype=torch.long, device=x_t.device)
        if not remembers(self.denoiser, self.guidance):
            return self.call(partial(self._estimate, end), x_t, times)
        earlier = min((other for other in self.memory if other > t), default=None)
        before = None if earlier is None else self.memory[earlier]
        # An argument and a result of the call, so that recomputing it is what it was.
        x_0, self.memory[t] = self.call(self._recall, x_t, times, before).unbind()
        return x_0

    def _recall(self, x_t: Tensor, times: Tensor, before: Tensor | None) -> Tensor:
        """Return x̂_0 and what is to be remembered, (2, B, …)."""
        assert isinstance(self.denoiser, ProjectedDenoiser)
        x_0, told = self.denoiser.recall(x_t, times, self.cond, self.guidance, before)
        return torch.stack([limit_of(self.denoiser)(x_0) if self.threshold else x_0, told])

    def _estimate(self, end: int, x_t: Tensor, times: Tensor) -> Tensor:
        # Thresholds inside the checkpoint: a step then keeps only x_t for the backward pass.
        x_0 = towards(self.denoiser, end)(x_t, times, self.cond, self.guidance)
        return limit_of(self.denoiser)(x_0) if self.threshold else x_0

    def pairs(self) -> list[tuple[int, int]]:
        """List (t, next t) along the grid, for a new pass; the last next is `CLEAN`."""
        self.memory.clear()
        return list(zip(self.timesteps, [*self.timesteps, CLEAN][1:], strict=True))


def remembers(denoiser: Denoiser, guidance: float) -> bool:
    """Return whether a denoiser's steps at CFG scale w depend on those before."""
    return isinstance(denoiser, ProjectedDenoiser) and denoiser.remembers(guidance)


def ddim_step(schedule: Schedule, x_t: Tensor, x_0: Tensor, t: int, t_next: int) -> Tensor:
    """Step from t to t_next given x̂_0, by deterministic DDIM (Song et al. 2021, eq. 12, η=0)."""
    return schedule.add_noise(x_0, schedule.to_epsilon(x_0, x_t, t), t_next)


def ddim(chain: Chain, x_T: Tensor) -> Tensor:
    """Sample by DDIM with η=0: x_T (B, …) → x_0."""
    x_t = x_T
    for t, t_next in chain.pairs():
        x_t = ddim_step(chain.schedule, x_t, chain.predict(x_t, t, t_next), t, t_next)
    return x_t


Advance = Callable[[Schedule, Tensor, Tensor, int, int], Tensor]
"""A step ``(schedule, x_t, x̂_0, t, t_next) -> x at t_next``: `ddim_step` or `ancestral(noise)`."""


def ddpm_step(
    schedule: Schedule, x_t: Tensor, x_0: Tensor, t: int, t_next: int, noise: Callable[[], Tensor]
) -> Tensor:
    """Step ancestrally: DDIM with η=1 (Song et al. 2021, eq. 16), without noise to clean data."""
    epsilon = schedule.to_epsilon(x_0, x_t, t)
    a, a_next = schedule.at(t, x_t), schedule.at(t_next, x_t)
    variance = (1 - a_next) / (1 - a) * (1 - a / a_next)
    mean = a_next.sqrt() * x_0 + (1 - a_next - variance).clamp(min=0).sqrt() * epsilon
    return mean if t_next == CLEAN else mean + variance.sqrt() * noise()


NOISE_RATIO = 10.0
"""σ_t over the deviation of x_0 from which on x_t counts as noise alone: x_0 is 20 dB below."""


def ancestral(noise: Callable[[], Tensor], kept: float = math.inf) -> Advance:
    """Bind the noise of `ddpm_step`, for methods that take an `Advance`.

    Where x_t is noise alone that step puts fresh noise in x_T's place, and nothing but chance is
    left of a latent. DDIM's step, made there instead, keeps it.

    Args:
        noise: draws ε of x_T's shape.
        kept: σ from which on DDIM's step is made.
    """

    def step(schedule: Schedule, x_t: Tensor, x_0: Tensor, t: int, t_next: int) -> Tensor:
        if kept < math.inf and bool((schedule.sigma(t, x_t) > kept).all()):
            return ddim_step(schedule, x_t, x_0, t, t_next)
        return ddpm_step(schedule, x_t, x_0, t, t_next, noise)

    return step


def ddpm(chain: Chain, x_T: Tensor, noise: Callable[[], Tensor], kept: float = math.inf) -> Tensor:
    """Sample ancestrally: x_T (B, …) → x_0; see `ancestral`."""
    x_t, step = x_T, ancestral(noise, kept)
    for t, t_next in chain.pairs():
        x_t = step(chain.schedule, x_t, chain.predict(x_t, t, t_next), t, t_next)
    return x_t


def dpm_solver_pp(chain: Chain, x_T: Tensor) -> Tensor:
    """Sample by DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): x_T (B, …) → x_0.

    The first step is of first order; the last goes to clean data, where every order gives x̂_0.

    Raises:
        ValueError: the chain is empty.
    """
    schedule, x_t = chain.schedule, x_T
    previous: Tensor | None = None
    h_previous: Tensor | None = None
    for t, t_next in chain.pairs():
        x_0 = chain.predict(x_t, t)
        if t_next == CLEAN:
            return x_0
        h = (schedule.sigma(t, x_t) / schedule.sigma(t_next, x_t)).log()  # λ_next − λ_t
        estimate = x_0
        if previous is not None and h_previous is not None:
            estimate = x_0 + 0.5 * (h / h_previous) * (x_0 - previous)
        _, spread = schedule.scales(t, x_t)
        signal_next, spread_next = schedule.scales(t_next, x_t)
        x_t = spread_next / spread * x_t - signal_next * torch.expm1(-h) * estimate
        previous, h_previous = x_0, h
    raise ValueError("a chain needs at least one timestep")


def ddim_invert(chain: Chain, x_0: Tensor, *, ahead: bool = False) -> Tensor:
    """Invert DDIM, x_0 (B, …) → x_T (Song et al. 2021, §4.3; Dhariwal & Nichol 2021).

    The step from t_next to t asks the network about x at t_next, where sampling asks at t: the only
    source of error, which vanishes with small steps. The grid should not begin at pure noise, where
    nothing is left of x_0: take a "leading" one.

    Args:
        chain: its grid counts.
        x_0: the clip.
        ahead: tell the network that x is at t already, as diffusers' DDIMInverse and the authors of
            null-text inversion do. On the embedded model the error is then five times as large.
    """
    return ddim_invert_path(chain, x_0, ahead=ahead)[0]


def ddim_invert_path(chain: Chain, x_0: Tensor, *, ahead: bool = False) -> list[Tensor]:
    """Return all T + 1 x_t (B, …) of `ddim_invert` in the order of sampling, x_T first."""
    schedule, path = chain.schedule, [x_0]
    for t, t_next in reversed(chain.pairs()):
        told = t if ahead else t_next
        if told == CLEAN:  # clean data is nearest to timestep 0, unless that is clean itself
            told = 0 if schedule.scales(0, x_0)[1].item() > 0 else t
        epsilon = schedule.to_epsilon(chain.predict(path[0], told), path[0], told)
        clean = schedule.to_x_0(epsilon, path[0], t_next, "epsilon")
        path.insert(0, schedule.add_noise(clean, epsilon, t))
    return path
