"""Loops, songs and inversions on rectified flows: lengths to the sample, both channels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from tests.models.adapters.test_flows import MAKERS, shortened
from tests.models.adapters.tiny_pipelines import PROMPT

from ditto.edit.loops import loop, loop_recording
from ditto.edit.song import song
from ditto.edit.variations import invert
from ditto.errors import RequestError
from ditto.methods import Ditto, NativeInpainting
from ditto.models.adapters.flow import FlowModel
from ditto.models.hub import adapt

RATE = 8000


@pytest.fixture(scope="module", params=MAKERS)
def model(request: pytest.FixtureRequest) -> FlowModel:
    """The few-step checkpoint of each kind, with a window of 0.32 s or of 1.28 s."""
    return shortened(adapt(MAKERS[request.param]()))


def asked(method: Any = None) -> dict[str, Any]:
    method = Ditto(steps=2) if method is None else method
    return {"tags": PROMPT, "iterations": 2, "guidance": 1.0, "method": method}


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1.5 s of stereo noise in 24 bits."""
    path = tmp_path_factory.mktemp("recordings") / "recording.wav"
    noise = 0.1 * np.random.default_rng(0).standard_normal((12_000, 2))
    soundfile.write(path, noise, RATE, subtype="PCM_24")
    return path


def apart(sound: np.ndarray) -> float:
    """How far the channels of (channels, samples) are from each other."""
    return float(abs(sound[0] - sound[1]).max())


@pytest.mark.parametrize(
    "method", [Ditto(steps=2), NativeInpainting(steps=2)], ids=lambda method: method.name
)
def test_a_recording_becomes_a_stereo_loop(
    model: FlowModel, recording: Path, tmp_path: Path, method: Any
) -> None:
    window = model.spec.clip_seconds
    length, overlap = 1.5 + 0.4 * window, 0.25 * window
    made = loop_recording(
        model, recording, seconds=length, overlap=overlap, repeats=2, **asked(method)
    )
    whole = round(length * RATE)
    assert made.samples.shape == (2, 2 * whole)
    assert apart(made.samples[:, 12_100 : whole - 100]) > 1e-3
    made.save(tmp_path / "loop.wav")
    saved, rate = soundfile.read(tmp_path / "loop.wav", always_2d=True)
    assert (saved.shape, rate) == ((2 * whole, 2), RATE)
    before, _ = soundfile.read(recording, always_2d=True)
    fade = round(0.1 * RATE) + 1
    assert np.array_equal(saved[fade : 12_000 - fade], before[fade:-fade])


@pytest.mark.parametrize("share", [0.6, 1.6], ids=["in a window", "of several windows"])
def test_a_loop_from_nothing_is_stereo_and_exact(model: FlowModel, share: float) -> None:
    window = model.spec.clip_seconds
    made = loop(model, share * window, overlap=max(0.1, 0.2 * window), **asked())
    assert made.samples.shape == (2, round(share * window * RATE))
    assert apart(made.samples) > 1e-3
    assert len(made.parts) > 1 or share < 1


def test_a_song_is_stereo_and_as_long_as_was_asked(model: FlowModel) -> None:
    window = model.spec.clip_seconds
    made = song(model, 2.5 * window, overlap=0.25 * window, **asked())
    assert made.samples.shape == (2, round(2.5 * window * RATE))
    assert len(made.parts) >= 3
    parts = np.split(made.samples[:, : 3 * (made.samples.shape[1] // 3)], 3, axis=1)
    assert min(map(apart, parts)) > 1e-3


@pytest.mark.parametrize("base", [False, True], ids=["few steps", "base"])
@pytest.mark.parametrize("name", MAKERS)
def test_null_text_inversion_is_refused_in_one_line_before_anything_is_computed(
    name: str, base: bool, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = shortened(adapt(MAKERS[name](base=base)))

    def called(*_: object, **__: object) -> torch.Tensor:
        raise AssertionError("the network was called")

    monkeypatch.setattr(type(flow.network), "forward", called)
    words = "null-text inversion needs .* tag embeddings: choose another inversion"
    with pytest.raises(RequestError, match=rf"\A{words}\Z"):
        invert(flow, recording, how="null-text", **asked())
