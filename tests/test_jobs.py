"""What can be made as a value: what is refused before the work, in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from ditto.errors import DittoError, RequestError
from ditto.jobs import Job
from ditto.latents import Latent, draw_x_T
from ditto.models.model import MusicModel
from ditto.request import Request


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    samples = 0.1 * np.random.default_rng(0).standard_normal(9600)
    soundfile.write(tmp_path / "song.wav", samples, 8000)
    return tmp_path / "song.wav"


@pytest.mark.parametrize("regions", [5, [1.0, 2.0], [["a", "b"]], [[0.1, 0.2, 0.3]], [None]])
def test_regions_that_are_no_pairs_are_refused(
    tiny_model: MusicModel, recording: Path, regions: Any
) -> None:
    job = Job(Request(), "inpaint", recording, {"regions": regions})
    with pytest.raises(RequestError, match="regions are pairs of seconds"):
        job.check(tiny_model)


@pytest.mark.parametrize("edit", ["inpaint", "outpaint", "loop", "song", "invert"])
def test_what_an_edit_does_not_take_is_named(
    tiny_model: MusicModel, recording: Path, edit: str
) -> None:
    job = Job(Request(), edit, None if edit == "song" else recording, {"colour": "blue"})
    for do in (job.check, job.make):
        with pytest.raises(RequestError, match=f"{edit} takes no colour"):
            do(tiny_model)


@pytest.mark.parametrize("item", ["x", [1], -1, 2, 0.5, None])
def test_an_item_that_is_none_of_its_batch_is_refused(item: Any) -> None:
    report = {"request": {"seed": 3}, "batch": {"seed": 3, "count": 2, "item": item}}
    with pytest.raises(RequestError, match="item must be a whole number from 0 to 1"):
        Job.of_report(report, "out.json")


def test_variations_that_cannot_be_are_refused_before_the_work(tiny_model: MusicModel) -> None:
    start = Latent(draw_x_T(tiny_model.shape(None), 0, 1), tiny_model.sha256)
    wrong: list[tuple[Any, Any, str]] = [
        ("sideways", Request(start=start), "unknown way to vary sideways: choose one of ddpm"),
        (["ddpm"], Request(start=start), "unknown way to vary"),
        ("ddpm+freedom", Request(start=start), "there are none: give some"),
        ("ddpm", Request(start=start, tags="genre=polka"), "polka"),
    ]
    for how, request, words in wrong:
        with pytest.raises(DittoError, match=words):
            Job(request, vary=how).check(tiny_model)
    Job(Request(start=start), vary="ddpm").check(tiny_model)


@pytest.mark.parametrize(
    ("edit", "recorded", "asked", "message"),
    [
        ("song", False, {"seconds": "x"}, "seconds must be a number, not x"),
        ("song", False, {"seconds": None}, "seconds must be a number, not None"),
        ("song", False, {"seconds": 0.9, "fade": []}, "fade must be a number"),
        ("song", False, {}, "song needs seconds"),
        ("song", True, {"seconds": 0.9}, "song takes no recording"),
        ("outpaint", True, {"overlap": 0.1}, "outpaint needs seconds"),
        ("inpaint", True, {}, "inpaint needs regions"),
        ("inpaint", False, {"regions": [[0.1, 0.2]]}, "inpaint needs its recording"),
        ("song", False, {"seconds": 0.9, "keep": "mine.txt"}, "song takes no keep"),
        ("loop", False, {"seconds": 0.4, "stop": 5}, "loop takes no stop"),
    ],
)
def test_what_an_edit_cannot_be_made_of_is_known_before_the_work(
    tiny_model: MusicModel,
    recording: Path,
    edit: str,
    recorded: bool,
    asked: dict[str, Any],
    message: str,
) -> None:
    job = Job(Request(), edit, recording if recorded else None, asked)
    for do in (job.check, job.make):
        with pytest.raises(RequestError, match=message):
            do(tiny_model)


def test_an_item_that_a_batch_has_not_is_known_before_the_work() -> None:
    for item in (2, "abc", 0.5):
        report = {"request": {}, "batch": {"seed": 1, "count": 2, "item": item}}
        with pytest.raises(RequestError, match="item must be a whole number from 0 to 1"):
            Job.of_report(report, "a.json")


def test_a_fault_of_a_watcher_is_its_own(tiny_model: MusicModel) -> None:
    def watch(step: Any) -> None:
        raise TypeError("of the watcher")

    job = Job(Request(iterations=2), "song", None, {"seconds": 0.9, "overlap": 0.1})
    with pytest.raises(TypeError, match="of the watcher"):
        job.make(tiny_model, watch)
