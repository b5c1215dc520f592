"""Loudness over time: the mix automation of a piece, as (seconds, dB) breakpoints.

Three pieces in four move through 15 to 30 dB on a scale of 1 to 6 s: crescendi, decrescendi, drops,
swells, dips and plateaus, half of them on bar lines. The fourth stays within 3 dB.
"""

import numpy as np

Curve = list[tuple[float, float]]
FLAT_SHARE = 0.25
FLOOR_DB = -30.0


def automation(rng: np.random.Generator, seconds: float, bar_seconds: float) -> Curve:
    """Breakpoints from 0 to `seconds`, levels in [FLOOR_DB, 0], linear in dB in between."""
    if rng.random() < FLAT_SHARE:
        levels = rng.uniform(-3.0, 0.0, size=3)
        return [
            (float(t), float(v)) for t, v in zip(np.linspace(0, seconds, 3), levels, strict=True)
        ]
    depth = rng.uniform(15.0, -FLOOR_DB)
    on_bars = rng.random() < 0.5
    curve: Curve = [(0.0, _level(rng, depth))]
    while curve[-1][0] < seconds - 0.5:
        length = min(_length(rng, bar_seconds, on_bars), seconds - curve[-1][0])
        curve += _segment(rng, curve[-1], length, depth)
    return [(round(t, 4), round(v, 3)) for t, v in curve]


def gain_db(curve: Curve | tuple[tuple[float, float], ...], times: np.ndarray) -> np.ndarray:
    """The automation at `times` (seconds), in dB."""
    points = np.asarray(curve)
    return np.interp(times, points[:, 0], points[:, 1])


def _length(rng: np.random.Generator, bar_seconds: float, on_bars: bool) -> float:
    if on_bars:
        bars = rng.choice((1, 2, 4), p=(0.45, 0.4, 0.15))
        return float(np.clip(bars * bar_seconds, 1.0, 7.0))
    return float(rng.uniform(1.0, 6.0))


def _level(rng: np.random.Generator, depth: float) -> float:
    """A level between −depth and 0 dB, most often in the upper third."""
    return -depth * float(rng.beta(1.0, 2.0))


def _segment(
    rng: np.random.Generator, start: tuple[float, float], length: float, depth: float
) -> Curve:
    """One gesture of `length` seconds that begins at `start`."""
    t, v = start
    kind = rng.choice(("ramp", "hold", "step", "swell", "dip"), p=(0.42, 0.14, 0.2, 0.14, 0.1))
    target = _other_level(rng, v, depth)
    if kind == "hold":
        return [(t + length, v)]
    if kind == "step":
        return [(t + 0.06, target), (t + length, target)]
    if kind == "swell":
        return [(t + 0.5 * length, min(0.0, v + 0.5 * depth)), (t + length, v)]
    if kind == "dip":
        return [(t + 0.5 * length, max(-depth, v - 0.5 * depth)), (t + length, v)]
    return [(t + length, target)]


def _other_level(rng: np.random.Generator, v: float, depth: float) -> float:
    """A level at least a third of the depth away from `v`."""
    target = _level(rng, depth)
    while abs(target - v) < depth / 3:
        target = _level(rng, depth)
    return target
