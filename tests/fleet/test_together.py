"""Requests made as one batch are what each is alone."""

from dataclasses import replace

import pytest
import torch

import ditto
from ditto.fleet.together import kind_of, run_together
from ditto.models.model import MusicModel


@pytest.mark.usefixtures("together")
@pytest.mark.parametrize("method", [ditto.Ditto(steps=2), ditto.Ditto2(decode_steps=2), None])
def test_items_of_a_batch_are_as_alone(student_model: MusicModel, method: ditto.Method) -> None:
    requests = [
        ditto.Request(
            [] if method is None else [ditto.Intensity(shape), ditto.Brightness(rise)],
            tags,
            seed=seed,
            iterations=2,
            method=method,
        )
        for shape, rise, tags, seed in (
            ("swell", "darken", "genre=jazz", 7),
            ("decrescendo", "brighten", "mood=happy tempo=120", 3),
            ("crescendo", "brighten", None, 5),
        )
    ]
    assert len({kind_of(request, student_model) for request in requests}) == 1
    for request, made in zip(requests, run_together(requests, student_model), strict=True):
        alone = ditto.run(request, student_model)
        assert torch.allclose(made.x_0, alone.x_0, atol=1e-4)
        assert torch.allclose(made.losses, alone.losses, rtol=1e-4)
        ours, theirs = made.report(), alone.report()
        assert ours["request"] == theirs["request"]
        assert ours["errors"] == pytest.approx(theirs["errors"], rel=1e-3)
        if method is not None:
            assert made.ended is not None
            assert alone.ended is not None
            assert torch.allclose(made.ended, alone.ended, rtol=1e-3)
            assert made.kept is not None
            assert alone.kept is not None
            assert torch.allclose(made.kept.mel, alone.kept.mel, atol=1e-3)


def test_what_cannot_be_made_together(tiny_model: MusicModel) -> None:
    request = ditto.Request(ditto.Intensity("swell"), seed=1)
    kind = kind_of(request, tiny_model)
    assert kind == kind_of(replace(request, seed=2, tags=ditto.Tags("jazz")), tiny_model)
    for other in (
        replace(request, seconds=0.3),
        replace(request, guidance=1.0),
        replace(request, iterations=3),
        replace(request, controls=()),
        replace(request, controls=(ditto.Brightness("brighten"),)),
        replace(request, method=ditto.Ditto(steps=3)),
    ):
        assert kind_of(other, tiny_model) not in (None, kind)
    for alone in (
        replace(request, count=2),
        replace(request, start=ditto.generate(tiny_model, method=ditto.Uncontrolled()).latent()),
        replace(request, method=ditto.FreeDoM()),
    ):
        assert kind_of(alone, tiny_model) is None
