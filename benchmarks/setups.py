"""What every table shares: methods as the papers name them, the models that play them, and the
clips made so far.

A clip is determined by a task, a setup and its number, whatever table asks for it. So clips are
kept under these, and a table that needs what another has made reads it.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from ditto.methods.ways import Method
from rich.console import Console
from rich.progress import track

from benchmarks.clips import RealClips, real_clips, weights_digest
from benchmarks.report import Partial, Tensors, machine, timed
from ditto.controls.base import Control
from ditto.controls.weights import WITH_MELODY, WITH_OTHERS, papers_iterations
from ditto.data.dataset import read_labels
from ditto.errors import ModelError
from ditto.eval.musicgen import MusicGen
from ditto.eval.seams import typical_jumps
from ditto.models.clap import Clap
from ditto.models.conditioning import Tags
from ditto.models.controlnet import adapter_of
from ditto.models.model import MusicModel
from ditto.models.network import hash_weights
from ditto.request import Request

Base = Literal["window", "long", "unconditional"]
BASES: dict[Base, str] = {
    "window": "the model of the bench",
    "long": "a model with a window of 24 s: give its folder with --long",
    "unconditional": "a model trained without tags, with a student: give its folder with --unconditional",
}
REFERENCE = 128
"""Real clips in each half of the reference of Fréchet distances, if the held-out data has so
many."""
NOT_OF_REQUESTS = ("how", "size")
"""Settings of setups that say which inversion, or which MusicGen."""
VERSION = 1
"""Of what tasks make: raise it when they change, and no old clip is used again."""


@dataclass(frozen=True)
class Setup:
    """A method as a table names it.

    Attributes:
        name: in rows.
        method: as in `ditto.request.Request`.
        settings: further fields of the request, and `NOT_OF_REQUESTS`.
        student: the kind of student that it needs.
        base: the model that it plays on.
        few: whether a clip takes so long that fewer are made.
    """

    name: str
    method: Method
    settings: tuple[tuple[str, Any], ...] = ()
    student: Literal["cm", "ctm"] | None = None
    base: Base = "window"
    few: bool = False

    def but(
        self, name: str, *, few: bool | None = None, base: Base | None = None, **settings: Any
    ) -> "Setup":
        """The same with another name and further settings."""
        merged = tuple(sorted((dict(self.settings) | settings).items()))
        return replace(
            self,
            name=name,
            settings=merged,
            few=self.few if few is None else few,
            base=base or self.base,
        )


@dataclass(frozen=True)
class Task:
    """Something that clips are made for.

    Attributes:
        name: in rows, and of the clips kept.
        make: tensors of clip i, the first dimension 1: figures (1,), `audio` as `pcm` gives it,
            what else is needed.
        hears_text: whether CLAP takes part.
        balanced: whether it has several controls, which `ditto.controls.weights` weighs.
    """

    name: str
    make: "Callable[[Bench, int, Setup], Tensors]"
    hears_text: bool = False
    balanced: bool = False


@dataclass(frozen=True, eq=False)
class Bench:
    """Models, targets and clips of a bench.

    Attributes:
        model: the base, with its CTM student and its ControlNet if it has them.
        heldout: data folder of real clips: their tags, what is edited, and the reference of Fréchet
            distances.
        seed: clip i draws its targets and x_T from ``seed + i``.
        cm: the model with a CM student.
        others: further bases.
        clap: the ear for texts.
        musicgen: for text adherence.
        overrides: fields of every request, e.g. fewer iterations.
        cache: where finished clips are kept.
        resume: whether to use what an earlier run finished.
        show: progress.
        threads: that clips are made on, if not as many as torch has here.
    """

    model: MusicModel
    heldout: Path
    seed: int = 0
    cm: MusicModel | None = None
    others: Mapping[Base, MusicModel] = field(default_factory=dict)
    clap: Clap | None = None
    musicgen: MusicGen | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    cache: Path = Path("runs/bench")
    resume: bool = True
    show: bool = True
    threads: int | None = None
    _parts: dict[tuple[str, Setup], Partial] = field(default_factory=dict, init=False, repr=False)
    _made: set[tuple[str, Setup, int]] = field(default_factory=set, init=False, repr=False)

    def player(self, setup: Setup) -> MusicModel:
        """The model that a setup plays on.

        Raises:
            ModelError: it needs weights that are not there.
        """
        if setup.base != "window":
            found = self.others.get(setup.base)
        else:
            found = self.cm if setup.student == "cm" else self.model
        if found is None and setup.base != "window":
            raise ModelError(f"no weights: this row needs {BASES[setup.base]}")
        if setup.student and (
            found is None or found.distilled is None or found.distilled.kind != setup.student
        ):
            kind = setup.student
            raise ModelError(
                f"no weights: there is no {kind.upper()} student, distil one with `ditto-music distill {kind}`"
            )
        assert found is not None
        if setup.method == "controlnet":
            try:
                adapter_of(found)
            except ModelError as error:
                raise ModelError(f"no weights: {error}") from None
        return found

    @cached_property
    def real(self) -> RealClips:
        """Real clips of the model's window."""
        return real_clips(
            self.heldout, self.model.spec, self.model.vocabulary, REFERENCE, self.seed
        )

    @cached_property
    def long_real(self) -> RealClips:
        """Real clips of the long base's window."""
        model = self.others["long"]
        return real_clips(self.heldout, model.spec, model.vocabulary, REFERENCE, self.seed)

    @cached_property
    def _jumps(self) -> list[np.ndarray]:
        """The spectral jumps of every real clip, in dB."""
        return [typical_jumps(clip, self.model.spec) for clip in self.real.audio]

    def seam_limit(self, i: int) -> float:
        """The 95th percentile of the spectral jumps, in dB, that real clips of clip i's genre make
        anyway.
        """
        alike = self.real.tags[:, 0] == self.real.tags[i, 0]
        return float(
            np.percentile(
                np.concatenate([self._jumps[n] for n in alike.nonzero()[:, 0].tolist()]), 95
            )
        )

    def clips(self, setup: Setup) -> RealClips:
        """Real clips of the window that a setup plays in; clip i is the same however many there
        are.
        """
        return self.long_real if setup.base == "long" else self.real

    def tags(self, i: int) -> Tags:
        """Tags of clip i: those of a held-out piece."""
        return self.model.vocabulary.decode(self.real.tags[i].tolist())

    def request(
        self, i: int, setup: Setup, controls: Sequence[Control] = (), **settings: Any
    ) -> Request:
        """Clip i by a setup."""
        known = {name: value for name, value in setup.settings if name not in NOT_OF_REQUESTS}
        given = {
            "tags": self.tags(i),
            "iterations": papers_iterations(controls),
            "guidance": self.model.guidance,
        }
        whole: dict[str, Any] = given | dict(self.overrides) | known | settings
        return Request(controls=tuple(controls), seed=self.seed + i, method=setup.method, **whole)

    def gathered(self, task: Task, setup: Setup, count: int) -> Tensors:
        """The first `count` clips of a task by a setup.

        Raises:
            DittoError: it cannot be done with these models.
        """
        self.player(setup)
        name = f"{task.name}, {setup.name}"
        numbers = track(
            range(count),
            description=name,
            disable=not self.show,
            transient=True,
            console=Console(stderr=True),
        )
        found = [self.clip(task, setup, i) for i in numbers]
        return {key: torch.cat([f[key] for f in found]) for key in found[0]}

    def clip(self, task: Task, setup: Setup, i: int) -> Tensors:
        """One clip, made or read."""
        if (task.name, setup) not in self._parts:
            self._parts[task.name, setup] = Partial(
                self.cache, "clips", self._identity(task, setup), batch=1
            )
        parts, key = self._parts[task.name, setup], (task.name, setup, i)
        parts.resume = self.resume or key in self._made
        self._made.add(key)
        return parts.get(f"{i:04d}", lambda: timed(lambda: task.make(self, i, setup)))

    def _identity(self, task: Task, setup: Setup) -> dict[str, Any]:
        """Everything that determines a clip and what it took."""
        player = self.player(setup)
        request = self.request(0, setup).resolved(player)
        about = {
            key: value
            for key, value in request.describe().items()
            if key not in ("tags", "controls", "seed")
        }
        adapter = (
            hash_weights(player.controlnet)
            if setup.method == "controlnet" and player.controlnet
            else None
        )
        where = {key: value for key, value in machine().items() if key in ("cpu", "threads", "gpu")}
        where |= {} if self.threads is None else {"threads": self.threads}
        settings = [
            [name, repr(value)] for name, value in (*setup.settings, *self.overrides.items())
        ]
        return {
            "task": task.name,
            "settings": settings,
            "request": about,
            "adapter": adapter,
            "machine": where,
            "model": weights_digest(player),
            "musicgen": self.musicgen and self.musicgen.name,
            "seed": self.seed,
            "clap": self.clap.sha256 if task.hears_text and self.clap else None,
            "heldout": self._digest,
            "version": VERSION,
        } | ({"balance": [WITH_MELODY, WITH_OTHERS]} if task.balanced else {})

    @cached_property
    def _digest(self) -> str:
        """Hash over the held-out pieces."""
        return hashlib.sha256(
            json.dumps([piece["sha256"] for piece in read_labels(self.heldout)]).encode()
        ).hexdigest()


TTM = Setup("Default TTM", "none")
NAIVE, MD, MD50 = Setup("Naive", "naive"), Setup("MD", "multidiffusion"), Setup("MD-50", "md50")
GG, FREEDOM = Setup("GG", "gg"), Setup("FreeDoM", "freedom")
CONTROLNET = Setup("ControlNet", "controlnet")
CHECKPOINTED, DOODL = Setup("DITTO", "ditto"), Setup("DOODL", "doodl", few=True)
DITTO = CHECKPOINTED.but("DITTO", checkpointing=False)
"""DITTO keeps its activations where memory is not what is compared: the same clips in two thirds of
the time."""
CTM, CM = Setup("DITTO-2 CTM", "ditto2", student="ctm"), Setup("DITTO-2 CM", "ditto2", student="cm")
"""DITTO-2 as a user gets it."""
PUBLISHED: dict[str, Any] = {"corrections": 0, "surrogate_steps": 1, "decode_steps": 2}
PUBLISHED_CTM, PUBLISHED_CM = CTM.but(CTM.name, **PUBLISHED), CM.but(CM.name, **PUBLISHED)
"""DITTO-2 as its paper's Table 1 has it."""
