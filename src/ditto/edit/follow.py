"""Controls in a recording's time, as they are seen from one window of it."""

import math

import numpy as np

from ditto.controls.base import Control, Masked, Sum
from ditto.controls.curves import Curve
from ditto.controls.intensity import Intensity
from ditto.controls.melody import Melody
from ditto.controls.structure import SelfSimilarity
from ditto.errors import ControlError
from ditto.models.model import MusicModel


def followed(
    control: Control, start: float, total: float, gap: tuple[float, float], model: MusicModel
) -> Control | None:
    """A control in a recording's time, for the window that begins at `start`, where it counts in
    the gap alone.

    Args:
        control: its times are seconds of the recording; named curves stretch over all of it.
        start: where the window begins, in seconds.
        total: length of the recording.
        gap: what is to be made, in seconds of the window.
        model: whose window it is.

    Returns:
        The control, or None where it has nothing to say.

    Raises:
        ControlError: it cannot be taken apart into windows (structure).
    """
    if isinstance(control, Sum):
        raise ControlError("give the controls of an edit one by one, not as a sum")
    window = model.spec.seconds(model.shape(None)[-1])
    span = (max(gap[0], 0.0), min(gap[1], window))
    if span[1] - span[0] < 3 / model.spec.frame_rate:
        return None
    if isinstance(control, Masked):
        spans = tuple((max(a - start, span[0]), min(b - start, span[1])) for a, b in control.spans)
        kept = tuple((a, b) for a, b in spans if b - a >= 3 / model.spec.frame_rate)
        inner = _moved(control.control, start, total, window)
        return inner.during(*kept) if inner is not None and kept else None
    moved = _moved(control, start, total, window)
    return None if moved is None else moved.during(span)


def _moved(control: Control, start: float, total: float, window: float) -> Control | None:
    if isinstance(control, Intensity):
        return Intensity(_curve(control.curve, start, total, window), control.measure)
    if isinstance(control, Melody):
        tune = control.tune.later(-start)
        return (
            Melody(tune) if tune is not None and min(n.onset for n in tune.notes) < window else None
        )
    if isinstance(control, SelfSimilarity):
        raise ControlError(
            "a structure cannot be asked of an edit: it is that of one clip as a whole"
        )
    return control


def _curve(curve: Curve, start: float, total: float, window: float) -> Curve:
    """A curve as it runs from `start` on; its corners are kept, and its value at both ends of the
    window.
    """
    times, levels = np.array(curve.points, dtype=np.float64).T
    times = times * (total if curve.relative else 1.0)
    inside = times[(times > start) & (times < start + window)]
    at = np.unique(np.concatenate([[start], inside, [math.nextafter(start + window, 0)]]))
    points = zip((at - start).tolist(), np.interp(at, times, levels).tolist(), strict=True)
    return Curve(tuple(points), name=curve.name)
