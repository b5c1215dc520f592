"""A control for batches in which every item follows a control of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ditto.controls.base import Control, Output
from ditto.models.music_model import MusicModel
from ditto.panels import Panel


@dataclass(frozen=True)
class PerItem(Control):
    """Steer item i of the batch by ``controls[i]``; the vocoder still runs once for the batch.

    Attributes:
        controls: one per item.
    """

    controls: Sequence[Control]
    kind = "per item"

    def loss(self, output: Output) -> Tensor:
        """Return the losses (B,), differentiable.

        Raises:
            ValueError: the numbers of items and controls differ.
        """
        return torch.cat([control.loss(item) for control, item in self._pairs(output)])

    def proxy(self) -> "PerItem":
        """Return the items' proxies."""
        return PerItem([control.proxy() for control in self.controls])

    def calibrate(self, decoded: Output) -> "PerItem":
        """Return every item's control, calibrated at that item."""
        return PerItem([control.calibrate(item) for control, item in self._pairs(decoded)])

    def errors(self, output: Output) -> dict[str, Tensor]:
        """Return the errors (B,) that all controls have in common, by name with unit."""
        errors = [control.errors(item) for control, item in self._pairs(output)]
        common = [name for name in errors[0] if all(name in e for e in errors)]
        return {name: torch.cat([e[name] for e in errors]) for name in common}

    def check(self, model: MusicModel, frames: int) -> None:
        """Check every control."""
        for control in self.controls:
            control.check(model, frames)

    def to_dict(self) -> dict[str, Any]:
        """Return the controls in the order of the items."""
        return {"control": self.kind, "items": [control.to_dict() for control in self.controls]}

    def panels(self, output: Output, item: int) -> list[Panel]:
        """Return the panels of one item."""
        control, alone = self._pairs(output)[item]
        return control.panels(alone, 0)

    def _pairs(self, output: Output) -> list[tuple[Control, Output]]:
        if len(output.x_0) != len(self.controls):
            raise ValueError(
                f"{len(self.controls)} controls cannot steer a batch of {len(output.x_0)}"
            )
        return [(control, output.item(i)) for i, control in enumerate(self.controls)]
