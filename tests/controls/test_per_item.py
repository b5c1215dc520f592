"""Controls of a batch in which every item has its own."""

from dataclasses import replace

import pytest
import torch

from ditto.audio.spec import AudioSpec
from ditto.controls.intensity import Intensity
from ditto.controls.output import Output
from ditto.controls.per_item import PerItem
from ditto.controls.pulls import NearUncontrolled
from ditto.errors import RequestError
from ditto.methods.ditto2 import Ditto2
from ditto.models.conditioning import TagVocabulary
from ditto.models.model import MusicModel
from ditto.models.transformer import PatchTransformer
from ditto.models.vocoder import Vocoder
from ditto.request import Request
from ditto.runner import run


@pytest.fixture(scope="module")
def model():
    parts = (
        PatchTransformer(width=16, depth=1, heads=2),
        Vocoder(width=16, depth=1).requires_grad_(False).eval(),
    )
    return MusicModel(*parts, AudioSpec(clip_frames=96), TagVocabulary(("jazz",), ("happy",)))


@pytest.fixture
def x_0():
    return torch.rand(2, 1, 160, 96, generator=torch.Generator().manual_seed(0)) - 0.5


def test_each_item_gets_its_own_loss_errors_and_curves(model, x_0):
    controls = [Intensity("crescendo"), Intensity("0:-30 1:-12")]
    both = PerItem(controls)
    output = Output(x_0, model)
    for i, control in enumerate(controls):
        alone = Output(x_0[i : i + 1], model)
        torch.testing.assert_close(
            both.loss(output)[i : i + 1], control.loss(alone), rtol=1e-4, atol=1e-3
        )
        expected = control.errors(alone)
        for name, values in both.errors(output).items():
            torch.testing.assert_close(values[i : i + 1], expected[name], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(
            both.panels(output, i)[0].target, control.panels(alone, 0)[0].target
        )


def test_gradients_of_items_do_not_mix(model, x_0):
    latent = x_0.requires_grad_(True)
    loss = PerItem([Intensity("crescendo"), Intensity("dip")])(latent, model)
    (gradient,) = torch.autograd.grad(loss[0], latent)
    assert gradient[0].abs().sum() > 0
    assert gradient[1].abs().sum() == 0


def test_the_vocoder_runs_once_for_the_batch(model, x_0):
    calls = []
    hook = model.vocoder.register_forward_hook(lambda *_: calls.append(1))
    PerItem([Intensity("crescendo"), Intensity("dip")])(x_0, model)
    hook.remove()
    assert len(calls) == 1


def test_a_batch_of_another_size_is_refused(model, x_0):
    with pytest.raises(ValueError, match="1 controls"):
        PerItem([Intensity("crescendo")])(x_0, model)


def test_what_is_given_for_each_clip_must_be_as_many_as_there_are(tiny_model: MusicModel) -> None:
    near = NearUncontrolled(torch.zeros(2, 1, 16, 64))
    each = PerItem([Intensity("swell")] * 3)
    for control in (near, each, Intensity("swell") + 0.1 * near):
        for count in (1, 4):
            with pytest.raises(RequestError, match=f"clips, and count is {count}"):
                run(Request(control, count=count, iterations=1), tiny_model)


def test_the_only_item_of_a_batch_can_begin_at_the_best_of_several(student_model) -> None:
    request = Request(PerItem([Intensity("swell")]), iterations=1, method=Ditto2(candidates=4))
    alone = replace(request, controls=(Intensity("swell"),))
    assert torch.equal(run(request, student_model).x_0, run(alone, student_model).x_0)
