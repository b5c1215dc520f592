"""A better start: of the clips that N noises give without control, the one nearest the target.

Optimising begins where a search over noises (`ditto.methods.best_of`) ends: the search needs no
gradient, and what the model makes by itself need not be made of something else.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from ditto.diffusion.consistency import Noise
from ditto.diffusion.schedule import expand_like
from ditto.methods.base import Method, Problem
from ditto.optimize import Step

TOGETHER, FEW_TOGETHER = 16, 4
"""Candidates decoded at once, where a single clip is asked for; and judged by one step at once, so
that it takes no more memory than an iteration."""
MAX_CANDIDATES = 100_000
NO_STUDENT = 0
"""Decoding steps of methods that decode by the base model's chain."""


@dataclass(frozen=True, eq=False)
class Found:
    """The best candidates of one batch, for each of B clips.

    Attributes:
        x_T: latents, shape (B, …).
        loss: of what they decode to, shape (B,).
        number: of the candidate, from 0, the request's own x_T; shape (B,).
    """

    x_T: Tensor
    loss: Tensor
    number: Tensor

    def or_better(self, other: "Found") -> "Found":
        """Return the better of both for each clip, this one where they are equal."""
        better = other.loss < self.loss
        return Found(
            torch.where(expand_like(better, self.x_T), other.x_T, self.x_T),
            torch.where(better, other.loss, self.loss),
            torch.where(better, other.number, self.number),
        )


def repeated(problem: Problem, size: int) -> Problem:
    """Return the problem of `size` clips in place of each; all share their clip's noise."""
    if size == 1:
        return problem
    cond = problem.cond.repeat(size, *[1] * (problem.cond.ndim - 1))

    def new_noise() -> Noise:
        noise = problem.new_noise()
        return lambda: torch.cat([noise()] * size)

    return replace(problem, cond=cond, new_noise=new_noise)


def batches(count: int, problem: Problem, batch: int = TOGETHER) -> list[int]:
    """Return the sizes of the batches that `count` candidates of every clip are decoded in."""
    # Controls of a batch of clips expect one of each.
    together = batch if len(problem.cond) == 1 else 1
    return [min(together, count - first) for first in range(0, count, together)]


@torch.no_grad()
def search(
    x_T: Tensor, problem: Problem, decoder: Method, count: int, batch: int = TOGETHER
) -> Iterator[Found]:
    """Yield the best of every batch of candidates; x_T is the first, the others are fresh noise.

    An item's candidates come from its own generator, as they would alone.

    Args:
        x_T: shape (B, …).
        problem: with controls.
        decoder: whose `decode` gives what is judged.
        count: candidates of every clip.
        batch: decoded at once.
    """
    draw = _fresh(problem, getattr(decoder, "decode_steps", NO_STUDENT))
    candidates, first = x_T[None], 0
    for size in batches(count, problem, batch):
        fresh = [draw()[None] for _ in range(size - len(candidates))]
        candidates = torch.cat([candidates, *fresh])
        flat = candidates.flatten(0, 1)
        x_0 = decoder.decode(flat, repeated(problem, size))
        losses = problem.objective(x_0, flat).unflatten(0, (size, len(x_T))).float()
        # A candidate whose loss is not finite is none.
        loss, best = torch.where(losses.isnan(), torch.inf, losses).min(dim=0)
        items = torch.arange(len(x_T), device=x_T.device)
        yield Found(candidates[best, items], loss, best + first)
        candidates, first = x_T.new_zeros(0, *x_T.shape), first + size


def _fresh(problem: Problem, decode_steps: int | None) -> Noise:
    """Return the problem's noise from after what decoding in so many steps begins with."""
    draw = problem.new_noise()
    if decode_steps != NO_STUDENT:
        for _ in problem.student_chain(decode_steps).timesteps:
            draw()
    return draw


def candidate(number: int, x_T: Tensor, problem: Problem, method: Method) -> Tensor:
    """Return a candidate of every clip by its `Found.number`, without a search: (B, …).

    A method that does not decode by the student has the candidates of one that does, in the
    student's own number of steps.

    Args:
        number: from 0, which is x_T.
        x_T: the request's own, shape (B, …).
        problem: of these clips.
        method: resolved.
    """
    if number == 0:
        return x_T
    student = problem.model.distilled
    known = student is not None and student.guidance[0] <= problem.guidance <= student.guidance[1]
    draw = _fresh(problem, getattr(method, "decode_steps", None if known else NO_STUDENT))
    for _ in range(number - 1):
        draw()
    return draw()


def begun(
    x_T: Tensor,
    problem: Problem,
    decoder: Method,
    count: int,
    optimise: Callable[[Tensor], Iterator[Step]],
    batch: int = TOGETHER,
) -> Iterator[Step]:
    """Optimise from each clip's best candidate on; steps say which one it is, and hold it.

    Args:
        x_T: the request's own, shape (B, …).
        problem: what is asked.
        decoder: see `search`.
        count: candidates; 1 begins at x_T.
        optimise: yields the steps from a start.
        batch: candidates decoded at once.
    """
    if count == 1 or problem.control is None:
        yield from optimise(x_T)
        return
    best = reduce(Found.or_better, search(x_T, problem, decoder, count, batch))
    for step in optimise(best.x_T):
        yield replace(step, candidate=best.number, begun=best.x_T)
