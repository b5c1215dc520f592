"""Text: the output's CLAP embedding turns towards that of a description (DITTO-2 §5.4)."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ditto.controls.base import Control, Option, Output, ParseContext
from ditto.errors import ControlError
from ditto.models.clap import Clap
from ditto.models.model import MusicModel
from ditto.paths import shown
from ditto.tables import Constant


@dataclass(frozen=True, init=False)
class Text(Control):
    """f = CLAP of V(x_0), y = CLAP of a text, 𝓛 = 1 − cos(f, y), in [0, 2].

    The base model need not know texts, nor tags.

    Attributes:
        text: the description, e.g. "a calm jazz trio with vibraphone".
        source: a `Clap`, the folder or Hub id of one, or None for the embedded one.
    """

    text: str
    source: Clap | str | os.PathLike[str] | None
    kind = "text"
    help = "Describe the music, e.g. 'a calm jazz trio with vibraphone' (by CLAP)."
    noun = "a text"
    options = (
        Option("clap", str, "The CLAP that hears --text: a folder or a Hub id; else the embedded."),
    )

    def __init__(self, text: str, clap: Clap | str | os.PathLike[str] | None = None) -> None:
        """Take a description; CLAP is loaded when it is first needed.

        Raises:
            ControlError: there is no text.
        """
        if not isinstance(text, str):
            raise ControlError(f"a text is needed, not {shown(text)}")
        if not text.strip():
            raise ControlError(
                "the text is empty: describe the music, e.g. 'a calm jazz trio with vibraphone'"
            )
        object.__setattr__(self, "text", text)
        object.__setattr__(self, "source", clap)

    @classmethod
    def parse(cls, text: str, context: ParseContext) -> "Text":
        """Return the control that ``--text`` asks for."""
        return cls(text, context.options.get("clap"))

    @cached_property
    def clap(self) -> Clap:
        """CLAP, loaded when first needed."""
        return self.source if isinstance(self.source, Clap) else Clap.load(self.source)

    @cached_property
    def target(self) -> Tensor:
        """The unit vector y of the text, shape (D,)."""
        # Left when made first within inference mode, such a tensor could not take part in autograd
        # later.
        with torch.inference_mode(False), torch.no_grad():
            return self.clap.embed_text([self.text])[0]

    @cached_property
    def _constant(self) -> Constant:
        return Constant(self.target)

    def cosine(self, output: Output) -> Tensor:
        """Return the CLAP score cos(f, y) of each item, shape (B,)."""
        heard = self.clap.embed_audio(output.audio, output.model.spec.sample_rate)
        return heard @ self._constant.like(heard)

    def loss(self, output: Output) -> Tensor:
        """Return 𝓛 of each item, shape (B,)."""
        return 1 - self.cosine(output)

    def errors(self, output: Output) -> dict[str, Tensor]:
        """Return the CLAP score, in [−1, 1]; higher is better."""
        return {"clap_score": self.cosine(output)}

    def check(self, model: MusicModel, frames: int) -> None:
        """Load CLAP and refuse a text that it cannot read.

        Raises:
            ControlError: the text is too long, or CLAP knows none of its words.
            ModelError: CLAP cannot be loaded.
        """
        _ = self.target
        self.clap.to(model.device)

    def to_dict(self) -> dict[str, Any]:
        """Return the text, the CLAP used, and the words that it does not know."""
        clap = self.clap
        return {
            "control": self.kind,
            "text": self.text,
            "clap": clap.name,
            "clap_sha256": clap.sha256,
            "unknown_words": clap.unknown_words(self.text),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Text":
        """Return the control that `to_dict` wrote with the embedded CLAP.

        Raises:
            ValueError: it listened with another.
        """
        if values["clap"] != "embedded":
            raise ValueError("the description has another CLAP")
        return cls(values["text"])
