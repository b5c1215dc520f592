"""Captions of composed music: what a clip's labels say, told in one of many ways (data for CLAP).

A caption is a pure function of labels, place and random generator. It says what can be heard in the
clip itself: instruments that play, density and loudness there, besides genre, mood and tempo of the
whole piece. Labels that a data set does not have (see `ditto.data.prepare`) are left out.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ditto.composer.dynamics import gain_db
from ditto.data import wording

Labels = dict[str, Any]
NUMBERS = range(40, 221)
"""Tempi in beats per minute that the vocabulary has words for."""


def caption(
    piece: Labels, start: float, seconds: float, rng: np.random.Generator, detail: float = 1.0
) -> str:
    """One description of the clip of `seconds` from `start` (seconds) of a piece.

    Args:
        piece: its labels, as `ditto.composer.piece.labels` makes them; genre, mood and the rest may be
            missing.
        start: where the clip begins.
        seconds: its length.
        rng: chooses facts, words and their order.
        detail: share in (0, 1] of the facts besides genre and mood to be told.

    Returns:
        Lower case, without a line break, e.g. "a calm jazz song with vibraphone and double bass, at
        96 bpm".
    """
    form = FORMS[int(rng.integers(len(FORMS)))]
    return form(facts(piece, start, seconds, rng), rng, detail)


def template(genre: str | None, mood: str | None, tempo: float | None) -> str:
    """The papers' template for CLAP scores: "a [mood] [genre] song at [tempo] beats per minute"."""
    words = _join([mood, genre])
    end = "" if tempo is None else f" at {round(tempo)} beats per minute"
    return _articled(_join([words, "song"]) + end)


@dataclass(frozen=True)
class Facts:
    """What a caption can say, in words; None or empty where the labels do not tell."""

    genre: str | None
    mood: str | None
    tempo: str | None
    speed: str | None
    band: str | None
    instruments: tuple[str, ...]
    rest: tuple[str, ...]


def facts(piece: Labels, start: float, seconds: float, rng: np.random.Generator) -> Facts:
    """Words for everything that is known of a clip, the less important in random order."""
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
        *(
            _maybe(rng, _step(wording.ENERGY, _energy(piece, start, end)))
            if piece.get("form")
            else ()
        ),
        *(_loudness(piece, start, end, rng) if piece.get("dynamics") else ()),
    ]
    rng.shuffle(rest)
    return Facts(
        genre=_one(rng, wording.GENRES.get(genre, (genre,))) if genre else None,
        mood=_one(rng, wording.MOODS.get(mood, (mood,))) if mood else None,
        tempo=_one(rng, wording.BPM).format(bpm=round(tempo + rng.uniform(-2, 2)))
        if tempo
        else None,
        speed=_one(rng, _step(wording.TEMPI, tempo)) if tempo else None,
        band=wording.BANDS.get(len(piece.get("instruments", ()))),
        instruments=_instruments(piece, bool(notes), rng),
        rest=tuple(rest),
    )


def words_of(pieces: Iterable[Labels] = ()) -> list[str]:
    """Every word that captions of such pieces can have, in order; the vocabulary of a tokenizer."""
    texts = [*_strings(vars(wording)), *GLUE, *map(str, NUMBERS)]
    texts += [str(piece[key]) for piece in pieces for key in ("genre", "mood") if piece.get(key)]
    return sorted({word for text in texts for word in re.findall(r"\w+", text.lower())})


GLUE = (
    "a an with and the of at for by featuring play playing played in tempo mood genre beats per minute bpm",
)
"""Words of the sentences themselves."""


def _sentence(known: Facts, rng: np.random.Generator, detail: float) -> str:
    """A calm jazz song with vibraphone and double bass, at 96 bpm, crescendo."""
    tail = _tail(known, rng, detail)
    players = _listed(_some(known.instruments, rng, detail))
    noun = known.band if known.band and rng.random() < 0.25 else _one(rng, wording.PIECES)
    speed = known.speed if known.speed and " " not in known.speed and rng.random() < 0.3 else None
    head = _articled(_join([speed, known.mood, known.genre, noun]))
    return ", ".join(
        [_join([head, players and f"{_one(rng, ('with', 'featuring'))} {players}"]), *tail]
    )


def _players_first(known: Facts, rng: np.random.Generator, detail: float) -> str:
    """Vibraphone and double bass playing a calm jazz song, 96 bpm."""
    players = _listed(_some(known.instruments, rng, detail))
    thing = _articled(_join([known.mood, known.genre, _one(rng, wording.PIECES)]))
    head = f"{players} {_one(rng, ('playing', 'play'))} {thing}" if players else thing
    return ", ".join([head, *_tail(known, rng, detail)])


def _keywords(known: Facts, rng: np.random.Generator, detail: float) -> str:
    """jazz, calm, vibraphone, 96 bpm, sparse."""
    parts = [
        known.genre,
        known.mood,
        *_some(known.instruments, rng, detail),
        *_tail(known, rng, detail),
    ]
    parts = [part for part in parts if part]
    rng.shuffle(parts)
    return ", ".join(parts)


def _papers(known: Facts, rng: np.random.Generator, detail: float) -> str:
    """A calm jazz song at 96 beats per minute, with vibraphone."""
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
    """Tempo and the rest, some of them, in random order."""
    tempo = known.tempo if rng.random() < 0.7 else known.speed
    told = _some(tuple(part for part in (tempo, *known.rest) if part), rng, detail)
    return [str(part) for part in rng.permutation(told)] if told else []


def _some(parts: Sequence[str], rng: np.random.Generator, detail: float) -> list[str]:
    """Each part with probability `detail`."""
    return [part for part in parts if rng.random() < detail]


def _instruments(piece: Labels, melody: bool, rng: np.random.Generator) -> tuple[str, ...]:
    """Up to five instruments that play, the lead first more often than not; no lead where no melody
    is.
    """
    heard = [entry for entry in piece.get("instruments", ()) if melody or entry[0] != "lead"]
    order = {"lead": 0.0, "comp": 0.4, "colour": 0.6, "halo": 0.7, "bass": 0.7, "drums": 0.8}
    heard.sort(key=lambda entry: order.get(entry[0], 0.5) + rng.random())
    named = [_one(rng, _names(program, drums)) for _, program, drums in heard]
    return tuple(dict.fromkeys(named))[:5]


def _names(program: int, drums: bool) -> tuple[str, ...]:
    if drums:
        return wording.DRUMS.get(program, ("drums",))
    return wording.INSTRUMENTS.get(program, (wording.FAMILIES[program // 8],))


def _energy(piece: Labels, start: float, end: float) -> float:
    """Mean energy of the sections within the clip."""
    shares = [(max(0.0, min(end, b) - max(start, a)), energy) for a, b, _, energy in piece["form"]]
    total = sum(share for share, _ in shares)
    return sum(share * energy for share, energy in shares) / total if total else 0.0


def _loudness(piece: Labels, start: float, end: float, rng: np.random.Generator) -> list[str]:
    """How the mix's loudness moves, and perhaps where it lies."""
    levels = gain_db(piece["dynamics"], np.linspace(start, end, 60))
    spoken = _maybe(rng, wording.DYNAMICS[movement(levels)])
    level = float(np.median(levels))
    if level < -14 or level > -3:
        spoken += _maybe(rng, wording.LEVELS["quiet" if level < -14 else "loud"])
    return spoken


def movement(levels: np.ndarray) -> str:
    """A curve of levels in dB in one word, a key of `wording.DYNAMICS`."""
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
    """a, b and c."""
    return (
        " and ".join(part for part in (", ".join(parts[:-1]), parts[-1]) if part) if parts else ""
    )


def _join(parts: Iterable[str | None]) -> str:
    return " ".join(part for part in parts if part)


def _articled(text: str) -> str:
    return f"{'an' if text[:1] in 'aeiou' else 'a'} {text}"


def _strings(value: Any) -> list[str]:
    """All strings within dictionaries and tuples, without what modules hold besides."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [
            text
            for key, part in value.items()
            if not str(key).startswith("__")
            for text in _strings(part)
        ]
    return [text for part in value for text in _strings(part)] if isinstance(value, tuple) else []
