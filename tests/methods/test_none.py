"""Plain sampling: each sampler is that of its module, and controls are only measured."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.methods.given import LOUDNESS, made, problem, start

from ditto.audio.bands import Bands
from ditto.diffusion.consistency import gamma_sample
from ditto.diffusion.denoiser import limit_of
from ditto.diffusion.samplers import ddim, ddpm, dpm_solver_pp
from ditto.errors import RequestError
from ditto.methods.none import Uncontrolled
from ditto.models.model import MusicModel
from ditto.request import Request
from ditto.runner import run

pytestmark = pytest.mark.usefixtures("together")


@pytest.mark.parametrize("sampler", Uncontrolled.samplers)
def test_each_sampler_is_that_of_its_module(whole_model: MusicModel, sampler: str) -> None:
    chain, x_T, noise = start(whole_model)
    with torch.no_grad():
        expected = {
            "ddim": lambda: ddim(chain, x_T),
            "dpm++": lambda: dpm_solver_pp(chain, x_T),
            "ddpm": lambda: ddpm(chain, x_T, noise, 2.6),
            "ping-pong": lambda: gamma_sample(chain, x_T, 1.0, noise),
        }[sampler]()
    result = made(whole_model, Uncontrolled(steps=4, sampler=sampler), LOUDNESS)
    assert torch.equal(result.x_0, expected)
    assert torch.equal(result.x_T, x_T)


def test_the_default_is_the_models_own_sampler_and_grid(whole_model: MusicModel) -> None:
    model = replace(whole_model, spacing="karras", sampler="dpm++")
    chain, x_T, _ = start(model)
    with torch.no_grad():
        expected = dpm_solver_pp(
            replace(chain, timesteps=model.schedule.timesteps(4, "karras")), x_T
        )
    result = made(model, Uncontrolled(steps=4))
    assert torch.equal(result.x_0, expected)
    assert result.request.method.sampler == "dpm++"
    own = made(model, Uncontrolled(steps=4, grid="karras")).request.method
    assert own.sampler == "dpm++"
    leading = made(model, Uncontrolled(steps=4, grid="leading")).request.method
    assert (leading.sampler, leading.grid) == ("ddim", "leading")
    even = made(model, Uncontrolled(steps=4, sampler="ddim"))
    assert torch.equal(even.x_0, made(whole_model, Uncontrolled(steps=4)).x_0)


def test_controls_are_measured_and_not_followed(whole_model: MusicModel) -> None:
    plain, measured = (made(whole_model, Uncontrolled(steps=2), *c) for c in ((), (LOUDNESS,)))
    assert torch.equal(plain.x_0, measured.x_0)
    assert plain.errors == {}
    assert set(measured.errors) == {"intensity_mse_db2", "intensity_rho"}
    assert measured.losses.shape == (0, 2)


def test_a_stochastic_sampler_begins_its_noise_anew_at_every_call(whole_model: MusicModel) -> None:
    method = Uncontrolled(steps=3, sampler="ddpm")
    assert torch.equal(made(whole_model, method).x_0, made(whole_model, method).x_0)


def test_dynamic_thresholding_is_imagens(whole_model: MusicModel) -> None:
    """In log-mels: divided by the 99.5th percentile of each clip, where that is beyond 1."""
    x_0 = 2 * torch.randn(2, 1, 16, 64, generator=torch.Generator().manual_seed(0))
    bands = Bands(tuple(np.linspace(-0.5, 0, 16)), tuple(np.linspace(0.2, 1.5, 16)))
    for model in (whole_model, replace(whole_model, bands=bands)):
        chain = problem(model).chain(4, threshold="dynamic")
        mels = model.bands.mel(x_0).numpy()
        limits = [max(np.quantile(np.abs(mel), 0.995), 1.0) for mel in mels]
        expected = [np.clip(mel, -s, s) / s for mel, s in zip(mels, limits, strict=True)]
        assert max(limits) > 1.5
        found = model.bands.mel(limit_of(chain.denoiser)(x_0)).numpy()
        np.testing.assert_allclose(found, np.stack(expected), rtol=1e-4, atol=1e-5)
    unbounded = problem(whole_model).chain(4, threshold="none")
    assert not unbounded.threshold


def test_what_cannot_be_sampled_is_one_line(whole_model: MusicModel) -> None:
    few = replace(whole_model.schedule, alpha_bar=whole_model.schedule.alpha_bar[:50])
    model = replace(whole_model)
    model.__dict__["schedule"] = few
    with pytest.raises(RequestError, match="steps must be between 1 and 50, not 60 for 'tiny'"):
        run(Request(method=Uncontrolled(steps=60)), model)
    with pytest.raises(RequestError, match="threshold must be static or dynamic or none, not x"):
        Uncontrolled(threshold="x")  # pyright: ignore[reportArgumentType]
