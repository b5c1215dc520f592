"""When DITTO-2's surrogate is corrected, and cheap proxies that are calibrated at those times."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ditto.methods.base import Problem
from ditto.methods.proxies import proxied

CORRECTIONS, EVERY_STEP = 8, "every step"
Corrections = int | Literal["every step"]
SPREAD = 1.7
"""Correction n of N is due after the share (n / (N + 1))^SPREAD of the iterations: x_T moves fast
at first, and one step and a few then differ most."""
CALIBRATE_EVERY = 4
"""Corrections per calibration, which may need sound and then takes several times as long."""


def changes(phases: Sequence[tuple[int, int]], i: int) -> bool:
    """Tell whether a correction is due in iteration i, or it is the first."""
    return i == 0 or phases[i][1] != phases[i - 1][1]


def phases_of(budget: Sequence[int], corrections: Corrections) -> list[tuple[int, int]]:
    """Return M and the number of corrections made so far, for each iteration."""
    if isinstance(corrections, str):
        return [(calls, i + 1) for i, calls in enumerate(budget)]
    count = len(budget)
    due = [int(count * ((n + 1) / (corrections + 1)) ** SPREAD) for n in range(corrections)]
    return [(calls, sum(0 < first <= i for first in due)) for i, calls in enumerate(budget)]


class CalibratedProxies:
    """The objective by cheap proxies, calibrated by the clip when `Ditto2`'s would be.

    Attributes:
        due: iterations that begin with a calibration.
    """

    def __init__(self, problem: Problem, corrections: int = CORRECTIONS) -> None:
        """Begin without a calibration, see `proxied`."""
        self.objective, self.calibrate = proxied(problem)
        phases = phases_of([1] * problem.iterations, corrections)
        last = phases[-1][1]
        self.due = {
            i
            for i in range(1, len(phases))
            if changes(phases, i) and (last - phases[i][1]) % CALIBRATE_EVERY == 0
        }
        self.i = 0

    def __call__(self, x_0: Tensor, x_T: Tensor) -> Tensor:
        """Return the losses (B,) of an iteration."""
        if self.i in self.due:
            with torch.no_grad():
                self.objective = self.calibrate(x_0.detach())
        self.i += 1
        return self.objective(x_0, x_T)
