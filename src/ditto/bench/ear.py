"""What tables hear in clips: Fréchet distances and CLAP scores in a named embedding, and the other
figures.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ditto.bench.report import Tensors
from ditto.bench.setups import Bench
from ditto.bench.tasks import sound
from ditto.errors import DittoError
from ditto.metrics.bootstrap import Interval, mean_interval, statistic_interval
from ditto.metrics.efficiency import steps_to_converge
from ditto.metrics.embeddings import listen
from ditto.metrics.frechet import Reference
from ditto.metrics.text_adherence import clap_scores, embed_clips
from ditto.models.clap import Clap
from ditto.models.classifier import ClipClassifier

FAD, CLAP, OWN_CLAP = "frechet_distance", "clap_score", "clap_score_optimised"
"""The last is by the CLAP that a text was optimised with."""
THRESHOLD = 2.0
"""τ of MS2C, dB² (DITTO, appendix L)."""
FEWEST = 8
"""Clips that a Fréchet distance takes at least; with so few it is far too high, and only equal
counts compare."""

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Ear:
    """The embedding that Fréchet distances are in, and CLAP scores.

    Attributes:
        bench: whose clips are heard.
        classifier: hears where there is no CLAP.
        judge: a CLAP that nothing was optimised against; without it, the bench's own hears.
    """

    bench: Bench
    classifier: ClipClassifier | None = None
    judge: Clap | None = None

    @property
    def clap(self) -> Clap | None:
        """The CLAP that hears, if there is one."""
        return self.judge or self.bench.clap

    @property
    def name(self) -> str:
        """The embedding, with the beginning of its weights' hash."""
        if self.clap is not None:
            return f"clap {self.clap.name} {self.clap.sha256[:12]}"
        return (
            f"classifier {self.classifier.sha256()[:12]}" if self.classifier is not None else "none"
        )

    def embed(self, audio: Tensor) -> Tensor:
        """Embeddings (N, D) of audio (N, samples) at the model's rate.

        Raises:
            DittoError: there is no ear.
        """
        model = self.bench.model
        if self.clap is not None:
            return embed_clips(self.clap, audio, model.spec.sample_rate)
        if self.classifier is None:
            raise DittoError(
                "no weights: a Fréchet distance needs a CLAP or a classifier, give --clap or --classifier"
            )
        return listen(self.classifier, model.bands.mel(model.encode(audio))).embeddings

    @cached_property
    def reference(self) -> Reference:
        """Real held-out clips."""
        return Reference(self.embed(self.bench.real.audio).double().numpy())

    def scores(self, embeddings: Tensor) -> Array:
        """CLAP score of every clip and its caption, (N,).

        Raises:
            DittoError: there is no CLAP.
        """
        if self.clap is None:
            raise DittoError(
                "no weights: a CLAP score needs a CLAP, train one with `ditto-music train clap`"
            )
        texts = [self.bench.tags(i).caption() for i in range(len(embeddings))]
        return clap_scores(self.clap, embeddings, texts).double().numpy()

    def scores_of(self, audio: Tensor) -> Array:
        """CLAP score of audio (N, samples) and its captions, (N,).

        Raises:
            DittoError: there is no CLAP.
        """
        if self.clap is None:
            raise DittoError(
                "no weights: a CLAP score needs a CLAP, train one with `ditto-music train clap`"
            )
        return self.scores(self.embed(audio))


@dataclass(frozen=True, eq=False)
class Found:
    """What the clips of a row came to.

    Attributes:
        tensors: of all clips.
        ear: hears them.
    """

    tensors: Tensors
    ear: Ear

    @cached_property
    def embeddings(self) -> Tensor:
        """(N, D) of the sounds."""
        return self.ear.embed(sound(self.tensors["audio"]))

    def values(self, measure: str) -> Array:
        """One value a clip; for a Fréchet distance the embeddings.

        Raises:
            DittoError: there is no ear for it, or too few clips.
        """
        if measure == FAD:
            if len(self.tensors["seconds"]) < FEWEST:
                raise DittoError(f"a Fréchet distance needs {FEWEST} clips or more")
            return self.embeddings.double().numpy()
        if measure == CLAP:
            return self.ear.scores(self.embeddings)
        if measure == OWN_CLAP:
            return Ear(self.ear.bench).scores_of(sound(self.tensors["audio"]))
        if measure == "seams_within_limit":
            jumps = self.tensors["seam_jumps"]
            limits = torch.tensor(
                [self.ear.bench.seam_limit(i) for i in range(len(jumps))], dtype=jumps.dtype
            )
            return (jumps <= limits[:, None]).double().mean(dim=1).numpy()
        if measure == "steps_to_converge":
            return steps_to_converge(self.tensors["losses"].T, THRESHOLD).double().numpy()
        values = self.tensors[measure].double()
        return values.reshape(len(values), -1).mean(dim=1).numpy()

    def interval(self, measure: str) -> Interval:
        """The figure with its interval."""
        values = self.values(measure)
        return (
            statistic_interval(self.ear.reference.distance, values)
            if measure == FAD
            else mean_interval(values)
        )
