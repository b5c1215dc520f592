"""Examples for a student from whole chains of its teacher: the global form of the consistency loss.

The local form (`ditto.training.consistency_loss`) takes the teacher one step down and asks the
student for the rest, so that what the student learns at high noise has to come up the grid step by
step, with all the errors of a student that is being trained. CTM's paper (Kim et al. 2024, equation
9) lets the teacher solve further down. Here it solves all the way: a chain gives x_s at every
level, and with it where each jump should have ended. With r = σ_s/σ_t and x^VE = x/√ᾱ::

    goal_s = (x_s^VE − r · x_t^VE) / (1 − r),        goal = mean of goal_s over s

the mean with the weights of `consistency_loss`, whose expected gradient it has where the student is
at the end of its training. A student that is told s is given one s at a time, and its own goal.

A chain costs as many calls of the teacher as it has levels, and gives an example at each. So the
chains of a group are computed at once and used for as many steps as their levels last.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ditto.diffusion.denoiser import Cond, Denoiser
from ditto.diffusion.samplers import Chain
from ditto.diffusion.schedule import CLEAN, Schedule, expand_like
from ditto.training.loop import step_seed

TOGETHER = 16
"""Chains that are sampled in one batch, at one w."""


@dataclass(frozen=True, eq=False)
class Chains:
    """Chains of N levels of B clips.

    Attributes:
        x_t: the levels (N, B, …), the first of them x_T.
        goal: what a student that is not told s is to answer at each, (N, B, …); for one that is,
            the ends of the chains, x_0 (1, B, …).
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
    clean_share: float | None,
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
        clean_share: see `consistency_loss.Grid.of`; None for a student that is told s.
    """
    levels: list[Tensor] = []

    def note(function: Callable[..., Tensor], x_t: Tensor, *rest: object) -> Tensor:
        levels.append(x_t)
        return function(x_t, *rest)

    x_0 = sampler(Chain(teacher, schedule, grid, cond, w, call=note), x_T)
    x_t = torch.stack(levels)
    goals = x_0[None] if clean_share is None else goals_of(schedule, grid, x_t, x_0, clean_share)
    return Chains(x_t, goals, cond, torch.full((len(x_T),), w, device=x_T.device))


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
        mean = torch.zeros_like(states[0])
        for s, x_s in zip(ends[n:], states[n:], strict=True):
            aim = goal_to(schedule, x_t[n].double(), t, x_s, s)
            mean += aim * ((1 - clean_share) / (len(grid) - n) + clean_share * (s == CLEAN))
        goals.append(mean.float())
    return torch.stack(goals)


def goal_to(
    schedule: Schedule, x_t: Tensor, t: Tensor | int, x_s: Tensor, s: Tensor | int
) -> Tensor:
    """Compute goal_s of a jump from x_t to x_s, (B, …) float64 each: x_0 itself at clean data."""
    r = schedule.sigma(s, x_s) / schedule.sigma(t, x_s)
    start, end = (x / schedule.at(time, x).sqrt() for x, time in ((x_t, t), (x_s, s)))
    return (end - r * start) / (1 - r)


def told_goal(
    schedule: Schedule, grid: list[int], chains: Chains, place: Tensor, end: Tensor, item: Tensor
) -> Tensor:
    """Compute what a student that is told s is to answer, (count, …) float32.

    Args:
        schedule: ᾱ.
        grid: the N timesteps.
        chains: of `follow` without a `clean_share`.
        place: levels where jumps begin, (count,).
        end: levels where they end, (count,), each later than its `place`; N is clean data.
        item: chains, (count,).
    """
    clean, times = end == len(grid), torch.tensor([*grid, CLEAN])
    x_s = chains.x_t[end.clamp(max=len(grid) - 1), item]
    x_s = torch.where(expand_like(clean, x_s).to(x_s.device), chains.goal[0, item], x_s)
    x_t = chains.x_t[place, item].double()
    return goal_to(schedule, x_t, times[place], x_s.double(), times[end]).float()


def places(grid: list[int], count: int, generator: torch.Generator, first_share: float) -> Tensor:
    """Draw levels (count,) int64 for one batch, stratified.

    `first_share` of them are the first. The others are as frequent as they are wide in timesteps,
    since a student's own grids are even in these.
    """
    width = widths(grid)
    chances = first_share * (torch.arange(len(grid)) == 0) + (1 - first_share) * width / width.sum()
    place = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    found = torch.searchsorted(chances.cumsum(0).float(), place, right=True)
    return found.clamp(max=len(grid) - 1)


def widths(grid: list[int]) -> Tensor:
    """Return the timesteps that are nearer to each level than to the others, (N,) float64."""
    t = torch.tensor([grid[0], *grid, 0], dtype=torch.float64)
    return (t[:-2] - t[2:]) / 2


def ends(grid: list[int], place: Tensor, generator: torch.Generator, clean_share: float) -> Tensor:
    """Draw where jumps from levels `place` (count,) end, as levels (count,); N is clean data.

    That is clean data with `clean_share`. The other ends are later levels, as frequent as they are
    wide in timesteps, and clean data where there is none.
    """
    levels = torch.arange(len(grid))
    chances = torch.where(levels > place[:, None], widths(grid), 0.0)
    chances = (1 - clean_share) * chances / chances.sum(dim=1, keepdim=True).clamp(min=1e-12)
    drawn = torch.rand(len(place), 1, generator=generator, dtype=torch.float64)
    return torch.searchsorted(chances.cumsum(dim=1), drawn, right=True)[:, 0]


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
