"""ACE-Step against its own pipeline: turbo by Euler, the base by APG, songs, sound, recordings."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.models.adapters.tiny_flows import make_ace_step
from tests.models.adapters.tiny_pipelines import ddim_scheduler

from ditto.diffusion.denoiser import ProjectedDenoiser
from ditto.diffusion.samplers import Chain, ddim
from ditto.errors import ModelError, RequestError
from ditto.methods.ditto import checkpointed_call
from ditto.models.adapters.ace_step import AceStepModel
from ditto.models.conditioning import Tags
from ditto.models.hub import adapt
from ditto.request import Request

STEPS = [1, 8, 13, 20, 100]
SECONDS = 0.96
SONG = Tags(prompt="calm jazz", lyrics="[verse]\nla la", tempo=110.2, key="Cm")


@pytest.fixture(scope="module")
def turbo() -> AceStepModel:
    return adapt(make_ace_step())  # pyright: ignore[reportReturnType]


@pytest.fixture(scope="module")
def base() -> AceStepModel:
    return adapt(make_ace_step(base=True))  # pyright: ignore[reportReturnType]


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def theirs(model: AceStepModel, steps: int, output_type: str = "latent", **settings: Any) -> Any:
    pipe: Any = model.pipe
    song = {"prompt": "calm jazz", "lyrics": "[verse]\nla la", "bpm": 110, "keyscale": "C minor"}
    return pipe(
        **song,
        audio_duration=SECONDS,
        num_inference_steps=steps,
        output_type=output_type,
        generator=seeded(),
        **settings,
    ).audios


def chain_of(model: AceStepModel, steps: int, guidance: float = 1.0, tags: Tags = SONG) -> Chain:
    grid, cond = model.schedule.timesteps(steps), model.cond(tags, 1, SECONDS)
    return Chain(model.denoiser, model.schedule, grid, cond, guidance)


def noise_of(model: AceStepModel) -> torch.Tensor:
    return model.noise(model.shape(SECONDS), seeded())[None]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_chain_of_turbo_is_the_pipelines_own_loop(
    turbo: AceStepModel, steps: int, shift: float
) -> None:
    expected = theirs(turbo, steps, guidance_scale=1.0, shift=shift).mT
    model = replace(turbo, shift=shift)
    with torch.no_grad():
        x_0 = ddim(chain_of(model, steps), noise_of(model))
    assert expected.std() > 0.3
    torch.testing.assert_close(x_0, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("guidance", [1.0, 7.0])
def test_a_chain_of_the_base_guides_as_the_pipeline_does(
    base: AceStepModel, steps: int, guidance: float
) -> None:
    expected = theirs(base, steps, guidance_scale=guidance).mT
    with torch.no_grad():
        x_0 = ddim(chain_of(base, steps, guidance), noise_of(base))
    torch.testing.assert_close(x_0, expected, rtol=0, atol=1e-5)


def test_a_chain_that_is_walked_again_begins_anew(base: AceStepModel) -> None:
    chain = chain_of(base, 5, 7.0)
    with torch.no_grad():
        x_0 = ddim(chain, noise_of(base))
        assert torch.equal(ddim(chain, noise_of(base)), x_0)
        assert torch.equal(ddim(replace(chain, call=checkpointed_call), noise_of(base)), x_0)


def test_guidance_turns_more_than_it_should_without_its_memory(base: AceStepModel) -> None:
    chain = chain_of(base, 8, 7.0)
    assert isinstance(chain.denoiser, ProjectedDenoiser)
    forgetful = replace(chain, denoiser=replace(chain.denoiser, momentum=0.0))
    with torch.no_grad():
        x_0, other = ddim(chain, noise_of(base)), ddim(forgetful, noise_of(base))
    assert (x_0 - other).abs().max() > 1e-2


def test_the_gradient_goes_through_the_memory_too(base: AceStepModel) -> None:
    x_T = noise_of(base).double().float().requires_grad_()
    weight = torch.randn(x_T.shape, generator=seeded(1))

    def slope(call: Any) -> torch.Tensor:
        chain = replace(chain_of(base, 3, 7.0), call=call)
        return torch.autograd.grad((ddim(chain, x_T) * weight).sum(), x_T)[0]

    plain, kept = slope(Chain.call), slope(checkpointed_call)
    torch.testing.assert_close(kept, plain, rtol=1e-4, atol=1e-5)
    step = 1e-2 * torch.randn(x_T.shape, generator=seeded(2))
    with torch.no_grad():
        up, down = (ddim(chain_of(base, 3, 7.0), x_T + s * step) for s in (1, -1))
    change = ((up - down) * weight).sum() / 2
    assert change.item() == pytest.approx((plain * step).sum().item(), rel=0.02)


def test_a_weaker_guidance_mixes_null_and_song(base: AceStepModel) -> None:
    chain, x_T = chain_of(base, 1), noise_of(base)
    (t,) = chain.timesteps
    with torch.no_grad():
        null, half, song = (replace(chain, guidance=w).predict(x_T, t) for w in (0.0, 0.5, 1.0))
    torch.testing.assert_close(half, (null + song) / 2, rtol=0, atol=1e-5)
    assert (null - song).abs().max() > 1e-3


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(("which", "guidance"), [("turbo", 1.0), ("base", 7.0)])
def test_the_sound_is_the_pipelines_before_it_is_normalised(
    request: pytest.FixtureRequest, which: str, guidance: float, steps: int
) -> None:
    model: AceStepModel = request.getfixturevalue(which)
    expected = theirs(model, steps, "pt", guidance_scale=guidance)
    with torch.no_grad():
        sound = model.decode(ddim(chain_of(model, steps, guidance), noise_of(model)))
    assert sound.abs().max() > 0.01
    normalised = sound * (10 ** (-1 / 20) / sound.abs().max())
    torch.testing.assert_close(normalised, expected, rtol=0, atol=1e-5)


def test_recordings_are_encoded_and_decoded_as_by_the_pipelines_autoencoder(
    turbo: AceStepModel,
) -> None:
    sound = 0.3 * torch.randn(1, 2, 256 * 20, generator=seeded())
    x_0 = turbo.encode(sound)
    mode = turbo.vae.encode(sound).latent_dist.mode()
    torch.testing.assert_close(x_0, mode, rtol=0, atol=1e-6)
    torch.testing.assert_close(turbo.decode(x_0), turbo.vae.decode(mode).sample, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "other",
    [
        replace(SONG, lyrics="[verse]\nla lu"),
        replace(SONG, tempo=111.0),
        replace(SONG, key="C#m"),
        replace(SONG, prompt="calm jazy"),
    ],
    ids=["lyrics", "tempo", "key", "prompt"],
)
def test_every_tag_is_a_condition_of_its_own(turbo: AceStepModel, other: Tags) -> None:
    assert not torch.equal(turbo.cond(SONG, 1, 2.0), turbo.cond(other, 1, 2.0))


def test_a_tempo_is_told_once(turbo: AceStepModel) -> None:
    caption, _ = turbo._texts(Tags("jazz", "calm", 110.2), 30)
    assert "A calm jazz song." in caption
    assert "- bpm: 110\n" in caption
    assert "- duration: 30 seconds" in caption


def test_songs_encoded_together_are_the_pipelines_batch(turbo: AceStepModel) -> None:
    pipe: Any = turbo.pipe
    rows = turbo.cond_each([Tags(prompt="a"), Tags(prompt="calm jazz")], 2.0)
    text, mask, lyric, lyric_mask = pipe.encode_prompt(
        ["a", "calm jazz"], ["", ""], "cpu", audio_duration=2.0
    )
    silence = pipe.condition_encoder.silence_latent[:, :938].expand(2, -1, -1)
    with torch.no_grad():
        states, _ = pipe.condition_encoder(text, mask, lyric, lyric_mask, silence, torch.arange(2))
    torch.testing.assert_close(rows[:, : rows.shape[1] // 2], states.flatten(1))


def test_turbo_takes_no_guidance_and_nobody_a_negative_prompt(
    turbo: AceStepModel, base: AceStepModel
) -> None:
    with pytest.raises(RequestError, match="guidance was distilled into ACE-Step turbo"):
        Request(guidance=3.0).resolved(turbo)
    assert Request().resolved(turbo).guidance == 1.0
    assert Request().resolved(base).guidance == 7.0
    with pytest.raises(ModelError, match="leave the negative prompt out"):
        adapt(make_ace_step(), negative_prompt="hiss")


def test_only_turbo_is_its_own_student(turbo: AceStepModel, base: AceStepModel) -> None:
    assert base.distilled is None
    assert turbo.distilled is not None
    assert turbo.distilled.own


def test_the_window_is_the_pipelines(turbo: AceStepModel) -> None:
    assert turbo.spec.clip_seconds == pytest.approx(60.0)
    assert turbo.shape(0.96) == (4, 30)
    with pytest.raises(RequestError, match=r"at most 480\.00"):
        turbo.shape(481)


def test_a_scheduler_of_another_kind_is_refused() -> None:
    pipe: Any = make_ace_step()
    with pytest.raises(ModelError, match="num_train_timesteps 1 and shift 1"):
        adapt(type(pipe)(**(pipe.components | {"scheduler": ddim_scheduler()})))
