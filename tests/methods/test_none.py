"""Plain sampling: each sampler is that of its module, and controls are only measured."""

import pytest
import torch
from tests.methods.given import LOUDNESS, made, start

from ditto.diffusion.samplers import ddim, ddpm, dpm_solver_pp
from ditto.methods.none import Uncontrolled
from ditto.models.model import MusicModel


@pytest.mark.parametrize("sampler", Uncontrolled.samplers)
def test_each_sampler_is_that_of_its_module(whole_model: MusicModel, sampler: str) -> None:
    chain, x_T, noise = start(whole_model)
    with torch.no_grad():
        expected = {
            "ddim": lambda: ddim(chain, x_T),
            "dpm++": lambda: dpm_solver_pp(chain, x_T),
            "ddpm": lambda: ddpm(chain, x_T, noise),
        }[sampler]()
    result = made(whole_model, Uncontrolled(steps=4, sampler=sampler), LOUDNESS)
    assert torch.equal(result.x_0, expected)
    assert torch.equal(result.x_T, x_T)


def test_controls_are_measured_and_not_followed(whole_model: MusicModel) -> None:
    plain, measured = (made(whole_model, Uncontrolled(steps=2), *c) for c in ((), (LOUDNESS,)))
    assert torch.equal(plain.x_0, measured.x_0)
    assert plain.errors == {}
    assert set(measured.errors) == {"intensity_mse_db2", "intensity_rho"}
    assert measured.losses.shape == (0, 2)


def test_a_stochastic_sampler_begins_its_noise_anew_at_every_call(whole_model: MusicModel) -> None:
    method = Uncontrolled(steps=3, sampler="ddpm")
    assert torch.equal(made(whole_model, method).x_0, made(whole_model, method).x_0)
