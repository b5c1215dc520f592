"""The loss that distils a diffusion model into a few-step student (DITTO-2 §3).

It is the local consistency form.

With x_{t'} = Θ(x_t) one step of the guided teacher, t' the next timestep of its grid, and s at or
below t'::

    𝓛 = ω(t, s) · ‖ G_φ(x_t, t→s) − sg G_φ⁻(x_{t'}, t'→s) ‖² / σ_data²       in VE coordinates

CM always jumps to clean data; CTM draws s from the grid. G is the Euler jump of
`ditto.diffusion.consistency`. Both sides then contain the same share of x_t, and with p = σ_s/σ_t',
r = σ_s/σ_t and x̂_0 the teacher's estimate at x_t the difference is (1 − r)·(g_φ(x_t) − goal),
where::

    goal = α·x̂_0 + (1 − α)·g_φ⁻(x_{t'}),        α = (p − r) / (1 − r)

So it is computed: the jumps themselves would subtract two numbers of the size of σ_t, up to 20 000.
For s = t' the goal is the teacher's own estimate (α = 1), for s = 0 what the student says a step
later (α = 0).

Θ is DDIM, or the two-stage DPM-Solver++(2S) of Lu et al. 2022 with its second stage at t' (r = 1):
a DDIM step to t', a second estimate there, and the step again with the mean of both in place of
x̂_0, which takes its place in the goal too.

The weight is ω(t, s) = ω(t) / (1 − r)². A jump's error is that of g_φ times the jump's length 1 −
r; undivided, the far jumps would take nearly all of the loss, and a g_φ that is not told s would
learn α of a few per cent: a CM, whose jumps to noise levels in between are too sharp.

As g_φ is not told s, the mean of the loss over s has, up to a constant, the same form with the mean
of α. Taking that in place of drawing s leaves the expected gradient of the square as it is and
takes out its noise.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ditto.diffusion.denoiser import Cond, Denoiser, ProjectedDenoiser, limit_of
from ditto.diffusion.schedule import CLEAN, Schedule, Spacing

Solver = Literal["ddim", "dpm++"]
Student = Callable[[Tensor, Tensor, Cond, Tensor], Tensor]
"""``(x_t, t, cond, w (B,)) -> x̂_0``."""


@dataclass(frozen=True, eq=False)
class Grid:
    """The teacher's timesteps and what the loss needs at each, all (N,).

    Attributes:
        t: falling timesteps.
        t_next: the next of each, `CLEAN` after the last.
        share: mean of α over s, the teacher's share of the goal.
    """

    t: Tensor
    t_next: Tensor
    share: Tensor

    @classmethod
    def of(
        cls, schedule: Schedule, steps: int, clean_share: float, spacing: Spacing | None = None
    ) -> "Grid":
        """Build a grid of timesteps.

        Args:
            schedule: ᾱ.
            steps: N.
            spacing: see `Schedule.timesteps`.
            clean_share: probability that s is clean data (1 is CM); otherwise s is uniform from t'
                on.
        """
        points = torch.tensor([*schedule.timesteps(steps, spacing), CLEAN])
        sigma = schedule.sigma(points, points.double())
        shares = [_mean_share(sigma[n], sigma[n + 1 :], clean_share) for n in range(steps)]
        return cls(points[:-1], points[1:], torch.tensor(shares))

    def draw(self, count: int, generator: torch.Generator, first_share: float = 0.0) -> Tensor:
        """Draw places (count,) int64 in the grid, stratified over the batch.

        `first_share` of them are at the first timestep, besides its part of the others, which are
        uniform.
        """
        place = (torch.arange(count) + torch.rand(count, generator=generator)) / count
        place = (place - first_share).clamp(min=0) / max(1 - first_share, 1e-12)
        return (place * len(self.t)).long().clamp(max=len(self.t) - 1)


def _mean_share(sigma: Tensor, lower: Tensor, clean_share: float) -> float:
    """Average α over jumps from σ_t to the `lower` levels, which fall from σ_t' to 0."""
    if len(lower) == 1:
        return 1.0
    p, r = lower / lower[0], lower / sigma
    share = (p - r) / (1 - r)
    return (1 - clean_share) * share.mean().item() + clean_share * share[-1].item()


@dataclass(frozen=True, eq=False)
class Example:
    """One step's batch.

    Attributes:
        x_t: noised clips (B, …).
        cond: conditions of the batch.
        null: null conditions of the same shape.
        w: the teacher's CFG scales (B,).
        t: timesteps of x_t, (B,).
        t_next: the teacher's next ones, `CLEAN` after its last.
        share: α, (B,).
        weight: of each in the loss, (B,).
    """

    x_t: Tensor
    cond: Cond
    null: Cond
    w: Tensor
    t: Tensor
    t_next: Tensor
    share: Tensor
    weight: Tensor

    def to(self, device: torch.device) -> "Example":
        """Move it to another device."""
        return Example(**{name: value.to(device) for name, value in vars(self).items()})

    def __getitem__(self, part: slice) -> "Example":
        """Return a part of the batch."""
        return Example(**{name: value[part] for name, value in vars(self).items()})


def guided(teacher: Denoiser, x_t: Tensor, t: Tensor, cond: Cond, null: Cond, w: Tensor) -> Tensor:
    """Compute the teacher's x̂_0 (B, …) with a CFG scale of its own for every item, in one call.

    x̂_0 is affine in whatever the network predicts, so that guiding x̂_0 is guiding that. Projected
    guidance is not, and begins anew at every example: what it remembers is a chain's.
    """
    if isinstance(teacher, ProjectedDenoiser):
        return teacher.each(x_t, t, cond, w).float()
    both = teacher(torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([cond, null]), 1.0).float()
    conditional, unconditional = both.chunk(2)
    scale = _over(w, x_t)
    return scale * conditional + (1 - scale) * unconditional


@torch.no_grad()
def goal(
    teacher: Denoiser,
    target: Student,
    schedule: Schedule,
    example: Example,
    solver: Solver = "ddim",
) -> Tensor:
    """Compute what g_φ(x_t) is compared with, (B, …) float32, without gradient.

    Args:
        teacher: the base model. Both estimates are thresholded by its limit, as sampling chains do
            it.
        target: g_φ⁻.
        schedule: ᾱ.
        example: the batch.
        solver: Θ.
    """
    limit = limit_of(teacher)
    x_t, t, t_next = example.x_t, example.t, example.t_next

    def estimate(x: Tensor, t: Tensor) -> Tensor:
        return limit(guided(teacher, x, t, example.cond, example.null, example.w))

    x_0 = estimate(x_t, t)
    x_next = schedule.add_noise(x_0, schedule.to_epsilon(x_0, x_t, t), t_next)
    if solver == "dpm++":
        # A step to clean data is of first order, as in sampling.
        half = 0.5 * _over((t_next != CLEAN).to(x_0), x_0)
        x_0 = torch.lerp(x_0, estimate(x_next, t_next.clamp(min=0)), half)
        x_next = schedule.add_noise(x_0, schedule.to_epsilon(x_0, x_t, t), t_next)
    # Where t' is clean, α is 1 and the answer does not count.
    later = limit(target(x_next, t_next.clamp(min=0), example.cond, example.w).float())
    return torch.lerp(later, x_0, _over(example.share, x_0))


def distance(difference: Tensor, kind: str, huber: float = 5.4e-4) -> Tensor:
    """Measure a difference (B, …), an item each (B,).

    "mse" is the mean square d². "pseudo_huber" is √(d² + c²) − c (Song & Dhariwal 2024): near d for
    all but tiny ones, so that every item pulls alike, however large its error. c = `huber` is that
    paper's 0.00054·√(number of values) for a norm in place of a root mean square.
    """
    square = difference.square().flatten(1).mean(dim=1)
    return square if kind == "mse" else (square + huber**2).sqrt() - huber


def _over(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))
