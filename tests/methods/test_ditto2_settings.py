"""DITTO-2's settings that are the controls' own, and what it listens to."""

import pytest
from tests.methods.given import LOUDNESS, SHAPE, problem
from torch import Tensor

from ditto.controls.base import Control
from ditto.controls.intensity import Intensity
from ditto.controls.melody import Melody
from ditto.controls.output import Output
from ditto.controls.per_item import PerItem
from ditto.controls.pulls import LatentNorm, LatentStatistics
from ditto.controls.weights import regulariser_weight
from ditto.errors import RequestError
from ditto.latents import Latent, draw_x_T
from ditto.methods.ditto2 import Ditto2
from ditto.models.model import MusicModel
from ditto.request import Request
from ditto.runner import Run

MELODY = Melody.from_notes("C4:1")


def test_how_far_and_how_like_noise_is_the_controls_own(student_model: MusicModel) -> None:
    def method(control: Control | list[Control], **settings: float) -> Ditto2:
        found = Request(control, method=Ditto2(**settings)).resolved(student_model).method
        assert isinstance(found, Ditto2)
        return found

    melody = method(MELODY)
    own = Melody.corrected
    assert (melody.max_travel, melody.candidates) == (own.travel, own.candidates)
    assert melody.regulariser == own.regulariser > 0
    assert melody.lr == pytest.approx(Melody.corrected.travel / Melody.corrected.iterations)
    assert method([MELODY, LOUDNESS]).max_travel == Intensity.corrected.travel
    assert (method(MELODY, max_travel=0.2, regulariser=0.0).lr) == pytest.approx(0.2 / 40)
    published = method(MELODY, corrections=0)
    assert (published.max_travel, published.regulariser, published.lr) == (None, 0.0, 5e-3)


@pytest.mark.parametrize("weight", [0.5, None])
def test_the_regulariser_adds_the_statistics_of_x_T(
    student_model: MusicModel, weight: float | None
) -> None:
    tied = 1.5 * draw_x_T(SHAPE, 0, 1).sort(dim=-1).values  # no noise has neighbours so alike
    pull = LatentStatistics().loss(Output(tied, student_model, x_T=tied))
    assert pull.item() > 1

    def first(control: Control, method: Ditto2) -> float:
        request = Request(
            control, method=method, iterations=1, start=Latent(tied, student_model.sha256)
        )
        return next(iter(Run(request, student_model))).loss.item()

    for control in (MELODY, MELODY + 0.1 * LOUDNESS, MELODY.during((0.0, 0.2))):
        own = regulariser_weight(Request(control).control) if weight is None else weight
        assert own > 0
        found = first(control, Ditto2(regulariser=weight)) - first(control, Ditto2(regulariser=0))
        assert found == pytest.approx(own * pull.item(), rel=1e-3)


def test_the_weight_of_the_regulariser_is_that_of_the_terms() -> None:
    own = Melody.corrected.regulariser
    assert regulariser_weight(MELODY) == own > 0
    assert regulariser_weight(MELODY.during((0.0, 0.1))) == own
    assert regulariser_weight(PerItem([MELODY, MELODY])) == own
    assert regulariser_weight(4 * MELODY + LatentNorm()) == pytest.approx(2 * own)


@pytest.mark.parametrize(("hear", "whole", "fast"), [("sound", 4, 0), ("draft", 0, 4)])
def test_what_is_heard_in_every_iteration(
    student_model: MusicModel, hear: str, whole: int, fast: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[bool] = []
    loss = type(MELODY).loss

    def counted(control: Control, output: Output) -> Tensor:
        heard.append(output.model is student_model)
        assert control == MELODY, "not its proxy"
        return loss(control, output)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(type(MELODY), "loss", counted)
    given = problem(student_model, MELODY, iterations=4)
    list(Ditto2(hear=hear, corrections=1).optimise(draw_x_T(SHAPE, 5, 2), given))  # pyright: ignore[reportArgumentType]
    assert heard.count(True) == whole
    assert heard.count(False) == fast


def test_what_can_be_heard_is_said() -> None:
    with pytest.raises(RequestError, match='hear must be "estimate", "draft" or "sound"'):
        Ditto2(hear="ears")  # pyright: ignore[reportArgumentType]
