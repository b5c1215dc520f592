"""An edit whose steps were too long says so: nothing ends worse than it began in silence."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import ditto
from ditto.edit import loops, windows
from ditto.edit.result import Edit
from ditto.models.model import MusicModel
from ditto.request import Request
from ditto.result import Result

SONG = "song.wav"
EDITS: dict[str, Callable[[MusicModel, Request], Edit]] = {
    "inpaint": lambda model, request: ditto.inpaint(
        model, SONG, [(0.5, 0.6)], request, overlap=0.2
    ),
    "outpaint": lambda model, request: ditto.outpaint(model, SONG, 1.6, request, overlap=0.2),
    # The loudness outweighs the return, which the first step meets as well as the others.
    "loop": lambda model, request: ditto.loop(
        model, 0.3, replace(request, controls=tuple(40 * c for c in request.controls)), overlap=0.1
    ),
    "long loop": lambda model, request: ditto.loop(model, 0.9, request, overlap=0.1),
    "loop of a recording": lambda model, request: ditto.loop_recording(
        model, SONG, request, overlap=0.1
    ),
    "song": lambda model, request: ditto.song(model, 1.2, request, overlap=0.1),
}


@pytest.fixture(autouse=True)
def song(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    soundfile.write(SONG, 0.1 * np.random.default_rng(0).standard_normal((9600, 2)), 8000)


@pytest.mark.parametrize(
    ("name", "seed", "worse"),
    [
        *(("inpaint", 14, True), ("outpaint", 2, True), ("loop", 27, True), ("long loop", 2, True)),
        *(("loop of a recording", 13, True), ("song", 2, True)),
        *((name, 1, False) for name in EDITS),
    ],
)
def test_an_edit_ends_no_worse_than_it_began_or_says_so(
    student_model: MusicModel, monkeypatch: pytest.MonkeyPatch, name: str, seed: int, worse: bool
) -> None:
    made: list[Result] = []

    def run(*args: Any, **more: Any) -> Result:
        made.append(ditto.run(*args, **more))
        return made[-1]

    for module in (windows, loops):
        monkeypatch.setattr(module, "run", run)
    # What DITTO-2 hears while it optimises is the student's one step; four are decoded.
    request = Request(
        ditto.Intensity("swell"), seed=seed, iterations=3, method=ditto.Ditto2(lr=1.0)
    )
    edit = EDITS[name](student_model, request)
    farther = []
    if name == "loop":  # whose first clip is to say where it begins
        made = made[-1:]
    for result in made:
        control = result.request.control
        assert control is not None
        ended = control(result.x_0, student_model, result.x_T, result.seeds)[0].item()
        if ended > 1.1 * result.losses[0, 0].item():
            farther.append(f"(loss {ended:.3g}) than where it began ({result.losses[0, 0]:.3g})")
    assert bool(farther) == worse
    edit.save("out.wav", picture=False)
    for told in (edit.remarks(), edit.report()["notes"]):
        said = [note for note in told if "farther from what was asked" in note]
        assert len(said) == len(farther)
        for note, figures in zip(said, farther, strict=True):
            assert figures in note
            assert "a smaller lr may help" in note
