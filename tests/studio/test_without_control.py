"""The other side of an A/B: what the noise that was chosen gives without control."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

import ditto
from ditto.models.model import MusicModel
from ditto.studio.jobs import Job
from ditto.studio.wishes import EditWish, Generate, read_wish
from ditto.studio.work import Studio

MELODY = {"melody": {"text": "C4:1 E4:1"}}
"""A control that begins at the best of 64 noises."""


@pytest.fixture
def studio(student_model: MusicModel) -> Iterator[Studio]:
    made = Studio(student_model)
    yield made
    made.jobs.close()
    made.store.close()


def clip_of(job: Job) -> dict:
    """The clip of a job, once it is done."""
    until = time.monotonic() + 60
    while not job.over and time.monotonic() < until:
        time.sleep(0.02)
    assert job.state == "done", job.line
    return job.clips[0]


def file(studio: Studio, url: str) -> Path:
    """A file of the store by the address that the page has."""
    token, name = url.split("/")[-2:]
    return studio.store.find(token, name)


def report(studio: Studio, clip: dict) -> dict:
    (url,) = [one["url"] for one in clip["downloads"] if one["label"] == "JSON"]
    return json.loads(file(studio, url).read_text(encoding="utf-8"))


def test_a_clips_is_of_the_noise_that_was_chosen(studio: Studio) -> None:
    wish = read_wish(Generate, MELODY | {"iterations": 2, "seed": 3})
    clip = clip_of(studio.generate(wish))
    number = report(studio, clip)["candidate"]
    assert number
    (other,) = clip["others"]
    assert other["name"] == "Without control"
    heard, _ = soundfile.read(file(studio, other["sound"]))
    plain = ditto.generate(studio.model, seed=3, candidate=number, method=ditto.Ditto2())
    np.testing.assert_allclose(heard, plain.samples(), atol=1e-4)


def test_an_edits_windows_begin_at_the_noises_that_were_chosen(studio: Studio) -> None:
    recording = studio.store.new() / "song.wav"
    soundfile.write(recording, 0.1 * np.random.default_rng(0).standard_normal(9600), 8000)
    edit = {"kind": "inpaint", "recording": recording.parent.name, "regions": [[0.5, 0.7]]}
    edit |= {"overlap": 0.1, "iterations": 2}
    clip = clip_of(studio.edit(read_wish(EditWish, edit | MELODY)))
    numbers = [part["candidate"] for part in report(studio, clip)["parts"]]
    assert any(numbers)
    other = clip["others"][1]
    assert other["name"] == "Without control"
    heard, _ = soundfile.read(file(studio, other["sound"]))
    settings = {"regions": [(0.5, 0.7)], "overlap": 0.1, "iterations": 2, "tags": {"beat": 0}}
    plain, own = (
        ditto.inpaint(studio.model, recording, candidate=candidate, **settings).samples[0]
        for candidate in (numbers, None)
    )
    np.testing.assert_allclose(heard, plain, atol=1e-4)
    assert np.abs(heard - own).max() > 1e-3
