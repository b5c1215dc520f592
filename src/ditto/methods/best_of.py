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

from torch import Tensor

from ditto.errors import RequestError
from ditto.methods.base import Method, Problem
from ditto.methods.candidates import MAX_CANDIDATES, TOGETHER, Found, batches, search
from ditto.methods.ditto2 import Ditto2, decode2
from ditto.models.model import MusicModel
from ditto.optimize import Step, stop_when


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
    batch: int = TOGETHER
    decode_steps: int | None = None
    gamma: float | None = None
    name = "best-of"
    summary = "the best of N seeds, without optimising"
    optimises = True
    needs_control = True
    limits = {  # noqa: RUF012 - read only
        "count": (1, MAX_CANDIDATES),
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
        return len(batches(self.count, problem, self.batch))

    def optimise(self, x_T: Tensor, problem: Problem) -> Iterator[Step]:
        """Search, yielding every batch of candidates with the best so far."""
        return stop_when(self._search(x_T, problem), [problem.stop])

    def _search(self, x_T: Tensor, problem: Problem) -> Iterator[Step]:
        best: Found | None = None
        for i, found in enumerate(search(x_T, problem, self, self.count, self.batch)):
            best = found if best is None else best.or_better(found)
            latest, so_far = (found.loss, found.x_T), (best.loss, best.x_T)
            yield Step(i, *latest, *so_far, candidate=best.number, begun=best.x_T)

    def uncontrolled(self, x_T: Tensor, problem: Problem) -> Tensor:
        """Decode the noise that was chosen: nothing is optimised, so it is the clip itself."""
        return self.decode(x_T, problem)

    def decode(self, x_T: Tensor, problem: Problem) -> Tensor:
        """Decode candidates."""
        gamma = 0.0 if self.gamma is None else self.gamma
        return decode2(x_T, problem.student_chain(self.decode_steps), gamma, problem.new_noise())
