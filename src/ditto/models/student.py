"""The student of a model: a denoiser that needs few steps, and its folder."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from torch import nn

from ditto.errors import ModelError, one_line
from ditto.models.folder import INDEX, load_part, model_folder, save_part, write_index
from ditto.paths import printable, shown

OLD_STEPS, MOST_STEPS = 2, 20
"""T' of a folder that does not say it, as those of version 0.1, and the largest."""
StudentSpacing = Literal["trailing", "few"]
KINDS = "cm", "ctm"
"""Of the students that a folder holds."""
OWN = "own"
"""Kind of a student that is the denoiser itself, which its makers taught few steps."""


@dataclass(frozen=True, eq=False)
class Student:
    """A few-step network distilled from a denoiser (DITTO-2).

    Attributes:
        network: ``(x_t, t, tags, w) -> output``; the denoiser itself of the kind `OWN`.
        kind: "cm", "ctm" or "own".
        guidance: range of the CFG scales w that it was trained with.
        teacher: `hash_weights` of the denoiser that it was distilled from; "" if unknown.
        steps: T', steps that a clip is decoded in by default.
        spacing: of its grids, see `Schedule.timesteps`; None is the schedule's own.
    """

    network: nn.Module
    kind: str
    guidance: tuple[float, float]
    teacher: str
    steps: int = OLD_STEPS
    spacing: StudentSpacing | None = None

    @property
    def own(self) -> bool:
        """Whether it is the denoiser itself."""
        return self.kind == OWN

    def save(self, folder: Path, card: str = "") -> str:
        """Write a folder with the student alone, for `MusicModel.with_student`.

        Args:
            folder: where; a model that was there is replaced.
            card: text of its README.md; none is written if empty.

        Returns:
            The SHA-256 of its weights.

        Raises:
            OutputError, ModelError: see `MusicModel.save`.
        """
        with model_folder(folder) as new:
            index = self.write(new)
            write_index(new, {"_class_name": "MusicStudent"} | index)
            if card:
                (new / "README.md").write_text(card, encoding="utf-8")
            return index["sha256"]["student"]

    def write(self, folder: Path) -> dict[str, Any]:
        """Write ``student/`` into a folder; return what the folder's index must say of it."""
        digest = save_part(folder, "student", self.network)
        return {"student": self.describe(), "sha256": {"student": digest}}

    def describe(self) -> dict[str, Any]:
        """Return the index's entry: class, kind, range of w and teacher."""
        return {
            "class": type(self.network).__name__,
            "kind": self.kind,
            "guidance": list(self.guidance),
            "teacher": self.teacher,
            "steps": self.steps,
            **({"spacing": self.spacing} if self.spacing else {}),
        }


def class_of(network: nn.Module) -> list[str]:
    """Return module and class, as the Hub's pipelines name their parts."""
    return [type(network).__module__, type(network).__name__]


def load_student(folder: Path, index: Mapping[str, Any]) -> Student:
    """Load the student in a folder, as its index describes it.

    Raises:
        ModelError: it is missing, damaged or not described.
    """
    try:
        entry = index["student"]
        low, high = (float(w) for w in entry["guidance"])
        kind, teacher, cls = str(entry["kind"]), str(entry["teacher"]), entry["class"]
        if kind not in KINDS or not 0 <= low <= high < math.inf:
            raise ValueError(f"there is no student of kind {shown(kind)} for w {low:g} to {high:g}")
        steps = int(entry.get("steps", OLD_STEPS))
        if not 1 <= steps <= MOST_STEPS:
            raise ValueError(f"steps must be between 1 and {MOST_STEPS}, not {steps}")
        spacing = entry.get("spacing")
        if spacing not in (None, *get_args(StudentSpacing)):
            raise ValueError(f"there is no spacing {shown(spacing)} of a student's steps")
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{printable(folder / INDEX)} does not describe its student: {one_line(error)}"
        ) from None
    network = load_part(folder, "student", cls, index)
    return Student(network, kind, (low, high), teacher, steps, spacing)
