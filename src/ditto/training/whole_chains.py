"""Examples for a student from whole chains of its teacher: the global form of the consistency loss.

The local form (`ditto.training.consistency_loss`) takes the teacher one step down and asks the
student for the rest, so that what the student learns at high noise has to come up the grid step by
step, with all the errors of a student that is being trained. CTM's paper (Kim et al. 2024, equation
9) lets the teacher solve further down. Here it solves all the way: a chain gives x_s at every
level, and with it where each jump should have ended. With r = σ_s/σ_t and x^VE = x/√ᾱ::

    goal_s = (x_s^VE − r · x_t^VE) / (1 − r),        goal = mean of goal_s over s

the mean with the weights of `consistency_loss`, whose expected gradient it has where the student is
at the end of its training.

A chain costs as many calls of the teacher as it has levels, and gives an example at each. So the
chains of a group are computed at once and used for as many steps as their levels last.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ditto.diffusion.denoiser import Cond, Denoiser
from ditto.diffusion.samplers import Chain
from ditto.diffusion.schedule import CLEAN, Schedule
from ditto.training.loop import step_seed

TOGETHER = 16
"""Chains that are sampled in one batch, at one w."""


@dataclass(frozen=True, eq=False)
class Chains:
    """Chains of N levels of B clips.

    Attributes:
        x_t: the levels (N, B, …), the first of them x_T.
        goal: what the student is to answer at each, (N, B, …).
        cond: conditions (B, …).
        w: CFG scales (B,).
    """

    x_t: Tensor
    goal: Tensor
    cond: Cond
    w: Tensor


@torch.no_grad()
def follow(
    sampler: Callable[[Chain, Tensor], Tensor],
    teacher: Denoiser,
    schedule: Schedule,
    grid: list[int],
    x_T: Tensor,
    cond: Cond,
    w: float,
    clean_share: float,
) -> Chains:
    """Sample chains and keep what they teach.

    Args:
        sampler: `ditto.diffusion.samplers.ddim` or another that calls the teacher once a level.
        teacher: the base model.
        schedule: ᾱ.
        grid: N falling timesteps.
        x_T: where the chains begin, (B, …).
        cond: their conditions.
        w: their CFG scale.
        clean_share: see `consistency_loss.Grid.of`.
    """
    levels: list[Tensor] = []

    def note(function: Callable[..., Tensor], x_t: Tensor, *rest: object) -> Tensor:
        levels.append(x_t)
        return function(x_t, *rest)

    x_0 = sampler(Chain(teacher, schedule, grid, cond, w, call=note), x_T)
    goals = goals_of(schedule, grid, torch.stack(levels), x_0, clean_share)
    scale = torch.full((len(x_T),), w, device=x_T.device)
    return Chains(torch.stack(levels), goals, cond, scale)


def goals_of(
    schedule: Schedule, grid: list[int], x_t: Tensor, x_0: Tensor, clean_share: float
) -> Tensor:
    """Compute the module's goal at every level of chains, (N, B, …) float32.

    Jumps end at clean data with `clean_share`, the others at any later level or clean data alike.

    Args:
        schedule: ᾱ.
        grid: the N timesteps.
        x_t: the levels (N, B, …).
        x_0: the chains' ends (B, …).
        clean_share: in [0, 1].
    """
    ends = [*grid[1:], CLEAN]
    # In float64: a jump takes apart two numbers that may be of the size of σ.
    states = [*x_t[1:].double(), x_0.double()]
    goals = []
    for n, t in enumerate(grid):
        start = x_t[n].double() / schedule.at(t, states[0]).sqrt()
        mean = torch.zeros_like(start)
        for s, x_s in zip(ends[n:], states[n:], strict=True):
            r = schedule.sigma(s, x_s) / schedule.sigma(t, x_s)
            # Of (x_s^VE − r·x_t^VE) / (1 − r): exact x_0 at the end, where r is 0.
            aim = (x_s / schedule.at(s, x_s).sqrt() - r * start) / (1 - r)
            mean += aim * ((1 - clean_share) / (len(grid) - n) + clean_share * (s == CLEAN))
        goals.append(mean.float())
    return torch.stack(goals)


def places(grid: list[int], count: int, generator: torch.Generator, first_share: float) -> Tensor:
    """Draw levels (count,) int64 for one batch, stratified.

    `first_share` of them are the first. The others are as frequent as they are wide in timesteps,
    since a student's own grids are even in these.
    """
    t = torch.tensor([grid[0], *grid, 0], dtype=torch.float64)
    width = (t[:-2] - t[2:]) / 2
    chances = first_share * (torch.arange(len(grid)) == 0) + (1 - first_share) * width / width.sum()
    place = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    found = torch.searchsorted(chances.cumsum(0).float(), place, right=True)
    return found.clamp(max=len(grid) - 1)


class Groups:
    """Groups of chains, each made anew from (seed, number) when the first step of it comes.

    Args:
        make: ``(x_T, cond, w) -> Chains``.
        draw: ``(number, generator) -> (x_T, cond)`` of a group's chains.
        scales: range of w; `plain_share` of the batches are at w = 1, which costs half as much.
        seed: of the run.
        steps: batches that a group is used for.
    """

    def __init__(
        self,
        make: Callable[[Tensor, Cond, float], Chains],
        draw: Callable[[int, torch.Generator], tuple[Tensor, Cond]],
        *,
        scales: tuple[float, float],
        plain_share: float,
        seed: int,
        steps: int,
    ) -> None:
        self.make, self.draw, self.steps = make, draw, steps
        self.scales, self.plain_share, self.seed = scales, plain_share, seed
        self._held: tuple[int, Chains] | None = None

    def at(self, step: int) -> Chains:
        """Return the chains of a step's group."""
        number = step // self.steps
        if self._held is None or self._held[0] != number:
            self._held = None  # the old ones go before the new ones come
            self._held = number, self._group(number)
        return self._held[1]

    def _group(self, number: int) -> Chains:
        # A step's own draws have the seeds from 0 on: these count from the other end.
        generator = torch.Generator().manual_seed(step_seed(self.seed, -1 - number))
        x_T, cond = self.draw(number, generator)
        parts = []
        for x, c in zip(x_T.split(TOGETHER), cond.split(TOGETHER), strict=True):
            plain, place = torch.rand(2, generator=generator).tolist()
            low, high = self.scales
            w = 1.0 if plain < self.plain_share else low + (high - low) * place
            parts.append(self.make(x, c, w))
        return Chains(
            torch.cat([part.x_t for part in parts], dim=1),
            torch.cat([part.goal for part in parts], dim=1),
            torch.cat([part.cond for part in parts]),
            torch.cat([part.w for part in parts]),
        )
