"""Best of N: search over seeds instead of optimising (the baseline of inference-time scaling).

    repeat N times:
        x_T ~ N(0, 1);  x_0 ← γ-sampling of x_T in T' steps
    return the x_0 whose 𝓛(f(x_0), y) is lowest

It needs no gradient, so it shows what optimisation is worth at equal time (Ma et al. 2025,
arXiv 2501.09732, search over noises with a verifier).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from ditto.errors import RequestError
from ditto.methods.base import Method, Problem
from ditto.methods.ditto2 import Ditto2, decode2
from ditto.models.model import MusicModel
from ditto.optimize import Step, best_so_far, stop_when


@dataclass(frozen=True, kw_only=True)
class BestOf(Method):
    """The seed, of N, whose uncontrolled clip is nearest the target.

    Attributes:
        count: N, candidates per clip; the first is the request's own x_T.
        batch: candidates the student decodes at once, where a single clip is asked for.
        decode_steps: T', the student's steps; None is its default.
        gamma: share of fresh noise in decoding, 0 to 1; None is the default of the student's kind.
    """

    count: int = 64
    batch: int = 16
    decode_steps: int | None = None
    gamma: float | None = None
    name = "best-of"
    summary = "the best of N seeds, without optimising"
    optimises = True
    limits = {  # noqa: RUF012 - read only
        "count": (1, 100_000),
        "batch": (1, 4096),
        "decode_steps": (1, 20),
        "gamma": (0.0, 1.0),
    }

    def resolve(self, model: MusicModel, guidance: float, iterations: int) -> Self:
        """Fill in T' and γ.

        Raises:
            RequestError: the model has no student, or one that was not taught this guidance.
        """
        student = Ditto2(decode_steps=self.decode_steps, gamma=self.gamma)
        student = student.resolve(model, guidance, iterations)
        return replace(self, gamma=student.gamma, decode_steps=student.decode_steps)

    def check(self, problem: Problem) -> None:
        """Refuse a problem without controls."""
        if not problem.controls:
            raise RequestError("best-of searches for a control's target: give a control")

    def total(self, problem: Problem) -> int:
        """Return the number of batches."""
        return -(-self.count // self._together(problem))

    def optimise(self, x_T: Tensor, problem: Problem) -> Iterator[Step]:
        """Search, yielding every batch of candidates."""
        return stop_when(best_so_far(self._search(x_T, problem)), [problem.stop])

    @torch.no_grad()
    def _search(self, x_T: Tensor, problem: Problem) -> Iterator[Step]:
        clips, together, draw = len(x_T), self._together(problem), problem.new_noise()
        for _ in problem.student_chain(self.decode_steps).timesteps:
            draw()  # decoding begins with these
        candidates = x_T[None]
        for i in range(self.total(problem)):
            size = min(together, self.count - i * together)
            fresh = [draw() for _ in range(size - len(candidates))]
            candidates = torch.cat([candidates, *(one[None] for one in fresh)])
            x_0 = self._decoded(candidates.flatten(0, 1), problem, size)
            losses = problem.objective(x_0, candidates.flatten(0, 1)).unflatten(0, (size, clips))
            loss, best = losses.min(dim=0)
            found = candidates[best, torch.arange(clips, device=x_T.device)]
            yield Step(i, loss, found, best_loss=loss, best_x_T=found)
            candidates = x_T.new_zeros(0, *x_T.shape)

    def decode(self, x_T: Tensor, problem: Problem) -> Tensor:
        """Decode the best candidate."""
        return self._decoded(x_T, problem, 1)

    def _decoded(self, x_T: Tensor, problem: Problem, size: int) -> Tensor:
        """Return x_0 of `size` candidates of every clip; all share a clip's decoding noise."""
        chain, noise = problem.student_chain(self.decode_steps), problem.new_noise()
        chain = replace(chain, cond=chain.cond.repeat(size, *[1] * (chain.cond.ndim - 1)))
        gamma = 0.0 if self.gamma is None else self.gamma
        return decode2(x_T, chain, gamma, lambda: torch.cat([noise()] * size))

    def _together(self, problem: Problem) -> int:
        """Return candidates per batch: controls of a batch of clips expect one of each clip."""
        return self.batch if len(problem.cond) == 1 else 1
