"""Inverting recordings and varying latents, on a tiny model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import ditto
from ditto.audio.features import mel_rms_db
from ditto.controls.intensity import Intensity
from ditto.controls.output import Output
from ditto.diffusion.samplers import Chain, ddim
from ditto.edit.variations import INVERSIONS, Variations, _window, invert, vary
from ditto.errors import RequestError
from ditto.latents import Latent, draw_x_T, item_noise
from ditto.methods.ditto import Ditto, decode
from ditto.methods.inversion import (
    ddim_inversion,
    decode_null_text,
    naive_inversion,
    null_text_inversion,
)
from ditto.methods.none import Uncontrolled
from ditto.models.conditioning import Tags
from ditto.models.model import MusicModel
from ditto.request import Request
from ditto.result import Result
from ditto.runner import problem_of, run

QUICK = Request(tags=Tags("jazz"), iterations=12, guidance=1.0, method=Ditto(steps=4, lr=0.02))


def chain_of(request: Request, model: MusicModel) -> Chain:
    """The chain that a request of T = 4 samples with."""
    problem = problem_of(request.resolved(model), model, model.shape(None))
    return problem.chain(4, "leading")


@pytest.fixture
def song(tmp_path: Path) -> Path:
    samples = 0.05 * np.random.default_rng(0).standard_normal(8000)
    soundfile.write(tmp_path / "song.wav", samples, 8000, subtype="DOUBLE")
    return tmp_path / "song.wav"


def test_inversion_starts_from_ddims_and_gets_nearer(tiny_model: MusicModel, song: Path) -> None:
    made = invert(tiny_model, song, QUICK)
    samples, _ = soundfile.read(song)
    whole = tiny_model.encode(torch.from_numpy(samples).float()[None])[..., :64]
    chain = chain_of(QUICK, tiny_model)
    x_T = ddim_inversion(chain, whole)
    first = (ddim(chain, x_T) - whole).square().mean().item()
    assert made.losses[0, 0].item() == pytest.approx(first, rel=1e-3)
    assert made.losses.amin() < made.losses[0]
    assert set(made.errors) == {"invert_mse"}
    assert made.latent().request["start"] == f"DDIM inversion of {song}"


def test_inversions_are_those_of_their_module(tiny_model: MusicModel, song: Path) -> None:
    request = replace(QUICK, guidance=3.0)
    chain = chain_of(request, tiny_model)
    x_ref = _window(song, tiny_model, 0.0, None)
    by_how = {how: invert(tiny_model, song, request, how=how) for how in INVERSIONS}
    found = null_text_inversion(chain, x_ref)
    expected = {
        "ddim": ddim_inversion(chain, x_ref),
        "naive": naive_inversion(chain, x_ref, item_noise((1, 16, 64), 0, 1)),
    }
    for how, x_T in expected.items():
        assert torch.equal(by_how[how].x_T, x_T)
        torch.testing.assert_close(by_how[how].x_0, decode(x_T, chain))
    torch.testing.assert_close(by_how["null-text"].x_0, decode_null_text(chain, found))
    assert by_how["null-text"].report()["request"]["start"] == f"null-text inversion of {song}"
    error = {how: result.errors["invert_mse"].item() for how, result in by_how.items()}
    assert max(error["null-text"], error["ditto"]) < error["ddim"]
    with pytest.raises(
        RequestError, match="unknown inversion 'magic': choose one of ditto, ddim, naive, null-text"
    ):
        invert(tiny_model, song, request, how="magic")  # pyright: ignore[reportArgumentType]


def test_an_inverted_clip_can_be_edited(tiny_model: MusicModel, song: Path) -> None:
    latent = invert(tiny_model, song, QUICK).latent()
    louder = run(
        replace(QUICK, controls=(Intensity("0:-10"),), start=latent, tags=Tags("rock")), tiny_model
    )
    assert louder.losses[-1] < louder.losses[0]


def test_what_cannot_be_inverted_is_refused(tiny_model: MusicModel, song: Path) -> None:
    with pytest.raises(RequestError, match=r"has 0\.20 s from 0\.8 s on, but 0\.51"):
        invert(tiny_model, song, QUICK, begin=0.8)
    with pytest.raises(RequestError, match="no controls"):
        invert(tiny_model, song, replace(QUICK, controls=(Intensity("swell"),)))


@pytest.fixture(scope="module")
def made(tiny_model: MusicModel) -> Result:
    request = Request(
        Intensity("swell"), Tags("jazz"), seed=3, iterations=15, method=Ditto(steps=6, lr=0.05)
    )
    return run(request, tiny_model)


def loss(varied: Variations, model: MusicModel) -> float:
    return Intensity("swell").loss(Output(varied.x_0, model)).mean().item()


def test_variations_differ_from_each_other_but_not_from_themselves(
    made: Result, tiny_model: MusicModel
) -> None:
    varied = vary(tiny_model, made.latent(), count=3)
    assert varied.x_0.shape == (3, 1, 16, 64)
    assert not torch.allclose(varied.x_0[0], varied.x_0[1], atol=1e-3)
    alone = vary(tiny_model, made.latent(), count=1, seed=2)
    torch.testing.assert_close(alone.x_0[0], varied.x_0[2], rtol=1e-4, atol=1e-4)
    assert set(varied.errors) == {"intensity_mse_db2", "intensity_rho"}


def test_freedom_follows_the_latents_controls_more_closely(
    made: Result, tiny_model: MusicModel
) -> None:
    plain = vary(tiny_model, made.latent(), count=4)
    guided = vary(tiny_model, made.latent(), count=4, how="ddpm+freedom", strength=0.2)
    assert loss(guided, tiny_model) < loss(plain, tiny_model)


def test_an_inverted_latent_is_decoded_on_its_own_grid(tiny_model: MusicModel, song: Path) -> None:
    inverted = invert(tiny_model, song, QUICK, how="ddim")
    latent = inverted.latent()
    assert latent.grid == "leading"
    plain = replace(QUICK, start=latent, method=Uncontrolled(steps=4))
    torch.testing.assert_close(run(plain, tiny_model).x_0, inverted.x_0)
    varied = vary(tiny_model, latent, count=2)
    assert varied.request.method == Uncontrolled(steps=4, sampler="ddpm", grid="leading")
    asked = replace(plain, method=Uncontrolled(steps=4, grid="trailing"))
    assert not torch.equal(run(asked, tiny_model).x_0, inverted.x_0)


def test_variations_draw_other_noise_than_requests_of_their_seed(
    made: Result, tiny_model: MusicModel
) -> None:
    varied = vary(tiny_model, made.latent(), seed=3, count=1)
    method = Uncontrolled(steps=6, sampler="ddpm")
    request = Request((), Tags("jazz"), seed=3, start=made.latent(), method=method)
    assert not torch.allclose(run(request, tiny_model).x_0, varied.x_0, atol=1e-3)


def test_on_the_embedded_model_variations_keep_their_latent() -> None:
    """Clips of one latent vary less than half as much in loudness as clips of several."""
    model = ditto.load()
    levels = []
    for seed in range(3):
        latent = Latent(draw_x_T(model.shape(3.0), seed, 1), model.sha256)
        varied = vary(model, latent, count=3, seed=10 * seed, prompts="genre=jazz")
        levels.append(mel_rms_db(varied.x_0[:, 0], model.spec))
    within = torch.stack(levels).var(dim=1).mean()
    assert within < 0.5 * torch.cat(levels).var(dim=0).mean()


def test_prompts_may_be_fixed_new_or_one_for_each(
    made: Result, tiny_model: MusicModel, tmp_path: Path
) -> None:
    fixed = vary(tiny_model, made.latent(), count=2)
    assert [tags.genre for tags in fixed.prompts] == ["jazz", "jazz"]
    mixed = vary(tiny_model, made.latent(), count=2, prompts=[Tags("jazz"), Tags("rock")])
    torch.testing.assert_close(mixed.x_0[0], fixed.x_0[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(mixed.x_0[1], fixed.x_0[1], atol=1e-4)
    assert mixed.report(1)["request"]["tags"]["genre"] == "rock"
    assert mixed.report(1)["request"]["vary"] == "ddpm"
    assert mixed.report(1)["request"]["method"]["name"] == "none"
    assert len(mixed.save(tmp_path / "out.wav", 1)) == 3


def test_mistakes(made: Result, tiny_model: MusicModel) -> None:
    with pytest.raises(RequestError, match="unknown way to vary"):
        vary(tiny_model, made.latent(), how="magic")  # pyright: ignore[reportArgumentType]
    with pytest.raises(RequestError, match="another model"):
        vary(tiny_model, replace(made.latent(), model="abc"))
    with pytest.raises(RequestError, match="2 prompts were given for 3 clips"):
        vary(tiny_model, made.latent(), count=3, prompts=[Tags(), Tags()])
    with pytest.raises(RequestError, match="made without controls"):
        vary(tiny_model, replace(made.latent(), request={}), how="ddpm+freedom")
