"""The model that tests of method objects share."""

from dataclasses import replace

import pytest
from tests.conftest import randomised

from ditto.models.controlnet import ControlAdapter
from ditto.models.model import MusicModel


@pytest.fixture(scope="session")
def whole_model(student_model: MusicModel) -> MusicModel:
    """The tiny model with a student and an adapter, all of random weights."""
    adapter = randomised(ControlAdapter.of(student_model.network, 2))  # pyright: ignore[reportArgumentType]
    return replace(student_model, controlnet=adapter)  # pyright: ignore[reportArgumentType]
