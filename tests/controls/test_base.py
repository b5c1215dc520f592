"""The algebra of controls."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ditto.audio.spec import AudioSpec
from ditto.controls.base import Control, Output, Sum
from ditto.errors import ControlError
from ditto.models.conditioning import TagVocabulary
from ditto.models.music_model import MusicModel
from ditto.panels import CurvePanel, Panel


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
