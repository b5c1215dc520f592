"""Native inpainting against the pipelines' own: Stable Audio 3's, and ACE-Step's "repaint"."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from diffusers import StableAudio3InpaintPipeline
from diffusers.models.autoencoders.autoencoder_oobleck import OobleckDiagonalGaussianDistribution
from tests.models.adapters.tiny_flows import make_ace_step, make_stable_audio_3
from tests.models.adapters.tiny_pipelines import PROMPT, make_stable_audio
from torch import Tensor

from ditto.controls.intensity import Intensity
from ditto.controls.regions import Region
from ditto.errors import ControlError, RequestError
from ditto.methods.native import NativeInpainting
from ditto.models.hub import adapt
from ditto.request import Request
from ditto.runner import problem_of, run


@cache
def stable_audio_3(base: bool) -> Any:
    return adapt(make_stable_audio_3(base))


@cache
def ace_step(base: bool) -> Any:
    model = adapt(make_ace_step(base))
    return replace(model, spec=replace(model.spec, clip_frames=32))


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def recording(model: Any) -> Tensor:
    """Stereo, as long as the window."""
    return 0.3 * torch.randn(2, model.spec.samples(model.spec.clip_frames), generator=seeded(1))


def region(model: Any, gap: tuple[int, int]) -> Region:
    with torch.no_grad():
        return Region.inpaint(model.encode(recording(model)[None])[0], (gap,))


def inpaint_pipeline(model: Any, steps: int) -> Tensor:
    """What diffusers' own pipeline makes of frames 20 to 40."""
    pipe: Any = StableAudio3InpaintPipeline(**model.pipe.components)
    pipe.set_progress_bar_config(disable=True)
    mask = torch.ones(1, 1, model.spec.clip_frames)
    mask[..., 20:40] = 0
    return pipe(
        PROMPT.prompt,
        duration=model.spec.clip_seconds,
        audio=recording(model)[None],
        mask=mask,
        num_inference_steps=steps,
        generator=seeded(),
        output_type="latent",
    ).audios


@pytest.mark.parametrize("steps", [1, 13])
def test_stable_audio_3_inpaints_as_its_pipeline_does(steps: int) -> None:
    model = stable_audio_3(True)
    method = NativeInpainting(steps=steps)
    asked = Request(region(model, (20, 40)), PROMPT, seed=3, guidance=1.0, method=method)
    result = run(asked, model)
    assert result.request.method == NativeInpainting(steps=steps, sampler="ddim")
    torch.testing.assert_close(result.x_0, inpaint_pipeline(model, steps), rtol=0, atol=1e-5)
    plain = run(replace(asked, controls=(), method=None), model)
    assert (plain.x_0 - result.x_0).abs().max() > 0.05


def test_the_distilled_inpaints_by_ping_pong() -> None:
    model, generator = stable_audio_3(False), seeded()
    asked = Request(region(model, (20, 40)), PROMPT, method=NativeInpainting()).resolved(model)
    assert asked.method == NativeInpainting(steps=8, sampler="ping-pong")
    x_T = model.noise(model.shape(), generator)[None]
    problem = problem_of(asked, model, model.shape())
    noise = lambda: lambda: torch.randn(x_T.shape, generator=generator)  # noqa: E731
    x_0 = asked.method.decode(x_T, replace(problem, new_noise=noise))  # pyright: ignore[reportOptionalMemberAccess]
    torch.testing.assert_close(x_0, inpaint_pipeline(model, 8), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("base", "guidance"), [(False, 1.0), (True, 1.0), (True, 7.0)])
def test_ace_step_repaints_as_its_pipeline_does(
    base: bool, guidance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OobleckDiagonalGaussianDistribution, "sample", lambda self, *_: self.mode())
    model, rate = ace_step(base), 8000 / 256
    expected = model.pipe(
        PROMPT.prompt,
        task_type="repaint",
        src_audio=recording(model),
        audio_duration=model.spec.clip_seconds,
        repainting_start=10.5 / rate,
        repainting_end=20.5 / rate,
        num_inference_steps=8,
        guidance_scale=guidance,
        generator=seeded(),
        output_type="latent",
    ).audios.mT
    asked = Request(
        region(model, (10, 20)), PROMPT, seed=3, guidance=guidance, method=NativeInpainting(steps=8)
    )
    torch.testing.assert_close(run(asked, model).x_0, expected, rtol=0, atol=1e-5)


def test_other_models_and_other_controls_are_refused() -> None:
    old, method = adapt(make_stable_audio()), NativeInpainting()
    with pytest.raises(RequestError, match="no inpainting of its own: choose ditto2"):
        run(Request(region(old, (20, 40)), PROMPT, method=method), old)
    with pytest.raises(ControlError, match="masking takes one region to keep"):
        run(Request(Intensity("swell"), PROMPT, method=method), stable_audio_3(True))
    with pytest.raises(RequestError, match="choose ddim or ping-pong"):
        NativeInpainting(sampler="dpm++")
    with pytest.raises(RequestError, match="steps must be a whole number from 1 to 1000"):
        NativeInpainting(steps=0)
