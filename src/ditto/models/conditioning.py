"""Tags (genre, mood, tempo) as class indices and as embeddings (DITTO appendix K)."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real

import torch
from torch import Tensor, nn

from ditto.errors import TagError
from ditto.paths import shown
from ditto.tables import table, widened

NULL = 0
"""The index of "not given" in every column; all columns NULL is the null condition c_∅ of CFG."""

COLUMNS = ("genre", "mood", "tempo", "tempo_tenths", "beat_thousandths")
"""Columns of a condition: three indices; the exact tempo in tenths of BPM; the beat at which the
clip starts, in thousandths.

The last two are the beat grid. A clip may have a tempo without a grid (both NULL): the phase of its
beats is unknown.
"""

BEAT_CYCLE = 12
"""Beats are counted modulo this, which whole bars of 2, 3, 4 and 6 beats divide."""


@dataclass(frozen=True)
class Tags:
    """Genre, mood, tempo, prompt and more that a user asks for; `None` leaves a tag open.

    Attributes:
        genre: one of the model's genres.
        mood: one of the model's moods.
        tempo: beats per minute.
        beat: where the clip starts in the count of beats that `tempo` makes, 0 being the start of a
            bar; None is anywhere.
        prompt: free text, for models that read any; it takes the place of the tags' own sentence.
        lyrics: words to sing, for models that sing.
        key: such as "C minor" or "F#m", for models that know keys.
    """

    genre: str | None = None
    mood: str | None = None
    tempo: float | None = None
    beat: float | None = 0.0
    prompt: str | None = None
    lyrics: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        """Keep plain numbers, and keys as "C minor"; ranges are the model's.

        Raises:
            TagError: tempo or beat is no number, or the key is none.
        """
        for name in ("tempo", "beat"):
            value = getattr(self, name)
            if value is None or type(value) is int:
                continue
            if not isinstance(value, Real) or (name == "beat" and not math.isfinite(value)):
                raise TagError(f"{name} must be a number, not {shown(value)}")
            object.__setattr__(self, name, float(value))
        if self.key is not None:
            object.__setattr__(self, "key", _key(self.key))

    @classmethod
    def parse(cls, text: str) -> "Tags":
        """Read tags from ``"genre=jazz mood=calm tempo=110 key=Am"`` (spaces or commas between).

        What follows ``prompt=`` is the prompt, to the text's end.

        Raises:
            TagError: unknown key, repeated key, missing ``=``, an empty prompt, or a tempo that is
                not a number.
        """
        text, prompted, prompt = text.partition("prompt=")
        if prompted and not prompt.strip():
            raise TagError("the prompt is empty: describe the music after prompt=")
        tags: dict[str, str] = {}
        for part in text.replace(",", " ").split():
            key, equals, value = part.partition("=")
            if not equals or not value or key not in ("genre", "mood", "tempo", "key"):
                raise TagError(
                    f"cannot read the tag {part!r}: write genre=…, mood=…, tempo=… or key=…, e.g. "
                    "'genre=jazz'"
                )
            if key in tags:
                raise TagError(f"the tag {key!r} is given twice")
            tags[key] = value
        tempo = _tempo(tags["tempo"]) if "tempo" in tags else None
        return cls(
            tags.get("genre"),
            tags.get("mood"),
            tempo,
            prompt=prompt.strip() or None,
            key=tags.get("key"),
        )

    def check(self, *, lyrics: bool = False, key: bool = False) -> None:
        """Refuse what a model does not take.

        Args:
            lyrics: whether it takes words to sing.
            key: whether it takes a key.

        Raises:
            TagError: with what to leave out.
        """
        if self.lyrics is not None and not lyrics:
            raise TagError("this model does not sing: leave the lyrics out")
        if self.key is not None and not key:
            raise TagError("this model does not know keys: leave the key out")

    def caption(self) -> str:
        """Return the prompt, or DITTO-2's template (its §4.3).

        That is "A [mood] [genre] song at [tempo] beats per minute.".
        """
        if self.prompt is not None:
            return self.prompt
        words = " ".join(w for w in (self.mood, self.genre, "song") if w)
        article = "An" if words[0] in "aeiou" else "A"
        return f"{article} {words}" + (
            f" at {self.tempo:g} beats per minute." if self.tempo else "."
        )


def _tempo(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise TagError(f"tempo must be a number of beats per minute, not {text!r}") from None


def _key(text: object) -> str:
    """Return a key as "C minor" or "F# major".

    Raises:
        TagError: it cannot be read.
    """
    found = re.fullmatch(r"\s*([A-Ga-g])([#♯b♭]?)[\s_-]*(m|M|min|minor|maj|major)?\s*", str(text))
    if found is None:
        raise TagError(f"cannot read the key {shown(text)}: write e.g. 'C minor' or 'F# major'")
    note, sign, mode = found.groups()
    sign = {"♯": "#", "♭": "b"}.get(sign, sign)
    return f"{note.upper()}{sign} {'minor' if mode in ('m', 'min', 'minor') else 'major'}"


@dataclass(frozen=True)
class TagVocabulary:
    """The names that a model knows, and their indices.

    Attributes:
        genres, moods: names; index i + 1 stands for the i-th, 0 for none.
        tempo_low, tempo_high: range in beats per minute.
        tempo_bins: number of equal bins of that range.
    """

    genres: tuple[str, ...]
    moods: tuple[str, ...]
    tempo_low: float = 60.0
    tempo_high: float = 180.0
    tempo_bins: int = 12

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Number of indices of each of the first three columns, null included."""
        return len(self.genres) + 1, len(self.moods) + 1, self.tempo_bins + 1

    @property
    def empty(self) -> bool:
        """Whether there is no tag at all, as in a model that never saw one."""
        return not (self.genres or self.moods or self.tempo_bins)

    def kinds_of(self, tags: Tags) -> Tags:
        """Return tags without those of a kind of which the model knows none, such as genres."""
        return replace(
            tags,
            genre=tags.genre if self.genres else None,
            mood=tags.mood if self.moods else None,
            tempo=tags.tempo if self.tempo_bins else None,
        )

    def tempo_like(self, bpm: float) -> float | None:
        """Return a tempo in range whose beats fall together with those of `bpm`, or None."""
        tempi = (bpm, bpm / 2, bpm * 2, bpm / 4, bpm * 4) if self.tempo_bins else ()
        return next((t for t in tempi if self.tempo_low <= t <= self.tempo_high), None)

    def encode(self, tags: Tags) -> Tensor:
        """Encode tags as a condition (5,) int64, see `COLUMNS`.

        Raises:
            TagError: a name that the model does not know, a tempo outside its range, a prompt,
                lyrics, or a key.
        """
        tags.check()
        if tags.prompt is not None:
            raise TagError(
                "this model reads neither prompts nor tags: leave them out"
                if self.empty
                else "this model reads no prompts: give it tags, such as 'genre=jazz tempo=110'"
            )
        genre, mood = (
            _index("genre", tags.genre, self.genres),
            _index("mood", tags.mood, self.moods),
        )
        tempo = NULL if tags.tempo is None else self.tempo_index(tags.tempo)
        return torch.tensor([genre, mood, tempo, *_grid(tags)])

    def tempo_index(self, tempo: float) -> int:
        """Return the index (1 … tempo_bins) of a tempo in beats per minute.

        Raises:
            TagError: it is outside the range, or the model knows none.
        """
        if not self.tempo_bins:
            raise TagError("this model knows no tempo: leave it out")
        if not self.tempo_low <= tempo <= self.tempo_high:
            raise TagError(
                f"tempo must be {self.tempo_low:g} to {self.tempo_high:g} beats per minute, not "
                f"{tempo:g}"
            )
        position = (tempo - self.tempo_low) / (self.tempo_high - self.tempo_low)
        return 1 + min(int(position * self.tempo_bins), self.tempo_bins - 1)

    def decode(self, indices: Sequence[int]) -> Tags:
        """Decode a condition, or its first three columns.

        A tempo without its tenths is its bin's centre.
        """
        genre, mood, tempo, tenths, beat = (int(i) for i in (*indices, NULL, NULL)[:5])
        width = (self.tempo_high - self.tempo_low) / self.tempo_bins
        centre = self.tempo_low + (tempo - 0.5) * width if tempo else None
        return Tags(
            self.genres[genre - 1] if genre else None,
            self.moods[mood - 1] if mood else None,
            tenths / 10 if tenths else centre,
            beat / 1000 if tenths else None,
        )


def _grid(tags: Tags) -> tuple[int, int]:
    """Return the last two columns."""
    if tags.tempo is None or tags.beat is None:
        return NULL, NULL
    return round(10 * tags.tempo), round(1000 * (tags.beat % BEAT_CYCLE))


def _index(kind: str, name: str | None, names: tuple[str, ...]) -> int:
    if name is None:
        return NULL
    if not names:
        raise TagError(f"this model knows no {kind}: leave it out")
    if name not in names:
        raise TagError(f"unknown {kind} {name!r}; this model knows {', '.join(names)}")
    return 1 + names.index(name)


def null_tags(tags: Tensor) -> Tensor:
    """Return the null condition c_∅ of the shape of `tags` (B, 5)."""
    return torch.full_like(tags, NULL)


def drop_conditions(
    tags: Tensor, rate: float, generator: torch.Generator, grid_rate: float = 0.0
) -> Tensor:
    """Drop conditions at random, for classifier-free guidance.

    An item loses all its tags with probability `rate`, and each tag alone with the same, which lets
    a user give any subset of the tags. The beat grid goes with its tempo, and alone with
    probability `grid_rate`, so that music of unknown phase can be asked for too.

    Args:
        tags: (B, 3 or 5).
        rate: in [0, 1].
        generator: on the CPU.
        grid_rate: in [0, 1].
    """
    every = torch.rand(len(tags), 1, generator=generator) < rate
    single = torch.rand(len(tags), 3, generator=generator) < rate
    grid = single[:, 2:] | (torch.rand(len(tags), 1, generator=generator) < grid_rate)
    lost = torch.cat([single, grid, grid], dim=1)[:, : tags.shape[1]]
    return torch.where(every | lost, NULL, tags)


def guidance_features(guidance: Tensor, count: int) -> Tensor:
    """Return sinusoidal features (B, count) of CFG scales w (B,), for students; `widened`.

    The sines' periods are 4 to 64: guidance is affine in w, so what depends on it should change
    slowly. (Those of latent consistency models, whose fastest sine turns 160 times within one unit
    of w, do not.)
    """
    wide = widened(guidance)
    angles = 2 * math.pi * wide[:, None] / _periods(count // 2, wide.device)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


@table(maxsize=8)
def _periods(count: int, device: torch.device) -> Tensor:
    return torch.logspace(2, 6, count, base=2, dtype=torch.float64).to(device)


class TagEmbedding(nn.Module):
    """One learned embedding per tag: conditions (B, 3 or more) → (B, 3, width).

    Only the first three columns are embedded.
    """

    def __init__(self, sizes: Sequence[int], width: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, width) for size in sizes)

    def forward(self, tags: Tensor) -> Tensor:
        """Embed the tags, in column order."""
        return torch.stack([table(tags[:, i]) for i, table in enumerate(self.tables)], dim=1)
