"""Text: the output's CLAP embedding turns towards that of a description (DITTO-2 §5.4)."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ditto.controls.base import Control, Effort, Option, ParseContext
from ditto.controls.numbers import checked_number
from ditto.controls.output import Output
from ditto.errors import ControlError
from ditto.models.clap import Clap
from ditto.models.model import MusicModel
from ditto.paths import shown
from ditto.tables import Constant

ENOUGH = 0.75
"""Cosine at which a text is met by the embedded CLAP. Another of its kind, the judge, gives real
music and its own caption 0.65 (docs/results/music.json)."""


@dataclass(frozen=True, init=False)
class Text(Control):
    """f = CLAP of V(x_0), y = CLAP of a text, 𝓛 = max(0, enough − cos(f, y)), in [0, 2].

    DITTO-2's is 1 − cos, enough = 1: it goes on when a clip fits its text better than real music
    does, and the clip becomes less like music. The base model need not know texts, nor tags.

    Attributes:
        text: the description, e.g. "a calm jazz trio with vibraphone".
        source: a `Clap`, the folder or Hub id of one, or None for the embedded one.
        domain: what CLAP hears in the loss: the "sound", or the "mel" of x_0 (or a head reads what
            it would hear), which spares the vocoder. Errors are those of the sound in either case.
        offset: what CLAP's front end, or CLAP, gives of the sound minus what it gives of x_0, by
            `calibrate`.
    """

    text: str
    source: Clap | str | os.PathLike[str] | None
    domain: Literal["sound", "mel"]
    enough: float | None
    offset: Tensor | None = field(compare=False, repr=False)
    kind = "text"
    corrected: ClassVar[Effort] = Effort(40, 0.3, 0.05, 64)
    help = "Describe the music, e.g. 'a calm jazz trio with vibraphone' (by CLAP)."
    noun = "a text"
    options = (
        Option("clap", str, "The CLAP that hears --text: a folder or a Hub id; else the embedded."),
        Option("text_enough", float, "A cosine that is enough; 1 asks for all there is."),
    )

    def __init__(
        self,
        text: str,
        clap: Clap | str | os.PathLike[str] | None = None,
        domain: Literal["sound", "mel"] = "sound",
        enough: float | None = None,
    ) -> None:
        """Take a description; CLAP is loaded when it is first needed.

        Raises:
            ControlError: there is no text, the domain is unknown, or what is enough is no cosine.
        """
        if domain not in ("sound", "mel"):
            raise ControlError(f"a text is heard in 'sound' or 'mel', not {shown(domain)}")
        if not isinstance(text, str):
            raise ControlError(f"a text is needed, not {shown(text)}")
        if not text.strip():
            raise ControlError(
                "the text is empty: describe the music, e.g. 'a calm jazz trio with vibraphone'"
            )
        if enough is not None:
            enough = checked_number("what is enough of a text", enough, -1, 1, left_out="low")
        object.__setattr__(self, "text", text)
        object.__setattr__(self, "source", clap)
        object.__setattr__(self, "domain", domain)
        object.__setattr__(self, "enough", enough)
        object.__setattr__(self, "offset", None)

    @classmethod
    def parse(cls, text: str, context: ParseContext) -> "Text":
        """Return the control that ``--text`` asks for."""
        options = context.options
        return cls(text, options.get("clap"), enough=options.get("text_enough"))

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

    @property
    def goal(self) -> float:
        """The cosine at which the loss is done."""
        if self.enough is not None:
            return self.enough
        return ENOUGH if self.clap.name == "embedded" else 1.0

    def loss(self, output: Output) -> Tensor:
        """Return 𝓛 of each item, shape (B,)."""
        return (self.goal - self._heard(output)).clamp(min=0)

    def _heard(self, output: Output) -> Tensor:
        """Return the cosine in the loss's domain."""
        if self.domain == "sound":
            return self.cosine(output)
        read, embed = self._estimate(output)
        heard = embed(read if self.offset is None else read + self.offset)
        return heard @ self.target.to(heard)

    def _estimate(self, output: Output) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Return what is heard of x_0, and how it becomes an embedding.

        It is the front end's log-mels; or the embedding itself, read by a head of this CLAP.
        """
        read = self._head(output)
        if read is not None:
            return read, lambda embedding: normalize(embedding, dim=-1)
        if output.model.has_mel:
            features = self.clap.front_end.of_mel(output.mel, output.model.spec)
        else:
            features = self.clap.front_end(output.audio, output.model.spec.sample_rate)
        return features, self.clap.embed_features

    def _head(self, output: Output) -> Tensor | None:
        readers = output.model.readers
        known = readers is not None and readers.entry.get("clap") == self.clap.sha256
        return output.model.read(output.x_0, "clap") if known else None

    def proxy(self) -> "Text":
        """Return the same control, heard off x_0."""
        return self._in("mel")

    def calibrate(self, decoded: Output) -> "Text":
        """Return the estimating control with sound minus estimate of `decoded` as its offset."""
        if self.domain == "sound":
            return self
        with torch.no_grad():
            estimate, _ = self._estimate(decoded)
            sound = self.clap.front_end(decoded.audio, decoded.model.spec.sample_rate)
            if self._head(decoded) is not None:
                sound = self.clap.embed_features(sound)
        return self._in("mel", sound - estimate)

    def _in(self, domain: Literal["sound", "mel"], offset: Tensor | None = None) -> "Text":
        """Return the control in a domain; CLAP and what was embedded are shared."""
        control = Text(self.text, self.source, domain, self.enough)
        object.__setattr__(control, "offset", offset)
        for name in ("clap", "target"):
            if name in vars(self):
                vars(control)[name] = vars(self)[name]
        return control

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
            "enough": self.goal,
            **({} if self.domain == "sound" else {"domain": self.domain}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Text":
        """Return the control that `to_dict` wrote with the embedded CLAP.

        Raises:
            ValueError: it listened with another.
        """
        if values["clap"] != "embedded":
            raise ValueError("the description has another CLAP")
        # before there was an end, the loss was 1 − cos
        enough = values.get("enough", 1.0)
        return cls(values["text"], domain=values.get("domain", "sound"), enough=enough)
