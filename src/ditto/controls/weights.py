"""Several controls as one objective, and controls from their descriptions."""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any

from ditto.controls.base import Control, Effort, Sum
from ditto.controls.pulls import Pull
from ditto.errors import ControlError


def weighted_sum(controls: Sequence[Control]) -> Control | None:
    """Return all controls as one, or None without any.

    Controls without weights of their own get their `default_weight` beside the others. As soon as
    one carries a weight (``Intensity(…) / 40``), the weights are left as they are.
    """
    if not controls:
        return None
    bare = [control.bare() for control in controls]
    if not any(
        len(control.terms()) > 1 or control.terms()[0][0] is not control for control in bare
    ):
        weights = [
            control.default_weight([other for j, other in enumerate(bare) if j != i])
            for i, control in enumerate(controls)
        ]
        controls = [c if w == 1 else c * w for c, w in zip(controls, weights, strict=True)]
    return reduce(add, controls)


def default_iterations(controls: Sequence[Control]) -> int:
    """Return K of the papers for these controls: the largest of theirs, 70 or 150."""
    return max((term.iterations for term in _terms(controls)), default=Control.iterations)


def corrected_effort(controls: Sequence[Control]) -> Effort:
    """Return how DITTO-2 with corrections follows these controls: the most that one of them asks.

    Several at once take the default K. Pulls are left out, since λ is one beside each loss: see
    `regulariser_weight` and `tag_weight`.
    """
    terms = _terms(controls)
    efforts = [term.corrected for term in terms] or [Control.corrected]
    several = sum(not isinstance(term, Pull) for term in terms) > 1
    return Effort(
        iterations=max(
            *(effort.iterations for effort in efforts), Control.corrected.iterations * several
        ),
        travel=max(effort.travel for effort in efforts),
        candidates=max(effort.candidates for effort in efforts),
    )


def regulariser_weight(control: Control | None) -> float:
    """Return λ of the pull of x_T's statistics beside a control, weighted as its terms are."""
    return _mean(control, lambda term: term.corrected.regulariser)


def tag_weight(control: Control | None) -> float:
    """Return λ of the pull towards the tags beside a control, 0 beside a text, which says more."""
    if control is not None and any(term.kind == "text" for term in _terms([control])):
        return 0.0
    return _mean(control, lambda term: term.corrected.tag_pull)


def _mean(control: Control | None, of: Callable[[Control], float]) -> float:
    if control is None:
        return 0.0
    terms = control.bare().for_item(0).terms()
    return sum(weight * of(term.bare()) for term, weight in terms) / len(terms)


def _terms(controls: Sequence[Control]) -> list[Control]:
    """Return all that is asked for; of controls for each item, what the first is asked."""
    each = [control.bare().for_item(0) for control in controls]
    return [term.bare() for control in each for term, _ in control.terms()]


def control_from_dict(values: Mapping[str, Any], kinds: Mapping[str, type[Control]]) -> Control:
    """Return the control that `Control.to_dict` described.

    Args:
        values: the description.
        kinds: classes by their `Control.kind`.

    Raises:
        ControlError: the description is incomplete (a recording's, or of very many points), or of
            no known control.
    """
    kind = str(values.get("control", "unknown"))
    bare = {key: value for key, value in values.items() if key != "during"}
    try:
        if kind == Sum.kind:
            terms = [(control_from_dict(t, kinds), float(t["weight"])) for t in values["terms"]]
            control = Sum(tuple(terms))
        else:
            control = kinds[kind].from_dict(bare)
        if spans := values.get("during"):
            return control.during(*((float(start), float(end)) for start, end in spans))
        return control
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ControlError(
            f"the {kind} control cannot be restored from its description: give it again"
        ) from None
