"""Errors of a batch in which every item follows a control of its own, as benches need it.

`EachItsOwn` is a `Control` like any other, so the optimisation sees one objective; the vocoder runs
once for the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ditto.controls.base import Control, Output
from ditto.models.music_model import MusicModel
from ditto.panels import Panel


@dataclass(frozen=True)
class EachItsOwn(Control):
    """Item i of the batch follows ``controls[i]``.

    Attributes:
        controls: one for each item.
    """

    controls: Sequence[Control]
    kind = "each its own"

    def loss(self, output: Output) -> Tensor:
        """Losses (B,), differentiable.

        Raises:
            ValueError: if the batch is not of as many items as there are controls.
        """
        return torch.cat([control.loss(item) for control, item in self._items(output)])

    def proxy(self) -> "EachItsOwn":
        """Return the items' proxies."""
        return EachItsOwn([control.proxy() for control in self.controls])

    def calibrate(self, decoded: Output) -> "EachItsOwn":
        """Return every item's control, calibrated at that item."""
        return EachItsOwn([control.calibrate(item) for control, item in self._items(decoded)])

    def errors(self, output: Output) -> dict[str, Tensor]:
        """What the papers report, each (B,): the names that all controls have in common."""
        each = [control.errors(item) for control, item in self._items(output)]
        return {
            name: torch.cat([e[name] for e in each])
            for name in each[0]
            if all(name in e for e in each)
        }

    def check(self, model: MusicModel, frames: int) -> None:
        """Check every control."""
        for control in self.controls:
            control.check(model, frames)

    def to_dict(self) -> dict[str, Any]:
        """Return all controls, in the order of the items."""
        return {
            "control": self.kind,
            "items": [control.to_dict() for control in self.controls],
        }

    def panels(self, output: Output, item: int) -> list[Panel]:
        """Return the panels of one item's control."""
        control, alone = self._items(output)[item]
        return control.panels(alone, 0)

    def _items(self, output: Output) -> list[tuple[Control, Output]]:
        if len(output.x_0) != len(self.controls):
            raise ValueError(
                f"{len(self.controls)} controls cannot steer a batch of {len(output.x_0)}"
            )
        return [(control, output.item(i)) for i, control in enumerate(self.controls)]
