"""Music ControlNet (Wu et al. 2023; DITTO §5.4): an adapter feeds curves to every model call.

Sampling needs no gradient and costs little more than the base's; the price is the training (Table
11).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ditto.controls.base import Control
from ditto.diffusion.denoiser import Cond, GuidedDenoiser
from ditto.diffusion.samplers import Chain, ddim
from ditto.errors import ControlError
from ditto.methods.base import Problem, Sampler, SamplingMethod
from ditto.models.controlnet import ControlAdapter, adapter_of, encode_curves
from ditto.models.model import MusicModel
from ditto.models.network import in_precision
from ditto.models.transformer import PatchTransformer


def controlnet(
    x_T: Tensor, chain: Chain, adapter: ControlAdapter, curves: Tensor, sampler: Sampler = ddim
) -> Tensor:
    """Return x_0 of a chain whose model calls go through the adapter.

    Args:
        x_T: initial latents (B, 1, n_mels, frames).
        chain: of the base that the adapter was trained with.
        adapter: takes the curves.
        curves: (B, CHANNELS, frames), see `control_curves`.
        sampler: any.

    Raises:
        TypeError: the chain's model is not a patch transformer.
    """
    return sampler(controlled(chain, adapter, curves), x_T)


def controlled(chain: Chain, adapter: ControlAdapter, curves: Tensor) -> Chain:
    """Return the chain with the adapter in its denoiser; with CFG, both halves get the curves."""
    denoiser = chain.denoiser
    if not isinstance(denoiser, GuidedDenoiser) or not isinstance(
        denoiser.network, PatchTransformer
    ):
        raise TypeError("a ControlNet needs a patch transformer as its base")
    base = denoiser.network

    def network(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return adapter(base, x_t, t, cond, curves.repeat(len(x_t) // len(curves), 1, 1))

    return replace(chain, denoiser=replace(denoiser, network=network))


def control_curves(
    controls: Sequence[Control], model: MusicModel, batch: int, frames: int
) -> Tensor:
    """Return the curves that a loudness control, a melody or both ask for: (B, CHANNELS, frames).

    Raises:
        ControlError: another kind of control, or two of one kind.
    """
    targets: dict[str, Tensor] = {}
    for control in controls:
        target = control.adapter_target(model, frames)
        if target is None or target[0] in targets:
            raise ControlError(
                "a ControlNet takes one loudness curve, one melody, or one of each: leave out the "
                "rest"
            )
        targets[target[0]] = target[1]
    if not targets:
        raise ControlError("a ControlNet needs a loudness curve or a melody to follow")
    return encode_curves(targets.get("levels"), targets.get("classes"), batch, frames)


@dataclass(frozen=True, kw_only=True)
class MusicControlNet(SamplingMethod):
    """Music ControlNet: sampling with a trained adapter (Wu et al. 2023)."""

    name = "controlnet"
    summary = "Music ControlNet's adapter"
    samplers = ("ddim", "dpm++", "ddpm")

    def check(self, problem: Problem) -> None:
        """Refuse a model without an adapter, and controls that it does not take."""
        adapter_of(problem.model)
        control_curves(problem.controls, problem.model, 1, problem.model.spec.clip_frames)

    @torch.no_grad()
    def decode(self, x_T: Tensor, problem: Problem) -> Tensor:
        """Sample x_0 with the adapter."""
        model = problem.model
        curves = control_curves(problem.controls, model, len(x_T), x_T.shape[-1]).to(x_T)
        adapter = in_precision(adapter_of(model), model.precision)
        return controlnet(x_T, self.chain(problem), adapter, curves, self.sample(problem))
