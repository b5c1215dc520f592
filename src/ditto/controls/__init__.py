"""Every control by its kind: the name in reports and of its option on the command line."""

from collections.abc import Mapping
from typing import Any

from ditto.controls import weights
from ditto.controls.base import Control
from ditto.controls.beats import Beats
from ditto.controls.brightness import Brightness
from ditto.controls.chords import Chords
from ditto.controls.intensity import Intensity
from ditto.controls.melody import Melody
from ditto.controls.pulls import LatentNorm, LatentStatistics, NearUncontrolled
from ditto.controls.structure import Structure, StructureLike
from ditto.controls.text import Text

CONTROLS: dict[str, type[Control]] = {
    control.kind: control
    for control in (Intensity, Melody, Structure, Text, Brightness, Beats, Chords)
}
"""Controls that can be asked for by a text; regions are made by edits."""
PULLS: dict[str, type[Control]] = {
    pull.kind: pull for pull in (LatentNorm, LatentStatistics, NearUncontrolled)
}
"""Terms that pull towards what the model knows."""


def control_from_dict(values: Mapping[str, Any]) -> Control:
    """Return the control that `Control.to_dict` described.

    Raises:
        ControlError: the description is incomplete, or of no known control.
    """
    return weights.control_from_dict(values, CONTROLS | PULLS)


__all__ = [
    "CONTROLS",
    "PULLS",
    "Beats",
    "Brightness",
    "Chords",
    "Control",
    "Intensity",
    "LatentNorm",
    "LatentStatistics",
    "Melody",
    "NearUncontrolled",
    "Structure",
    "StructureLike",
    "Text",
    "control_from_dict",
]
