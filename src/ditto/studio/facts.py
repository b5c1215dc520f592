"""What the page says before PyTorch is imported: of the model, and of what was asked wrongly."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ditto.paths import printable

if TYPE_CHECKING:
    from ditto.studio.work import Studio

EMBEDDED = Path(__file__).parents[1] / "weights" / "base" / "model_index.json"
"""Index of the model that is installed with the package."""
METHODS = ("ditto2", "ditto", "doodl", "best-of", "freedom", "latch", "gg", "native", "none")
"""Methods that the page offers: the others need a ControlNet, or a region to keep."""
LONGEST = 900.0
"""Seconds of a whole that the page draws, and takes a tune for."""


@dataclass(frozen=True)
class Facts:
    """What the page says of a model.

    Attributes:
        genres, moods: its tags.
        tempo: the slowest and the fastest that it knows, beats per minute.
        window: length of its window in seconds.
        steered: whether it takes tags or prompts at all.
    """

    genres: tuple[str, ...]
    moods: tuple[str, ...]
    tempo: tuple[float, float]
    window: float
    steered: bool = True

    @classmethod
    def of(cls, studio: "Studio") -> "Facts":
        """Return those of a studio's model."""
        words = studio.model.vocabulary
        tempo = words.tempo_low, words.tempo_high
        return cls(
            tuple(words.genres), tuple(words.moods), tempo, studio.window, steered=not words.empty
        )

    @classmethod
    def embedded(cls, file: Path = EMBEDDED) -> "Facts | None":
        """Return those of the embedded model, from its index; None if that does not say.

        What is wrong with it is then said when the model is loaded.
        """
        try:
            index = json.loads(file.read_text(encoding="utf-8"))
            words, spec = index["vocabulary"], index["spec"]
            return cls(
                tuple(words["genres"]),
                tuple(words["moods"]),
                (words["tempo_low"], words["tempo_high"]),
                spec["clip_frames"] * spec["hop"] / spec["sample_rate"],
            )
        except (OSError, ValueError, KeyError, TypeError, ArithmeticError):
            return None


def first_fault(faults: Sequence[Mapping[str, Any]]) -> str:
    """Return the first of pydantic's faults, in one line."""
    place = [str(part) for part in faults[0]["loc"] if part not in ("query", "path")]
    said = faults[0]["msg"]
    return f"{printable(' '.join(place))[:80] or 'the wish'}: {said[:1].lower()}{said[1:]}"
