"""Methods as the papers name them, and the models that they run on.

A variant is a method object with its settings, and which base and student it needs.
"""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal

import torch

from ditto.errors import ModelError
from ditto.eval.musicgen import MusicGen
from ditto.methods import BestOf, Method
from ditto.methods.controlnet import MusicControlNet
from ditto.methods.ditto import Ditto
from ditto.methods.ditto2 import Ditto2
from ditto.methods.doodl import Doodl
from ditto.methods.guidance import FreeDoM, GuidanceGradients
from ditto.methods.latch import LatCH
from ditto.methods.masking import MultiDiffusion, MultiDiffusion50, NaiveMasking
from ditto.methods.none import Uncontrolled
from ditto.models.clap import EMBEDDED, Clap
from ditto.models.conditioning import Tags
from ditto.models.controlnet import adapter_of, with_controlnet
from ditto.models.device import native_precision
from ditto.models.hub import load
from ditto.models.model import MusicModel
from ditto.models.network import hash_weights

__all__ = ["Models", "Variant", "Weights", "load", "native_precision", "weights_digest"]

Source = str | Path | None
Base = Literal["window", "long", "unconditional"]
NEEDED: dict[Base, str] = {
    "window": "the model that is measured",
    "long": "a model with a window of 24 s: give its folder with --long",
    "unconditional": "a model trained without tags, with a student: give its folder with "
    "--unconditional",
}


@dataclass(frozen=True)
class Variant:
    """A method as a table names it.

    Attributes:
        name: in rows.
        method: with its settings.
        student: the kind of student that it needs.
        base: the model that it runs on.
        clips: of a row by default, where a clip takes minutes (``--slow-count``); otherwise as many
            as the table has.
        guidance: CFG scale w, if not that of all rows.
        tags: of every clip, if not the clip's own.
        through: whose optimised x_T the method decodes, if not its own.
        other_noise: decode with other noise than the clip was optimised with.
        as_long_as: another variant, a clip of which takes as long: how many candidates a `BestOf`
            has time for on this machine, see `Bench.settled`.
    """

    name: str
    method: Method
    student: Literal["cm", "ctm"] | None = None
    base: Base = "window"
    clips: int | None = None
    guidance: float | None = None
    tags: Tags | None = None
    through: Method | None = None
    other_noise: bool = False
    as_long_as: "Variant | None" = None

    def with_(self, **changes: Any) -> "Variant":
        """Return the variant with some fields changed, its own or its method's."""
        own = {key: value for key, value in changes.items() if key in VARIANT_FIELDS}
        settings = {key: value for key, value in changes.items() if key not in VARIANT_FIELDS}
        method = replace(own.pop("method", self.method), **settings)
        return replace(self, method=method, **own)

    def optimised_alike(self) -> "Variant | None":
        """Return the variant whose optimisation this one shares, if only its decoding differs."""
        method = self.method
        if self.other_noise:
            return replace(self, other_noise=False)
        if self.through is not None:
            return replace(self, method=self.through, through=None)
        if not isinstance(method, Ditto2) or method.corrections:
            return None
        alike = self.with_(decode_steps=1, gamma=None)
        return None if alike == self else alike


VARIANT_FIELDS = {f.name for f in fields(Variant)}

MINUTE, MINUTES = 16, 8
"""Clips a row of what takes a minute a clip, as DITTO does, and of what takes several."""

TTM = Variant("Default TTM", Uncontrolled())
"""Without control, by the model's own sampler."""
CHAIN = Variant("Default TTM", Uncontrolled(sampler="ddim"))
"""Without control, by the papers' chain, which the methods that steer the base have too."""
STUDENT = Variant("no control, student", BestOf(count=1), student="ctm")
"""The same generator as DITTO-2's: what it costs to be controlled is held against this."""
NAIVE, MD = Variant("Naive", NaiveMasking()), Variant("MD", MultiDiffusion())
MD50 = Variant("MD-50", MultiDiffusion50())
MD_ONE = Variant("MD, one noise", MultiDiffusion(one_noise=True))
MD50_ONE = Variant("MD-50, one noise", MultiDiffusion50(one_noise=True))
"""The papers' MultiDiffusion, and without its lack of noise in the region."""
GG, FREEDOM = Variant("GG", GuidanceGradients()), Variant("FreeDoM", FreeDoM())
LATCH = Variant("LatCH", LatCH())
CONTROLNET = Variant("ControlNet", MusicControlNet())
DOODL = Variant("DOODL", Doodl(), clips=MINUTES)
CHECKPOINTED = Variant("DITTO", Ditto(), clips=MINUTE)
DITTO = CHECKPOINTED.with_(checkpointing=False)
"""DITTO keeps its activations where memory is not what is compared: the same clips in two thirds of
the time."""
CTM = Variant("DITTO-2 CTM", Ditto2(), student="ctm")
CM = Variant("DITTO-2 CM", Ditto2(), student="cm")
"""DITTO-2 as a user gets it, corrected."""
PUBLISHED_CTM, PUBLISHED_CM = (
    each.with_(corrections=0, surrogate_steps=1, decode_steps=2) for each in (CTM, CM)
)
"""DITTO-2 as its paper's Table 1 has it: M = 1, T' = 2."""


def searched(other: Variant) -> Variant:
    """Return the search over seeds, without optimising, that takes as long as a variant's clip."""
    return Variant(
        "best of N, equal time", BestOf(), "ctm", base=other.base, as_long_as=other, tags=other.tags
    )


@dataclass(frozen=True, eq=False)
class Models:
    """What variants run on.

    Attributes:
        model: the base, with its CTM student and its ControlNet if it has them.
        cm: the base with a CM student.
        others: further bases.
        clap: the CLAP that texts are optimised with.
        musicgen, musicgen_melody: for text adherence.
        load_seconds: that loading the base took.
    """

    model: MusicModel
    cm: MusicModel | None = None
    others: Mapping[Base, MusicModel] = field(default_factory=dict)
    clap: Clap | None = None
    musicgen: MusicGen | None = None
    musicgen_melody: MusicGen | None = None
    load_seconds: float = 0.0

    def of(self, variant: Variant) -> MusicModel:
        """Return the model that a variant runs on.

        Raises:
            ModelError: it needs weights that are not there.
        """
        model = self.cm if variant.student == "cm" else self.model
        if variant.base != "window":
            model = self.others.get(variant.base)
            if model is None:
                raise ModelError(f"no weights: this row needs {NEEDED[variant.base]}")
        student = None if model is None or model.distilled is None else model.distilled.kind
        if model is None or (variant.student and student != variant.student):
            raise ModelError(
                f"no weights: there is no {(variant.student or '').upper()} student, distil one "
                f"with `ditto-music distill {variant.student}`"
            )
        if isinstance(variant.method, MusicControlNet):
            try:
                adapter_of(model)
            except ModelError as error:
                raise ModelError(f"no weights: {error}") from None
        return model

    def identity(
        self, variant: Variant, *, texts: bool = False, held: bool = False
    ) -> dict[str, Any]:
        """Return the hashes of everything that a variant runs on, with the precision.

        Args:
            variant: what runs.
            texts: whether CLAP and MusicGen take part.
            held: whether clips are held to their tags, by the embedded CLAP.
        """
        model = self.of(variant)
        adapted = isinstance(variant.method, MusicControlNet) and model.controlnet is not None
        readers = {
            "clap": self.clap and self.clap.sha256,
            "musicgen": self.musicgen and self.musicgen.name,
            "musicgen_melody": self.musicgen_melody and self.musicgen_melody.name,
        }
        return {
            "model": weights_digest(model),
            **({"heads": model.readers.sha256} if model.readers else {}),
            "adapter": hash_weights(model.controlnet) if adapted else None,  # pyright: ignore[reportArgumentType]
            **(readers if texts else {}),
            **({"held_by": embedded_clap()} if held else {}),
        }


@dataclass(frozen=True)
class Weights:
    """Where everything is that tables need; None is the embedded one, or none.

    Attributes:
        model: the base, a folder or Hub id.
        device: "auto", "cpu" or "cuda".
        cm: folder of a CM student.
        controlnet: folder of an adapter.
        long: a base of 24 s.
        unconditional: a base without tags, with a student.
        text_clap: a folder or Hub id: what texts are optimised with.
        musicgen, musicgen_melody: folders or Hub ids.
    """

    model: str | None = None
    device: str = "cpu"
    cm: Source = None
    controlnet: Source = None
    long: Source = None
    unconditional: Source = None
    text_clap: str | None = None
    musicgen: str | None = None
    musicgen_melody: str | None = None

    def load(self) -> Models:
        """Load all of it.

        Raises:
            ModelError: something that was named cannot be loaded.
        """
        device, started = checked_device(self.device), time.perf_counter()
        model = load(self.model, device=device)
        seconds = time.perf_counter() - started
        model = with_controlnet(model, self.controlnet) if self.controlnet else model
        sources: dict[Base, Source] = {"long": self.long, "unconditional": self.unconditional}
        has_clap = self.text_clap is not None or (EMBEDDED / "model.safetensors").is_file()
        return Models(
            model,
            cm=model.with_student(self.cm) if self.cm else None,
            others={base: load(s, device=device) for base, s in sources.items() if s is not None},
            clap=Clap.load(self.text_clap) if has_clap else None,
            musicgen=MusicGen.load(self.musicgen) if self.musicgen else None,
            musicgen_melody=MusicGen.load(self.musicgen_melody) if self.musicgen_melody else None,
            load_seconds=seconds,
        )


def checked_device(name: str) -> torch.device:
    """Return the device of a name; "auto" is the GPU if there is one.

    Raises:
        ModelError: it is unknown, or not there.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ModelError(f"unknown device {name!r}: choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ModelError("there is no CUDA device here: choose --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


@cache
def embedded_clap() -> str:
    """Return the hash of the CLAP that clips are held to their tags by."""
    return Clap.load().sha256


@lru_cache(maxsize=16)
def weights_digest(model: MusicModel) -> str:
    """Return the model's hash, or one over its weights if it was never saved, with its precision.

    Weights that were never saved may carry a student, which then counts too.
    """
    precision = f" {str(model.precision).removeprefix('torch.')}"
    if model.sha256:
        return model.sha256 + precision
    digest = hashlib.sha256()
    for part in model.parts():
        for name, value in sorted(part.state_dict().items()):
            digest.update(name.encode() + value.detach().cpu().numpy().tobytes())
    return digest.hexdigest() + precision
