"""What a loop's controls are asked for over: the loop itself, and not the window that it is cut out
of."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ditto.controls.base import Masked
from ditto.controls.intensity import Intensity
from ditto.controls.output import Window
from ditto.controls.structure import Structure
from ditto.edit import loops
from ditto.edit.loops import loop, loop_recording
from ditto.edit.result import Edit
from ditto.errors import ControlError
from ditto.methods.base import Method
from ditto.methods.best_of import BestOf
from ditto.methods.ditto import Ditto
from ditto.methods.guidance import FreeDoM
from ditto.methods.latch import LatCH
from ditto.methods.masking import NaiveMasking
from ditto.models.model import MusicModel
from ditto.request import Request
from ditto.result import Result
from ditto.runner import run

QUICK = Ditto(steps=2)
SECONDS = 0.3071  # no whole number of samples


def of_noise(model: MusicModel, request: Request) -> Edit:
    samples = 0.1 * np.random.default_rng(0).standard_normal(8000)
    soundfile.write("noise.wav", samples, 8000)
    return loop_recording(model, "noise.wav", request, seconds=1.3, overlap=0.1)


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> list[Result]:
    """All that short loops make."""
    made: list[Result] = []

    def kept(*args: object, **more: object) -> Result:
        made.append(run(*args, **more))  # pyright: ignore[reportArgumentType]
        return made[-1]

    monkeypatch.setattr(loops, "run", kept)
    return made


def test_a_curve_of_a_short_loop_ends_with_the_loop_and_is_measured_within_it(
    tiny_model: MusicModel, results: list[Result]
) -> None:
    request = Request(Intensity("crescendo"), iterations=1, method=QUICK)
    edit = loop(tiny_model, SECONDS, request, overlap=0.1)
    assert len(results) == 2
    frames = round(SECONDS * tiny_model.spec.frame_rate)
    for result in results:
        masked = result.request.controls[-1]
        assert isinstance(masked, Masked)
        assert masked.spans == ((0.0, pytest.approx(SECONDS, abs=1e-3)),)
        curve = masked.bare()
        assert isinstance(curve, Intensity)
        levels = curve.curve.levels(64, tiny_model.spec)
        assert levels[0] == pytest.approx(-40)
        assert levels[frames // 2] == pytest.approx(-30, abs=0.5)
        assert levels[frames + 1 :].tolist() == [-20.0] * (63 - frames)
    # Sound that is thrown away counts for nothing in the errors.
    (_, asked) = results[-1].request.controls
    errors = asked.error(results[-1].x_0, tiny_model)
    assert edit.errors["intensity_mse_db2"] == pytest.approx(errors["intensity_mse_db2"].item())
    assert edit.request == request


def test_a_form_of_a_short_loop_has_its_sections_within_the_loop(
    tiny_model: MusicModel, results: list[Result]
) -> None:
    request = Request(Structure("AB"), iterations=1, method=QUICK)
    edit = loop(tiny_model, SECONDS, request, overlap=0.1)
    assert np.isfinite(edit.errors["structure_mse"])
    form = results[-1].request.controls[-1].bare()
    assert isinstance(form, Structure)
    labels = form.form.labels(64)
    half = SECONDS * tiny_model.spec.frame_rate / 2
    assert np.flatnonzero(labels)[0] == pytest.approx(half, abs=1)
    assert (labels[round(half) + 1 :] == 1).all()


def test_sections_that_are_too_short_for_a_loop_are_refused(tiny_model: MusicModel) -> None:
    request = Request(Structure("ABAB"), iterations=1, method=QUICK)
    with pytest.raises(ControlError, match=r"shortest section would last 0\.08 s"):
        loop(tiny_model, SECONDS, request, overlap=0.1)


def test_what_a_short_loop_has_no_time_for_is_said(tiny_model: MusicModel) -> None:
    request = Request(Intensity("swell").during((0.4, 0.5)), iterations=1, method=QUICK)
    edit = loop(tiny_model, SECONDS, request, overlap=0.1)
    assert edit.errors.keys() == {"loop_mse"}
    (note,) = edit.remarks()
    assert note.startswith("nothing of a loudness curve lies in what is new")


LOOPS: dict[str, tuple[Callable[[MusicModel, Request], Edit], int, float]] = {
    "of a recording": (of_noise, 1, 1.3),
    "from nothing": (lambda model, request: loop(model, 1.2, request, overlap=0.1), 3, 1.2),
}


@pytest.mark.parametrize("name", LOOPS)
def test_every_window_of_a_loop_sees_the_loop_as_the_whole(
    tiny_model: MusicModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[Window] = []
    in_window = Intensity.in_window

    def noted(self: Intensity, window: Window, spec: object) -> Intensity:
        seen.append(window)
        return in_window(self, window, spec)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Intensity, "in_window", noted)
    make, windows, total = LOOPS[name]
    make(tiny_model, Request(Intensity("crescendo"), iterations=1, method=QUICK))
    assert [window.total for window in seen] == [total] * windows


@pytest.mark.parametrize("method", [FreeDoM(steps=2), LatCH(steps=2), BestOf(count=2)])
@pytest.mark.parametrize("seconds", [SECONDS, 0.9])
def test_a_method_that_needs_a_control_makes_a_loop_without_any(
    student_model: MusicModel, method: Method, seconds: float
) -> None:
    edit = loop(student_model, seconds, method=method, overlap=0.1)
    assert edit.errors.keys() == {"loop_mse"}
    assert np.isfinite(edit.errors["loop_mse"])
    last = edit.parts[-1].request.method
    assert last is not None
    assert last.name == method.name
    assert f", {method.name}." in repr(edit)


def test_a_loop_that_a_method_cannot_close_is_refused_before_the_work(
    tiny_model: MusicModel, results: list[Result]
) -> None:
    with pytest.raises(ControlError, match="masking takes one region to keep"):
        loop(tiny_model, SECONDS, method=NaiveMasking(steps=2), overlap=0.1)
    assert not results
