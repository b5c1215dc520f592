"""Numbers that a control takes: of Python's or NumPy's, and within their limits."""

from numbers import Real
from typing import Any, Literal

from ditto.errors import ControlError
from ditto.paths import shown


def checked_number(
    what: str,
    value: Any,
    low: float,
    high: float,
    unit: str = "",
    *,
    left_out: Literal["none", "low", "high"] = "none",
) -> float:
    """Return a number as a plain float.

    Args:
        what: it is, for the message.
        value: what was given.
        low: the least that is allowed.
        high: the most that is allowed.
        unit: for the message.
        left_out: which of the limits is itself not allowed.

    Raises:
        ControlError: it is no number, not finite, or out of range.
    """
    kind: Any = Real  # a class of its own for the type checker
    number = isinstance(value, kind) and not isinstance(value, bool)
    edge = {"none": None, "low": low, "high": high}[left_out]
    if not number or not low <= value <= high or value == edge:
        limits = {
            "none": f"from {low:g} to {high:g}",
            "low": f"above {low:g} and at most {high:g}",
            "high": f"from {low:g} to below {high:g}",
        }[left_out]
        raise ControlError(f"{what} must be {limits}{unit and ' ' + unit}, not {shown(value)}")
    return float(value)
