from pathlib import Path

import pytest
from tests.data.tiny_soundfont import make_tiny_soundfont

from ditto.data.corpus import compose_dataset
from ditto.data.render import Renderer


@pytest.fixture(scope="session")
def soundfont(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_soundfont(tmp_path_factory.mktemp("soundfont") / "tiny.sf2")


@pytest.fixture(scope="session")
def renderer(soundfont: Path) -> Renderer:
    return Renderer(soundfont)


@pytest.fixture(scope="session")
def composed(tmp_path_factory: pytest.TempPathFactory, soundfont: Path) -> Path:
    """A finished training set of three pieces; read only."""
    return compose_dataset(
        tmp_path_factory.mktemp("composed") / "train", count=3, soundfonts=[soundfont]
    )
