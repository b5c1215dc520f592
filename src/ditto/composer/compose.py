"""Composes pieces: everything about a piece follows from (seed, split, index).

The order of decisions: tags, tempo and key → form (sections of bars) → chords → theme of each
letter → which parts play in which section → loudness over time → notes in beats → swing, touch and
human timing in seconds → mix.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np

from ditto.composer.drums import drum_events, roll
from ditto.composer.dynamics import FLOOR_DB, Measure, Shape, gain_db, shape
from ditto.composer.melody import Theme, make_theme, sing
from ditto.composer.moods import MOOD_NAMES, MOODS, Mood
from ditto.composer.piece import (
    ChordLabel,
    Mix,
    Note,
    Piece,
    Section,
    Track,
    fit_notes,
    release_before_repeat,
)
from ditto.composer.styles import GENRES, STYLES, Part, Style
from ditto.composer.textures import Bar, Event, Span, Voice, play
from ditto.composer.theory import NAMES, Chord, parse_progression
from ditto.errors import DataError

SPLITS = {"train": 0, "heldout": 1}
TEMPO_RANGE = (60.0, 180.0)
MUSIC_SECONDS = (24.0, 28.4)
LEAD_IN_SECONDS, TAIL_SECONDS = 0.05, 1.4
FORMS = ("AABA", "ABAB", "ABA", "ABC", "AB", "ABAC", "AAB", "ABCA", "ABCB")
ROLE_DB = {"lead": 0.0, "drums": -1.0, "bass": -2.0, "comp": -4.0, "colour": -8.0, "halo": -14.0}
TOUCH_SHARE = 0.3
"""Part of the loudness that is played by touch; the mix automation is the rest."""
LEAVING_DB = {"colour": -9.0, "halo": -13.0, "drums": -15.0, "bass": -19.0}
"""Loudness of a bar below which a part leaves, give or take."""
MINOR_MODES = ("minor", "dorian", "phrygian")


@dataclass(frozen=True)
class Plan:
    """The decisions that all parts share."""

    style: Style
    mood: Mood
    tempo: float
    tonic: int
    mode: str
    beats: int
    bars: tuple[Bar, ...]
    letters: tuple[tuple[str, int, float], ...]
    shape: Shape = field(default_factory=lambda: Shape([(0.0, 0.0)], ()))

    @property
    def beat_seconds(self) -> float:
        """Seconds a quarter note lasts."""
        return 60.0 / self.tempo

    def seconds(self, beat: float) -> float:
        """Time of a beat, with off-beat eighths moved by the swing."""
        whole, part = divmod(beat, 1.0)
        swing = self.style.swing
        bent = part * 2 * swing if part < 0.5 else swing + (part - 0.5) * 2 * (1 - swing)
        straight = abs(part * 3 - round(part * 3)) < 1e-6
        return LEAD_IN_SECONDS + (whole + (part if straight else bent)) * self.beat_seconds


def compose(index: int, seed: int = 0, split: str = "train") -> Piece:
    """Piece number `index` of a split; the splits' random streams never meet.

    Raises:
        DataError: unknown split, or a negative index or seed.
    """
    rng = _generator(seed, split, index)
    genre, mood = tags_of(index, seed, split)
    plan = _plan(rng, STYLES[genre], MOODS[mood])
    measures = _measures(plan)
    seconds = round(measures[-1].end + TAIL_SECONDS, 4)
    plan = replace(plan, shape=shape(rng, measures, seconds))
    tracks, melody = _tracks(rng, plan)
    tracks = tuple(replace(t, notes=fit_notes(t.notes, seconds)) for t in tracks)
    return Piece(
        index=index,
        seed=seed,
        split=split,
        genre=genre,
        mood=mood,
        tempo=plan.tempo,
        key=NAMES[plan.tonic],
        mode=plan.mode,
        time_signature=f"{plan.beats}/4",
        beat_offset=LEAD_IN_SECONDS,
        seconds=seconds,
        chords=_chord_labels(plan),
        melody=fit_notes(melody, seconds),
        form=_sections(plan),
        loudness=tuple(plan.shape.curve),
        dynamics=tuple((t, round((1 - TOUCH_SHARE) * level, 3)) for t, level in plan.shape.curve),
        tracks=tracks,
        mix=_mix(rng, plan),
    )


def _measures(plan: Plan) -> list[Measure]:
    edges = [plan.seconds(float(i * plan.beats)) for i in range(len(plan.bars) + 1)]
    return [
        Measure(edges[i], edges[i + 1], bar.last_of_section and i + 1 < len(plan.bars))
        for i, bar in enumerate(plan.bars)
    ]


def tags_of(index: int, seed: int, split: str) -> tuple[str, str]:
    """(genre, mood): every run of 48 pieces holds each pair once, in an order drawn from the
    seed.
    """
    pairs = [(g, m) for g in GENRES for m in MOOD_NAMES]
    block, place = divmod(index, len(pairs))
    order = np.random.default_rng([seed, SPLITS[split], block, 1]).permutation(len(pairs))
    return pairs[int(order[place])]


def _generator(seed: int, split: str, index: int) -> np.random.Generator:
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    if index < 0 or seed < 0:
        raise DataError(f"index and seed must not be negative (got {index} and {seed})")
    return np.random.default_rng([seed, SPLITS[split], index])


def _plan(rng: np.random.Generator, style: Style, mood: Mood) -> Plan:
    tempo = _tempo(rng, style.tempo_bias + mood.tempo_bias)
    beats = int(str(rng.choice(style.metres))[0])
    modes, weights = zip(*mood.modes, strict=True)
    mode = str(rng.choice(modes, p=weights))
    tonic = int(rng.integers(12))
    letters = _form(rng, tempo, beats)
    progressions = _progressions(
        rng, style, mood, mode, tonic, sorted({letter for letter, _, _ in letters})
    )
    bars = _bars(letters, progressions, mood, beats, style.busy)
    return Plan(style, mood, tempo, tonic, mode, beats, bars, letters)


def _tempo(rng: np.random.Generator, bias: float) -> float:
    """Tempo from a density 1 + b·(2u − 1) over [60, 180] BPM: uniform overall when the biases
    cancel.
    """
    b = float(np.clip(bias, -0.95, 0.95))
    r = rng.random()
    u = r if abs(b) < 1e-6 else (b - 1 + math.sqrt((1 - b) ** 2 + 4 * b * r)) / (2 * b)
    low, high = TEMPO_RANGE
    return round(low + (high - low) * u, 1)


def _form(rng: np.random.Generator, tempo: float, beats: int) -> tuple[tuple[str, int, float], ...]:
    """(letter, bars, energy) of each section, filling MUSIC_SECONDS with whole bars."""
    bar_seconds = beats * 60.0 / tempo
    fewest, most = (
        math.ceil(MUSIC_SECONDS[0] / bar_seconds),
        math.floor(MUSIC_SECONDS[1] / bar_seconds),
    )
    total = int(rng.integers(fewest, most + 1)) if most >= fewest else fewest
    even = [f for f in FORMS if total // len(f) >= 2 and total % (2 * len(f)) in (0, 1)]
    fitting = even or [f for f in FORMS if total // len(f) >= 2]
    form = str(rng.choice(fitting))
    size, rest = divmod(total, len(form))
    energies = _energies(rng, len(form))
    return tuple(
        (c, size + (rest if i == len(form) - 1 else 0), energies[i]) for i, c in enumerate(form)
    )


def _energies(rng: np.random.Generator, count: int) -> list[float]:
    """Energy of each section: even, growing, fading, arched or contrasting."""
    x = np.linspace(0.0, 1.0, count)
    shape = rng.choice(
        ("even", "grow", "fade", "arch", "contrast"), p=(0.15, 0.25, 0.15, 0.2, 0.25)
    )
    curves = {
        "even": np.full(count, rng.uniform(0.4, 0.9)),
        "grow": 0.15 + 0.85 * x,
        "fade": 1.0 - 0.8 * x,
        "arch": 0.2 + 0.8 * np.sin(np.pi * (x * 0.8 + 0.1)),
        "contrast": np.where(np.arange(count) % 2 == rng.integers(2), 0.2, 0.95),
    }
    return [
        round(float(e), 3)
        for e in np.clip(curves[str(shape)] + rng.normal(0, 0.05, count), 0.05, 1.0)
    ]


def _progressions(
    rng: np.random.Generator, style: Style, mood: Mood, mode: str, tonic: int, letters: list[str]
) -> dict[str, list[list[Chord]]]:
    """Choose a progression for each letter, different ones as far as the genre has them."""
    texts = style.minor if mode in MINOR_MODES else style.major
    order = rng.permutation(len(texts))
    chosen = {
        c: parse_progression(texts[int(order[i % len(texts)])], tonic)
        for i, c in enumerate(letters)
    }
    if style.extend:
        chosen = {
            c: [[_coloured(rng, chord) for chord in bar] for bar in bars]
            for c, bars in chosen.items()
        }
    if mood.extend:
        return {
            c: [[_extended(chord) for chord in bar] for bar in bars] for c, bars in chosen.items()
        }
    return chosen


def _coloured(rng: np.random.Generator, chord: Chord) -> Chord:
    """Most sevenths become the ninths and thirteenths that jazz plays."""
    choices = {
        "maj7": ("maj9", "maj7"),
        "m7": ("m9", "m7"),
        "7": ("9", "13", "7b9"),
        "": ("6", "maj7"),
        "m": ("m6", "m7"),
    }
    return (
        replace(chord, quality=str(rng.choice(choices[chord.quality])))
        if chord.quality in choices
        else chord
    )


def _extended(chord: Chord) -> Chord:
    quality = {"": "add9", "m": "madd9", "maj7": "maj9", "m7": "m9"}.get(
        chord.quality, chord.quality
    )
    return replace(chord, quality=quality)


def _bars(
    letters: tuple[tuple[str, int, float], ...],
    progressions: dict[str, list[list[Chord]]],
    mood: Mood,
    beats: int,
    busy: float,
) -> tuple[Bar, ...]:
    chords = [
        progressions[c][k % len(progressions[c])] for c, size, _ in letters for k in range(size)
    ]
    tonic = chords[0][:1]
    chords[-1] = tonic
    bars: list[Bar] = []
    for letter, size, energy in letters:
        for position in range(size):
            i = len(bars)
            density = float(np.clip(0.75 * mood.density + 0.45 * (energy - 0.35) + busy, 0.0, 1.0))
            spans = tuple(
                Span(i * beats + k * _share(beats, chords[i]), _share(beats, chords[i]), c)
                for k, c in enumerate(chords[i])
            )
            following = chords[(i + 1) % len(chords)][0].root
            final = i == len(chords) - 1
            bars.append(
                Bar(
                    i,
                    i * beats,
                    beats,
                    spans,
                    following,
                    letter,
                    position,
                    size,
                    density,
                    energy,
                    final,
                )
            )
    return tuple(bars)


def _share(beats: int, chords: list[Chord]) -> float:
    """Beats a chord lasts; two chords in a 3/4 bar split it evenly on an off-beat, which the
    textures follow.
    """
    return beats / len(chords)


def _tracks(rng: np.random.Generator, plan: Plan) -> tuple[tuple[Track, ...], tuple[Note, ...]]:
    lineup = plan.style.lineups[int(rng.integers(len(plan.style.lineups)))]
    active = _arrangement(rng, plan)
    tracks = [_accompaniment(rng, plan, part, active) for part in lineup]
    if plan.mood.halo:
        halo = Part(
            "halo",
            "pad",
            (int(rng.choice(plan.mood.halo)),),
            48 if plan.mood.name == "dark" else 60,
            79,
        )
        tracks.append(_accompaniment(rng, plan, halo, active))
    lead = _lead(rng, plan, active)
    tracks.append(lead)
    if plan.style.groove and plan.style.kits:
        tracks.append(_drums(rng, plan, active))
    return tuple(t for t in tracks if t.notes), lead.notes


def _arrangement(rng: np.random.Generator, plan: Plan) -> list[frozenset[str]]:
    """Roles that play in each bar: more with the section's energy and the loudness; few go on in a
    break.
    """
    thresholds = {
        "bass": 0.1,
        "comp": 0.0,
        "drums": plan.style.drums_from,
        "colour": 0.4,
        "lead": 0.0,
        "halo": 0.0,
    }
    intro = rng.random() < 0.3
    layered, shift = rng.random() < 0.7, float(rng.uniform(-3.0, 3.0))
    levels = gain_db(
        plan.shape.curve, np.array([plan.seconds((b.index + 0.5) * plan.beats) for b in plan.bars])
    )
    result = []
    for bar, level, scene in zip(plan.bars, levels.tolist(), plan.shape.scenes, strict=True):
        roles = {role for role, t in thresholds.items() if bar.energy >= t}
        if layered and not bar.final:
            roles -= {role for role, leaving in LEAVING_DB.items() if level < leaving + shift}
        if (
            intro
            and bar.letter == plan.bars[0].letter
            and bar.index < plan.bars[0].section_bars
            and bar.index < 2
        ):
            roles -= {"lead"}
        kept = {"comp", *map(str, rng.choice(("bass", "drums", "lead", "colour"), size=1))}
        if scene == "break":
            roles = (roles & kept) or {"lead"}
        if scene == "build":
            roles |= {"comp", "drums", "colour"}
        result.append(frozenset(roles))
    return result


def _accompaniment(
    rng: np.random.Generator, plan: Plan, part: Part, active: list[frozenset[str]]
) -> Track:
    shift = (
        int(np.clip(plan.mood.register, -7, 7))
        if part.role != "bass"
        else -2
        if plan.mood.register < -6
        else 0
    )
    articulation = plan.mood.articulation * plan.style.articulation
    choice = int(rng.integers(64))
    voice = Voice(
        part.texture,
        part.low + shift,
        part.high + shift,
        plan.tonic,
        plan.mode,
        choice,
        min(articulation, 1.2),
    )
    program = int(rng.choice(part.programs))
    events = [
        e
        for bar in plan.bars
        for e in _touched(plan, play(bar, voice, rng), bar)
        if part.role in active[bar.index]
    ]
    gain = ROLE_DB[part.role] + part.gain_db
    return Track(part.role, program, False, gain, _perform(rng, plan, events))


def _lead(rng: np.random.Generator, plan: Plan, active: list[frozenset[str]]) -> Track:
    centre = 71 + plan.mood.register + (2 if plan.style.name in ("folk", "latin") else 0)
    density = plan.mood.density
    themes: dict[str, Theme] = {}
    for bar in plan.bars:
        if bar.letter not in themes:
            themes[bar.letter] = make_theme(rng, plan.style.cells, density, plan.beats, centre)
    articulation = min(1.02, plan.mood.articulation * max(plan.style.articulation, 0.7))
    events = [
        e
        for bar in plan.bars
        if "lead" in active[bar.index]
        for e in _touched(
            plan, sing(bar, themes[bar.letter], plan.tonic, plan.mode, articulation), bar
        )
    ]
    return Track(
        "lead",
        int(rng.choice(plan.style.leads)),
        False,
        ROLE_DB["lead"],
        _perform(rng, plan, events),
    )


def _drums(rng: np.random.Generator, plan: Plan, active: list[frozenset[str]]) -> Track:
    choice = int(rng.integers(64))
    events: list[Event] = []
    for bar, scene in zip(plan.bars, plan.shape.scenes, strict=True):
        rolls = scene == "build" and plan.style.rolls and plan.mood.drums > 0.25
        bar_events = roll(bar) if rolls else drum_events(bar, plan.style.groove, choice, rng)
        if "drums" in active[bar.index]:
            events += _touched(plan, bar_events, bar)
    gain = ROLE_DB["drums"] + 20 * math.log10(0.35 + 0.65 * plan.mood.drums)
    return Track(
        "drums", int(rng.choice(plan.style.kits)), True, round(gain, 2), _perform(rng, plan, events)
    )


def _touched(plan: Plan, events: list[Event], bar: Bar) -> list[Event]:
    """Events as hard as the section and the loudness ask; a stop ends up to a second before its bar
    does.
    """
    if plan.shape.scenes[bar.index] == "stop":
        silent = (
            bar.start
            + bar.beats
            - max(0.5, min(bar.beats / 2, math.floor(2 / plan.beat_seconds) / 2))
        )
        events = [
            e._replace(length=min(e.length, silent - e.beat))
            for e in events
            if e.beat < silent - 0.1
        ]
    levels = (
        gain_db(plan.shape.curve, np.array([plan.seconds(e.beat) for e in events])).tolist()
        if events
        else []
    )
    base = 0.78 + 0.34 * bar.energy
    return [
        e._replace(touch=e.touch * base * 10 ** (TOUCH_SHARE * max(level, FLOOR_DB) / 20))
        for e, level in zip(events, levels, strict=True)
    ]


def _perform(rng: np.random.Generator, plan: Plan, events: list[Event]) -> tuple[Note, ...]:
    """Beats to seconds, with a few milliseconds and velocity steps of human spread; one note per
    pitch at a time.
    """
    ordered = sorted(events)
    notes: dict[tuple[int, float], Note] = {}
    for e, (late, harder) in zip(
        ordered, rng.standard_normal((len(ordered), 2)).tolist(), strict=True
    ):
        start = plan.seconds(e.beat) + min(max(0.004 * late, -0.01), 0.01)
        end = plan.seconds(e.beat + e.length)
        velocity = min(max(round(plan.mood.velocity * e.touch + 3 * harder), 12), 127)
        note = Note(round(max(start, 0.0), 4), round(max(end - start, 0.04), 4), e.pitch, velocity)
        notes.setdefault((e.pitch, round(e.beat, 3)), note)
    return release_before_repeat(sorted(notes.values(), key=lambda n: (n.start, n.pitch)))


def _chord_labels(plan: Plan) -> tuple[ChordLabel, ...]:
    labels: list[ChordLabel] = []
    for span in (s for bar in plan.bars for s in bar.spans):
        start, end = plan.seconds(span.beat), plan.seconds(span.beat + span.length)
        c = span.chord
        labels.append(ChordLabel(round(start, 4), round(end, 4), c.name, c.roman, c.pitch_classes))
    return tuple(labels)


def _sections(plan: Plan) -> tuple[Section, ...]:
    sections, bar = [], 0
    for letter, size, energy in plan.letters:
        start, end = (
            plan.seconds(float(bar * plan.beats)),
            plan.seconds(float((bar + size) * plan.beats)),
        )
        sections.append(Section(round(start, 4), round(end, 4), letter, energy))
        bar += size
    return tuple(sections)


def _mix(rng: np.random.Generator, plan: Plan) -> Mix:
    level = -15.0 + plan.style.level_db + plan.mood.level_db + float(rng.uniform(-4.0, 3.0))
    wet = float(
        np.clip(plan.mood.wet * (0.5 + 0.5 * plan.style.reverb) + rng.uniform(0, 0.05), 0.0, 0.6)
    )
    seconds = plan.style.reverb * (0.7 + 2.0 * plan.mood.wet)
    tilt = plan.mood.tilt_db + float(rng.uniform(-0.7, 0.7))
    soft = float(rng.uniform(-2.5, 0.0))
    pump = float(rng.uniform(*plan.style.pump_db)) if rng.random() < 0.75 else 0.0
    return Mix(
        round(level, 2),
        round(tilt, 2),
        round(seconds, 3),
        round(wet, 3),
        round(soft, 2),
        round(pump, 2),
    )
