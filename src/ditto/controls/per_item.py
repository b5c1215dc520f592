"""A batch in which every item follows a control of its own, as benchmarks need it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ditto.controls.base import Control
from ditto.controls.output import Output
from ditto.errors import ControlError
from ditto.models.model import MusicModel
from ditto.panels import Panel
from ditto.paths import shown


@dataclass(frozen=True)
class PerItem(Control):
    """Item i of the batch follows ``controls[i]``; the vocoder runs once for the batch.

    Attributes:
        controls: one for each item.
    """

    controls: Sequence[Control]
    kind = "per item"

    def __post_init__(self) -> None:
        """Keep a tuple, so that requests have a hash.

        Raises:
            ControlError: something else than controls is given.
        """
        if isinstance(self.controls, str) or not isinstance(self.controls, Sequence):
            raise ControlError(f"a control for each item is needed, not {shown(self.controls)}")
        for one in self.controls:
            if not isinstance(one, Control):
                raise ControlError(f"{shown(one)} is no control")
        object.__setattr__(self, "controls", tuple(self.controls))
        evenly = all(control.bare().grows_evenly for control in self.controls)
        object.__setattr__(self, "grows_evenly", evenly)

    def loss(self, output: Output) -> Tensor:
        """Return the losses (B,).

        Raises:
            ValueError: the batch has another number of items than there are controls.
        """
        return torch.cat([control.loss(item) for control, item in self._items(output)])

    def proxy(self) -> "PerItem":
        """Return the items' proxies."""
        return PerItem([control.proxy() for control in self.controls])

    def calibrate(self, decoded: Output) -> "PerItem":
        """Return every item's control, calibrated at that item."""
        return PerItem([control.calibrate(item) for control, item in self._items(decoded)])

    def errors(self, output: Output) -> dict[str, Tensor]:
        """Return the errors, each (B,), whose names all controls have in common."""
        each = [control.errors(item) for control, item in self._items(output)]
        names = [name for name in each[0] if all(name in errors for errors in each)]
        return {name: torch.cat([errors[name] for errors in each]) for name in names}

    def check(self, model: MusicModel, frames: int) -> None:
        """Check every control."""
        for control in self.controls:
            control.check(model, frames)

    @property
    def items(self) -> int:
        """As many clips as there are controls."""
        return len(self.controls)

    def for_item(self, item: int) -> Control:
        """Return the control of one item."""
        return self.controls[item]

    def to_dict(self) -> dict[str, Any]:
        """Return all controls, in the order of the items."""
        return {"control": self.kind, "items": [control.to_dict() for control in self.controls]}

    def panels(self, output: Output, item: int) -> list[Panel]:
        """Return the panels of one item."""
        control, alone = self._items(output)[item]
        return control.panels(alone, 0)

    def _items(self, output: Output) -> list[tuple[Control, Output]]:
        if len(output.x_0) != len(self.controls):
            raise ValueError(
                f"{len(self.controls)} controls cannot steer a batch of {len(output.x_0)}"
            )
        return [(control, output.item(i)) for i, control in enumerate(self.controls)]
