"""Regions, loops and inversion against numpy, their gradients, and what they refuse."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ditto.audio.bands import Bands
from ditto.controls.output import Output
from ditto.controls.regions import Region, SelfLoop
from ditto.errors import ControlError
from ditto.methods.ditto import Ditto
from ditto.models.model import MusicModel
from ditto.panels import RegionPanel
from ditto.request import Request
from ditto.runner import run


def x_0(seed: int = 0, batch: int = 2, frames: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 1, 16, frames, generator=generator, dtype=torch.float64)


REFERENCE = x_0(1, 1, 50)[0]


def test_outpainting_matches_the_end_of_the_reference_with_the_start_of_the_clip(
    tiny_model: MusicModel,
) -> None:
    control = Region.outpaint(REFERENCE, 10, 64)
    expected = ((x_0()[..., :10] - REFERENCE[..., 40:]) ** 2).mean(dim=(1, 2, 3))
    torch.testing.assert_close(control(x_0(), tiny_model), expected)
    assert list(control.error(x_0(), tiny_model)) == ["outpaint_mse"]
    back = Region.outpaint(REFERENCE, 10, 64, backwards=True)
    expected = ((x_0()[..., 54:] - REFERENCE[..., :10]) ** 2).mean(dim=(1, 2, 3))
    torch.testing.assert_close(back(x_0(), tiny_model), expected)


def test_inpainting_matches_all_but_the_gaps(tiny_model: MusicModel) -> None:
    reference = x_0(1, 1)[0]
    control = Region.inpaint(reference, ((30, 40), (50, 64)))
    kept = np.r_[0:30, 40:50]
    expected = ((x_0() - reference)[..., kept] ** 2).mean(dim=(1, 2, 3))
    torch.testing.assert_close(control(x_0(), tiny_model), expected)
    assert control.spans == ((0, 30), (40, 50))
    assert Region.inpaint(reference, ((0, 20),)).spans == ((20, 64),)


def test_looping_matches_the_edges_crossed_over(tiny_model: MusicModel) -> None:
    control = Region.loop(REFERENCE, 8, 64)
    difference = torch.cat(
        [x_0()[..., :8] - REFERENCE[..., 42:], x_0()[..., 56:] - REFERENCE[..., :8]], dim=-1
    )
    torch.testing.assert_close(control(x_0(), tiny_model), difference.square().mean(dim=(1, 2, 3)))


def test_inversion_matches_everything(tiny_model: MusicModel) -> None:
    reference = x_0(1, 1)[0]
    control = Region.invert(reference)
    torch.testing.assert_close(
        control(x_0(), tiny_model), (x_0() - reference).square().mean(dim=(1, 2, 3))
    )
    assert control(reference[None], tiny_model).item() == 0


def test_a_loop_from_nothing_compares_two_regions_of_the_clip(tiny_model: MusicModel) -> None:
    control = SelfLoop(40, 12)
    expected = (x_0()[..., :12] - x_0()[..., 40:52]).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(control(x_0(), tiny_model), expected)
    again = x_0()
    again[..., 40:52] = again[..., :12]
    assert control(again, tiny_model).tolist() == [0, 0]


def test_a_loop_with_a_start_begins_with_it_and_returns_to_it(tiny_model: MusicModel) -> None:
    start = x_0(1, 3)[0]
    control = SelfLoop(40, 12, start)
    clip, wanted = x_0(), start[..., :12]
    both = [(clip[..., a : a + 12] - wanted).square().mean(dim=(1, 2, 3)) for a in (0, 40)]
    expected = (sum(both) + SelfLoop(40, 12)(clip, tiny_model)) / 3
    torch.testing.assert_close(control(clip, tiny_model), expected)
    held = torch.zeros_like(clip)  # ends that meet are not enough
    errors = control.errors(Output(held, tiny_model))["loop_mse"]
    assert errors.tolist() == [0, 0]
    assert (control(held, tiny_model) > 0.01).all()
    for a in (0, 40):
        clip[..., a : a + 12] = wanted
    assert control(clip, tiny_model).tolist() == [0, 0]
    with pytest.raises(ControlError, match="the loop's start has shape"):
        SelfLoop(40, 12, start[..., :8]).check(tiny_model, 64)
    with pytest.raises(ControlError, match="the loop's start has shape"):
        SelfLoop(40, 12, start[:, :8]).check(tiny_model, 64)


@pytest.mark.parametrize(
    "control",
    [
        Region.loop(REFERENCE, 8, 64),
        Region.outpaint(REFERENCE, 10, 64),
        SelfLoop(40, 12),
        SelfLoop(40, 12, REFERENCE),
    ],
)
def test_gradients_are_those_of_finite_differences(
    tiny_model: MusicModel, control: Region | SelfLoop
) -> None:
    x = x_0(batch=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: control(v, tiny_model), x, fast_mode=True)
    (gradient,) = torch.autograd.grad(control(x, tiny_model).sum(), x)
    free = 20 if isinstance(control, Region) else 15
    assert gradient[..., free].abs().max() == 0


def test_frames_can_be_left_out_and_masked(tiny_model: MusicModel) -> None:
    control = Region.outpaint(REFERENCE, 10, 64)
    assert control.without(((8, 10),)).spans == ((0, 8),)
    assert control.without(((3, 5), (9, 60))).spans == ((0, 3), (5, 9))
    with pytest.raises(ControlError, match="must lie within"):
        control.without(((0, 64),))
    masked = control.during((5 / 125 - 1e-3, 1.0))
    expected = ((x_0()[..., 5:10] - REFERENCE[..., 45:]) ** 2).mean(dim=(1, 2, 3))
    torch.testing.assert_close(masked(x_0(), tiny_model), expected)


def test_the_vocoder_does_not_run(tiny_model: MusicModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MusicModel, "to_audio", lambda *_: pytest.fail("the vocoder ran"))
    both = Region.outpaint(REFERENCE, 10, 64).during((0.0, 0.05)) + SelfLoop(40, 12)
    both(x_0(), tiny_model)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Region("inpaint", REFERENCE, ()), "must lie within"),
        (lambda: Region("inpaint", REFERENCE, ((5, 5),)), "not 5 to 5|not be empty: not 5 to 5"),
        (lambda: Region("inpaint", REFERENCE, ((5, 51),)), "5 to 51"),
        (lambda: Region.outpaint(REFERENCE, 51, 64), "the overlap, 51 frames"),
        (lambda: Region.outpaint(REFERENCE, 0, 64), "the overlap, 0 frames"),
        (lambda: Region.loop(REFERENCE, 33, 64), "at most half the clip"),
    ],
)
def test_regions_that_make_no_sense_are_refused(make, message: str) -> None:
    with pytest.raises(ControlError, match=message):
        make()


def test_what_does_not_fit_the_clip_is_refused(tiny_model: MusicModel) -> None:
    Region.outpaint(REFERENCE, 10, 64).check(tiny_model, 64)
    with pytest.raises(ControlError, match="has shape"):
        Region.outpaint(REFERENCE, 10, 64).check(tiny_model, 32)
    SelfLoop(40, 12).check(tiny_model, 64)
    with pytest.raises(ControlError, match="does not fit a clip of 64"):
        SelfLoop(60, 12).check(tiny_model, 64)


def test_descriptions_and_panels(tiny_model: MusicModel) -> None:
    assert Region.outpaint(REFERENCE, 10, 64).to_dict() == {
        "control": "outpaint",
        "frames": [[0, 10]],
    }
    assert SelfLoop(40, 12).to_dict() == {"control": "loop", "period": 40, "overlap": 12}
    for control in (Region.outpaint(REFERENCE, 10, 64), SelfLoop(40, 12)):
        (panel,) = control.panels(Output(x_0(), tiny_model), 0)
        assert isinstance(panel, RegionPanel)


def test_the_loss_falls(tiny_model: MusicModel) -> None:
    start = REFERENCE.float() * 0.1
    loops = SelfLoop(40, 12), SelfLoop(40, 12, start)
    for control in (Region.outpaint(start, 20, 64), *loops):
        found = run(Request(control, iterations=6, method=Ditto(steps=2, lr=0.05)), tiny_model)
        assert found.losses.amin() < found.losses[0]


def test_errors_are_in_units_of_the_log_mel_whatever_the_model_space(
    tiny_model: MusicModel,
) -> None:
    bands = Bands((0.1,) * 16, (0.2,) * 16)
    model = replace(tiny_model, bands=bands)
    reference = x_0(1, 1)[0]
    for control, same in (
        (Region.invert(reference), Region.invert(bands.normalised(reference))),
        (SelfLoop(40, 10), SelfLoop(40, 10)),
        (SelfLoop(40, 10, reference), SelfLoop(40, 10, bands.normalised(reference))),
    ):
        torch.testing.assert_close(same(bands.normalised(x_0()), model), control(x_0(), tiny_model))


def test_a_region_of_which_nothing_counts_is_refused(tiny_model: MusicModel) -> None:
    region = Region.inpaint(x_0()[0], ((10, 30),))  # all but 0.08 to 0.24 s
    for control in (region.during((0.1, 0.2)), (region + SelfLoop(40, 12)).during((0.1, 0.2))):
        with pytest.raises(ControlError, match=r"to inpaint lies within 0\.1 to 0\.2 s"):
            run(Request(control, iterations=1), tiny_model)
    region.during((0.1, 0.25)).check(tiny_model, 64)
