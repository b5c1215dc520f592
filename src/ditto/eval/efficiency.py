"""Cost of an optimisation (DITTO §6.4, Table 5).

- **MS2C**, mean steps to convergence: optimisation steps until the loss is below τ (2 dB² in the
  paper).
- **MAM**, mean allocated memory: size of all living tensors made by the run, averaged over its
  operations, in GB = 10⁹ bytes. It counts tensors, not the allocator's caches, so that CPU and GPU
  are comparable.
"""

from typing import Any

import torch
from torch import Tensor

from ditto.models.profile import MemoryTracker


def steps_to_converge(losses: Tensor, threshold: float) -> Tensor:
    """Count the steps until each item's loss is below `threshold`; K if it never is.

    Args:
        losses: (K, B), by step.
        threshold: τ, in the loss's unit.

    Returns:
        (B,), float32, 1 … K; the mean is MS2C.
    """
    reached = losses < threshold
    first = reached.int().argmax(dim=0) + 1
    return torch.where(reached.any(dim=0), first, len(losses)).float()


class Memory(MemoryTracker):
    """Track living tensor memory as `MemoryTracker` does, with its mean over the operations."""

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
        """Run an operation and count its tensors."""
        result = super().__torch_dispatch__(func, types, args, kwargs)
        self._sum += self.now
        self._operations += 1
        return result
