"""The weights of several controls at once, and controls from their descriptions."""

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any

from ditto.controls.base import Control, Masked, Sum
from ditto.controls.curves import Curve
from ditto.controls.intensity import Intensity
from ditto.controls.melody import Melody
from ditto.controls.notes import Note, Tune
from ditto.controls.structure import Form, Structure
from ditto.errors import ControlError

WITH_MELODY, WITH_OTHERS = 1 / 40, 1 / 400
"""λ of the intensity, whose loss is in dB², beside a melody, and beside regions or a structure.

These are a tenth of the papers' (appendix H). With theirs the embedded model's loudness ends
hundreds of times nearer than without control, and all else stays behind; with a tenth, tunes and
regions are followed about twice as closely, and loudness still to within a dB.
"""


def balanced(controls: Sequence[Control]) -> Control | None:
    """All controls as one; None of none.

    Controls that carry no weight of their own get λ: that of the intensity (MSE) is `WITH_MELODY`
    beside a melody and `WITH_OTHERS` beside other things, all others are 1. As soon as one carries
    a weight (``Intensity(…) / 40``), the user decides.
    """
    if not controls:
        return None
    kinds = [_bare(control) for control in controls]
    others = [kind for kind in kinds if not _is_loudness(kind)]
    if others and not any(isinstance(kind, Sum) for kind in kinds):
        weight = WITH_MELODY if any(isinstance(kind, Melody) for kind in others) else WITH_OTHERS
        loud = [_is_loudness(kind) for kind in kinds]
        controls = [c * weight if is_loud else c for c, is_loud in zip(controls, loud, strict=True)]
    return reduce(add, controls)


def papers_iterations(controls: Sequence[Control]) -> int:
    """K of the papers for these controls: the largest of theirs, 70 or 150."""
    terms = [
        term for c in controls for term in ([t for t, _ in c.terms] if isinstance(c, Sum) else [c])
    ]
    return max((_bare(term).iterations for term in terms), default=Control.iterations)


def _bare(control: Control) -> Control:
    return _bare(control.control) if isinstance(control, Masked) else control


def _is_loudness(control: Control) -> bool:
    return isinstance(control, Intensity) and control.measure == "mse"


def rebuilt(description: Mapping[str, Any]) -> Control:
    """The control that `Control.describe` described.

    Raises:
        ControlError: the description is not whole (a recording, or very many points), or of no
            known control.
    """
    during = description.get("during")
    if during:
        bare = {key: value for key, value in description.items() if key != "during"}
        return rebuilt(bare).during(*((float(a), float(b)) for a, b in during))
    try:
        return _rebuilt(description)
    except (KeyError, TypeError, ValueError):
        kind = description.get("control", "unknown")
        raise ControlError(
            f"the {kind} control cannot be had back from its description: give it again"
        ) from None


def _rebuilt(description: Mapping[str, Any]) -> Control:
    kind = description["control"]
    if kind == "sum":
        return Sum(tuple((rebuilt(term), float(term["weight"])) for term in description["terms"]))
    if kind == "intensity":
        points = tuple((float(time), float(level)) for time, level in description["points"])
        return Intensity(
            Curve(points, bool(description["relative"]), description["curve"]),
            description["measure"],
        )
    if kind == "melody":
        return Melody(
            Tune(
                tuple(Note(float(a), float(b), int(c)) for a, b, c in description["notes"]),
                description["tune"],
            )
        )
    if kind == "structure":
        return Structure(
            Form(tuple((str(letter), float(length)) for letter, length in description["sections"]))
        )
    raise ValueError(kind)
