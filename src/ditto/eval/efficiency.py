"""What an optimisation costs (DITTO §6.4, Table 5).

- **MS2C**, mean steps to convergence: optimisation steps until an item's loss is below τ (2 dB² in
the paper).
- **MOS**, mean optimisation speed: seconds a step.
- **MAM**, mean allocated memory: of all tensors that the run made and that are alive, averaged over
  its operations; in GB = 10⁹ bytes. It counts tensors, not the allocator's caches, so a CPU and a
  GPU compare.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ditto.models.profile import MemoryTracker
from ditto.optimize import Step


def steps_to_converge(losses: Tensor, threshold: float) -> Tensor:
    """Steps until each item's loss is first below `threshold`; K for an item that never gets there.

    Args:
        losses: (K, B), of the optimisation's steps.
        threshold: τ, in the loss's unit.

    Returns:
        (B,), float32, 1 … K; their mean is MS2C.
    """
    reached = losses < threshold
    first = reached.int().argmax(dim=0) + 1
    return torch.where(reached.any(dim=0), first, len(losses)).float()


class Stopwatch:
    """Watches an optimisation: call it with every `Step`, as `ditto.request.run`'s `watch`.

    Attributes:
        ticks: seconds at the start and after every step.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.ticks = [clock()]

    def __call__(self, step: Step) -> None:
        """Take the time."""
        self.ticks.append(self._clock())

    @property
    def seconds_per_step(self) -> float:
        """MOS; NaN before the first step."""
        steps = len(self.ticks) - 1
        return (self.ticks[-1] - self.ticks[0]) / steps if steps else float("nan")


class Memory(MemoryTracker):
    """A `MemoryTracker` that also takes the mean of the live bytes after every operation."""

    def __init__(self) -> None:
        super().__init__()
        self._sum = self._operations = 0

    @property
    def mean_gb(self) -> float:
        """MAM: the mean of `now` over all operations so far, GB; NaN before the first."""
        return self._sum / self._operations / 1e9 if self._operations else float("nan")

    @property
    def peak_gb(self) -> float:
        """`peak` in GB."""
        return self.peak / 1e9

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it made."""
        made = super().__torch_dispatch__(func, types, args, kwargs)
        self._sum += self.now
        self._operations += 1
        return made
