"""Pulls towards what the model knows: terms that add to any objective.

    objective = Melody.from_notes("C4:1 E4:1") + 0.1 * LatentNorm()

A control follows its target wherever x_T has to go, also to where the model makes no music any
more. These terms ask nothing of the sound: they keep x_T like the noise that the model was trained
on, or the clip like the one without control. Methods that have no single x_T (guidance) get nothing
of the first two.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Integral
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d, avg_pool1d

from ditto.audio.features import mel_db
from ditto.controls.base import Control, Effort
from ditto.controls.output import Output
from ditto.errors import ControlError
from ditto.models.clap import Clap
from ditto.models.model import MusicModel
from ditto.paths import shown
from ditto.tables import table


class Pull(Control):
    """A term without a target in the sound."""

    iterations: ClassVar[int] = 1
    corrected: ClassVar[Effort] = Effort(1, 0.4)
    noun = "a pull"

    def check(self, model: MusicModel, frames: int) -> None:
        """Take any clip."""

    def errors(self, output: Output) -> dict[str, Tensor]:
        """Return the loss, where x_T is known."""
        return {} if output.x_T is None else {self.kind.replace("-", "_"): self.loss(output)}

    def to_dict(self) -> dict[str, Any]:
        """Return the kind."""
        return {"control": self.kind}


@dataclass(frozen=True)
class LatentNorm(Pull):
    """The norm of x_T is that of noise: ReNO's regulariser (Eyring et al. 2024, arXiv 2406.04312).

    𝓛 = r²/2 − (d − 1)·ln r for r = ‖x_T‖ of d values, the negative log-density of the norm of
    Gaussian noise (Samuel et al. 2023), in nats, less its lowest value, at r = √(d − 1).
    """

    kind = "latent-norm"

    def loss(self, output: Output) -> Tensor:
        """Return 𝓛 of each item, shape (B,); 0 without x_T."""
        if output.x_T is None:
            return output.x_0.new_zeros(len(output.x_0))
        flat = output.x_T.flatten(1)
        most = flat.shape[1] - 1
        # The logarithm of r² over its most probable value: float32 would lose the difference of two
        # large terms.
        excess = flat.square().sum(dim=1) / most - 1
        return most / 2 * (excess - torch.log1p(excess))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LatentNorm":
        """Return the pull that `to_dict` wrote."""
        return cls()


@dataclass(frozen=True)
class LatentStatistics(Pull):
    """Mean and covariance of x_T's parts are those of noise: DNO's probability regulariser.

    x_T is cut into m vectors z of k neighbouring frames of a band (Tang et al. 2024, arXiv
    2405.18881). With M₁ = ‖mean of z‖ and M₂ = ‖mean of z·zᵀ − I‖ (the largest singular value),
    noise has probabilities of at most p₁ = 2·exp(−m·M₁²/(2k)) and
    p₂ = 2·exp(−m·max(√(1 + M₂) − 1 − √(k/m), 0)²/2) for as much, and
    𝓛 = −ln min(p₁, 1) − ln min(p₂, 1), the mean over x_T as it is and `shuffles` fixed permutations
    of its values. Of ordinary noise it is next to 0, and mostly without a gradient.

    Attributes:
        size: k.
        shuffles: permutations.
    """

    size: int = 4
    shuffles: int = 1
    kind = "latent-statistics"

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ControlError: one is out of range.
        """
        whole = isinstance(self.size, Integral) and isinstance(self.shuffles, Integral)
        if not whole or not (1 <= self.size <= 64 and 0 <= self.shuffles <= 100):
            raise ControlError(
                "latent statistics need a size from 1 to 64 and 0 to 100 shuffles, not "
                f"{shown(self.size)} and {shown(self.shuffles)}"
            )

    def loss(self, output: Output) -> Tensor:
        """Return 𝓛 of each item, shape (B,); 0 without x_T."""
        if output.x_T is None:
            return output.x_0.new_zeros(len(output.x_0))
        return self.of(output.x_T)

    def of(self, x_T: Tensor) -> Tensor:
        """Return 𝓛 of latents (B, …), shape (B,)."""
        flat = x_T.flatten(1)
        terms = [self._surprise(flat)]
        for seed in range(self.shuffles):
            order = _permutation(flat.shape[1], seed, flat.device)
            terms.append(self._surprise(flat[:, order]))
        return torch.stack(terms).mean(dim=0)

    def _surprise(self, flat: Tensor) -> Tensor:
        k, m = self.size, flat.shape[1] // self.size
        z = flat[:, : m * k].unflatten(1, (m, k))
        first = z.mean(dim=1).square().sum(dim=1)
        # A few numbers, whose eigenvalues not every device computes.
        covariance = (z.mT @ z / m).cpu()
        off = torch.linalg.eigvalsh(covariance - torch.eye(k, dtype=flat.dtype))
        spread = off.abs().amax(dim=1).to(flat.device)
        beyond = ((1 + spread).sqrt() - 1 - math.sqrt(k / m)).clamp(min=0)
        terms = m / (2 * k) * first, m / 2 * beyond.square()
        return sum((term - math.log(2)).clamp(min=0) for term in terms)  # pyright: ignore[reportReturnType]

    def to_dict(self) -> dict[str, Any]:
        """Return the settings."""
        return {"control": self.kind, "size": self.size, "shuffles": self.shuffles}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LatentStatistics":
        """Return the pull that `to_dict` wrote."""
        return cls(int(values["size"]), int(values["shuffles"]))


@dataclass(frozen=True, eq=False)
class NearUncontrolled(Pull):
    """The clip stays like the one that the same seeds give without control.

    It is the idea of DITTO's similarity controls, with the model's own clip as the reference::

        plain = ditto.generate(model, seed=7)
        near = ditto.NearUncontrolled(plain.x_0)
        ditto.generate(model, ditto.Structure("ABA") + 0.1 * near, seed=7)

    𝓛 in "mel" is the mean square difference of levels in tens of dB, each the mean of a quarter of
    a second and a few bands; in "clap" 1 − cos of CLAP's embeddings of the sounds.

    Attributes:
        reference: x_0 of the uncontrolled clips, one for all items or one each.
        space: "mel" or "clap".
        clap: what hears; the embedded one by default.
    """

    reference: Tensor
    space: Literal["mel", "clap"] = "mel"
    clap: Clap | None = field(default=None, repr=False)
    kind = "near-uncontrolled"

    def __post_init__(self) -> None:
        """Check the space.

        Raises:
            ControlError: it is unknown.
        """
        if self.space not in ("mel", "clap"):
            raise ControlError(f"clips are near in 'mel' or 'clap', not {self.space!r}")

    def check(self, model: MusicModel, frames: int) -> None:
        """Refuse a reference of another length.

        Raises:
            ControlError: it is.
        """
        if self.reference.shape[-1] != frames:
            raise ControlError(
                f"the uncontrolled clip has {self.reference.shape[-1]} frames, and this {frames}"
            )
        if self.space == "clap":
            self._ear.to(model.device)

    def feature(self, output: Output) -> Tensor:
        """Return what is compared: pooled levels, or the unit embedding; (B, …)."""
        if self.space == "clap":
            return self._ear.embed_audio(output.audio, output.model.spec.sample_rate)
        levels = mel_db(output.mel, output.model.spec) / 10
        frames = max(1, round(POOL_SECONDS * output.model.spec.frame_rate))
        pooled = avg_pool1d(levels, min(frames, levels.shape[-1]), ceil_mode=True)
        return adaptive_avg_pool1d(pooled.mT, max(1, levels.shape[1] // POOL_BANDS)).mT

    def loss(self, output: Output) -> Tensor:
        """Return 𝓛 of each item, shape (B,)."""
        feature, reference = self.feature(output), self._reference(output)
        if self.space == "clap":
            return 1 - (feature * reference).sum(dim=-1)
        return (feature - reference).square().flatten(1).mean(dim=1)

    def errors(self, output: Output) -> dict[str, Tensor]:
        """Return the loss."""
        return {f"near_uncontrolled_{self.space}": self.loss(output)}

    @property
    def items(self) -> int | None:
        """As many clips as there are references; one is every clip's."""
        return len(self.reference) if len(self.reference) > 1 else None

    def for_item(self, item: int) -> "NearUncontrolled":
        """Return the pull towards the item's own clip."""
        own = self.reference[item : item + 1] if len(self.reference) > 1 else self.reference
        return replace(self, reference=own)

    def to_dict(self) -> dict[str, Any]:
        """Return the space; the reference is not in it."""
        return {"control": self.kind, "space": self.space}

    @cached_property
    def _ear(self) -> Clap:
        return self.clap or Clap.load()

    @cached_property
    def _features(self) -> dict[int, Tensor]:
        return {}

    def _reference(self, output: Output) -> Tensor:
        """Return the feature of the reference; constant to autograd."""
        key = id(output.model)
        if key not in self._features:
            with torch.inference_mode(False), torch.no_grad():
                given = self.reference.to(output.x_0)
                reference = Output(given, output.model, seeds=output.seeds)
                self._features[key] = self.feature(reference)
        return self._features[key]


POOL_SECONDS, POOL_BANDS = 0.25, 5


@table(maxsize=64)
def _permutation(count: int, seed: int, device: torch.device) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).to(device)
