"""The one calling convention of every denoiser: ours or adapted, student or teacher, whatever it
predicts inside.

``denoiser(x_t, t, cond, guidance) -> x̂_0``. Foreign parameterisations are converted once, here, so
that samplers and methods read like the papers. Nothing here runs under ``no_grad``: the caller
decides about gradients.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ditto.diffusion.schedule import Prediction, Schedule

Cond = Tensor
"""Conditioning of a batch, first dimension B: tags (B, 5) for our own models, encoded prompts for
adapted ones."""


class Denoiser(Protocol):
    """Anything that estimates x_0 from x_t."""

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond, guidance: float) -> Tensor:
        """x̂_0, shape of `x_t` (B, …), from timesteps `t` (B,) int64, `cond` and CFG scale w."""
        ...


Network = Callable[[Tensor, Tensor, Cond], Tensor]
"""A network ``(x_t, t, cond) -> output`` of one of the `Prediction` kinds."""

Limit = Callable[[Tensor], Tensor]
"""Thresholding of x̂_0 (B, …)."""


def dynamic_threshold(x_0: Tensor, ratio: float = 0.995, maximum: float = 1.0) -> Tensor:
    """Dynamic thresholding (Imagen; DITTO appendix K) of x̂_0 (B, …), as diffusers' DDIM does it.

    s = the `ratio` quantile of |x̂_0| of each item, held inside [1, `maximum`]; x̂_0 is clipped to
    [−s, s] and divided by s. With ``maximum=1`` (diffusers' default) it is a clip to [−1, 1].
    """
    if maximum == 1.0:
        return x_0.clamp(-1, 1)
    s = torch.quantile(x_0.detach().abs().flatten(1), ratio, dim=1).clamp(1.0, maximum)
    s = s.reshape(-1, *[1] * (x_0.ndim - 1))
    return torch.minimum(torch.maximum(x_0, -s), s) / s


@dataclass(frozen=True)
class GuidedDenoiser:
    """Classifier-free guidance over a network, in the papers' convention (DITTO eq. 13).

    ``w · f(c) + (1 − w) · f(c_∅)``: w=0 is unconditional, w=1 conditional (one network call), any
    other w costs two, made as one call on a doubled batch. Combining x̂_0, ε̂ or v̂ is the same
    thing, since each is affine in the other at a fixed x_t.
    """

    network: Network
    schedule: Schedule
    prediction: Prediction
    null_cond: Callable[[Cond], Cond]
    """The null conditioning c_∅ of the same shape as the given one."""
    skip_std: float = 0.0
    """See `Schedule.to_x_0`."""
    limit: Limit | None = dynamic_threshold
    """How a chain may threshold x̂_0; None where x_0 has no bounds, as the latent of an
    autoencoder."""

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond, guidance: float = 1.0) -> Tensor:
        """x̂_0 of the guided network."""
        output = self._output(x_t, t, cond, guidance)
        return self.schedule.to_x_0(output, x_t, t, self.prediction, self.skip_std)

    def _output(self, x_t: Tensor, t: Tensor, cond: Cond, guidance: float) -> Tensor:
        if guidance == 1.0:
            return self.network(x_t, t, cond)
        null = self.null_cond(cond)
        if guidance == 0.0:
            return self.network(x_t, t, null)
        both = self.network(torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([cond, null]))
        conditional, unconditional = both.chunk(2)
        return guidance * conditional + (1 - guidance) * unconditional


def limit_of(denoiser: Denoiser) -> Limit:
    """How a chain thresholds this denoiser's x̂_0: by its `limit`, to [−1, 1] if it has none of its
    own, or not.
    """
    return getattr(denoiser, "limit", dynamic_threshold) or _as_it_is


def _as_it_is(x_0: Tensor) -> Tensor:
    return x_0
