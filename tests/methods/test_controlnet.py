"""Sampling through an adapter: the curves that controls ask for, CFG, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.conftest import randomised
from tests.methods.given import LOUDNESS, made, start

import ditto
from ditto.controls.base import Control
from ditto.controls.curves import smoothed
from ditto.controls.intensity import Intensity
from ditto.controls.melody import Melody
from ditto.diffusion.samplers import Chain, ddim, ddpm, dpm_solver_pp
from ditto.errors import ControlError, DittoError
from ditto.methods.controlnet import MusicControlNet, control_curves, controlled, controlnet
from ditto.models.controlnet import ControlAdapter, encode_curves
from ditto.models.model import MusicModel
from ditto.request import Request
from ditto.runner import run

FRAMES = 64


def make_chain(model: MusicModel, guidance: float = 1.0) -> Chain:
    cond = torch.tensor([[1, 2, 3, 0, 0], [2, 0, 5, 0, 0]])
    return Chain(model.denoiser, model.schedule, model.schedule.timesteps(4), cond, guidance)


def latent() -> torch.Tensor:
    return torch.randn(2, 1, 16, FRAMES, generator=torch.Generator().manual_seed(0))


def make_adapter(model: MusicModel, scale: float) -> ControlAdapter:
    return randomised(ControlAdapter.of(model.network, 2), scale=scale)  # pyright: ignore[reportArgumentType, reportReturnType]


@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.0])
def test_an_adapter_that_adds_nothing_is_the_base(tiny_model: MusicModel, guidance: float) -> None:
    chain, silent = make_chain(tiny_model, guidance), make_adapter(tiny_model, 0.0)
    told = control_curves([Intensity("crescendo")], tiny_model, 2, FRAMES)
    torch.testing.assert_close(controlnet(latent(), chain, silent, told), ddim(chain, latent()))


def test_guidance_mixes_two_answers_to_the_same_curves(tiny_model: MusicModel) -> None:
    adapter = make_adapter(tiny_model, 0.15)
    told = encode_curves(
        torch.linspace(-40, -20, FRAMES) + torch.tensor([[0.0], [5.0]]), None, 2, FRAMES
    )
    found = {
        w: controlled(replace(make_chain(tiny_model, w), threshold=False), adapter, told).predict(
            latent(), 500
        )
        for w in (0.0, 1.0, 3.0)
    }
    torch.testing.assert_close(found[3.0], 3 * found[1.0] - 2 * found[0.0], rtol=1e-4, atol=1e-5)
    assert (found[1.0] - found[0.0]).abs().max() > 1e-4


def test_the_curves_are_the_controls_targets(tiny_model: MusicModel) -> None:
    loudness, melody = Intensity("swell"), Melody.from_notes("C4:1 R:1 E4:2", bpm=600)
    told = control_curves([melody, loudness], tiny_model, 2, FRAMES)
    expected = encode_curves(
        smoothed(loudness.curve, FRAMES, tiny_model.spec),
        melody.tune.classes(FRAMES, tiny_model.spec),
        2,
        FRAMES,
    )
    assert torch.equal(told, expected)
    assert told[0, 14].any()
    assert not told[0, 14].all()
    assert not control_curves([loudness], tiny_model, 2, FRAMES)[:, 2:].any()


def test_what_it_cannot_take_is_refused(tiny_model: MusicModel) -> None:
    for controls in ([Intensity("swell"), Intensity("dip")], [Intensity("swell") / 2]):
        with pytest.raises(ControlError, match="one loudness curve, one melody"):
            control_curves(controls, tiny_model, 2, FRAMES)
    nothing: list[Control] = []
    with pytest.raises(ControlError, match="to follow"):
        control_curves(nothing, tiny_model, 2, FRAMES)
    chain = replace(make_chain(tiny_model), denoiser=lambda x, t, cond, guidance: x)
    with pytest.raises(TypeError, match="patch transformer"):
        controlled(chain, make_adapter(tiny_model, 0.0), encode_curves(None, None, 2, FRAMES))


@pytest.mark.parametrize("sampler", MusicControlNet.samplers)
def test_the_object_is_the_function(whole_model: MusicModel, sampler: str) -> None:
    chain, x_T, noise = start(whole_model)
    melody, adapter = Melody.from_notes("C4:1 E4:1", bpm=600), whole_model.controlnet
    curves = control_curves([LOUDNESS, melody], whole_model, 2, FRAMES)
    assert isinstance(adapter, ControlAdapter)
    samplers = {"ddim": ddim, "dpm++": dpm_solver_pp, "ddpm": lambda c, x: ddpm(c, x, noise, 2.6)}
    with torch.no_grad():
        expected = controlnet(x_T, chain, adapter, curves, samplers[sampler])
    result = made(whole_model, MusicControlNet(steps=4, sampler=sampler), LOUDNESS, melody)
    torch.testing.assert_close(result.x_0, expected)
    assert not torch.equal(result.x_0, ddim(chain, x_T))


def test_it_computes_in_the_precision_of_its_base(whole_model: MusicModel) -> None:
    low = replace(whole_model, precision=torch.bfloat16)
    rough, plain = (
        made(m, MusicControlNet(steps=4), LOUDNESS, iterations=1).x_0 for m in (low, whole_model)
    )
    assert rough.dtype == torch.float32
    assert 0 < (rough - plain).square().mean() < 1e-2 * plain.square().mean()


def test_a_model_without_a_controlnet_says_how_to_get_one(tiny_model: MusicModel) -> None:
    with pytest.raises(
        DittoError, match=r"'tiny' has no ControlNet: train one with `ditto-music train controlnet`"
    ):
        run(Request(LOUDNESS, method=MusicControlNet(steps=2)), tiny_model)


def test_it_is_saved_and_loaded_with_its_model(whole_model: MusicModel, tmp_path: Path) -> None:
    whole_model.save(tmp_path / "model")
    found = ditto.load(tmp_path / "model").controlnet
    assert isinstance(found, ControlAdapter)
    for name, value in found.state_dict().items():
        torch.testing.assert_close(value, whole_model.controlnet.state_dict()[name].half().float())  # pyright: ignore
