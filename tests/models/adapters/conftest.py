"""The three pipelines as models."""

import pytest
from tests.models.adapters.tiny_pipelines import make_audioldm2, make_musicldm, make_stable_audio

from ditto.models.adapters.common import PipelineModel
from ditto.models.hub import adapt


@pytest.fixture(scope="session")
def audioldm2() -> PipelineModel:
    return adapt(make_audioldm2())


@pytest.fixture(scope="session")
def musicldm() -> PipelineModel:
    return adapt(make_musicldm())


@pytest.fixture(scope="session")
def stable_audio() -> PipelineModel:
    return adapt(make_stable_audio())


@pytest.fixture(params=["audioldm2", "musicldm", "stable_audio"])
def model(request: pytest.FixtureRequest) -> PipelineModel:
    """Each of the three."""
    return request.getfixturevalue(request.param)
