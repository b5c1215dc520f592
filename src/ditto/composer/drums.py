"""Drum parts: grooves by density, fills at the ends of sections, a cymbal where a section
begins.
"""

import numpy as np

from ditto.composer.grooves import FILLS, GROOVES, KIT, Pattern
from ditto.composer.textures import ACCENT, Bar, Event

WITH_CRASH = ("rock", "electronic", "funk")


def drum_events(bar: Bar, groove: str, choice: int, rng: np.random.Generator) -> list[Event]:
    """Drum hits of one bar as events whose pitch is the percussion key."""
    name = groove + "3" if bar.beats == 3 and groove + "3" in GROOVES else groove
    if bar.final:
        key = (
            KIT["crash"]
            if name in WITH_CRASH
            else KIT["ride"]
            if name == "jazz"
            else KIT["tambourine"]
        )
        return [Event(bar.start, 1.0, key, 1.0), Event(bar.start, 1.0, KIT["kick"], 1.0)]
    patterns = GROOVES[name][bar.tier]
    events = _hits(patterns[(choice + ord(bar.letter)) % len(patterns)], bar)
    if bar.last_of_section and bar.density > 0.3 and rng.random() < 0.75:
        fill = FILLS[name][int(rng.integers(len(FILLS[name])))]
        half = bar.start + bar.beats / 2
        events = [e for e in events if e.beat < half] + [
            e for e in _hits(fill, bar) if e.beat >= half
        ]
    if bar.position == 0 and bar.index > 0 and bar.energy > 0.55 and name in WITH_CRASH:
        events.append(Event(bar.start, 1.0, KIT["crash"], 1.0))
    return events


def roll(bar: Bar) -> list[Event]:
    """Play a build-up: snare hits that double in speed and grow through the bar."""
    beats = np.concatenate(
        [np.arange(0, bar.beats / 2, 0.5), np.arange(bar.beats / 2, bar.beats, 0.25)]
    )
    return [
        Event(bar.start + float(b), 0.2, KIT["snare"], 0.35 + 0.85 * float(b) / bar.beats)
        for b in beats
    ]


def _hits(pattern: Pattern, bar: Bar) -> list[Event]:
    return [
        Event(bar.start + i / 4, 0.25, KIT[instrument], ACCENT[character])
        for instrument, line in pattern.items()
        for i, character in enumerate(line[: 4 * bar.beats])
        if character != "."
    ]
