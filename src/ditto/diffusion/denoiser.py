"""The calling convention of all denoisers: ``denoiser(x_t, t, cond, guidance) -> x̂_0``.

Own and adapted models, students and teachers, follow it. Other parameterisations are converted
here, so that samplers and methods read like the papers. Nothing runs under ``no_grad``: gradients
are up to the caller.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ditto.diffusion.schedule import Prediction, Schedule, expand_like

Cond = Tensor
"""Conditioning (B, …): tags (B, 5) of own models, encoded prompts of adapted ones."""


class Denoiser(Protocol):
    """Estimate x_0 from x_t."""

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond, guidance: float) -> Tensor:
        """Estimate x̂_0 (B, …) from x_t (B, …), timesteps t (B,) int64, `cond` and CFG scale w."""
        ...


Network = Callable[[Tensor, Tensor, Cond], Tensor]
"""A network ``(x_t, t, cond) -> output`` of one of the `Prediction` kinds."""

Limit = Callable[[Tensor], Tensor]
"""Thresholding of x̂_0 (B, …)."""


def dynamic_threshold(x_0: Tensor, ratio: float = 0.995, maximum: float = 1.0) -> Tensor:
    """Threshold x̂_0 (B, …) dynamically (Imagen; DITTO §5.1), like diffusers' DDIM.

    With s the `ratio` quantile of each item's |x̂_0|, limited to [1, `maximum`], x̂_0 is clipped to
    [−s, s] and divided by s. With ``maximum=1`` (diffusers' default) this clips to [−1, 1].
    """
    if maximum == 1.0:
        return x_0.clamp(-1, 1)
    s = torch.quantile(x_0.detach().abs().flatten(1), ratio, dim=1).clamp(1.0, maximum)
    s = expand_like(s, x_0)
    return torch.minimum(torch.maximum(x_0, -s), s) / s


@dataclass(frozen=True)
class GuidedDenoiser:
    """Apply classifier-free guidance to a network, in the papers' convention (DITTO eq. 13).

    ``w · f(c) + (1 − w) · f(c_∅)``: w=0 is unconditional and w=1 conditional, one network call
    each; any other w takes one call on a doubled batch. Guiding x̂_0, ε̂ or v̂ is equivalent, since
    they are affine in each other at a fixed x_t.
    """

    network: Network
    schedule: Schedule
    prediction: Prediction
    null_cond: Callable[[Cond], Cond]
    """Maps a conditioning to the null conditioning c_∅ of the same shape."""
    skip_std: float = 0.0
    """See `Schedule.to_x_0`."""
    limit: Limit | None = dynamic_threshold
    """How a chain may threshold x̂_0; None where x_0 has no bounds, as the latent of an
    autoencoder."""

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond, guidance: float = 1.0) -> Tensor:
        """Estimate x̂_0, see `Denoiser`."""
        output = self._output(x_t, t, cond, guidance)
        return self.schedule.to_x_0(output, x_t, t, self.prediction, skip_std=self.skip_std)

    def _output(self, x_t: Tensor, t: Tensor, cond: Cond, guidance: float) -> Tensor:
        if guidance == 1.0:
            return self.network(x_t, t, cond)
        if guidance == 0.0:
            return self.network(x_t, t, self.null_cond(cond))
        conditional, unconditional = self._pair(x_t, t, cond)
        return guidance * conditional + (1 - guidance) * unconditional

    def _pair(self, x_t: Tensor, t: Tensor, cond: Cond) -> tuple[Tensor, ...]:
        """Compute f(c) and f(c_∅) in one call."""
        conditions = torch.cat([cond, self.null_cond(cond)])
        return self.network(torch.cat([x_t, x_t]), torch.cat([t, t]), conditions).chunk(2)


@dataclass(frozen=True)
class ProjectedDenoiser(GuidedDenoiser):
    """Guide by adaptive projected guidance above w = 1 (APG; Sadat et al. 2024, arXiv 2410.02416).

    With d = f(c) − f(c_∅) + momentum · d of the step before, limited to the length `longest` over
    time, and d⊥ its part at right angles to f(c) over time: ``f(c) + (w − 1) · d⊥``. d is what a
    chain carries from step to step (`Chain.predict`); a call alone begins anew.

    Attributes:
        momentum: share of the step before; a negative one takes back what recurs.
        longest: Euclidean length over time, of each channel.
    """

    momentum: float = -0.75
    longest: float = 2.5

    def remembers(self, guidance: float) -> bool:
        """Return whether a step at w depends on the one before."""
        return guidance > 1.0

    def _output(self, x_t: Tensor, t: Tensor, cond: Cond, guidance: float) -> Tensor:
        if not self.remembers(guidance):
            return super()._output(x_t, t, cond, guidance)
        return self._projected(self._pair(x_t, t, cond), guidance)[0]

    def each(self, x_t: Tensor, t: Tensor, cond: Cond, w: Tensor) -> Tensor:
        """Estimate x̂_0 (B, …) by a scale w (B,) for every item, without a step before."""
        conditional, unconditional = pair = self._pair(x_t, t, cond)
        scale = expand_like(w, x_t)
        plain = scale * conditional + (1 - scale) * unconditional
        output = torch.where(scale > 1, self._projected(pair, scale)[0], plain)
        return self.schedule.to_x_0(output, x_t, t, self.prediction, skip_std=self.skip_std)

    def recall(
        self, x_t: Tensor, t: Tensor, cond: Cond, guidance: float, before: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Estimate x̂_0 (B, …) given d of the step before, if there was one; return d too."""
        output, difference = self._projected(self._pair(x_t, t, cond), guidance, before)
        x_0 = self.schedule.to_x_0(output, x_t, t, self.prediction, skip_std=self.skip_std)
        return x_0, difference

    def _projected(
        self, pair: tuple[Tensor, ...], guidance: float | Tensor, before: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the guided output and d, from f(c) and f(c_∅)."""
        conditional, unconditional = pair
        difference = conditional - unconditional
        if before is not None:
            difference = difference + self.momentum * before
        push = difference * (self.longest / _length(difference).clamp(min=self.longest))
        direction = conditional / _length(conditional).clamp(min=1e-12)
        across = push - (push * direction).sum(dim=-1, keepdim=True) * direction
        return conditional + (guidance - 1) * across, difference


def _length(x: Tensor) -> Tensor:
    """Return the Euclidean length over time, (…, 1)."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True)


def limit_of(denoiser: Denoiser) -> Limit:
    """Return how chains threshold this denoiser's x̂_0: its `limit`, or to [−1, 1] without one."""
    return getattr(denoiser, "limit", dynamic_threshold) or _as_it_is


def towards(denoiser: Denoiser, end: int) -> Denoiser:
    """Return the denoiser for a step that ends at a timestep: of a student, its `towards`."""
    told: Callable[[int], Denoiser] | None = getattr(denoiser, "towards", None)
    return denoiser if told is None else told(end)


def _as_it_is(x_0: Tensor) -> Tensor:
    return x_0
