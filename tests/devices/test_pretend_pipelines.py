"""Pipelines on a pretend accelerator: the CPU's figures, edits of flows, prompt encoders' place."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from tests.devices import pretend
from tests.devices.test_pretend import TOLERANCE, compare
from tests.models.adapters.tiny_flows import make_ace_step, make_stable_audio_3
from tests.models.adapters.tiny_pipelines import make_audioldm2, make_musicldm, make_stable_audio

import ditto
from ditto.controls.intensity import Intensity
from ditto.controls.regions import Region
from ditto.methods import NativeInpainting, Uncontrolled
from ditto.models.adapters.common import PipelineModel
from ditto.models.conditioning import Tags
from ditto.models.hub import adapt
from ditto.request import Request

PIPELINES = make_audioldm2, make_musicldm, make_stable_audio, make_stable_audio_3, make_ace_step


@pytest.mark.parametrize("make", PIPELINES)
def test_every_adapter(machine: None, make: Callable[[], Any]) -> None:
    models = adapt(make()), adapt(make(), device=pretend.NAME, low_memory=True)
    tags: Any = {"prompt": "calm"}
    settings: Any = {"tags": tags, "seconds": 0.4, "iterations": 1}
    compare(models, Intensity("swell"), method=ditto.Ditto(steps=2), **settings)
    compare(models, method=Uncontrolled(steps=2), **settings)
    audio = 0.1 * torch.randn(1, 4096, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mine, theirs = (model.encode(audio) for model in models)
    torch.testing.assert_close(theirs.cpu(), mine, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("make", [make_stable_audio_3, make_ace_step])
def test_flows_as_their_own_student_guided_and_inpainting(
    machine: None, make: Callable[..., Any]
) -> None:
    settings: Any = {"tags": {"prompt": "calm"}, "seconds": 0.4, "iterations": 1}
    models = adapt(make()), adapt(make(), device=pretend.NAME)
    compare(models, Intensity("swell"), method=ditto.Ditto2(decode_steps=2), **settings)
    draws = torch.Generator().manual_seed(0)
    reference = 0.3 * torch.randn(models[0].shape(0.4), generator=draws)
    region = Region.inpaint(reference, ((4, 8),))
    compare(models, region, method=NativeInpainting(steps=2), **settings)
    bases = adapt(make(base=True)), adapt(make(base=True), device=pretend.NAME)
    guided = settings | {"guidance": 4.0}
    compare(bases, Intensity("swell"), method=ditto.Ditto(steps=2), **guided)
    compare(bases, region, method=NativeInpainting(steps=2), **guided)


def short(make: Callable[[], Any], device: str) -> PipelineModel:
    """A flow whose window is 0.32 s or 0.64 s, on a device."""
    model = adapt(make(), device=device)
    frames = 40 if model.spec.hop == 64 else 20
    return replace(model, spec=replace(model.spec, clip_frames=frames))


@pytest.mark.parametrize("make", [make_stable_audio_3, make_ace_step])
def test_edits_of_flows(machine: None, make: Callable[[], Any], tmp_path: Path) -> None:
    recording = tmp_path / "song.wav"
    noise = 0.1 * np.random.default_rng(0).standard_normal((9600, 2))
    soundfile.write(recording, noise, 8000)
    method = ditto.Ditto(steps=1)
    request = Request(tags=Tags(prompt="calm"), iterations=2, guidance=1.0, method=method)
    made: list[list[Any]] = []
    for device in ("cpu", pretend.NAME):
        model = short(make, device)
        longer = 1.2 + 0.3 * model.spec.clip_seconds
        made.append(
            [
                ditto.inpaint(model, recording, [(0.5, 0.6)], request, overlap=0.1),
                ditto.outpaint(model, recording, longer, request, overlap=0.1),
                ditto.loop_recording(model, recording, request, seconds=longer, overlap=0.1),
            ]
        )
    for mine, theirs in zip(*made, strict=True):
        assert theirs.samples.shape[0] == 2
        np.testing.assert_allclose(theirs.samples, mine.samples, rtol=0, atol=TOLERANCE)


def places(model: PipelineModel) -> set[str]:
    return {p.device.type for network in model.encoders for p in network.parameters()}


@pytest.mark.parametrize("make", PIPELINES)
def test_prompt_encoders_of_a_moved_pipeline_return_to_the_cpu(
    machine: None, make: Callable[[], Any]
) -> None:
    """Of a pipeline that is on the device as a whole they are moved after their first use."""
    tags = Tags(prompt="calm")
    expected = adapt(make()).cond(tags)
    pipe = make()
    pipe.to(pretend.NAME)
    model = adapt(pipe, low_memory=True)
    assert (model.device.type, places(model)) == (pretend.NAME, {pretend.NAME})
    for _ in range(2):  # on the device, then on the CPU
        cond = model.cond(tags)
        assert (cond.device.type, places(model)) == (pretend.NAME, {"cpu"})
        torch.testing.assert_close(cond.cpu(), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("make", PIPELINES)
def test_prompt_encoders_never_leave_the_cpu(machine: None, make: Callable[[], Any]) -> None:
    model = adapt(make(), device=pretend.NAME)
    assert (model.device.type, places(model)) == (pretend.NAME, {"cpu"})
    assert model.cond(Tags(prompt="calm")).device.type == pretend.NAME
    assert places(model) == {"cpu"}
