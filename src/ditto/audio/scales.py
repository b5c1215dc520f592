"""What a curve's values are, and how fast beats may be: plain numbers, known without PyTorch."""

from dataclasses import dataclass

Points = tuple[tuple[float, float], ...]
"""(time, value), times rising; two points at one time are a step."""


@dataclass(frozen=True)
class Scale:
    """What a curve's values are.

    Attributes:
        name: of the quantity, for messages.
        unit: of the values.
        low: lowest value that may be asked for.
        high: highest value.
        shapes: named curves, each with its points (share of the clip, value); at least one.
        units: that values may be written with, and their factors.
        headings: what a table's column of values may be called, or begin with.
    """

    name: str
    unit: str
    low: float
    high: float
    shapes: tuple[tuple[str, Points], ...]
    units: tuple[tuple[str, float], ...] = ()
    headings: tuple[str, ...] = ()


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
    units=(("db", 1.0), ("dbfs", 1.0)),
    headings=("db", "level", "loud", "intens", "value", "volume", "rms", "lufs", "pegel", "laut"),
)
"""Loudness from next to silence to a full-scale square wave."""

DARK, BRIGHT = 700.0, 2800.0
FREQUENCY = Scale(
    "brightness",
    "Hz",
    low=50.0,
    high=10_000.0,
    shapes=(
        ("brighten", ((0.0, DARK), (1.0, BRIGHT))),
        ("darken", ((0.0, BRIGHT), (1.0, DARK))),
        ("open-close", ((0.0, DARK), (0.5, BRIGHT), (1.0, DARK))),
        ("dark", ((0.0, DARK), (1.0, DARK))),
        ("bright", ((0.0, BRIGHT), (1.0, BRIGHT))),
    ),
    units=(("hz", 1.0), ("khz", 1000.0)),
    headings=("hz", "freq", "bright", "centroid", "value", "hell"),
)
"""Centroids in hertz."""

SLOWEST, FASTEST = 20.0, 400.0
"""Beats per minute that may be asked for."""
