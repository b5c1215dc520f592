"""What clips are asked for, all of it drawn by the clip's seed, so that every method gets the same.

Loudness curves and forms at random, public-domain tunes that no training data holds (songs of Bruce
and Stokoe's "Northumbrian Minstrelsy", 1882, and lead sheets of Foster and Berlin, out of music21's
corpus: melodies over chords, as the papers' lead sheets are), and held-out clips with their tags.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from functools import cache, cached_property
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ditto.audio.io import read_mono
from ditto.audio.spec import AudioSpec
from ditto.controls.base import Control
from ditto.controls.curves import Curve
from ditto.controls.intensity import Intensity
from ditto.controls.melody import Melody
from ditto.controls.notes import Note, NoteSequence
from ditto.controls.per_item import PerItem
from ditto.controls.scores import score_notes
from ditto.controls.structure import Structure
from ditto.data.dataset import read_labels, tags_of_label
from ditto.errors import ControlError, DataError
from ditto.models.conditioning import Tags, TagVocabulary
from ditto.models.model import MusicModel
from ditto.paths import printable

__all__ = ["PerItem", "RealClips", "Targets", "random_curve", "random_tags", "random_tune"]

REFERENCE = 128
"""Real clips that may be edited, and as many that Fréchet distances are taken to, where the
held-out data has so many."""

LOWEST_DB, HIGHEST_DB = -40.0, -14.0
"""Range of the curves' levels."""
SHAPES: tuple[Callable[[float], tuple[tuple[float, float], ...]], ...] = (
    lambda at: ((0.0, 0.0), (1.0, 1.0)),
    lambda at: ((0.0, 1.0), (1.0, 0.0)),
    lambda at: ((0.0, 0.0), (at, 1.0), (1.0, 0.0)),
    lambda at: ((0.0, 1.0), (at, 0.0), (1.0, 1.0)),
    lambda at: ((0.0, 0.0), (at, 0.0), (at + 0.02, 1.0), (1.0, 1.0)),
    lambda at: ((0.0, 0.5), (1.0, 0.5)),
)
"""Crescendo, decrescendo, swell, dip, step, flat: (share of the clip, share of the range), turning
at a share."""
FORMS = ("AB", "ABA", "ABAB", "ABBA", "AAB", "ABB", "A:2 B:3 A:2", "A:3 B:2")

SONGS = "miscFolk/northumbrianminstrelsyopus"
LEAD_SHEETS = ("leadSheet/fosterBrownHair", "leadSheet/berlinAlexandersRagtime")
BEATS = 24.0
"""How much of a tune is kept: more than a clip of the fastest tempo takes."""
FEWEST_NOTES, DENSEST = 6, 2.5
"""Notes that a tune must have, and notes a beat that it may have."""
LOWEST_PITCH, HIGHEST_PITCH = 60, 95
"""Range of the transposed notes: from middle C on, where the melody control hears."""


def random_curve(rng: np.random.Generator, seconds: float) -> Curve:
    """Return a target: in half of the draws a shape with random ends, otherwise 2–5 breakpoints.

    Levels lie within `LOWEST_DB` … `HIGHEST_DB`; the ends of a shape are at least 6 dB apart.
    """
    if rng.random() < 0.5:
        low = rng.uniform(LOWEST_DB, HIGHEST_DB - 6)
        high = rng.uniform(low + 6, HIGHEST_DB)
        shape = SHAPES[int(rng.integers(len(SHAPES)))](rng.uniform(0.2, 0.8))
        points = tuple((t, float(low + share * (high - low))) for t, share in shape)
        return Curve(points, relative=True, name="shape")
    times = _breakpoint_shares(rng, int(rng.integers(2, 6)))
    levels = rng.uniform(LOWEST_DB, HIGHEST_DB, len(times))
    points = tuple((float(t * seconds), float(v)) for t, v in zip(times, levels, strict=True))
    return Curve(points, name="breakpoints")


def _breakpoint_shares(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return rising shares of the clip, from its first tenth to its last, 8 % apart or more."""
    while True:
        inner = np.sort(rng.uniform(0.1, 0.9, count - 2))
        times = np.concatenate([[rng.uniform(0, 0.1)], inner, [rng.uniform(0.9, 1.0)]])
        if (np.diff(times) >= 0.08).all():
            return times


def random_tags(rng: np.random.Generator, vocabulary: TagVocabulary) -> Tags:
    """Return a genre, a mood and a tempo, each uniform; the clip starts on a bar."""
    tags = vocabulary.decode([int(rng.integers(1, size)) for size in vocabulary.sizes])
    tags = replace(tags, beat=0.0)
    return vocabulary.decode(vocabulary.encode(tags).tolist())


def random_tune(rng: np.random.Generator, bpm: float) -> NoteSequence:
    """Return the beginning of one of the tunes, in a key drawn at random, at `bpm`.

    Raises:
        ControlError: see `beginnings`.
    """
    tunes = beginnings()
    tune = tunes[int(rng.integers(len(tunes)))]
    pitches, beat = [note.pitch for note in tune.notes], 60 / bpm
    low, high = max(LOWEST_PITCH - min(pitches), -6), min(HIGHEST_PITCH - max(pitches), 6)
    shift = int(rng.integers(min(low, high), high + 1))
    notes = (Note(n.onset * beat, n.duration * beat, n.pitch + shift) for n in tune.notes)
    return NoteSequence(tuple(notes), tune.name)


@cache
def beginnings() -> tuple[NoteSequence, ...]:
    """Return the beginnings of all tunes that fit the range, times in beats from the first note.

    Raises:
        ControlError: music21 is missing, or was installed without its corpus.
    """
    try:
        from music21 import corpus, exceptions21
    except ImportError:
        raise ControlError(
            "the benchmarks' tunes need music21: pip install 'ditto-music[musicxml]'"
        ) from None
    try:
        songs = list(corpus.parse(SONGS).scores)  # pyright: ignore[reportAttributeAccessIssue]
        sheets = [corpus.parse(name) for name in LEAD_SHEETS]
    except exceptions21.Music21Exception:
        raise ControlError("music21 has no corpus here: install it anew from its wheel") from None
    return tuple(tune for score in (*songs, *sheets) if _fits(tune := _beginning(score)))


def _beginning(score: Any) -> NoteSequence:
    notes = sorted(score_notes(score.parts[0], 60.0), key=lambda note: note.onset)
    first = notes[0].onset if notes else 0.0
    moved = (Note(note.onset - first, note.duration, note.pitch) for note in notes)
    kept = tuple(note for note in moved if note.onset < BEATS)
    return NoteSequence(kept, score.metadata.bestTitle or "untitled")


def _fits(tune: NoteSequence) -> bool:
    pitches = [note.pitch for note in tune.notes]
    if len(pitches) < FEWEST_NOTES:
        return False
    in_range = max(pitches) - min(pitches) <= HIGHEST_PITCH - LOWEST_PITCH
    return in_range and len(pitches) <= DENSEST * tune.notes[-1].end


@dataclass(frozen=True, eq=False)
class RealClips:
    """Held-out clips in two halves that share no piece.

    Attributes:
        audio: (2 * N, samples) float32. The first N are edited and give their tags; Fréchet
            distances are taken to the others.
        tags: (2 * N, 5) conditions.
    """

    audio: Tensor
    tags: Tensor

    @property
    def count(self) -> int:
        """Clips in a half."""
        return len(self.audio) // 2

    @property
    def reference(self) -> Tensor:
        """Audio (N, samples) of the second half."""
        return self.audio[self.count :]


def real_clips(
    root: Path, spec: AudioSpec, vocabulary: TagVocabulary, count: int, seed: int
) -> RealClips:
    """Cut two halves of `count` clips each, or as many as the split has, of the model's window.

    The pieces are shuffled and dealt to the halves; a piece gives its second clip, which does not
    overlap the first, only after every piece of its half has given one. Clip i of the first half
    is the same however many there are.

    Raises:
        DataError: fewer than two pieces are long enough, or a piece lacks a tag.
    """
    pieces = read_labels(root)
    fitting = [i for i, piece in enumerate(pieces) if _slots(piece, spec)]
    if len(fitting) < 2:
        raise DataError(
            f"{printable(root)} has {len(fitting)} pieces of {spec.clip_seconds:.2f} s: two halves "
            "need more"
        )
    if any(None in astuple(tags_of_label(piece))[:3] for piece in pieces):
        raise DataError(
            f"every piece of {printable(root)} needs a genre, a mood and a tempo to be judged by"
        )
    rng = np.random.default_rng(seed)
    order = rng.permutation(fitting)
    halves = [_places(pieces, order[i::2].tolist(), spec, rng) for i in (0, 1)]
    size = min(count, *(len(half) for half in halves))
    chosen = halves[0][:size] + halves[1][:size]
    labels = [tags_of_label(pieces[i], slot * spec.clip_seconds) for i, slot in chosen]
    tags = torch.stack([vocabulary.encode(label) for label in labels])
    return RealClips(_audio(root, pieces, chosen, spec), tags)


@dataclass(frozen=True, eq=False)
class GenreClips:
    """Held-out clips of known genre.

    Attributes:
        audio: (N, samples) float32.
        genres: of every clip.
    """

    audio: Tensor
    genres: list[str]


def role_clips(
    root: Path, spec: AudioSpec, roles: Sequence[str], role: str, seed: int
) -> GenreClips:
    """Cut all clips of those pieces of `real_clips`' second half that have a role.

    Genre by genre the pieces are dealt to the roles in turn; one clip of every piece comes first.

    Raises:
        DataError: there is no such folder, or it has no piece for the role.
    """
    pieces = read_labels(root)
    fitting = [i for i, piece in enumerate(pieces) if _slots(piece, spec)]
    second = np.random.default_rng(seed).permutation(fitting)[1::2].tolist()
    dealt = zip(sorted(second, key=lambda i: pieces[i]["genre"]), cycle(roles), strict=False)
    mine = [i for i, given in dealt if given == role]
    if not mine:
        raise DataError(
            f"{printable(root)} has {len(fitting)} pieces of {spec.clip_seconds:.2f} s: parted into"
            f" rows, {', '.join(dict.fromkeys(roles))}, there is none for the {role}"
        )
    rng = np.random.default_rng([seed, 7])
    chosen = _places(pieces, rng.permutation(mine).tolist(), spec, rng)
    genres = [pieces[i]["genre"] for i, _ in chosen]
    return GenreClips(_audio(root, pieces, chosen, spec), genres)


def _slots(piece: dict[str, Any], spec: AudioSpec) -> int:
    """Return how many clips a piece holds, one after the other."""
    return int(piece["seconds"] * spec.sample_rate) // spec.samples(spec.clip_frames)


def _places(
    pieces: list[dict[str, Any]], half: list[int], spec: AudioSpec, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Return (piece, slot) of all clips of the pieces `half`, one of every piece first."""
    orders = {i: rng.permutation(_slots(pieces[i], spec)) for i in half}
    longest = max(len(order) for order in orders.values())
    return [
        (i, int(order[k])) for k in range(longest) for i, order in orders.items() if k < len(order)
    ]


def _audio(
    root: Path, pieces: list[dict[str, Any]], chosen: Sequence[tuple[int, int]], spec: AudioSpec
) -> Tensor:
    """Return the chosen clips' samples, (N, samples) float32; every piece is decoded once."""
    size = spec.samples(spec.clip_frames)
    clips = torch.zeros(len(chosen), size)
    for i in sorted({piece for piece, _ in chosen}):
        whole = torch.from_numpy(read_mono(root / pieces[i]["file"], spec, require_sound=False))
        for row, (piece, slot) in enumerate(chosen):
            if piece == i:
                clips[row] = whole[slot * size : (slot + 1) * size]
    return clips


class Targets:
    """Everything that clip i is asked for, drawn from ``seed + i``.

    Attributes:
        held_out: data folder of real clips; read when first needed.
        seed: of the first clip.
        count: real clips in a half, at most.
    """

    def __init__(
        self, model: MusicModel, held_out: Path, seed: int = 0, count: int = REFERENCE
    ) -> None:
        self.held_out, self.seed, self.count = held_out, seed, count
        self._spec, self._vocabulary = model.spec, model.vocabulary
        self._clips: dict[int, RealClips] = {}

    def real(self, spec: AudioSpec | None = None) -> RealClips:
        """Return held-out clips of a window, the model's by default."""
        spec = spec or self._spec
        if spec.clip_frames not in self._clips:
            clips = real_clips(self.held_out, spec, self._vocabulary, self.count, self.seed)
            self._clips[spec.clip_frames] = clips
        return self._clips[spec.clip_frames]

    def role(self, roles: Sequence[str], role: str) -> GenreClips:
        """Return the clips of a role, see `role_clips`."""
        return role_clips(self.held_out, self._spec, roles, role, self.seed)

    @cached_property
    def digest(self) -> str:
        """Hash over the held-out pieces."""
        pieces = [piece["sha256"] for piece in read_labels(self.held_out)]
        return hashlib.sha256(json.dumps(pieces).encode()).hexdigest()

    def tags(self, i: int) -> Tags:
        """Return the tags of held-out clip i."""
        return self._vocabulary.decode(self.real().tags[i].tolist())

    def prompts(self, i: int, count: int) -> list[Tags]:
        """Return `count` sets of tags at random."""
        rng = self._rng(i, 6)
        return [random_tags(rng, self._vocabulary) for _ in range(count)]

    def loudness(self, i: int) -> tuple[Curve, Tags]:
        """Return a curve, which may be level, and tags drawn uniformly."""
        rng = self._rng(i, 2)
        curve = random_curve(rng, self._spec.clip_seconds)
        return curve, random_tags(rng, self._vocabulary)

    def curve(self, i: int) -> Curve:
        """Return a curve that is not level: nothing correlates with a level one."""
        rng = self._rng(i, 2)
        while True:
            curve = random_curve(rng, self._spec.clip_seconds)
            if len({level for _, level in curve.points}) > 1:
                return curve

    def control(self, i: int, name: str) -> Control:
        """Return a control with clip i's target.

        Args:
            i: number of the clip.
            name: "intensity", "correlation", "melody", "structure", "loudness" or "loudness, mel".
        """
        if name.startswith("loudness"):
            return Intensity(self.loudness(i)[0], domain="mel" if "mel" in name else "sound")
        if name in ("intensity", "correlation"):
            return Intensity(self.curve(i), "mse" if name == "intensity" else "correlation")
        if name == "melody":
            return Melody(random_tune(self._rng(i, 4), self.tags(i).tempo or 120.0))
        return Structure(FORMS[int(self._rng(i, 5).integers(len(FORMS)))])

    def _rng(self, i: int, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed + i, stream])
