"""Methods by name: each is what its own module makes, refuses what it does not admit, and does its
job."""

from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from ditto.methods.ways import SAMPLERS, WAYS, Method
from tests.conftest import randomised

import ditto
from ditto.controls.base import Control
from ditto.controls.intensity import Intensity
from ditto.controls.melody import Melody
from ditto.controls.regions import Region
from ditto.diffusion.samplers import ancestral, ddim, ddpm
from ditto.errors import DittoError
from ditto.methods.controlnet import control_curves, controlnet
from ditto.methods.ditto2 import item_noise
from ditto.methods.doodl import decode_doodl, doodl
from ditto.methods.guidance import freedom, guidance_gradients
from ditto.methods.masking import known_region, multidiffusion, naive_masking
from ditto.models.controlnet import ControlAdapter
from ditto.models.music_model import MusicModel
from ditto.request import Request, Result, chain_of, draw_x_T, run

SHAPE = (1, 16, 64)
LOUDNESS = Intensity("swell")
REGION = Region.inpaint(torch.linspace(-1, 0, 16 * 64).reshape(SHAPE), ((20, 40),))
QUICK: dict[str, Any] = {"steps": 4, "iterations": 3, "lr": 0.05, "seed": 5, "count": 2}


@pytest.fixture(scope="module")
def model(student_model: MusicModel) -> MusicModel:
    """The tiny model with a student and an adapter of random weights."""
    adapter = randomised(ControlAdapter.of(student_model.network, 2))  # pyright: ignore[reportArgumentType]
    return replace(student_model, controlnet=adapter)  # pyright: ignore[reportArgumentType]


def made(model: MusicModel, method: Method, control: Control, **settings: Any) -> Result:
    return run(Request((control,), method=method, **QUICK | settings), model)


def parts(model: MusicModel, method: Method) -> tuple[Any, torch.Tensor, Any]:
    """The chain, x_T and noise that a request of `QUICK` gives a method."""
    chain = chain_of(Request(method=method, **QUICK), model)
    return chain, draw_x_T(SHAPE, 5, 2), item_noise(SHAPE, 5, 2)


def test_every_name_has_a_way() -> None:
    assert set(WAYS) == set(get_args(Method))
    assert {name for name, way in WAYS.items() if way.optimises} == {"ditto", "ditto2", "doodl"}


@pytest.mark.parametrize("method", ["naive", "multidiffusion", "md50"])
def test_masking_is_that_of_its_module(model: MusicModel, method: Method) -> None:
    chain, x_T, noise = parts(model, method)
    known = known_region([REGION])
    with torch.no_grad():
        if method == "naive":
            expected = naive_masking(x_T, chain, known, noise)
        else:
            expected = multidiffusion(
                x_T, chain, known, noise, until=0.5 if method == "md50" else 1.0
            )
    result = made(model, method, REGION)
    assert torch.equal(result.x_0, expected)
    assert result.losses.shape == (0, 2)
    assert (result.errors["inpaint_mse"] == 0).all() == (method == "naive")


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_freedom_is_that_of_its_module(model: MusicModel, sampler: str) -> None:
    chain, x_T, noise = parts(model, "freedom")
    advance = {"advance": ancestral(noise)} if sampler == "ddpm" else {}
    expected = freedom(x_T, chain, lambda x_0: LOUDNESS(x_0, model), noise, strength=0.3, **advance)
    result = made(model, "freedom", LOUDNESS, strength=0.3, sampler=sampler)
    torch.testing.assert_close(result.x_0, expected)
    assert not result.x_0.requires_grad


def test_guidance_gradients_keep_a_region_and_want_a_strength_for_the_rest(
    model: MusicModel,
) -> None:
    chain, x_T, _ = parts(model, "gg")
    expected = guidance_gradients(
        x_T, chain, lambda x_0: REGION(x_0, model), known=known_region([REGION])
    )
    result = made(model, "gg", REGION)
    torch.testing.assert_close(result.x_0, expected)
    assert (result.errors["inpaint_mse"] == 0).all()
    expected = guidance_gradients(x_T, chain, lambda x_0: LOUDNESS(x_0, model), strength=1e-5)
    torch.testing.assert_close(made(model, "gg", LOUDNESS, strength=1e-5).x_0, expected)


def test_doodl_is_that_of_its_module(model: MusicModel) -> None:
    chain, x_T, noise = parts(model, "doodl")
    *_, last = doodl(
        x_T, chain, lambda x_0: LOUDNESS(x_0, model), iterations=3, lr=0.05, noise=noise
    )
    result = made(model, "doodl", LOUDNESS)
    torch.testing.assert_close(result.x_T, last.best_x_T)
    torch.testing.assert_close(result.x_0, decode_doodl(last.best_x_T, chain))
    assert len(result.losses) == 3


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_controlnet_is_that_of_its_module(model: MusicModel, sampler: str) -> None:
    chain, x_T, noise = parts(model, "controlnet")
    melody = Melody.from_notes("C4:1 E4:1", bpm=600)
    curves, adapter = control_curves([LOUDNESS, melody], model, 2, 64), model.controlnet
    assert isinstance(adapter, ControlAdapter)
    result = run(Request((LOUDNESS, melody), method="controlnet", sampler=sampler, **QUICK), model)
    with torch.no_grad():
        if sampler == "ddpm":
            expected = controlnet(x_T, chain, adapter, curves, lambda c, x: ddpm(c, x, noise))
            torch.testing.assert_close(result.x_0, expected)
        if sampler == "ddim":
            torch.testing.assert_close(result.x_0, controlnet(x_T, chain, adapter, curves))
    assert not torch.equal(result.x_0, ddim(chain, x_T))


def test_item_1_of_2_is_what_it_would_be_alone(model: MusicModel) -> None:
    # Not through the vocoder: its peaks jump, so that what is alike to the last bit but one need
    # not stay alike.
    for method, control in (
        ("naive", REGION),
        ("freedom", REGION),
        ("doodl", REGION),
        ("none", LOUDNESS),
    ):
        settings = {"sampler": "ddpm"} if method in ("none", "freedom") else {}
        both = made(model, method, control, **settings)
        alone = made(model, method, control, seed=6, count=1, **settings)
        torch.testing.assert_close(both.x_0[1:], alone.x_0, rtol=1e-2, atol=2e-3)


def test_a_controlnet_computes_in_the_precision_of_its_base(model: MusicModel) -> None:
    low = replace(model, precision=torch.bfloat16)
    rough, plain = (made(m, "controlnet", LOUDNESS, iterations=1).x_0 for m in (low, model))
    assert rough.dtype == torch.float32
    assert 0 < (rough - plain).square().mean() < 1e-2 * plain.square().mean()


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("naive", {"controls": (LOUDNESS,)}, "masking takes one region to keep"),
        ("md50", {"controls": (REGION, LOUDNESS)}, "masking takes one region to keep"),
        ("freedom", {}, "guides the sampling by a control: give one"),
        ("gg", {}, "guides the sampling by a control: give one"),
        ("gg", {"controls": (LOUDNESS,)}, "strength has a default for a single region only"),
        ("controlnet", {"controls": (REGION,)}, "a ControlNet takes one loudness curve"),
        ("controlnet", {}, "a ControlNet needs a loudness curve or a melody"),
        (
            "doodl",
            {"controls": (LOUDNESS,), "sampler": "dpm\\+\\+"},
            "doodl does not sample by dpm",
        ),
        ("ditto", {"controls": (LOUDNESS,), "sampler": "ddpm"}, "ditto does not sample by ddpm"),
        ("ditto2", {"controls": (LOUDNESS,), "sampler": "ddpm"}, "ditto2 does not sample by ddpm"),
        (
            "freedom",
            {"controls": (LOUDNESS,), "strength": -1.0},
            "strength must be a number from 0",
        ),
    ],
)
def test_what_a_method_does_not_admit_is_refused(
    model: MusicModel, method: Method, settings: dict[str, Any], message: str
) -> None:
    settings = settings | {"sampler": settings.get("sampler", "ddim").replace("\\", "")}
    with pytest.raises(DittoError, match=message) as refused:
        run(Request(method=method, steps=2, **settings), model)
    assert "\n" not in str(refused.value)


def test_a_model_without_a_controlnet_says_how_to_get_one(tiny_model: MusicModel) -> None:
    with pytest.raises(
        DittoError, match=r"'tiny' has no ControlNet: train one with `ditto-music train controlnet`"
    ):
        run(Request((LOUDNESS,), method="controlnet", steps=2), tiny_model)


def test_a_controlnet_is_saved_and_loaded_with_its_model(model: MusicModel, tmp_path: Any) -> None:
    model.save(tmp_path / "model")
    found = ditto.load(tmp_path / "model").controlnet
    assert isinstance(found, ControlAdapter)
    for name, value in found.state_dict().items():
        torch.testing.assert_close(value, model.controlnet.state_dict()[name].half().float())  # pyright: ignore


def test_the_report_names_what_counts(model: MusicModel) -> None:
    about = made(model, "freedom", LOUDNESS, strength=0.2).report()["request"]
    assert (
        about.items()
        >= {"method": "freedom", "strength": 0.2, "steps": 4, "sampler": "ddim"}.items()
    )
    assert "iterations" not in about
    assert made(model, "doodl", LOUDNESS).report()["request"]["iterations"] == 3


def test_each_does_its_job_on_the_embedded_model() -> None:
    model, curve = ditto.load(), Intensity("crescendo")
    settings: dict[str, Any] = {"steps": 6, "seconds": 1.5, "guidance": 1.0}

    def errors(method: Method, control: Control, name: str, **more: Any) -> float:
        return run(Request((control,), method=method, **settings | more), model).errors[name].item()

    plain = errors("none", curve, "intensity_mse_db2")
    assert errors("freedom", curve, "intensity_mse_db2") < 0.5 * plain
    # with few steps EDICT's two chains drift apart
    doodled = run(
        Request(
            (curve,), method="doodl", iterations=4, lr=0.1, steps=16, seconds=0.7, guidance=1.0
        ),
        model,
    )
    assert doodled.losses.min() < 0.7 * doodled.losses[0]
    clip = run(Request(seed=9, **settings), model).x_0[0]
    region = Region.outpaint(clip, clip.shape[-1] // 3, clip.shape[-1])
    free = errors("none", region, "outpaint_mse")
    assert errors("naive", region, "outpaint_mse") == 0
    assert errors("gg", region, "outpaint_mse") == 0
    assert (
        errors("multidiffusion", region, "outpaint_mse")
        < errors("md50", region, "outpaint_mse")
        < free
    )
