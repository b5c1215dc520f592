"""Tags (genre, mood, tempo) as class indices and as embeddings (DITTO appendix K)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ditto.errors import TagError

NULL = 0
"""The index of "not given" in every tag column; all columns NULL is the null condition c_∅ of CFG."""


@dataclass(frozen=True)
class Tags:
    """What a user asks for; `None` leaves a tag open.

    Attributes:
        genre: one of the model's genres.
        mood: one of the model's moods.
        tempo: beats per minute.
    """

    genre: str | None = None
    mood: str | None = None
    tempo: float | None = None

    @classmethod
    def parse(cls, text: str) -> "Tags":
        """Tags from ``"genre=jazz mood=calm tempo=110"`` (spaces or commas between).

        Raises:
            TagError: unknown key, repeated key, missing ``=``, or a tempo that is not a number.
        """
        given: dict[str, str] = {}
        for part in text.replace(",", " ").split():
            key, equals, value = part.partition("=")
            if not equals or not value or key not in ("genre", "mood", "tempo"):
                raise TagError(f"cannot read the tag {part!r}: write genre=…, mood=… or tempo=…, e.g. 'genre=jazz'")
            if key in given:
                raise TagError(f"the tag {key!r} is given twice")
            given[key] = value
        return cls(given.get("genre"), given.get("mood"), _tempo(given["tempo"]) if "tempo" in given else None)

    def caption(self) -> str:
        """The papers' caption template (DITTO §5): "A [mood] [genre] song at [tempo] beats per minute."."""
        words = " ".join(w for w in (self.mood, self.genre, "song") if w)
        article = "An" if words[0] in "aeiou" else "A"
        return f"{article} {words}" + (f" at {self.tempo:g} beats per minute." if self.tempo else ".")


def _tempo(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise TagError(f"tempo must be a number of beats per minute, not {text!r}") from None


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
        """Number of indices of each column, null included."""
        return len(self.genres) + 1, len(self.moods) + 1, self.tempo_bins + 1

    def encode(self, tags: Tags) -> Tensor:
        """Indices (3,) int64 of genre, mood, tempo.

        Raises:
            TagError: a name that the model does not know, or a tempo outside its range.
        """
        return torch.tensor(
            [
                _index("genre", tags.genre, self.genres),
                _index("mood", tags.mood, self.moods),
                NULL if tags.tempo is None else self.tempo_index(tags.tempo),
            ]
        )

    def tempo_index(self, tempo: float) -> int:
        """Index (1 … tempo_bins) of a tempo in beats per minute."""
        if not self.tempo_low <= tempo <= self.tempo_high:
            raise TagError(f"tempo must be {self.tempo_low:g} to {self.tempo_high:g} beats per minute, not {tempo:g}")
        position = (tempo - self.tempo_low) / (self.tempo_high - self.tempo_low)
        return 1 + min(int(position * self.tempo_bins), self.tempo_bins - 1)

    def decode(self, indices: Sequence[int]) -> Tags:
        """Tags of three indices; a tempo comes back as its bin's centre."""
        genre, mood, tempo = (int(i) for i in indices)
        width = (self.tempo_high - self.tempo_low) / self.tempo_bins
        return Tags(
            self.genres[genre - 1] if genre else None,
            self.moods[mood - 1] if mood else None,
            self.tempo_low + (tempo - 0.5) * width if tempo else None,
        )


def _index(kind: str, name: str | None, names: tuple[str, ...]) -> int:
    if name is None:
        return NULL
    if name not in names:
        raise TagError(f"unknown {kind} {name!r}; this model knows {', '.join(names)}")
    return 1 + names.index(name)


def null_tags(tags: Tensor) -> Tensor:
    """The null condition c_∅ of the shape of `tags` (B, 3)."""
    return torch.full_like(tags, NULL)


def drop_tags(tags: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Condition dropout for CFG: with probability `rate` an item loses all its tags, and with `rate` each tag alone.

    The second kind lets a user give any subset of the tags.
    """
    whole = torch.rand(len(tags), 1, generator=generator) < rate
    single = torch.rand(tags.shape, generator=generator) < rate
    return torch.where(whole | single, NULL, tags)


class TagEmbedding(nn.Module):
    """One learned embedding a tag; (B, 3) indices → (B, 3, width)."""

    def __init__(self, sizes: Sequence[int], width: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, width) for size in sizes)

    def forward(self, tags: Tensor) -> Tensor:
        """Embeddings, in column order."""
        return torch.stack([table(tags[:, i]) for i, table in enumerate(self.tables)], dim=1)
