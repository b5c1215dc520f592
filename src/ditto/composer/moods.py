"""What a mood changes of a style: mode, tempo, loudness, density and colour."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mood:
    """A mood: weights of modes, and shifts that apply to every genre.

    `register` in semitones; `density`, `drums` in [0, 1]; `articulation` scales note lengths;
    `velocity` is the middle of the touch; `tilt_db` an octave; `extend` adds a ninth to plain
    triads; `halo` adds a soft pad or bell layer.
    """

    name: str
    tempo_bias: float
    modes: tuple[tuple[str, float], ...]
    register: int
    density: float
    drums: float
    articulation: float
    velocity: int
    tilt_db: float
    wet: float
    level_db: float
    extend: bool
    halo: tuple[int, ...]


MOODS: dict[str, Mood] = {
    m.name: m
    for m in (
        Mood(
            name="happy",
            tempo_bias=0.35,
            modes=(("major", 0.75), ("mixolydian", 0.25)),
            register=5,
            density=0.6,
            drums=0.8,
            articulation=0.65,
            velocity=96,
            tilt_db=1.0,
            wet=0.08,
            level_db=0.0,
            extend=False,
            halo=(),
        ),
        Mood(
            name="sad",
            tempo_bias=-0.4,
            modes=(("minor", 0.8), ("dorian", 0.2)),
            register=-3,
            density=0.25,
            drums=0.4,
            articulation=1.05,
            velocity=62,
            tilt_db=-2.0,
            wet=0.2,
            level_db=-3.0,
            extend=False,
            halo=(49,),
        ),
        Mood(
            name="calm",
            tempo_bias=-0.4,
            modes=(("major", 1.0),),
            register=0,
            density=0.15,
            drums=0.2,
            articulation=1.1,
            velocity=50,
            tilt_db=-1.0,
            wet=0.15,
            level_db=-6.0,
            extend=False,
            halo=(),
        ),
        Mood(
            name="energetic",
            tempo_bias=0.6,
            modes=(("major", 0.5), ("minor", 0.3), ("mixolydian", 0.2)),
            register=2,
            density=1.0,
            drums=1.0,
            articulation=0.6,
            velocity=118,
            tilt_db=2.0,
            wet=0.04,
            level_db=3.0,
            extend=False,
            halo=(),
        ),
        Mood(
            name="dark",
            tempo_bias=0.1,
            modes=(("minor", 0.6), ("phrygian", 0.4)),
            register=-12,
            density=0.5,
            drums=0.7,
            articulation=0.9,
            velocity=88,
            tilt_db=-4.5,
            wet=0.22,
            level_db=0.0,
            extend=False,
            halo=(44, 43),
        ),
        Mood(
            name="dreamy",
            tempo_bias=-0.25,
            modes=(("lydian", 0.5), ("major", 0.4), ("dorian", 0.1)),
            register=9,
            density=0.4,
            drums=0.3,
            articulation=1.25,
            velocity=64,
            tilt_db=0.5,
            wet=0.4,
            level_db=-3.0,
            extend=True,
            halo=(88, 94, 102),
        ),
    )
}

MOOD_NAMES = tuple(MOODS)
