"""The algebra of controls."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ditto.audio.spec import AudioSpec
from ditto.controls.base import Control, Masked, Sum
from ditto.controls.output import Output, Window
from ditto.controls.per_item import PerItem
from ditto.controls.structure import Structure
from ditto.errors import ControlError
from ditto.models.conditioning import TagVocabulary
from ditto.models.model import MusicModel
from ditto.panels import CurvePanel, Panel, Spans


class Counting(nn.Module):
    """A vocoder that counts its calls."""

    calls = 0

    def forward(self, x_0: Tensor) -> Tensor:
        self.calls += 1
        return x_0.sum(dim=1)


@dataclass(frozen=True)
class Level(Control):
    """The mean of the audio to some power; fits clips of at most `longest` frames."""

    power: int
    longest: int = 100

    def loss(self, output: Output) -> Tensor:
        return output.audio.pow(self.power).mean(dim=1)

    def errors(self, output: Output) -> dict[str, Tensor]:
        return {"level": self.loss(output), f"level_{self.power}": self.loss(output)}

    def check(self, model: MusicModel, frames: int) -> None:
        if frames > self.longest:
            raise ControlError(f"at most {self.longest} frames")

    def to_dict(self) -> dict[str, Any]:
        return {"control": "level", "power": self.power}

    def panels(self, output: Output, item: int) -> list[Panel]:
        audio = output.audio[item].numpy()
        return [CurvePanel(title=f"power {self.power}", unit="1", target=audio, achieved=audio)]


A, B, C = Level(1), Level(2), Level(3)
X_0 = torch.rand(2, 1, 4, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> MusicModel:
    return MusicModel(nn.Identity(), Counting(), AudioSpec(), TagVocabulary((), ()))  # pyright: ignore[reportArgumentType]


def losses(model: MusicModel) -> list[Tensor]:
    return [control(X_0, model) for control in (A, B, C)]


def test_a_sum_is_the_mean_of_the_weighted_parts(model: MusicModel) -> None:
    a, b, c = losses(model)
    for control, expected in (
        (A + B, (a + b) / 2),
        (A / 40 + B, (a / 40 + b) / 2),
        (3 * A, 3 * a),
        (A * 0.5 + 2 * B + C / 4, (a * 0.5 + 2 * b + c / 4) / 3),
        ((A + B) + C, (a + b + c) / 3),
        (A + (B + C), (a + b + c) / 3),
        ((A + B) / 2 + C, (a / 2 + b / 2 + c) / 3),
        (2 * (3 * A), 6 * a),
        (A + A, a),
    ):
        torch.testing.assert_close(control(X_0, model), expected)


def test_a_sums_gradient_is_the_weighted_mean_of_gradients(model: MusicModel) -> None:
    def gradient(control: Control) -> Tensor:
        x = X_0.clone().requires_grad_()
        return torch.autograd.grad(control(x, model).sum(), x)[0]

    torch.testing.assert_close(gradient(A / 4 + 3 * B), (gradient(A) / 4 + 3 * gradient(B)) / 2)


def test_the_vocoder_runs_once_for_all_parts(model: MusicModel) -> None:
    control = A + B / 2 + C
    control(X_0, model)
    assert model.vocoder.calls == 1
    output = Output(X_0, model)
    control.loss(output), control.errors(output), control.panels(output, 0)
    assert model.vocoder.calls == 2


def test_audio_that_is_given_is_not_made_again(model: MusicModel) -> None:
    rendered = torch.full((2, 6), 0.5)
    assert A.loss(Output(X_0, model, rendered)).tolist() == [0.5, 0.5]
    assert model.vocoder.calls == 0


def test_errors_keep_every_parts_name(model: MusicModel) -> None:
    errors = (A + B + B).error(X_0, model)
    assert list(errors) == ["level", "level_1", "level#2", "level_2", "level#3", "level_2#2"]
    a, b, _ = losses(model)
    assert torch.equal(errors["level"], a)
    assert torch.equal(errors["level#3"], b)


def test_every_part_is_checked(model: MusicModel) -> None:
    (A + Level(2, longest=10)).check(model, 10)
    with pytest.raises(ControlError, match="at most 10"):
        (A + Level(2, longest=10) / 3).check(model, 11)


def test_description_and_panels_are_the_parts(model: MusicModel) -> None:
    control = A / 2 + B
    assert control.to_dict() == {
        "control": "sum",
        "terms": [
            {"weight": 0.5, "control": "level", "power": 1},
            {"weight": 1.0, "control": "level", "power": 2},
        ],
    }
    assert [panel.title for panel in control.panels(Output(X_0, model), 1)] == [
        "power 1",
        "power 2",
    ]


def test_controls_are_values() -> None:
    assert Level(2) == B
    assert Sum(((A, 1.0), (B, 1.0))) == A + B
    assert hash(A + B) == hash(Level(1) + Level(2))


# Controls in a recording's time. At this rate a span must last three frames, 3 · 256 / 22050 s.

SPEC = AudioSpec()
SHORTEST = 3 * 256 / 22_050


@pytest.mark.parametrize(
    ("spans", "start", "new", "expected"),
    [
        # (spans in the recording, the window's start, what is new in the window, spans in it)
        (((2.0, 3.0),), 1.0, (0.0, 5.0), ((1.0, 2.0),)),
        (((2.0, 3.0),), 1.0, (1.5, 5.0), ((1.5, 2.0),)),
        (((2.0, 3.0),), 1.0, (0.0, 1.25), ((1.0, 1.25),)),
        (((0.0, 9.0),), 4.0, (1.0, 2.0), ((1.0, 2.0),)),
        (((0.0, 1.0), (2.0, 3.0), (8.0, 9.0)), 1.5, (0.25, 7.0), ((0.5, 1.5), (6.5, 7.0))),
        (((0.0, 2.0),), -0.5, (0.0, 1.0), ((0.5, 1.0),)),
        (((2.0, 3.0),), 3.0, (0.0, 5.0), None),
        (((2.0, 3.0),), 1.0, (2.0, 5.0), None),
        (((2.0, 3.0),), 1.0, (2.0 - 0.9 * SHORTEST, 5.0), None),
        (((2.0, 3.0),), 1.0, (2.0 - 1.1 * SHORTEST, 5.0), ((2.0 - 1.1 * SHORTEST, 2.0),)),
        (((2.0, 3.0), (3.5, 3.5 + SHORTEST / 2)), 1.0, (0.0, 5.0), ((1.0, 2.0),)),
    ],
)
def test_spans_are_clipped_to_what_is_new_in_a_window(
    spans: Spans, start: float, new: tuple[float, float], expected: Spans | None
) -> None:
    found = A.during(*spans).in_window(Window(start, 20.0, new), SPEC)
    if expected is None:
        assert found is None
        return
    assert isinstance(found, Masked)
    assert found.control == A
    torch.testing.assert_close(torch.tensor(found.spans), torch.tensor(expected))


@dataclass(frozen=True)
class Early(Level):
    """Asks for nothing in a window that begins after 1 s; moves `power` otherwise."""

    def in_window(self, window: Window, spec: AudioSpec) -> Control | None:
        return None if window.start > 1 else Early(self.power + 1)


def test_a_sum_in_a_window_is_of_the_parts_that_ask_for_something() -> None:
    control, early = A / 2 + 3 * Early(4), Window(0.5, 20.0, (0.0, 5.0))
    late = replace(early, start=2.0)
    assert control.in_window(early, SPEC) == A / 2 + 3 * Early(5)
    assert control.in_window(late, SPEC) == A / 2
    assert (3 * Early(4)).in_window(late, SPEC) is None
    masked = control.during((0.0, 1.0))
    assert masked.in_window(early, SPEC) == (A / 2 + 3 * Early(5)).during((0.0, 0.5))
    assert masked.in_window(late, SPEC) is None
    inner = A / 2 + 3 * A.during((0.0, 1.0))
    assert inner.in_window(late, SPEC) == A / 2
    assert Early(4).during((0.0, 9.0)).in_window(late, SPEC) is None


def test_spans_within_spans_are_what_they_have_in_common() -> None:
    twice = A.during((0.0, 2.0), (3.0, 5.0)).during((1.0, 4.0))
    assert twice == A.during((1.0, 2.0), (3.0, 4.0))
    assert twice.to_dict()["during"] == [[1.0, 2.0], [3.0, 4.0]]
    with pytest.raises(ControlError, match="nothing in common"):
        A.during((0.0, 1.0)).during((1.0, 2.0))
    with pytest.raises(ControlError, match="from some second to a later one"):
        A.during((0.0, 1.0)).during((0.5, 0.5))


def test_what_holds_one_that_grows_with_the_square_of_the_length_does_too() -> None:
    form = Structure("ABA")
    assert not form.during((0.0, 2.0)).bare().grows_evenly
    for one in (0.5 * form, A + form, (A / 2 + form.during((0.0, 2.0))).during((0.0, 5.0))):
        assert not one.bare().grows_evenly
        assert not PerItem([A, one]).grows_evenly
    assert (A / 2 + A.during((0.0, 2.0))).grows_evenly
    assert PerItem([A, A / 2]).grows_evenly


def test_a_sum_of_controls_of_other_numbers_of_clips_is_refused() -> None:
    two, three = PerItem([A, A]), PerItem([A, A, A])
    assert (A + two).items == (0.5 * two + A.during((0.0, 1.0)) + 2 * two).items == 2
    for one in (lambda: two + three, lambda: 0.5 * two + A + three.during((0.0, 1.0))):
        with pytest.raises(ControlError, match="given for 2 and 3 clips"):
            one()
