"""Curves that a user can name, write down, keep in a CSV file, or take from a recording.

A curve is piecewise linear, of dB (loudness) or another unit, over seconds, or over the share of
the clip for the named shapes. Before its first point and after its last it holds their values.
"""

import csv
import math
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ditto.audio.features import rms_db, smooth
from ditto.audio.io import read_mono
from ditto.audio.spec import AudioSpec
from ditto.errors import ControlError
from ditto.paths import StrPath, printable, shown
from ditto.tables import table

MAX_POINTS, MAX_CSV_BYTES = 20_000, 10_000_000
MAX_LISTED = 4096
"""Points of a curve that reports list; of longer ones they give the number."""

Points = tuple[tuple[float, float], ...]
"""(time, value), times rising."""


@dataclass(frozen=True)
class Scale:
    """What a curve's values are.

    Attributes:
        name: of the quantity, for messages.
        unit: of the values.
        low: lowest value that may be asked for.
        high: highest value.
        shapes: named curves, each with its points (share of the clip, value); at least one.
    """

    name: str
    unit: str
    low: float
    high: float
    shapes: tuple[tuple[str, Points], ...]


LOW, MIDDLE, HIGH = -40.0, -30.0, -20.0
LOUDNESS = Scale(
    "loudness",
    "dB",
    low=-80.0,
    high=0.0,
    shapes=(
        ("crescendo", ((0.0, LOW), (1.0, HIGH))),
        ("decrescendo", ((0.0, HIGH), (1.0, LOW))),
        ("swell", ((0.0, LOW), (0.5, HIGH), (1.0, LOW))),
        ("dip", ((0.0, HIGH), (0.5, LOW), (1.0, HIGH))),
        (
            "steps",
            ((0.0, LOW), (0.33, LOW), (0.34, MIDDLE), (0.66, MIDDLE), (0.67, HIGH), (1.0, HIGH)),
        ),
        ("flat", ((0.0, -24.0), (1.0, -24.0))),
    ),
)
"""Loudness from next to silence to a full-scale square wave."""
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
    """

    points: Points
    relative: bool = False
    name: str = "breakpoints"
    scale: Scale = LOUDNESS

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
        for (before, _), (after, _) in zip(self.points, self.points[1:], strict=False):
            if after <= before:
                raise ControlError(
                    f"the curve's times must rise, but {after:g} s comes after {before:g} s"
                )

    @property
    def last(self) -> float:
        """Time of the last point, in seconds; 0 for a relative curve, which fits any clip."""
        return 0.0 if self.relative else self.points[-1][0]

    def levels(self, frames: int, spec: AudioSpec) -> Tensor:
        """Return the curve's value at each of `frames` frames, shape (frames,), float32."""
        return _levels(self, frames, spec).clone()

    def to_dict(self) -> dict[str, Any]:
        """Return name and, unless there are very many, points as JSON; `from_dict` reads it."""
        points = [list(point) for point in self.points]
        return {
            "curve": self.name,
            "relative": self.relative,
            "points": points if len(points) <= MAX_LISTED else len(points),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], scale: Scale = LOUDNESS) -> "Curve":
        """Return the curve that `to_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError: it lacks its points.
        """
        points = tuple((float(time), float(value)) for time, value in values["points"])
        return cls(points, bool(values["relative"]), values["curve"], scale)

    def between(self, start: float, end: float, total: float) -> "Curve":
        """Return the curve from `start` to `end` seconds, moved to begin at 0.

        Its corners are kept, and its values at both ends.

        Args:
            start: in seconds.
            end: in seconds.
            total: length in seconds of what a relative curve stretches over.
        """
        times, levels = np.array(self.points, dtype=np.float64).T
        times = times * (total if self.relative else 1.0)
        inside = times[(times > start) & (times < end)]
        at = np.unique(np.concatenate([[start], inside, [math.nextafter(end, 0)]]))
        points = zip((at - start).tolist(), np.interp(at, times, levels).tolist(), strict=True)
        return Curve(tuple(points), name=self.name, scale=self.scale)


@lru_cache(maxsize=64)
def _levels(curve: Curve, frames: int, spec: AudioSpec) -> Tensor:
    times, values = np.array(curve.points, dtype=np.float64).T
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
    """Read a curve: a shape's name, breakpoints, or a .csv file's path.

    Args:
        text: breakpoints are ``seconds:value`` separated by spaces or commas, e.g. "0:-30 3:-12".
        scale: what the values are.

    Raises:
        ControlError: if it is none of these.
    """
    shapes = dict(scale.shapes)
    if text in shapes:
        return Curve(shapes[text], relative=True, name=text, scale=scale)
    if text.lower().endswith(".csv"):
        return read_curve(text, scale)
    parts = text.replace(",", " ").split()
    if not parts or not all(":" in part for part in parts):
        (_, first), *_, (_, last) = scale.shapes[0][1]
        example = f"0:{first:g} 3:{last:g}"
        raise ControlError(
            f"cannot read the {scale.name} curve {printable(text)!r}: give one of "
            f"{', '.join(shapes)}, breakpoints such as '{example}' (seconds:{scale.unit}), a .csv "
            "file, or a recording"
        )
    points = [_point(*part.split(":", 1), where=f"in {part!r}", scale=scale) for part in parts]
    return Curve(tuple(points), name=text, scale=scale)


def read_curve(path: StrPath, scale: Scale = LOUDNESS) -> Curve:
    """Read a curve from a CSV file: columns seconds and value; a line of headings may come first.

    Raises:
        ControlError: if the file cannot be read as such.
    """
    rows = _rows(path)
    if rows and not _is_number(rows[0][1][0]):
        rows = rows[1:]
    points = []
    for number, row in rows:
        where = f"on line {number} of {printable(path)}"
        if len(row) < 2:
            raise ControlError(
                f"line {number} of {printable(path)} needs two columns: seconds and {scale.unit}"
            )
        points.append(_point(row[0], row[1], where=where, scale=scale))
    return Curve(tuple(points), name=Path(path).name, scale=scale)


def _rows(path: StrPath) -> list[tuple[int, list[str]]]:
    """Return the rows of a CSV file that are not empty, with their line numbers."""
    file = Path(path)
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ControlError(f"cannot read the curve {printable(path)}: it is not a regular file")
        if status.st_size > MAX_CSV_BYTES:
            raise ControlError(
                f"{printable(path)} is too large for a curve (over {MAX_CSV_BYTES // 10**6} MB)"
            )
        with file.open(newline="", encoding="utf-8-sig") as handle:
            return [
                (n, row)
                for n, row in enumerate(csv.reader(handle), 1)
                if any(cell.strip() for cell in row)
            ]
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or "it is not a CSV file"
        raise ControlError(f"cannot read the curve {printable(path)}: {reason}") from None


def curve_of_recording(path: StrPath, spec: AudioSpec, seconds: float | None = None) -> Curve:
    """Return the loudness of a recording's beginning, one point per frame, not yet smoothed.

    Raises:
        AudioFileError: if the file cannot be read or is silent.
    """
    audio = torch.from_numpy(read_mono(path, spec, seconds=seconds or spec.clip_seconds))
    levels = rms_db(audio[None], spec)[0].clamp(LOUDNESS.low, LOUDNESS.high)
    times = np.arange(len(levels)) * spec.hop / spec.sample_rate
    points = tuple((float(t), float(v)) for t, v in zip(times, levels.tolist(), strict=True))
    return Curve(points, name=Path(path).name)


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


def _point(time: str, value: str, *, where: str, scale: Scale) -> tuple[float, float]:
    if not (_is_number(time) and _is_number(value)):
        raise ControlError(
            f"the {scale.name} curve needs numbers, seconds and {scale.unit}, {where}"
        )
    return float(time), float(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
