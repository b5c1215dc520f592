"""Stable Audio 3 against its own pipeline: Euler and ping-pong, CFG, sound, recordings."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from tests.models.adapters.tiny_flows import make_stable_audio_3, same
from tests.models.adapters.tiny_pipelines import PROMPT, chain_of, noise_of

from ditto.diffusion.consistency import gamma_sample
from ditto.diffusion.samplers import ddim
from ditto.errors import ModelError, RequestError, TagError
from ditto.methods import Ditto2
from ditto.models.adapters.common import in_chunks
from ditto.models.adapters.stable_audio_3 import StableAudio3Model, decoder_reach
from ditto.models.conditioning import Tags
from ditto.models.hub import adapt
from ditto.request import Request

STEPS = [1, 8, 13, 20, 100]


def theirs(
    model: StableAudio3Model, steps: int, output_type: str, **settings: object
) -> torch.Tensor:
    pipe: object = model.pipe
    return pipe(  # pyright: ignore[reportCallIssue]
        PROMPT.prompt,
        duration=model.spec.clip_seconds,
        num_inference_steps=steps,
        output_type=output_type,
        **settings,
    ).audios


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def base() -> StableAudio3Model:
    return adapt(make_stable_audio_3(base=True))  # pyright: ignore[reportReturnType]


@pytest.fixture(scope="module")
def distilled() -> StableAudio3Model:
    return adapt(make_stable_audio_3())  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(("guidance", "negative"), [(1.0, None), (4.0, None), (4.0, "hiss")])
def test_a_chain_of_the_base_is_the_pipelines_own_loop(
    base: StableAudio3Model, steps: int, guidance: float, negative: str | None
) -> None:
    settings = {"guidance_scale": guidance, "negative_prompt": negative}
    expected = theirs(base, steps, "latent", generator=seeded(), **settings)
    ours = replace(base, negative_prompt=negative)
    with torch.no_grad():
        x_0 = ddim(chain_of(ours, steps, guidance), noise_of(ours, 3))
    assert expected.std() > 0.3
    torch.testing.assert_close(x_0, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", STEPS)
def test_gamma_one_of_the_distilled_is_the_pipelines_ping_pong(
    distilled: StableAudio3Model, steps: int
) -> None:
    expected = theirs(distilled, steps, "latent", generator=seeded())
    sound = theirs(distilled, steps, "pt", generator=seeded())
    generator = seeded()
    x_T = distilled.noise(distilled.shape(), generator)[None]
    chain = chain_of(distilled, steps, 1.0)
    with torch.no_grad():
        x_0 = gamma_sample(chain, x_T, 1.0, lambda: torch.randn(x_T.shape, generator=generator))
        ours = distilled.decode(x_0).clamp(-1, 1)
    torch.testing.assert_close(x_0, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours, sound, rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_the_sound_is_the_pipelines(base: StableAudio3Model, steps: int, guidance: float) -> None:
    expected = theirs(base, steps, "pt", generator=seeded(), guidance_scale=guidance)
    with torch.no_grad():
        sound = base.decode(ddim(chain_of(base, steps, guidance), noise_of(base, 3)))
    assert expected.abs().max() > 0.05
    assert expected.shape == sound.shape
    torch.testing.assert_close(sound.clamp(-1, 1), expected, rtol=0, atol=1e-5)


def test_recordings_are_encoded_and_decoded_as_by_the_pipelines_autoencoder(
    base: StableAudio3Model,
) -> None:
    sound = 0.3 * torch.randn(1, 2, 64 * 20 - 7, generator=seeded())
    x_0 = base.encode(sound)
    vae = base.vae
    torch.testing.assert_close(x_0, vae.encode(sound).latents, rtol=0, atol=1e-6)
    again = vae(sound, return_dict=True).sample
    torch.testing.assert_close(base.decode(x_0), again, rtol=0, atol=1e-6)
    mono = sound.mean(dim=1)
    assert torch.equal(base.encode(mono), base.encode(torch.stack([mono, mono], dim=1)))


@pytest.mark.parametrize(("depths", "strides"), [((3,), (8,)), ((2, 1), (2, 4)), ((1, 3), (4, 2))])
def test_chunks_of_the_decoder_reach_as_far_as_they_must(
    base: StableAudio3Model, depths: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    vae = same(depths, strides)
    reach = decoder_reach(vae.config)
    z = torch.randn(1, 4, 40, generator=seeded())
    whole = vae.decode(z).sample

    def chunked(reach: int) -> torch.Tensor:
        return in_chunks(lambda z: vae.decode(z).sample, z, chunk=8, reach=reach, rate=64)

    torch.testing.assert_close(chunked(reach), whole, rtol=0, atol=2e-6)
    assert (chunked(1) - whole).abs().max() > 2e-5 or reach == 1


def test_the_published_decoders_reach_few_frames() -> None:
    for depth in (6, 12):
        config = {**same().config, "encoder_transformer_depths": (depth,)}
        assert decoder_reach(SimpleNamespace(**config)) == depth


def test_only_the_distilled_is_its_own_student(
    base: StableAudio3Model, distilled: StableAudio3Model
) -> None:
    assert base.distilled is None
    assert distilled.distilled is not None
    assert distilled.distilled.own
    assert distilled.distilled.network is distilled.network
    assert distilled.parts().count(distilled.network) == 1
    with pytest.raises(RequestError, match="student knows guidance 1, not 3: choose ditto"):
        Request(guidance=3.0, method=Ditto2()).resolved(distilled)


def test_length_and_window_are_the_pipelines(base: StableAudio3Model) -> None:
    assert base.spec.clip_seconds == pytest.approx(0.5, abs=0.01)
    assert not torch.equal(base.cond(PROMPT, seconds=0.2), base.cond(PROMPT, seconds=0.4))
    with pytest.raises(RequestError, match=r"at most 0\.50"):
        base.shape(0.6)


def test_lyrics_and_keys_are_refused(base: StableAudio3Model) -> None:
    with pytest.raises(TagError, match="does not sing"):
        base.cond(Tags(lyrics="la"))
    with pytest.raises(TagError, match="does not know keys"):
        base.cond(Tags(key="Am"))


def test_a_scheduler_that_shifts_times_is_refused() -> None:
    pipe = make_stable_audio_3()
    other = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0)
    with pytest.raises(ModelError, match="num_train_timesteps 1 and shift 1"):
        adapt(type(pipe)(**(pipe.components | {"scheduler": other})))
