"""Music ControlNet (Wu et al. 2023; DITTO §5.4): a trained adapter feeds the curves to every model
call.

Sampling is that of the base, with no gradient and hardly dearer; the price was the training (Table
11).
"""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from ditto.controls.base import Control
from ditto.controls.curves import smoothed
from ditto.controls.intensity import Intensity
from ditto.controls.melody import Melody
from ditto.diffusion.denoiser import Cond, GuidedDenoiser
from ditto.diffusion.samplers import Chain, ddim
from ditto.errors import ControlError
from ditto.methods.ditto import Sampler
from ditto.models.controlnet import ControlAdapter, encode_curves
from ditto.models.model import MusicModel
from ditto.models.transformer import PatchTransformer


def controlnet(
    x_T: Tensor, chain: Chain, adapter: ControlAdapter, curves: Tensor, sampler: Sampler = ddim
) -> Tensor:
    """x_0 of a chain whose model calls go through the adapter.

    Args:
        x_T: initial latents (B, 1, n_mels, frames).
        chain: of the base that the adapter was trained with.
        adapter: takes the curves.
        curves: (B, CHANNELS, frames), see `curves_of`.
        sampler: any.

    Raises:
        TypeError: the chain's model is not a patch transformer.
    """
    return sampler(controlled(chain, adapter, curves), x_T)


def controlled(chain: Chain, adapter: ControlAdapter, curves: Tensor) -> Chain:
    """The chain with the adapter inside its denoiser; with CFG, both halves get the curves."""
    denoiser = chain.denoiser
    if not isinstance(denoiser, GuidedDenoiser) or not isinstance(
        denoiser.network, PatchTransformer
    ):
        raise TypeError("a ControlNet needs a patch transformer as its base")
    base = denoiser.network

    def network(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return adapter(base, x_t, t, cond, curves.repeat(len(x_t) // len(curves), 1, 1))

    return replace(chain, denoiser=replace(denoiser, network=network))


def curves_of(controls: Sequence[Control], model: MusicModel, batch: int, frames: int) -> Tensor:
    """The curves that a loudness control, a melody control or both ask for: (B, CHANNELS, frames).

    Raises:
        ControlError: another kind of control, or two of one kind.
    """
    levels: Tensor | None = None
    classes: Tensor | None = None
    for control in controls:
        if isinstance(control, Intensity) and levels is None:
            levels = smoothed(control.curve, frames, model.spec)
        elif isinstance(control, Melody) and classes is None:
            classes = control.tune.classes(frames, model.spec)
        else:
            raise ControlError(
                "a ControlNet takes one loudness curve, one melody, or one of each: leave out the rest"
            )
    if levels is None and classes is None:
        raise ControlError("a ControlNet needs a loudness curve or a melody to follow")
    return encode_curves(levels, classes, batch, frames)
