"""How far a student is from its teacher: few steps against the teacher's whole chain."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ditto.diffusion.denoiser import Cond, Denoiser
from ditto.diffusion.samplers import Chain, ddim
from ditto.diffusion.schedule import Schedule, Spacing

STEPS = (1, 2, 4, 8)
SCALES = (1.0, 3.0)


@dataclass(eq=False)
class TeacherStudentGap:
    """Measures students against a teacher on fixed noise; the teacher's outputs are computed once.

    Attributes:
        teacher, schedule: the base model.
        cond: conditions (N, …) of the clips.
        shape: of one x_0.
        seed: of x_T.
        grid: steps of the teacher's chain.
        spacing: of its grid, see `Schedule.timesteps`.
        student_spacing: of the student's.
        sampler: of it.
        data_std: standard deviation of x_0; errors are in units of its square.
        batch: clips at once.
    """

    teacher: Denoiser
    schedule: Schedule
    cond: Cond
    shape: Sequence[int]
    seed: int = 0
    grid: int = 20
    spacing: Spacing = "trailing"
    student_spacing: Spacing = "trailing"
    sampler: Callable[[Chain, Tensor], Tensor] = ddim
    data_std: float = 1.0
    batch: int = 8
    _references: dict[float, Tensor] = field(default_factory=dict)

    @property
    def x_T(self) -> Tensor:  # noqa: N802 - the papers' name
        """Noise, (N, *shape)."""
        return torch.randn(
            len(self.cond), *self.shape, generator=torch.Generator().manual_seed(self.seed)
        )

    def reference(self, w: float) -> Tensor:
        """Return the teacher's x_0 at CFG scale w, (N, *shape), sampled once."""
        if w not in self._references:
            grid = self.schedule.timesteps(self.grid, self.spacing)
            self._references[w] = self._sample(self.teacher, grid, w, self.sampler)
        return self._references[w]

    def sample(self, denoiser: Denoiser, steps: int, w: float) -> Tensor:
        """Sample by DDIM with any denoiser from the same noise.

        For a student that is γ-sampling with γ = 0.
        """
        grid = self.schedule.timesteps(steps, self.student_spacing)
        return self._sample(denoiser, grid, w, ddim)

    @torch.no_grad()
    def _sample(
        self,
        denoiser: Denoiser,
        grid: Sequence[int],
        w: float,
        sampler: Callable[[Chain, Tensor], Tensor],
    ) -> Tensor:
        device = self.cond.device
        parts = []
        for x_T, cond in zip(self.x_T.split(self.batch), self.cond.split(self.batch), strict=True):
            parts.append(sampler(Chain(denoiser, self.schedule, grid, cond, w), x_T.to(device)))
        return torch.cat(parts)

    def measure(self, student: Denoiser, steps: Sequence[int] = STEPS) -> dict[str, float]:
        """Measure a student, or the teacher itself, for every number of steps and w of `SCALES`.

        ``gap_<steps>_w<w>`` is the mean square difference to the teacher's whole chain over the
        data's variance. ``detail_<steps>_w<w>`` is the energy of the differences between
        neighbouring frames and bands over the teacher's: below 1, the student blurs.
        """
        found = {}
        for w in SCALES:
            truth = self.reference(w)
            for count in steps:
                made = self.sample(student, count, w)
                found[f"gap_{count}_w{w:g}"] = (
                    ((made - truth) / self.data_std).square().mean().item()
                )
                found[f"detail_{count}_w{w:g}"] = detail(made) / detail(truth)
        return found


def detail(x_0: Tensor) -> float:
    """Average the square difference of neighbouring frames and bands of (B, 1, n_mels, frames)."""
    return (x_0.diff(dim=-1).square().mean() + x_0.diff(dim=-2).square().mean()).item()
