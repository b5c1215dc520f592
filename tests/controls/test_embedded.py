"""Melody and structure on the embedded model: a few iterations are enough to see the losses
fall."""

import pytest

from ditto.controls.melody import Melody
from ditto.controls.structure import Structure
from ditto.methods.ditto import Ditto
from ditto.models.hub import load
from ditto.models.model import MusicModel
from ditto.request import Request
from ditto.runner import run


@pytest.fixture(scope="module")
def embedded() -> MusicModel:
    return load()  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize(
    "control",
    [Melody.from_notes("C5:2 G5:2 E5:2", 60), Structure("ABA")],
    ids=["melody", "structure"],
)
def test_the_loss_falls_on_the_embedded_model(
    embedded: MusicModel, control: Melody | Structure
) -> None:
    request = Request(
        (control,),
        iterations=4,
        guidance=1.0,
        seconds=3.0,
        method=Ditto(steps=2, lr=0.02, checkpointing=False),
    )
    losses = run(request, embedded).losses[:, 0]
    assert losses[1:].min() < 0.99 * losses[0]
