"""Loudness over time: how loud a piece is meant to be at every moment, and the scenes that make it
so.

Three pieces in four move through 15 to 30 dB on a scale of 1 to 7 s: crescendi, decrescendi, drops,
swells, dips and plateaus, most of them on bar lines, and builds, breaks and stops where a section
ends. The fourth stays within 3 dB. `ditto.data.compose` plays a part of it, by touch and by who
plays; the rest is the mix automation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Curve = list[tuple[float, float]]
FLAT_SHARE = 0.22
FLOOR_DB = -30.0
SCENES = ("build", "break", "stop", "")
STAGED = ("build", "break")
NEAR = 0.05
"""Seconds by which a bar may begin after the moment that belongs to it."""


@dataclass(frozen=True)
class Measure:
    """A bar as the curve needs it: when it sounds, in seconds, and whether another section
    follows.
    """

    start: float
    end: float
    turns: bool


@dataclass(frozen=True)
class Shape:
    """Loudness of a piece.

    Attributes:
        curve: (seconds, dB) breakpoints from 0 to the end, levels in [FLOOR_DB, 0], linear in dB in
            between.
        scenes: of each bar: "build" grows into what follows, in a "break" few play, a "stop" ends
            in silence.
    """

    curve: Curve
    scenes: tuple[str, ...]


def shape(rng: np.random.Generator, bars: Sequence[Measure], seconds: float) -> Shape:
    """Draw the loudness of a piece of `seconds` whose bars are given."""
    scenes = _scenes(rng, bars)
    if rng.random() < FLAT_SHARE:
        levels = rng.uniform(-3.0, 0.0, size=3)
        flat = [
            (float(t), float(v)) for t, v in zip(np.linspace(0, seconds, 3), levels, strict=True)
        ]
        return Shape(flat, scenes)
    depth = rng.uniform(15.0, -FLOOR_DB)
    on_bars = rng.random() < 0.75
    curve: Curve = [(0.0, _level(rng, depth))]
    while curve[-1][0] < seconds - 0.5:
        start = curve[-1][0]
        scene, until = _scene_at(bars, scenes, start)
        if scene in STAGED:
            curve += _staged(rng, scene, curve[-1], until, depth)
            continue
        length = min(_length(rng, bars, start, on_bars), seconds - start)
        following = [
            b.start
            for b, s in zip(bars, scenes, strict=True)
            if s in STAGED and b.start > start + NEAR
        ]
        length = min(length, following[0] - start) if following else length
        curve += _segment(rng, curve[-1], length, depth)
    curve = [(t, v) for t, v in curve if t <= seconds] + [(seconds, curve[-1][1])]
    return Shape([(round(t, 4), round(v, 3)) for t, v in curve], scenes)


def gain_db(curve: Curve | tuple[tuple[float, float], ...], times: np.ndarray) -> np.ndarray:
    """Return the levels of a curve at `times` (seconds), in dB."""
    points = np.asarray(curve)
    return np.interp(times, points[:, 0], points[:, 1])


def _scenes(rng: np.random.Generator, bars: Sequence[Measure]) -> tuple[str, ...]:
    """Draw a scene for the last bar or two (of builds, up to four) of most sections."""
    scenes = [""] * len(bars)
    for i, bar in enumerate(bars):
        if not bar.turns:
            continue
        scene = str(rng.choice(SCENES, p=(0.32, 0.24, 0.08, 0.36)))
        room = i - max((k for k in range(i) if bars[k].turns), default=-1)
        most = min({"build": 4, "break": 2}.get(scene, 1), max(room - 1, 1))
        for k in range(int(rng.integers(1, most + 1))):
            scenes[i - k] = scene
    return tuple(scenes)


def _scene_at(bars: Sequence[Measure], scenes: Sequence[str], start: float) -> tuple[str, float]:
    """Find the scene of the bar that sounds at `start`, and when its last bar ends."""
    i = max((k for k, bar in enumerate(bars) if bar.start <= start + NEAR), default=0)
    last = i
    while last + 1 < len(bars) and scenes[last + 1] == scenes[i] and not bars[last].turns:
        last += 1
    return scenes[i], bars[last].end


def _staged(
    rng: np.random.Generator, scene: str, start: tuple[float, float], until: float, depth: float
) -> Curve:
    """Draw a build that rises from where it is or lower, or a quiet break.

    Full level comes at once after either.
    """
    t, v = start
    until = max(until, t + 0.5)
    after = float(rng.uniform(-2.0, 0.0))
    full = [(until, after), (until + 1.0, after)]
    if scene == "build":
        low = min(v, -depth * float(rng.uniform(0.5, 1.0)))
        return [(t + 0.06, low), (until - 0.06, -3.0 * float(rng.random())), *full]
    low = -depth * float(rng.uniform(0.2, 0.6))
    return [(t + 0.06, low), (until - 0.06, low - 2.0), *full]


def _length(
    rng: np.random.Generator, bars: Sequence[Measure], start: float, on_bars: bool
) -> float:
    """Draw the seconds of a gesture that begins at `start`."""
    if not on_bars:
        return float(rng.uniform(1.0, 6.0))
    ahead = [bar.end - start for bar in bars if 1.0 <= bar.end - start <= 7.0]
    return (
        ahead[min(int(rng.choice((0, 1, 3), p=(0.4, 0.4, 0.2))), len(ahead) - 1)] if ahead else 2.0
    )


def _level(rng: np.random.Generator, depth: float) -> float:
    """Draw a level between −depth and 0 dB, most often in the upper third."""
    return -depth * float(rng.beta(1.0, 2.0))


def _segment(
    rng: np.random.Generator, start: tuple[float, float], length: float, depth: float
) -> Curve:
    """Draw one gesture of `length` seconds that begins at `start`."""
    t, v = start
    kind = rng.choice(("ramp", "hold", "step", "swell", "dip"), p=(0.46, 0.14, 0.16, 0.14, 0.1))
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
    """Draw a level at least a third of the depth away from `v`."""
    target = _level(rng, depth)
    while abs(target - v) < depth / 3:
        target = _level(rng, depth)
    return target
