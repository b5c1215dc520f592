"""Stable Audio against its own pipeline, with a deterministic solver of diffusers' in place of its
stochastic one."""

from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch
from tests.models.adapters.tiny_pipelines import (
    PROMPT,
    chain_of,
    ddim_scheduler,
    deterministic,
    noise_of,
)

from ditto.diffusion.samplers import ddim
from ditto.errors import ModelError, RequestError
from ditto.methods.none import Uncontrolled
from ditto.models.adapters.stable_audio import StableAudioModel, decoder_reach
from ditto.models.hub import adapt
from ditto.request import Request
from ditto.runner import run


@pytest.mark.parametrize(("steps", "negative"), [(2, None), (7, None), (5, "hiss"), (20, None)])
def test_a_chain_makes_what_the_pipeline_makes(
    stable_audio: StableAudioModel, steps: int, negative: str | None
) -> None:
    generator = torch.Generator().manual_seed(3)
    theirs = deterministic(stable_audio.pipe)(  # pyright: ignore[reportArgumentType, reportCallIssue]
        PROMPT.prompt,
        num_inference_steps=steps,
        guidance_scale=7.0,
        negative_prompt=negative,
        generator=generator,
        output_type="pt",
    ).audios
    ours = replace(stable_audio, negative_prompt=negative)
    with torch.no_grad():
        sound = ours.decode(ddim(chain_of(ours, steps, 7.0), noise_of(ours, 3)))
    assert sound.shape == theirs.shape
    assert theirs.abs().max() > 0.05
    assert (sound - theirs).abs().max() <= 1e-4


@pytest.mark.parametrize("steps", [2, 5, 20, 50, 100])
def test_the_levels_of_a_grid_are_the_schedulers(
    stable_audio: StableAudioModel, steps: int
) -> None:
    scheduler = stable_audio.pipe.components["scheduler"]
    scheduler.set_timesteps(steps)
    schedule, like = stable_audio.schedule, torch.zeros(1, dtype=torch.float64)
    grid = torch.tensor(schedule.timesteps(steps))
    sigma = torch.cat([schedule.sigma(t, like) for t in grid])
    torch.testing.assert_close(sigma, scheduler.sigmas[:-1].double(), rtol=5e-5, atol=0)
    told = stable_audio._network_time(grid)
    torch.testing.assert_close(told, scheduler.timesteps.float(), rtol=5e-5, atol=1e-6)


def test_a_single_step_starts_from_noise(stable_audio: StableAudioModel) -> None:
    (t,) = stable_audio.schedule.timesteps(1)
    assert stable_audio.schedule.sigma(t, torch.zeros(1)).item() == pytest.approx(500)


def test_a_shorter_clip_is_told_where_it_ends(stable_audio: StableAudioModel) -> None:
    whole, short = stable_audio.cond(PROMPT), stable_audio.cond(PROMPT, seconds=0.25)
    assert not torch.equal(whole, short)
    explicit = stable_audio.cond(PROMPT, seconds=stable_audio.spec.clip_seconds)
    assert torch.equal(whole, explicit)
    with pytest.raises(RequestError, match=r"at most 0\.51"):
        stable_audio.shape(0.6)


def test_the_saved_sound_is_stereo(stable_audio: StableAudioModel, tmp_path: Path) -> None:
    result = run(Request(tags=PROMPT, method=Uncontrolled(steps=2)), stable_audio)
    result.save(tmp_path / "clip.wav")
    sound, rate = soundfile.read(tmp_path / "clip.wav", dtype="float32")
    assert rate == stable_audio.spec.sample_rate
    assert sound.shape == (4096, 2)
    assert abs(sound[:, 0] - sound[:, 1]).max() > 1e-3
    assert result.audio[0].numpy() == pytest.approx(sound.mean(axis=1), abs=1e-4)


def test_stereo_can_be_encoded_and_mono_is_both_channels(stable_audio: StableAudioModel) -> None:
    mono = 0.1 * torch.randn(
        1, stable_audio.spec.samples(16), generator=torch.Generator().manual_seed(0)
    )
    both = stable_audio.encode(torch.stack([mono, mono], dim=1))
    assert torch.equal(stable_audio.encode(mono), both)
    assert not torch.equal(stable_audio.encode(torch.stack([mono, -mono], dim=1)), both)


def test_the_published_decoder_reaches_few_frames() -> None:
    assert decoder_reach([2, 4, 4, 8, 8]) == 11


def test_a_scheduler_of_another_kind_is_refused(stable_audio: StableAudioModel) -> None:
    pipe = type(stable_audio.pipe)(
        **(stable_audio.pipe.components | {"scheduler": ddim_scheduler()})
    )
    with pytest.raises(ModelError, match="wants CosineDPMSolverMultistepScheduler"):
        adapt(pipe)
