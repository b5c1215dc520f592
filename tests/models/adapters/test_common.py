"""What must hold of every adapted pipeline."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.models.adapters.tiny_pipelines import chain_of, ddim_scheduler, noise_of
from tests.models.tiny_clap import make_clap
from torch import Tensor

from ditto.controls.base import Control
from ditto.controls.intensity import Intensity
from ditto.controls.melody import Melody
from ditto.controls.output import Output
from ditto.controls.regions import Region
from ditto.controls.structure import Structure
from ditto.controls.text import Text
from ditto.diffusion.samplers import Chain, ddim, ddpm, dpm_solver_pp
from ditto.errors import ModelError, RequestError
from ditto.latents import draw_x_T
from ditto.methods.ditto import Ditto, checkpointed_call, ditto
from ditto.models.adapters.common import (
    PipelineModel,
    feature_spec,
    in_chunks,
    null_condition,
    schedule_of,
)
from ditto.models.conditioning import Tags
from ditto.request import Request
from ditto.runner import run

CLAP = make_clap()


def gradient(model: PipelineModel, chain: Chain, x_T: Tensor) -> Tensor:
    """Of the loudness of what a chain makes."""
    x_T = x_T.clone().requires_grad_(True)
    loss = model.to_audio(ddim(chain, x_T)).square().mean().log()
    return torch.autograd.grad(loss, x_T)[0]


@pytest.mark.parametrize("steps", [1, 5])
def test_the_gradient_reaches_x_T_and_checkpointing_leaves_it_as_it_is(
    model: PipelineModel, steps: int
) -> None:
    chain, x_T = chain_of(model, steps, 3.0), noise_of(model, 0)
    plain = gradient(replace(model, checkpointing=False), chain, x_T)
    kept = gradient(replace(model, chunk=model.chunk), replace(chain, call=checkpointed_call), x_T)
    assert bool(plain.isfinite().all())
    assert plain.abs().mean() > 1e-6
    torch.testing.assert_close(kept, plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sampler", [ddim, dpm_solver_pp], ids=["ddim", "dpm++"])
def test_an_items_clip_does_not_depend_on_its_batch(model: PipelineModel, sampler: object) -> None:
    with torch.no_grad():
        both = sampler(chain_of(model, 3, 2.0, 2), noise_of(model, 0, 1))  # pyright: ignore[reportCallIssue]
        alone = sampler(chain_of(model, 3, 2.0), noise_of(model, 1))  # pyright: ignore[reportCallIssue]
    torch.testing.assert_close(both[1:], alone, rtol=1e-3, atol=1e-4)


def test_guidance_is_affine_between_null_and_prompt(model: PipelineModel) -> None:
    cond, x_T = model.cond(Tags(prompt="jazz")), noise_of(model, 0)
    t = torch.tensor([model.schedule.timesteps(2)[0]])
    with torch.no_grad():
        null, told, guided = (model.denoiser(x_T, t, cond, w) for w in (0.0, 1.0, 3.0))
        negative = model.denoiser(x_T, t, null_condition(cond), 1.0)
    torch.testing.assert_close(negative, null)
    assert (told - null).abs().max() > 1e-4
    scale = null.abs().max().item()
    torch.testing.assert_close(guided, 3 * told - 2 * null, rtol=1e-3, atol=1e-4 * scale)


def test_latents_are_not_thresholded(model: PipelineModel) -> None:
    chain, x_T = chain_of(model, 2, 1.0), noise_of(model, 0)
    with torch.no_grad():
        assert torch.equal(ddim(chain, x_T), ddim(replace(chain, threshold=False), x_T))
        assert ddim(chain, x_T).abs().max() > 1


def test_prompts_are_encoded_to_rows_without_gradients(model: PipelineModel) -> None:
    rows = model.encode_prompts(["calm jazz", "loud rock"])
    assert rows.dtype == torch.float32
    assert not rows.requires_grad
    assert torch.equal(
        model.cond(Tags(prompt="loud rock"), 3)[2:], model.cond(Tags(prompt="loud rock"))
    )
    assert (rows[0] - rows[1]).abs().max() > 1e-3
    other = replace(model, negative_prompt="noise").cond(Tags(prompt="calm jazz"))
    same, negative = model.cond(Tags(prompt="calm jazz")).chunk(2, dim=1)
    torch.testing.assert_close(other.chunk(2, dim=1)[0], same)
    assert (other.chunk(2, dim=1)[1] - negative).abs().max() > 1e-3
    assert not torch.equal(model.cond(Tags("jazz", "calm")), model.cond(Tags("rock", "calm")))


def test_sound_is_decoded_in_chunks_as_in_one_piece(model: PipelineModel) -> None:
    x_0 = noise_of(model, 3)
    with torch.no_grad():
        whole = replace(model, chunk=10_000).decode(x_0)
        pieces = replace(model, chunk=8).decode(x_0)
    assert whole.shape[-1] == model.spec.samples(x_0.shape[-1])
    torch.testing.assert_close(pieces, whole, rtol=1e-4, atol=1e-6)


def test_in_chunks_covers_a_clip_whose_last_chunk_is_short() -> None:
    x = torch.arange(22.0).reshape(1, 2, 11)
    out = in_chunks(lambda z: z.repeat_interleave(3, dim=-1)[:, :1], x, chunk=4, reach=1, rate=3)
    assert torch.equal(out, x[:, :1].repeat_interleave(3, dim=-1))


def test_controls_hear_the_mono_mix_of_what_is_saved(model: PipelineModel) -> None:
    x_0 = noise_of(model, 1, 2)
    with torch.no_grad():
        sound, audio, mel = model.to_sound(x_0), model.to_audio(x_0), model.to_mel(x_0)
    torch.testing.assert_close(audio, sound.mean(dim=1))
    assert sound.abs().max() <= 1
    assert mel.shape == (2, model.spec.n_mels, x_0.shape[-1])
    assert Output(x_0, model).frames == audio.shape[-1] // model.spec.hop


def test_a_shorter_clip_is_a_shorter_latent(model: PipelineModel) -> None:
    shape = model.shape(model.spec.seconds(10) - 1e-4)
    assert shape == (*model.latent_shape, 10)
    assert model.shape() == (*model.latent_shape, model.spec.clip_frames)
    for seconds in (0.01, math.inf, math.nan):
        with pytest.raises(RequestError, match="seconds must be at least"):
            model.shape(seconds)


def test_encode_gives_latents_of_the_decoders_kind(model: PipelineModel) -> None:
    audio = 0.1 * torch.randn(
        2, model.spec.samples(20) - 5, generator=torch.Generator().manual_seed(0)
    )
    x_0 = model.encode(audio)
    assert x_0.shape == (2, *model.latent_shape, 20)
    # a latent frame hears what is around it: a change at the end leaves the beginning alone
    audio[:, -model.spec.hop :] = 0
    changed = (model.encode(audio) - x_0).abs().amax(dim=tuple(range(x_0.ndim - 1)))
    assert changed.argmax() >= 15
    assert changed[0] < 0.2 * changed.max()


def controls(model: PipelineModel) -> dict[str, Control]:
    """One of each kind; the references are of the model's own latent."""
    frames = model.shape()[-1]
    reference = 0.3 * noise_of(model, 11)[0]
    return {
        "intensity": Intensity("0:-20 0.25:-45 0.5:-25"),
        "melody": Melody.from_notes("C5:0.5 E5:0.5", bpm=120),
        "structure": Structure("ABA"),
        "inpaint": Region.inpaint(reference, ((frames // 3, 2 * frames // 3),)),
        "text": Text("a calm jazz song", CLAP),
    }


def test_every_control_lowers_its_loss_in_20_iterations(model: PipelineModel) -> None:
    model, wanted = replace(model, checkpointing=False), controls(model)
    chain = chain_of(model, 2, 1.0, len(wanted))
    chain = replace(chain, timesteps=chain.timesteps[:1])

    def objective(x_0: Tensor, x_T: Tensor) -> Tensor:
        """Each item follows a control of its own."""
        output = Output(x_0, model)
        return torch.cat(
            [control.loss(output.item(i)) for i, control in enumerate(wanted.values())]
        )

    for control in wanted.values():
        control.check(model, model.shape()[-1])
    steps = list(
        ditto(
            noise_of(model, *range(4, 4 + len(wanted))),
            chain,
            objective,
            iterations=20,
            lr=0.05,
            checkpointing=False,
        )
    )
    fall = (steps[0].loss - steps[-1].best_loss) / steps[0].loss.abs()
    assert min(fall.tolist()) > 0.02, dict(zip(wanted, fall.tolist(), strict=True))


def test_a_request_runs_as_on_any_model(model: PipelineModel, tmp_path: Path) -> None:
    request = Request(
        controls=(Intensity("0:-20 0.15:-45"),),
        tags=Tags(prompt="calm jazz"),
        seed=3,
        count=2,
        iterations=2,
        method=Ditto(steps=2),
        seconds=model.spec.seconds(24),
    )
    result = run(request, model)
    assert result.x_T.shape == (2, *model.latent_shape, 24)
    assert result.audio.shape == (2, model.spec.samples(24))
    assert result.losses.shape == (2, 2)
    files = result.save(tmp_path / "clip.wav", 1)
    assert all(file.stat().st_size > 1000 for file in files[:2])
    assert result.report(1)["request"]["tags"]["prompt"] == "calm jazz"


def test_a_seed_draws_the_same_latent_in_any_batch(model: PipelineModel) -> None:
    x_T = draw_x_T(model.shape(), 5, 3, model.noise)
    assert torch.equal(x_T[2:], noise_of(model, 7))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_weights_leave_x_T_and_losses_in_float32(
    audioldm2: PipelineModel, dtype: torch.dtype
) -> None:
    import copy

    network = copy.deepcopy(audioldm2.network).to(dtype)
    half = replace(audioldm2, network=network)
    x_T = noise_of(half, 0)
    found = gradient(half, chain_of(half, 2, 2.0), x_T)
    exact = gradient(audioldm2, chain_of(audioldm2, 2, 2.0), x_T)
    assert found.dtype == torch.float32
    assert torch.cosine_similarity(found.flatten(), exact.flatten(), dim=0) > 0.9


def test_ancestral_noise_keeps_the_levels_of_the_schedule(model: PipelineModel) -> None:
    generator = torch.Generator().manual_seed(0)
    x_T = noise_of(model, 0)
    with torch.no_grad():
        x_0 = ddpm(
            chain_of(model, 4, 1.0), x_T, lambda: torch.randn(x_T.shape, generator=generator)
        )
    assert bool(x_0.isfinite().all())


def test_the_spectrogram_of_the_features_has_the_papers_resolution() -> None:
    assert (feature_spec(16_000, 640, 256).n_fft, feature_spec(44_100, 2048, 1024).n_fft) == (
        2048,
        4096,
    )
    assert feature_spec(16_000, 640, 256).clip_seconds == pytest.approx(10.24)
    assert feature_spec(44_100, 2048, 1024).clip_seconds == pytest.approx(47.554, abs=1e-3)


def test_a_schedule_without_discrete_levels_is_refused() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    with pytest.raises(ModelError, match="give the pipeline a DDIMScheduler"):
        schedule_of(FlowMatchEulerDiscreteScheduler())


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20, 50, 200, 999])
def test_the_grid_is_the_schedulers(steps: int) -> None:
    scheduler = ddim_scheduler()
    scheduler.set_timesteps(steps)
    assert schedule_of(scheduler).timesteps(steps) == scheduler.timesteps.tolist()
