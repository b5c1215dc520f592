"""Weights of several controls, the papers' iterations, time masks, and controls from their
descriptions."""

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ditto.controls import control_from_dict
from ditto.controls.base import Control, Effort, Masked
from ditto.controls.intensity import WITH_MELODY, WITH_OTHERS, Intensity
from ditto.controls.melody import WITH_FORM, WITH_GIVEN, Melody
from ditto.controls.output import Output
from ditto.controls.per_item import PerItem
from ditto.controls.pulls import LatentNorm
from ditto.controls.regions import Region, SelfLoop
from ditto.controls.structure import Structure, StructureLike
from ditto.controls.weights import corrected_effort, default_iterations, weighted_sum
from ditto.errors import ControlError
from ditto.methods.ditto import Ditto
from ditto.models.model import MusicModel
from ditto.request import Request
from ditto.runner import run

LOUD, TUNE, FORM, LOOP, GIVEN = (
    Intensity("swell"),
    Melody.from_notes("C4:1 E4:1", 240),
    Structure("ABA"),
    SelfLoop(40, 12),
    Region.outpaint(torch.zeros(1, 16, 64), 8, 64),
)


def weights(*controls: Control) -> list[float]:
    found = weighted_sum(controls)
    assert found is not None
    return [term["weight"] for term in found.to_dict().get("terms", [{"weight": 1.0}])]


def test_the_loudness_weighs_less_beside_other_controls() -> None:
    assert weights(LOUD) == [1.0]
    assert weights(LOUD, LOUD) == [1.0, 1.0]
    assert weights(LOUD, FORM) == [WITH_OTHERS, 1.0]
    assert weights(LOOP, LOUD) == [1.0, WITH_OTHERS]
    assert weights(LOUD, TUNE) == [WITH_MELODY, 1.0]
    assert weights(LOUD, TUNE, FORM) == [WITH_MELODY, WITH_FORM, 1.0]
    assert weights(LOUD.during((0.1, 0.3)), FORM) == [WITH_OTHERS, 1.0]
    assert weights(Intensity("swell", "correlation"), FORM) == [1.0, 1.0]
    assert weighted_sum(()) is None


def test_a_melody_gives_way_to_a_form() -> None:
    assert weights(TUNE, FORM) == [WITH_FORM, 1.0]
    assert weights(TUNE, LOUD) == [1.0, WITH_MELODY]


def test_a_melody_weighs_more_where_music_is_given() -> None:
    tune = TUNE.during((0.1, 0.4))
    assert weights(GIVEN, tune) == [1.0, WITH_GIVEN]
    assert weights(GIVEN, LOUD, tune) == [1.0, WITH_MELODY, WITH_GIVEN]
    assert weights(GIVEN, tune, FORM) == [1.0, WITH_FORM, 1.0]
    assert weights(LOOP, tune) == [1.0, 1.0]
    assert WITH_GIVEN > 1


def test_weights_of_the_users_own_are_left() -> None:
    assert weights(LOUD / 10, FORM) == [1 / 10, 1.0]
    assert weights(LOUD, 2 * FORM) == [1.0, 2.0]


def test_the_default_iterations() -> None:
    assert default_iterations([]) == default_iterations([LOUD]) == default_iterations([LOOP]) == 70
    assert default_iterations([LOUD, TUNE]) == default_iterations([FORM.during((0.0, 1.0))]) == 150
    assert default_iterations([LOUD / 40 + FORM]) == 150


def test_with_corrections_the_most_that_a_control_asks_for_is_done() -> None:
    assert corrected_effort([]) == replace(Effort(), regulariser=0.0)
    for controls in ([TUNE], [FORM.during((0.0, 1.0))], [LOUD], [TUNE + LatentNorm() / 10]):
        assert corrected_effort(controls).iterations == 40
    for controls in ([LOUD / 40 + FORM], [LOUD, TUNE]):
        assert corrected_effort(controls).iterations == 70
    assert corrected_effort([TUNE, LOOP]).iterations == LOOP.corrected.iterations == 70
    assert corrected_effort([LOUD + TUNE]).candidates == TUNE.corrected.candidates > 1
    assert corrected_effort([PerItem([TUNE, TUNE])]) == corrected_effort([TUNE])
    assert default_iterations([PerItem([TUNE, TUNE])]) == 150
    most = max(LOUD.corrected.travel, FORM.corrected.travel)
    assert corrected_effort([LOUD, FORM]).travel == most


@pytest.mark.parametrize(
    "control",
    [
        LOUD,
        TUNE,
        FORM,
        Intensity("0:-30 0.4:-12", "correlation"),
        FORM.during((0.1, 0.3)),
        LOUD / 40 + TUNE,
    ],
)
def test_a_description_gives_the_control_back(control: Control, tiny_model: MusicModel) -> None:
    described = json.loads(json.dumps(control.to_dict()))
    again = control_from_dict(described)
    assert again.to_dict() == control.to_dict()
    x = 0.1 * torch.randn(1, 1, 16, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(again(x, tiny_model), control(x, tiny_model), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "description",
    [
        StructureLike(torch.zeros(16, 64)).to_dict(),
        Intensity(" ".join(f"{i / 200}:-20" for i in range(4200))).to_dict(),
        LOOP.to_dict(),
        {},
        {"control": "intensity", "points": [[0, "loud"]]},
    ],
)
def test_what_a_description_does_not_hold_is_said(description: dict) -> None:
    with pytest.raises(ControlError, match="cannot be restored"):
        control_from_dict(description)


def x_0() -> Tensor:
    return 0.1 * torch.randn(2, 1, 16, 64, generator=torch.Generator().manual_seed(0))


def test_a_masked_intensity_is_that_of_its_frames(tiny_model: MusicModel) -> None:
    output = Output(x_0(), tiny_model)
    difference = (LOUD.feature(output) - LOUD.target(output))[:, 25:51]
    masked = LOUD.during((0.2, 0.407))
    torch.testing.assert_close(masked.loss(output), difference.square().mean(dim=1))
    torch.testing.assert_close(
        masked.errors(output)["intensity_mse_db2"], difference.square().mean(dim=1)
    )
    two = LOUD.during((0.2, 0.3), (0.3, 0.407))
    torch.testing.assert_close(two.loss(output), masked.loss(output))
    nested = Masked(LOUD.during((0.0, 0.407)), ((0.2, 1.0),))
    torch.testing.assert_close(nested.loss(output), masked.loss(output))


def test_no_gradient_comes_from_what_does_not_count(tiny_model: MusicModel) -> None:
    x = x_0().requires_grad_()
    FORM.during((0.0, 0.2)).loss(Output(x, tiny_model)).sum().backward()
    region = x_0().requires_grad_()
    LOOP.during((0.0, 0.2)).loss(Output(region, tiny_model)).sum().backward()
    assert region.grad is not None
    assert region.grad[..., 20].abs().max() == 0


@pytest.mark.parametrize(
    "spans",
    [
        (),
        ((0.3, 0.3),),
        ((-0.1, 0.3),),
        ((0.3, 0.1),),
        ((0.0, float("inf")),),
        ((float("nan"), 1.0),),
    ],
)
def test_masks_that_make_no_sense_are_refused(spans: tuple) -> None:
    with pytest.raises(ControlError, match="from some second to a later one"):
        LOUD.during(*spans)


def test_a_mask_beyond_the_clip_is_refused(tiny_model: MusicModel) -> None:
    LOUD.during((0.2, 5.0)).check(tiny_model, 64)
    with pytest.raises(
        ControlError, match=r"nothing of 0\.6 to 0\.8 s lies within the clip, which ends at 0\.51 s"
    ):
        LOUD.during((0.6, 0.8)).check(tiny_model, 64)


def test_panels_of_a_masked_control_say_when_it_counts(tiny_model: MusicModel) -> None:
    (panel,) = LOUD.during((0.1, 0.3)).panels(Output(x_0(), tiny_model), 0)
    assert panel.during == ((0.1, 0.3),)


@pytest.mark.parametrize("pair", [(LOUD, FORM), (LOUD, TUNE), (LOUD, LOOP)])
def test_two_controls_at_once_report_both_errors_and_the_loss_falls(
    tiny_model: MusicModel, pair: tuple[Control, Control]
) -> None:
    found = run(Request(pair, iterations=6, method=Ditto(steps=2, lr=0.05)), tiny_model)
    assert found.losses.amin() < found.losses[0]
    names = {name for control in pair for name in control.error(x_0(), tiny_model)}
    assert set(found.errors) == names
    assert [c["control"] for c in found.report()["request"]["controls"]] == [
        c.to_dict()["control"] for c in pair
    ]


def test_what_was_cut_of_a_melody_is_warned_of_through_sums_and_masks(
    tiny_model: MusicModel,
) -> None:
    long = Melody.from_notes("C4:4 E4:4", 120)
    (warning,) = (LOUD + long.during((0.0, 0.3))).warnings(tiny_model, 64)
    assert "was cut" in warning
