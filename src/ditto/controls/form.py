"""A form: letters and how long each section is, as in "ABA" or "A:4 B:2 A:2"."""

import math
import re
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ditto.errors import ControlError
from ditto.paths import printable

MAX_SECTIONS = 16


_SECTION = re.compile(r"([A-Za-z])(?::(\d+(?:\.\d*)?|\d*\.\d+))?")


@dataclass(frozen=True)
class Form:
    """Sections in order.

    Attributes:
        sections: (letter, length); lengths are shares of the clip, whatever they add up to.
        name: label, e.g. the text that it was read from.
    """

    sections: tuple[tuple[str, float], ...]
    name: str = field(default="form", compare=False)

    def __post_init__(self) -> None:
        """Check the sections.

        Raises:
            ControlError: too few, too many, or a length that is not positive.
        """
        if not 2 <= len(self.sections) <= MAX_SECTIONS:
            raise ControlError(
                f"a form needs 2 to {MAX_SECTIONS} sections, not {len(self.sections)}"
            )
        for letter, length in self.sections:
            if not 0 < length < math.inf:
                raise ControlError(
                    f"section {letter} of the form must have a length above 0, not {length:g}"
                )

    def check(self, seconds: float) -> None:
        """Refuse sections that are shorter than a tenth of a second.

        Args:
            seconds: length of all of them.

        Raises:
            ControlError: one is.
        """
        lengths = [length for _, length in self.sections]
        shortest = min(lengths) / sum(lengths) * seconds
        if shortest < 0.1:
            raise ControlError(
                f"the form's shortest section would last {shortest:.2f} s: give fewer, or longer "
                "ones"
            )

    def within(self, seconds: float, clip: float) -> "Form":
        """Return the form whose sections lie within the first seconds of a longer clip.

        The last goes on to the clip's end, where it need not count.
        """
        whole = sum(length for _, length in self.sections)
        letter, length = self.sections[-1]
        length += whole * max(clip - seconds, 0.0) / seconds
        return replace(self, sections=(*self.sections[:-1], (letter, length)))

    def labels(self, frames: int) -> np.ndarray:
        """Return the letter (as a number) of each of `frames` frames, shape (frames,)."""
        return self.labels_at((np.arange(frames) + 0.5) / frames)

    def labels_at(self, share: np.ndarray) -> np.ndarray:
        """Return the letter (as a number) at each share of the whole, 0 to 1; of its shape."""
        letters = sorted({letter for letter, _ in self.sections})
        ends = np.cumsum([length for _, length in self.sections])
        section = np.searchsorted(ends / ends[-1], share).clip(max=len(self.sections) - 1)
        return np.array([letters.index(letter) for letter, _ in self.sections])[section]

    def matrix(self, frames: int) -> Tensor:
        """Return 1 where two frames have one letter, else 0; shape (frames, frames), float32."""
        labels = torch.from_numpy(self.labels(frames))
        return (labels[:, None] == labels[None]).float()


def parse_form(text: str) -> Form:
    """Read a form: "ABA", or with lengths "A:2 B:4 A:2".

    Raises:
        ControlError: if it holds something else than letters, or has too many sections.
    """
    words = list(text.strip()) if text.strip().isalpha() else text.replace(",", " ").split()
    found = [_SECTION.fullmatch(word) for word in words]
    if not found or not all(found):
        wrong = next((word for word, match in zip(words, found, strict=True) if not match), text)
        raise ControlError(
            f"cannot read {printable(wrong)!r} in the form: write letters, 'ABA', or lengths, "
            "'A:2 B:4 A:2'"
        )
    return Form(tuple((m[1].upper(), float(m[2] or 1)) for m in found if m), text)
