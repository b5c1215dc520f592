"""Naïve masking and MultiDiffusion (Bar-Tal et al. 2023), as DITTO §5.4 compares with them.

Both are for regions whose content is known: after every sampling step that region is set to, or
averaged with, the reference at the step's noise level. Neither needs a gradient, and neither tells
the rest of the clip but through the next model call, whence the seams (DITTO Fig. 4).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ditto.controls.base import Control
from ditto.diffusion.consistency import Noise
from ditto.diffusion.samplers import Chain, ddim_step
from ditto.diffusion.schedule import Schedule
from ditto.errors import ControlError
from ditto.methods.base import Problem, SamplingMethod


@dataclass(frozen=True, eq=False)
class Known:
    """A region of x_0 that is given.

    Attributes:
        mask: 1 where x_0 is known and 0 elsewhere; broadcasts against x_0 (B, 1, n_mels, frames).
        reference: x_ref where the mask is 1, finite elsewhere; broadcasts against x_0.
    """

    mask: Tensor
    reference: Tensor

    @classmethod
    def of_spans(cls, reference: Tensor, spans: Sequence[tuple[int, int]]) -> "Known":
        """Know the reference (…, frames) in some spans of frames, (first, after the last)."""
        mask = torch.zeros(reference.shape[-1], dtype=reference.dtype, device=reference.device)
        for start, end in spans:
            mask[start:end] = 1
        return cls(mask, reference)

    def like(self, x: Tensor) -> "Known":
        """Return the same in the dtype and on the device of `x`."""
        return Known(self.mask.to(x), self.reference.to(x))

    def values(self, x: Tensor) -> int:
        """Return how many values of an item of `x` (B, …) are known."""
        return int(self.mask.to(x).broadcast_to(x.shape)[0].count_nonzero())

    def noised(self, schedule: Schedule, t: int, noise: Tensor) -> Tensor:
        """Return the reference at the noise level of t, of the shape of `noise`."""
        return schedule.add_noise(self.reference.expand_as(noise), noise, t)

    def blend(self, x: Tensor, known: Tensor, share: float = 1.0) -> Tensor:
        """Return `x`, mixed in the region with a share of `known`."""
        return (1 - share * self.mask) * x + share * self.mask * known


def known_region(controls: Sequence[Control]) -> Known | None:
    """Return the region that a single region control keeps; None for other or several controls."""
    only = controls[0] if len(controls) == 1 else None
    region = None if only is None else only.known_region()
    return None if region is None else Known.of_spans(*region)


def only_region(controls: Sequence[Control]) -> Known:
    """Return the region that is all that is asked for.

    Raises:
        ControlError: another kind of control, or several.
    """
    known = known_region(controls)
    if known is None:
        raise ControlError(
            "masking takes one region to keep (inpaint, outpaint or loop) and no other control"
        )
    return known


def naive_masking(x_T: Tensor, chain: Chain, known: Known, noise: Noise) -> Tensor:
    """Sample; after every step x_{t−1} ← M·N(√ᾱ·x_ref, (1 − ᾱ)·I) + (1 − M)·x_{t−1}.

    Args:
        x_T: initial latents (B, 1, n_mels, frames).
        chain: denoiser, grid, conditioning and CFG scale.
        known: the region M and its reference.
        noise: fresh ε of x_T's shape, each item's from its own generator.

    Returns:
        x_0, in the region equal to the reference.
    """
    return _masked(x_T, chain, known, noise, share=1.0, until=1.0)


def multidiffusion(
    x_T: Tensor,
    chain: Chain,
    known: Known,
    noise: Noise,
    *,
    until: float = 1.0,
    one_noise: bool = False,
) -> Tensor:
    """Sample; after each of the first steps, average x_{t−1} with the noised reference.

    As DITTO words it, the reference has fresh noise at every step. An average of two noises is
    weaker than either, so that the region comes to the model with 0.6 to 0.7 of the noise that it
    expects. With one noise for all steps there is no such deficit.

    Args:
        x_T: initial latents (B, 1, n_mels, frames).
        chain: as for `naive_masking`.
        known: the region and its reference.
        noise: fresh ε of x_T's shape, each item's from its own generator.
        until: share of the steps that are averaged: 1 is MD and 0.5 MD-50, which leaves the rest to
            the model.
        one_noise: the reference has x_T, the clip's own noise, at every step.

    Returns:
        x_0; outside the region no step is touched.
    """
    return _masked(x_T, chain, known, (lambda: x_T) if one_noise else noise, share=0.5, until=until)


def _masked(
    x_T: Tensor, chain: Chain, known: Known, noise: Noise, *, share: float, until: float
) -> Tensor:
    x_t, pairs = x_T, chain.pairs()
    for i, (t, t_next) in enumerate(pairs):
        x_t = ddim_step(chain.schedule, x_t, chain.predict(x_t, t, t_next), t, t_next)
        if i < until * len(pairs):
            x_t = known.blend(x_t, known.noised(chain.schedule, t_next, noise()), share)
    return x_t


@dataclass(frozen=True, kw_only=True)
class MaskingMethod(SamplingMethod):
    """A method that keeps one region of the clip and follows no other control."""

    needs_control = True

    def check(self, problem: Problem) -> None:
        """Refuse anything but a single region.

        Raises:
            ControlError: another kind of control, or several.
        """
        self.known(problem)

    def known(self, problem: Problem) -> Known:
        """Return the region to keep, on the problem's device."""
        known = only_region(problem.controls)
        return Known(known.mask.to(problem.model.device), known.reference.to(problem.model.device))


@dataclass(frozen=True, kw_only=True)
class NaiveMasking(MaskingMethod):
    """Naïve masking: the known region is overwritten after every step."""

    name = "naive"
    summary = "masking"

    def decode(self, x_T: Tensor, problem: Problem) -> Tensor:
        """Sample x_0 with the region overwritten."""
        chain = self.chain(problem)
        return naive_masking(x_T, chain, self.known(problem), problem.new_noise())


@dataclass(frozen=True, kw_only=True)
class MultiDiffusion(MaskingMethod):
    """MultiDiffusion (Bar-Tal et al. 2023): the known region is averaged in.

    Attributes:
        until: share of the steps that are averaged: 1 is MD, 0.5 is MD-50.
        one_noise: noise the reference with x_T at every step, not with fresh noise.
    """

    until: float = 1.0
    one_noise: bool = False
    name = "multidiffusion"
    summary = "MultiDiffusion"
    limits = SamplingMethod.limits | {"until": (0.0, 1.0)}

    def decode(self, x_T: Tensor, problem: Problem) -> Tensor:
        """Sample x_0 with the region averaged in."""
        chain, noise = self.chain(problem), problem.new_noise()
        return multidiffusion(
            x_T, chain, self.known(problem), noise, until=self.until, one_noise=self.one_noise
        )


@dataclass(frozen=True, kw_only=True)
class MultiDiffusion50(MultiDiffusion):
    """MultiDiffusion for the first half of the steps (MD-50)."""

    until: float = 0.5
    name = "md50"
    summary = "MultiDiffusion for half of the steps"
