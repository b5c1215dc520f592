"""Windows over gaps, and the context that each of them is given."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ditto.controls.base import Control, Masked
from ditto.controls.intensity import WITH_OTHERS, Intensity
from ditto.controls.melody import Melody
from ditto.controls.output import Window
from ditto.controls.regions import Region
from ditto.controls.structure import Structure
from ditto.edit.timeline import Timeline
from ditto.edit.windows import GapFiller, ModelWindow, plan_windows
from ditto.errors import ControlError, RequestError
from ditto.methods.ditto import Ditto
from ditto.models.conditioning import Tags
from ditto.models.model import MusicModel
from ditto.request import Request

WINDOW = ModelWindow(64, 4000, 800)


@given(
    first=st.integers(0, 9000),
    size=st.integers(10, 20_000),
    left=st.booleans(),
    right=st.booleans(),
    more=st.integers(0, 9000),
)
def test_windows_cover_the_gap_once_and_fit_their_windows_with_context(
    first: int, size: int, left: bool, right: bool, more: int
) -> None:
    first = first + 1000 if left else 0
    if not left and not right:
        return
    gap = (first, first + size)
    length = gap[1] + (more + 1000 if right else 0)
    found = plan_windows(gap, WINDOW, left, right, length)
    covered = sorted(piece.gap for piece in found)
    assert covered[0][0] == gap[0]
    assert covered[-1][1] == gap[1]
    assert all(a[1] == b[0] for a, b in itertools.pairwise(covered))
    for piece in found:
        start, end = piece.start, piece.start + WINDOW.length
        assert start <= piece.gap[0] < piece.gap[1] <= end
        assert (left and piece.gap[0] - start >= WINDOW.overlap) or (
            right and end - piece.gap[1] >= WINDOW.overlap
        )
    if left and right:
        assert end - found[-1].gap[1] >= WINDOW.overlap
        assert found[-1].gap[0] - found[-1].start > 0


def song(seconds: float = 1.0) -> Timeline:
    samples = 0.1 * np.random.default_rng(0).standard_normal((1, int(8000 * seconds))).astype(
        np.float32
    )
    return Timeline(samples, np.ones(samples.shape[1], bool), 8000)


def filling(model: MusicModel, **changes: Any) -> GapFiller:
    request = Request(tags=Tags("jazz", tempo=120), iterations=2, method=Ditto(steps=2))
    return replace(GapFiller("outpaint", model, request, overlap=0.2), **changes)


def test_the_reference_is_the_models_own_view_of_the_recording(tiny_model: MusicModel) -> None:
    whole = song()
    longer = whole.extended(0, 2000)
    window = ModelWindow.of(longer, tiny_model, 0.2)
    piece = plan_windows((8000, 10_000), window, True, False, 10_000)[0]
    region = filling(tiny_model)._region(longer, piece)
    ((first, last),) = region.spans
    assert 20 <= last - first <= 25
    assert piece.start + last * 64 + 128 <= 8000 + 64
    everything = tiny_model.encode(torch.from_numpy(whole.samples))[0]
    frame = piece.start // 64
    expected = everything[..., frame + first : frame + last]
    torch.testing.assert_close(region.reference[..., first:last], expected, atol=1e-3, rtol=0)


def test_beats_are_counted_on(tiny_model: MusicModel) -> None:
    made = filling(tiny_model)
    assert made._tags(3.0).beat == pytest.approx(6.0)
    assert made._tags(-0.5).beat == pytest.approx(-1.0)
    encoded = tiny_model.vocabulary.encode(made._tags(-0.5))
    assert encoded[-1].item() == 11_000
    free = filling(tiny_model, request=Request(tags=Tags("jazz")))
    assert free._tags(3.0) == Tags("jazz")


def test_each_window_counts_its_beats_from_the_recordings_start(tiny_model: MusicModel) -> None:
    longer = song().extended(0, 5000)
    results = list(filling(tiny_model).fill(longer, [(8000, 13_000)]))
    assert len(results) >= 2
    step = results[1].request.tags.beat - results[0].request.tags.beat
    assert results[0].request.tags.beat == pytest.approx((8000 - 1600) / 8000 * 2, abs=1e-6)
    assert step == pytest.approx(
        (ModelWindow.of(longer, tiny_model, 0.2).length - 1600) / 8000 * 2, abs=1e-6
    )
    assert results[1].request.seed == results[0].request.seed + 1


def test_other_controls_are_weighed_against_what_is_kept(tiny_model: MusicModel) -> None:
    request = Request(Intensity("0:-30 2:-10"), Tags("jazz"), iterations=2, method=Ditto(steps=2))
    (result,) = filling(tiny_model, request=request).fill(song().extended(0, 1000), [(8000, 9000)])
    control = result.request.control
    assert control is not None
    assert [weight for _, weight in control.terms()] == [1.0, WITH_OTHERS]


def test_too_little_to_go_on_from_is_refused(tiny_model: MusicModel) -> None:
    short = song(0.03).extended(0, 2000)
    with pytest.raises(RequestError, match="too little sound to go on from"):
        list(filling(tiny_model).fill(short, [(240, 2240)]))
    with pytest.raises(RequestError, match="nothing of the recording would be left"):
        list(filling(tiny_model).fill(song(), [(0, 8000)]))
    with pytest.raises(RequestError, match=r"overlap must be above 0 and at most 0\.38 s"):
        list(filling(tiny_model, overlap=0.5).fill(song().extended(0, 100), [(8000, 8100)]))


def seen(model: MusicModel, control: Control, new: tuple[float, float]) -> Control | None:
    """What the control asks for in the window that begins at 1 s of a recording of 2 s."""
    return control.in_window(Window(1.0, 2.0, new), model.spec)


def test_curves_and_melodies_are_seen_from_the_window(tiny_model: MusicModel) -> None:
    curve, spec = Intensity("0:-40 2:-20"), tiny_model.spec
    moved = seen(tiny_model, curve, (0.1, 0.5))
    assert isinstance(moved, Intensity)
    levels = moved.curve.levels(64, spec)
    assert levels[0] == pytest.approx(-30)
    assert levels[-1] == pytest.approx(-30 + 10 * 63 / 125, abs=0.01)
    named = seen(tiny_model, Intensity("crescendo"), (0.1, 0.5))
    assert isinstance(named, Intensity)
    assert named.curve.levels(64, spec)[0] == pytest.approx(-30)
    tune = seen(tiny_model, Melody.from_notes("C4:2 E4:2", bpm=120), (0.0, 0.5))
    assert isinstance(tune, Melody)
    assert tune.tune.notes[0].pitch == 64
    assert seen(tiny_model, Melody.from_notes("C4:1", bpm=120), (0.0, 0.5)) is None
    masked = seen(tiny_model, curve.during((1.3, 9.0)), (0.1, 0.5))
    assert isinstance(masked, Masked)
    assert masked.spans == ((pytest.approx(0.3), 0.5),)
    assert seen(tiny_model, curve.during((0.0, 0.5)), (0.1, 0.5)) is None
    with pytest.raises(ControlError, match="structure cannot be asked of an edit"):
        seen(tiny_model, Structure("ABA"), (0.0, 0.5))


def test_controls_count_in_what_the_window_makes_new_alone(tiny_model: MusicModel) -> None:
    curve = Intensity("0:-30 2:-10")
    controls = (curve, curve.during((1.05, 9.0)), curve.during((0.0, 0.9)), curve / 40)
    request = Request(controls, Tags("jazz"), iterations=1, method=Ditto(steps=1))
    longer = song().extended(0, 1600)
    (result,) = filling(tiny_model, request=request).fill(longer, [(8000, 9600)])
    region, whole, late, weighed = result.request.controls
    assert isinstance(region, Region)
    # The window begins 0.2 s, its overlap, before the recording's end.
    assert whole.to_dict()["during"] == [[pytest.approx(0.2), pytest.approx(0.4)]]
    assert late.to_dict()["during"] == [[pytest.approx(0.25), pytest.approx(0.4)]]
    assert weighed.to_dict()["during"] == whole.to_dict()["during"]
    assert weighed.bare().terms()[0][1] == pytest.approx(1 / 40)


def test_a_gap_of_less_than_three_frames_asks_for_nothing_else(tiny_model: MusicModel) -> None:
    short = round(2.5 * 64)
    request = Request(Intensity("0:-30 2:-10"), iterations=1, method=Ditto(steps=1))
    (result,) = filling(tiny_model, request=request).fill(
        song().extended(0, short), [(8000, 8000 + short)]
    )
    assert [control.kind for control in result.request.controls] == ["outpaint"]
