"""Version 0.1: what it wrote, and its spellings, which go on working for one release."""

import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ditto
from ditto.controls.intensity import Intensity
from ditto.controls.structure import Structure
from ditto.errors import RequestError
from ditto.latents import Latent
from ditto.methods import Method
from ditto.methods.ditto import Ditto
from ditto.methods.ditto2 import Ditto2
from ditto.methods.guidance import FreeDoM
from ditto.methods.none import Uncontrolled
from ditto.models.conditioning import Tags
from ditto.models.model import MusicModel
from ditto.request import Request, method_from_dict

GOLDEN = Path(__file__).parent / "golden"
SWELL = Intensity("swell")


def golden() -> dict[str, Any]:
    return json.loads((GOLDEN / "v01.json").read_text())


def test_a_report_of_version_0_1_gives_its_request() -> None:
    report = golden()
    assert report["versions"]["ditto"] == "0.1.0"
    request = Request.from_dict(report["request"])
    curve, form = request.controls
    assert curve == Intensity("0:-36 1:-20 2:-30")
    assert form.to_dict() == Structure("ABA", 0.0, 0.0).during((0.5, 1.9)).to_dict()
    assert request.tags == Tags("jazz", "calm", 110)
    assert (request.seed, request.count, request.seconds) == (3, 1, 2.0)
    assert (request.iterations, request.guidance) == (4, None)
    assert request.method == Ditto2(
        lr=0.015, momentum=0.7, surrogate_steps=1, decode_steps=2, gamma=0.05, corrections=8
    )


def test_a_latent_of_version_0_1_is_loaded_and_belongs_to_its_own_model() -> None:
    latent, model = Latent.load(GOLDEN / "v01.latent"), ditto.load()
    assert latent.x_T.shape == (1, *model.shape(2.0))
    assert latent.request == golden()["request"]
    request = Request.from_dict(latent.request, strict=False)
    assert [control.bare().kind for control in request.controls] == ["intensity", "structure"]
    with pytest.raises(RequestError, match="is a latent of another model"):
        ditto.vary(model, latent, count=2, steps=3)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, None),
        ({"method": None}, None),
        ({"method": "vary by ddpm", "steps": 20}, None),
        ({"method": "none", "steps": 5, "sampler": "ddpm"}, Uncontrolled(steps=5, sampler="ddpm")),
        (
            {"method": "ditto", "steps": 5, "sampler": "dpm++", "lr": 0.1, "patience": 3},
            Ditto(steps=5, sampler="dpm++", lr=0.1, patience=3),
        ),
        ({"method": "freedom", "steps": 5, "strength": 0.1}, FreeDoM(steps=5, strength=0.1)),
        (
            {"method": "ditto2", "gamma": None, "surrogate_steps": "adaptive", "tolerance": 1},
            Ditto2(surrogate_steps="adaptive", tolerance=1),
        ),
    ],
)
def test_methods_of_reports_of_version_0_1(
    values: Mapping[str, Any], expected: Method | None
) -> None:
    assert method_from_dict(values) == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"method": "ditto2", "corrections": 0}, Ditto2(corrections=0)),
        ({"method": "ditto2", "steps": 7, "sampler": "ddim"}, Ditto2()),
        ({"method": "ditto", "steps": 7, "corrections": 3}, Ditto(steps=7)),
        ({"method": "none", "lr": 0.5}, Uncontrolled()),
        ({"corrections": 0}, Ditto2(corrections=0)),
        ({"steps": 7}, Ditto(steps=7)),
        ({"controls": (), "steps": 7}, Uncontrolled(steps=7)),
    ],
)
def test_methods_by_name_still_work_with_a_warning(
    settings: dict[str, Any], expected: Method
) -> None:
    values: dict[str, Any] = {"controls": SWELL} | settings
    with pytest.warns(DeprecationWarning, match=r"give method=ditto\.\w+\(") as caught:
        request = Request(**values)
    assert request.method == expected
    assert type(expected).__name__ in str(caught[0].message)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "magic"}, "unknown method 'magic': choose one of .*ditto"),
        ({"method": "ditto", "sampler": "euler"}, "ditto does not sample by euler"),
        ({"method": "ditto", "steps": 0}, "steps must be a whole number from 1 to 1000, not 0"),
        ({"method": "ditto2", "gamma": math.nan}, "gamma must be a number from 0 to 1"),
    ],
)
def test_wrong_settings_of_a_method_by_name_are_refused_as_ever(
    settings: dict[str, Any], message: str
) -> None:
    warnings.simplefilter("ignore", DeprecationWarning)
    with pytest.raises(RequestError, match=message):
        Request(SWELL, **settings)


def test_generate_still_takes_a_name_and_settings(student_model: MusicModel) -> None:
    with pytest.warns(DeprecationWarning, match=r"method=ditto\.Ditto\("):
        old = ditto.generate(student_model, SWELL, method="ditto", steps=4, iterations=2)
    new = ditto.generate(student_model, SWELL, method=Ditto(steps=4), iterations=2)
    assert torch.equal(old.audio, new.audio)
    assert old.report()["request"] == new.report()["request"]


def test_edits_still_take_the_recording_first(student_model: MusicModel, tmp_path: Path) -> None:
    song = tmp_path / "song.wav"
    ditto.write(song, 0.1 * np.random.default_rng(0).standard_normal((1, 8000)), 8000)
    request = Request(iterations=1, method=Ditto(steps=2))
    regions = [(0.4, 0.6)]
    with pytest.warns(DeprecationWarning, match=r"inpaint\(recording, model, …\)") as caught:
        old = ditto.inpaint(song, student_model, regions, request, overlap=0.1)  # pyright: ignore
    assert caught[0].filename == __file__
    new = ditto.inpaint(student_model, song, regions, request, overlap=0.1)
    np.testing.assert_array_equal(old.samples, new.samples)
    with pytest.warns(DeprecationWarning, match="outpaint"):
        ditto.outpaint(song, student_model, 1.2, request, overlap=0.1)  # pyright: ignore
    with pytest.warns(DeprecationWarning, match="loop_recording"):
        ditto.loop_recording(song, student_model, request, seconds=1.2, overlap=0.1)  # pyright: ignore
    with pytest.warns(DeprecationWarning, match="invert"):
        made = ditto.invert(song, student_model, request)  # pyright: ignore[reportArgumentType]
    with pytest.warns(DeprecationWarning, match="vary"):
        varied = ditto.vary(made.latent(), student_model, count=1, steps=2)  # pyright: ignore
    again = ditto.vary(student_model, made.latent(), count=1, steps=2)
    assert torch.equal(varied.audio, again.audio)


def test_edits_take_a_request_or_its_fields_but_not_both(
    student_model: MusicModel, tmp_path: Path
) -> None:
    with pytest.raises(TypeError, match="give either a request, or seed as keywords"):
        ditto.loop(student_model, 0.3, Request(), seed=3)
    with pytest.raises(TypeError, match="a request has no setting colour"):
        ditto.loop(student_model, 0.3, colour=3)


@pytest.mark.parametrize("call", ["Request", "replace", "steps", "generate", "inpaint", "vary"])
def test_the_warnings_name_the_users_line(
    student_model: MusicModel, tmp_path: Path, call: str
) -> None:
    song = tmp_path / "song.wav"
    ditto.write(song, 0.1 * np.random.default_rng(0).standard_normal((1, 8000)), 8000)
    latent = Latent(torch.randn(student_model.shape(None))[None], student_model.sha256)
    settings: dict[str, Any] = {"method": "ditto", "steps": 2, "iterations": 1}
    calls: dict[str, Any] = {
        "Request": lambda: Request(SWELL, **settings),
        "replace": lambda: replace(Request(SWELL), method="ditto"),
        "steps": lambda: ditto.steps(student_model, SWELL, **settings),
        "generate": lambda: ditto.generate(student_model, SWELL, **settings),
        "inpaint": lambda: ditto.inpaint(
            student_model, song, [(0.4, 0.6)], overlap=0.1, tags="", **settings
        ),
        "vary": lambda: ditto.vary(latent, student_model, count=1, steps=2),  # pyright: ignore
    }
    with pytest.warns(DeprecationWarning, match="will be removed") as caught:
        calls[call]()
    assert {warning.filename for warning in caught} == {__file__}
