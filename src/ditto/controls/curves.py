"""Curves that a user can name, write down, keep in a CSV file, or take from a recording.

A curve is piecewise linear, of dB (loudness) or another unit, over seconds, or over the share of
the clip for the named shapes. Before its first point and after its last it holds their values.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ditto.audio.excerpt import Begin, read_from
from ditto.audio.features import rms_db, smooth
from ditto.audio.opening import is_recording
from ditto.audio.scales import LOUDNESS, Points, Scale
from ditto.audio.spec import AudioSpec
from ditto.controls import tables
from ditto.errors import ControlError
from ditto.paths import StrPath, printable, shown
from ditto.tables import table

MAX_POINTS = 20_000
MAX_LISTED = 4096
"""Points of a curve that reports list; of longer ones they give the number."""

SECONDS = {"": 1.0, "s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "min": 60.0}
"""Units of time."""


SHAPES = dict(LOUDNESS.shapes)
"""The named loudness curves: (share of the clip, dB)."""


@dataclass(frozen=True)
class Curve:
    """A piecewise linear curve.

    Attributes:
        points: times in seconds, or in shares of the clip if `relative`; values in the scale's
            unit.
        relative: whether times are shares.
        name: label used in reports, e.g. "crescendo" or a file's name.
        scale: what the values are.
        heard: whether it is a recording's, which need not be as long as a clip.
        about: what was understood, on one line.
    """

    points: Points
    relative: bool = False
    name: str = "breakpoints"
    scale: Scale = field(default=LOUDNESS, repr=False)
    heard: bool = field(default=False, compare=False)
    about: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        """Check the points.

        Raises:
            ControlError: no point, too many, not finite, out of order, or out of range.
        """
        scale = self.scale
        try:
            points = tuple((float(time), float(value)) for time, value in self.points)
        except (TypeError, ValueError):
            raise ControlError(
                f"a {scale.name} curve needs points, pairs of numbers, not {shown(self.points)}"
            ) from None
        object.__setattr__(self, "points", points)
        if not 1 <= len(self.points) <= MAX_POINTS:
            raise ControlError(
                f"a {scale.name} curve needs 1 to {MAX_POINTS} points, not {len(self.points)}"
            )
        for time, value in self.points:
            if not (math.isfinite(time) and math.isfinite(value)):
                raise ControlError(
                    f"a {scale.name} curve needs finite numbers, not {time:g}:{value:g}"
                )
            if time < 0 or not scale.low <= value <= scale.high:
                raise ControlError(
                    f"the point {time:g}:{value:g} is out of range: times start at 0 s, levels are "
                    f"{scale.low:g} to {scale.high:g} {scale.unit}"
                )
        times = [time for time, _ in self.points]
        for before, after in pairwise(times):
            if after < before:
                raise ControlError(
                    f"the curve's times must rise, but {after:g} s comes after {before:g} s"
                )
        for before, after in zip(times, times[2:], strict=False):
            if after == before:
                raise ControlError(
                    f"the curve's times must rise: at {after:g} s are over two points (two are a "
                    "step)"
                )

    @property
    def last(self) -> float:
        """Time of the last point, in seconds; 0 for a relative curve, which fits any clip."""
        return 0.0 if self.relative else self.points[-1][0]

    def corners(self) -> tuple[np.ndarray, np.ndarray]:
        """Return times that rise strictly, and values, both float64; a step takes no time."""
        times, values = np.array(self.points, dtype=np.float64).T
        again = np.flatnonzero(times[1:] == times[:-1]) + 1
        times[again] = np.nextafter(times[again], np.inf)
        return times, values

    def levels(self, frames: int, spec: AudioSpec) -> Tensor:
        """Return the curve's value at each of `frames` frames, shape (frames,), float32."""
        return _levels(self, frames, spec).clone()

    def to_dict(self) -> dict[str, Any]:
        """Return name and, unless there are very many, points as JSON; `from_dict` reads it."""
        points = [list(point) for point in self.points]
        understood = {"understood": self.about} if self.about else {}
        understood |= {"heard": True} if self.heard else {}
        return {
            "curve": self.name,
            "relative": self.relative,
            "points": points if len(points) <= MAX_LISTED else len(points),
            **understood,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], scale: Scale = LOUDNESS) -> "Curve":
        """Return the curve that `to_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError: it lacks its points.
        """
        points = tuple((float(time), float(value)) for time, value in values["points"])
        about, heard = str(values.get("understood", "")), values.get("heard") is True
        return cls(points, bool(values["relative"]), values["curve"], scale, heard, about)

    def between(self, start: float, end: float, total: float) -> "Curve":
        """Return the curve from `start` to `end` seconds, moved to begin at 0.

        Its corners are kept, and its values at both ends.

        Args:
            start: in seconds.
            end: in seconds.
            total: length in seconds of what a relative curve stretches over.
        """
        times, levels = self.corners()
        times = times * (total if self.relative else 1.0)
        inside = times[(times > start) & (times < end)]
        at = np.unique(np.concatenate([[start], inside, [math.nextafter(end, 0)]]))
        points = zip((at - start).tolist(), np.interp(at, times, levels).tolist(), strict=True)
        return replace(self, points=tuple(points), relative=False)


@lru_cache(maxsize=64)
def _levels(curve: Curve, frames: int, spec: AudioSpec) -> Tensor:
    times, values = curve.corners()
    scale = spec.seconds(frames) if curve.relative else 1.0
    at = np.interp(np.arange(frames) * spec.hop / spec.sample_rate, times * scale, values)
    with torch.inference_mode(False):
        return torch.from_numpy(at.astype(np.float32))


def as_curve(given: str | Curve, scale: Scale = LOUDNESS) -> Curve:
    """Return a curve of a scale, read if it is text.

    Raises:
        ControlError: the text cannot be read, or it is a curve of something else.
    """
    if isinstance(given, str):
        return parse_curve(given, scale)
    if not isinstance(given, Curve) or given.scale != scale:
        wrong = f"one of {given.scale.name}" if isinstance(given, Curve) else shown(given)
        raise ControlError(f"a {scale.name} curve is needed, or its text, not {wrong}")
    return given


def parse_curve(text: str, scale: Scale = LOUDNESS) -> Curve:
    """Read a curve: a shape's name, breakpoints, or the path of a table.

    Args:
        text: breakpoints are ``seconds:value`` separated by spaces or commas, with units or
            without, e.g. "0:-30 3s:-12dB"; a table's name ends in .csv, .tsv or .txt.
        scale: what the values are.

    Raises:
        ControlError: if it is none of these.
    """
    shapes = dict(scale.shapes)
    if text in shapes:
        return Curve(shapes[text], relative=True, name=text, scale=scale)
    if text.lower().endswith(tables.ENDINGS):
        return read_curve(text, scale)
    # "-20 dB" is one word.
    parts = re.sub(r"(?<=\d)\s+(?=[a-zA-Z]+\b)", "", text).replace(",", " ").split()
    if not parts or not all(":" in part for part in parts):
        (_, first), *_, (_, last) = scale.shapes[0][1]
        example = f"0:{first:g} 3:{last:g}"
        wrong = f"cannot read the {scale.name} curve {printable(text)!r}: "
        if is_recording(text):
            raise ControlError(
                f"{wrong}a recording's loudness is --intensity-like, or Intensity.of_recording"
                if scale == LOUDNESS
                else f"{wrong}it cannot be taken from a recording"
            )
        raise ControlError(
            f"{wrong}give one of {', '.join(shapes)}, breakpoints such as '{example}' "
            f"(seconds:{scale.unit}), a .csv file, or a recording"
        )
    points = [_point(*part.split(":", 1), where=f"in {part!r}", scale=scale) for part in parts]
    return Curve(tuple(points), name=text, scale=scale)


def read_curve(path: StrPath, scale: Scale = LOUDNESS) -> Curve:
    """Read a curve from a table with a column of seconds and one of values; see `read_table`.

    Raises:
        ControlError: if the file cannot be read as such.
    """
    table = tables.read_table(path, (*scale.headings, scale.unit.lower(), scale.name))
    points = []
    for line, time, value in table.rows:
        where = f"on line {line} of {printable(path)}"
        seconds, level = _point(time, value, where=where, scale=scale, decimal=table.decimal)
        points.append((seconds / 1000 if table.milliseconds else seconds, level))
    curve = Curve(tuple(points), name=Path(path).name, scale=scale)
    values = [value for _, value in points]
    about = (
        f"{len(points)} point{'s' * (len(points) != 1)}, {points[0][0]:.4g} to {curve.last:.4g} s, "
        f"{min(values):.4g} to {max(values):.4g} {scale.unit}, {table.about}"
    )
    return replace(curve, about=about)


def curve_of_recording(
    path: StrPath, spec: AudioSpec, seconds: float | None = None, begin: Begin = 0.0
) -> Curve:
    """Return the loudness of a part of a recording, one point per frame, not yet smoothed.

    Of more than `MAX_POINTS` frames there is a point for several.

    Args:
        path: a sound file.
        spec: of the model.
        seconds: how much of it; by default the model's window.
        begin: where in it, in seconds; "auto" is its first sound.

    Raises:
        AudioFileError: if the file cannot be read or is silent there.
    """
    part = read_from(path, spec, seconds or spec.clip_seconds, begin)
    levels = rms_db(torch.from_numpy(part.samples)[None], spec)[0]
    every = -(-len(levels) // MAX_POINTS)  # of a long recording a point for several frames
    levels = levels.clamp(LOUDNESS.low, LOUDNESS.high)[::every]
    times = np.arange(len(levels)) * every * spec.hop / spec.sample_rate
    points = tuple((float(t), float(v)) for t, v in zip(times, levels.tolist(), strict=True))
    about = f"loudness of {part.about}, {levels.min():.4g} to {levels.max():.4g} dB"
    return Curve(points, name=Path(path).name, heard=True, about=about)


def smoothed(
    curve: Curve, frames: int, spec: AudioSpec, device: torch.device | str = "cpu"
) -> Tensor:
    """Return the target y, shape (frames,): the curve, smoothed as the feature is.

    A jump that the smoothed loudness of no sound could follow is thus not asked for.
    """
    return _smoothed(curve, frames, spec, torch.device(device)).clone()


@table(maxsize=64)
def _smoothed(curve: Curve, frames: int, spec: AudioSpec, device: torch.device) -> Tensor:
    return smooth(curve.levels(frames, spec)[None], spec)[0].to(device)


def _point(
    time: str, value: str, *, where: str, scale: Scale, decimal: str = "."
) -> tuple[float, float]:
    seconds = tables.number(time, SECONDS, decimal)
    level = tables.number(value, {"": 1.0, **dict(scale.units)}, decimal)
    if seconds is None or level is None:
        raise ControlError(
            f"the {scale.name} curve needs numbers, seconds and {scale.unit}, {where}"
        )
    return seconds, level
