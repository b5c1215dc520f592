"""Captions of labelled music in many wordings, to train CLAP.

A caption is a pure function of labels, place and random generator. It describes the clip (playing
instruments, density, loudness) and the piece (genre, mood, tempo); missing labels are left out.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ditto.data import wording

Labels = dict[str, Any]
"""A line of ``labels.jsonl``."""
NUMBERS = range(40, 221)
"""Tempi in the vocabulary, beats per minute."""


def caption(
    piece: Labels, start: float, seconds: float, rng: np.random.Generator, detail: float = 1.0
) -> str:
    """Describe a clip of a piece.

    Args:
        piece: labels as of `ditto.composer.piece.labels`; any may be missing.
        start: beginning of the clip in the piece, in seconds.
        seconds: length of the clip.
        rng: chooses facts, words and their order.
        detail: share in (0, 1] of the facts to tell besides genre and mood.

    Returns:
        One line in lower case, e.g. "a calm jazz song with vibraphone and double bass, at 96 bpm".
    """
    form = FORMS[int(rng.integers(len(FORMS)))]
    return form(facts(piece, start, seconds, rng), rng, detail)


def template(genre: str | None, mood: str | None, tempo: float | None) -> str:
    """Fill the papers' template: "a [mood] [genre] song at [tempo] beats per minute"."""
    words = _join([mood, genre])
    end = "" if tempo is None else f" at {round(tempo)} beats per minute"
    return _articled(_join([words, "song"]) + end)


@dataclass(frozen=True)
class Facts:
    """Hold a clip's facts in words; None or empty without a label."""

    genre: str | None
    mood: str | None
    tempo: str | None
    speed: str | None
    band: str | None
    instruments: tuple[str, ...]
    rest: tuple[str, ...]


def facts(piece: Labels, start: float, seconds: float, rng: np.random.Generator) -> Facts:
    """Choose words for all facts of a clip; minor facts (`rest`) come in random order."""
    end = start + seconds
    genre, mood, tempo = piece.get("genre"), piece.get("mood"), piece.get("tempo")
    notes = [
        note for note in piece.get("melody", ()) if note[0] < end and note[0] + note[1] > start
    ]
    rate = len(notes) / seconds
    rest = [
        *_maybe(rng, wording.MODES.get(piece.get("mode", ""))),
        *_maybe(rng, wording.METRES.get(piece.get("time_signature", ""))),
        *(_maybe(rng, _step(wording.MELODY, rate)) if "melody" in piece else ()),
        *(_density(piece, start, end, rng) if piece.get("form") else ()),
        *(_loudness(piece, start, end, rng) if piece.get("dynamics") else ()),
    ]
    rng.shuffle(rest)
    return Facts(
        genre=_one(rng, wording.GENRES.get(genre, (genre,))) if genre else None,
        mood=_one(rng, wording.MOODS.get(mood, (mood,))) if mood else None,
        tempo=_tempo(tempo, rng) if tempo else None,
        speed=_one(rng, _step(wording.TEMPI, tempo)) if tempo else None,
        band=wording.BANDS.get(len(piece.get("instruments", ()))),
        instruments=_instruments(piece, bool(notes), rng),
        rest=tuple(rest),
    )


def words_of(pieces: Iterable[Labels] = ()) -> list[str]:
    """List the sorted words that captions of such pieces can contain, for a tokenizer."""
    texts = [*_strings(vars(wording)), *GLUE, *map(str, NUMBERS)]
    texts += [str(piece[key]) for piece in pieces for key in ("genre", "mood") if piece.get(key)]
    return sorted({word for text in texts for word in re.findall(r"\w+", text.lower())})


GLUE = (
    "a an with and the of at for by featuring play playing played in",
    "tempo mood genre beats per minute bpm",
)
"""Words of the sentence patterns."""


def _sentence(known: Facts, rng: np.random.Generator, detail: float) -> str:
    """Write "a calm jazz song with vibraphone and double bass, at 96 bpm, crescendo"."""
    tail = _tail(known, rng, detail)
    players = _listed(_some(known.instruments, rng, detail))
    noun = known.band if known.band and rng.random() < 0.25 else _one(rng, wording.PIECES)
    speed = known.speed if known.speed and " " not in known.speed and rng.random() < 0.3 else None
    head = _articled(_join([speed, known.mood, known.genre, noun]))
    band = players and f"{_one(rng, ('with', 'featuring'))} {players}"
    return ", ".join([_join([head, band]), *tail])


def _players_first(known: Facts, rng: np.random.Generator, detail: float) -> str:
    """Write "vibraphone and double bass playing a calm jazz song, 96 bpm"."""
    players = _listed(_some(known.instruments, rng, detail))
    thing = _articled(_join([known.mood, known.genre, _one(rng, wording.PIECES)]))
    head = f"{players} {_one(rng, ('playing', 'play'))} {thing}" if players else thing
    return ", ".join([head, *_tail(known, rng, detail)])


def _keywords(known: Facts, rng: np.random.Generator, detail: float) -> str:
    """Write "jazz, calm, vibraphone, 96 bpm, sparse", in random order; "song" of nothing."""
    minor = [*_some(known.instruments, rng, detail), *_tail(known, rng, detail)]
    parts = [part for part in (known.genre, known.mood, *minor) if part]
    rng.shuffle(parts)
    return ", ".join(parts) or "song"


def _papers(known: Facts, rng: np.random.Generator, detail: float) -> str:
    """Write "a calm jazz song at 96 beats per minute, with vibraphone"."""
    head = _join([_articled(_join([known.mood, known.genre, "song"])), known.tempo])
    players = _listed(_some(known.instruments, rng, detail))
    rest = _some(known.rest, rng, detail)
    return ", ".join(part for part in (head, players and f"with {players}", *rest) if part)


FORMS: tuple[Callable[[Facts, np.random.Generator, float], str], ...] = (
    _sentence,
    _sentence,
    _players_first,
    _keywords,
    _papers,
)


def _tail(known: Facts, rng: np.random.Generator, detail: float) -> list[str]:
    """Choose some of tempo and minor facts, in random order."""
    tempo = known.tempo if rng.random() < 0.7 else known.speed
    chosen = _some(tuple(part for part in (tempo, *known.rest) if part), rng, detail)
    return [str(part) for part in rng.permutation(chosen)] if chosen else []


def _some(parts: Sequence[str], rng: np.random.Generator, detail: float) -> list[str]:
    """Keep each part with probability `detail`."""
    return [part for part in parts if rng.random() < detail]


def _instruments(piece: Labels, melody: bool, rng: np.random.Generator) -> tuple[str, ...]:
    """Name up to five instruments, mostly the lead first; no lead without a melody."""
    playing = [entry for entry in piece.get("instruments", ()) if melody or entry[0] != "lead"]
    order = {"lead": 0.0, "comp": 0.4, "colour": 0.6, "halo": 0.7, "bass": 0.7, "drums": 0.8}
    playing.sort(key=lambda entry: order.get(entry[0], 0.5) + rng.random())
    names = [_one(rng, _names(program, drums)) for _, program, drums in playing]
    return tuple(dict.fromkeys(names))[:5]


def _names(program: int, drums: bool) -> tuple[str, ...]:
    if drums:
        return wording.DRUMS.get(program, ("drums",))
    return wording.INSTRUMENTS.get(program, (wording.FAMILIES[program // 8],))


def _tempo(tempo: float, rng: np.random.Generator) -> str:
    """Tell the tempo within 2 beats per minute."""
    return _one(rng, wording.BPM).format(bpm=round(tempo + rng.uniform(-2, 2)))


def _density(piece: Labels, start: float, end: float, rng: np.random.Generator) -> list[str]:
    """Describe the mean energy of the sections within the clip."""
    shares = [(max(0.0, min(end, b) - max(start, a)), energy) for a, b, _, energy in piece["form"]]
    total = sum(share for share, _ in shares)
    mean = sum(share * energy for share, energy in shares) / total if total else 0.0
    return _maybe(rng, _step(wording.ENERGY, mean))


def _loudness(piece: Labels, start: float, end: float, rng: np.random.Generator) -> list[str]:
    """Describe the movement of the loudness and, if it is extreme, its level."""
    levels = np.interp(np.linspace(start, end, 60), *np.transpose(piece["dynamics"]))
    words = _maybe(rng, wording.DYNAMICS[movement(levels)])
    level = float(np.median(levels))
    if level < -14 or level > -3:
        words += _maybe(rng, wording.LEVELS["quiet" if level < -14 else "loud"])
    return words


def movement(levels: np.ndarray) -> str:
    """Classify a curve of levels in dB as a key of `wording.DYNAMICS`."""
    first, middle, last = (float(part.mean()) for part in np.array_split(levels, 3))
    if np.ptp(levels) < 4:
        return "steady"
    if middle > max(first, last) + 4:
        return "swelling"
    if middle < min(first, last) - 4:
        return "dipping"
    if abs(last - first) < 4:
        return "moving"
    return "growing" if last > first else "fading"


def _step(table: Sequence[tuple[float, tuple[str, ...]]], value: float) -> tuple[str, ...]:
    return next(words for bound, words in table if value < bound)


def _one(rng: np.random.Generator, words: Sequence[str]) -> str:
    return words[int(rng.integers(len(words)))]


def _maybe(rng: np.random.Generator, words: Sequence[str] | None) -> list[str]:
    return [_one(rng, words)] if words else []


def _listed(parts: Sequence[str]) -> str:
    """Write "a, b and c"."""
    return " and ".join(part for part in (", ".join(parts[:-1]), *parts[-1:]) if part)


def _join(parts: Iterable[str | None]) -> str:
    return " ".join(part for part in parts if part)


def _articled(text: str) -> str:
    return f"{'an' if text[:1] in 'aeiou' else 'a'} {text}"


def _strings(value: Any) -> list[str]:
    """Collect all strings in nested dictionaries and tuples; skip a module's own attributes."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        parts = (part for key, part in value.items() if not str(key).startswith("__"))
        return [text for part in parts for text in _strings(part)]
    return [text for part in value for text in _strings(part)] if isinstance(value, tuple) else []
