"""What makes no model is not packed: parts of different spectrograms or vocabularies."""

import json
import shutil
from pathlib import Path

import pytest

from ditto.errors import DataError
from ditto.models.hub import load
from ditto.training.base import EMBEDDED, BaseConfig
from ditto.training.base import train_from_folder as train_base
from ditto.training.pack import pack
from ditto.training.vocoder import VocoderConfig
from ditto.training.vocoder import train_from_folder as train_vocoder

NETWORK = {"n_mels": 160, "patch": 8, "width": 16, "depth": 1, "heads": 2}
ONCE = {"steps": 1, "batch_size": 2, "log_every": 1, "checkpoint_every": 1}


@pytest.fixture(scope="module")
def base(composed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack") / "base"
    train_base(BaseConfig(network=NETWORK, frames=64, lr=1e-3, **ONCE), composed, folder)
    return folder


def test_a_vocabulary_of_another_size_is_refused_and_the_model_stays(
    base: Path, composed: Path, tmp_path: Path
) -> None:
    digest = pack(base, Path(EMBEDDED), composed, tmp_path / "model", 1.0)
    other = shutil.copytree(composed, tmp_path / "other")
    facts = json.loads((other / "dataset.json").read_text())
    facts["genres"] = facts["genres"][1:]
    (other / "dataset.json").write_text(json.dumps(facts))
    with pytest.raises(DataError, match="vocabulary has another size"):
        pack(base, Path(EMBEDDED), other, tmp_path / "model", 1.0)
    with pytest.raises(DataError, match="guidance"):
        pack(base, Path(EMBEDDED), composed, tmp_path / "model", float("nan"))
    assert load(tmp_path / "model").sha256 == digest


def test_a_vocoder_of_another_spectrogram_is_refused(
    base: Path, composed: Path, tmp_path: Path
) -> None:
    small = {"periods": [2], "windows": [512], "channels": 2}
    network = {"n_mels": 80, "width": 8, "depth": 1}
    config = VocoderConfig(network=network, discriminators=small, crop_frames=8, **ONCE)
    train_vocoder(config, composed, tmp_path / "vocoder")
    with pytest.raises(DataError, match="vocoder has another n_mels"):
        pack(base, tmp_path / "vocoder", composed, tmp_path / "model", 1.0)
    assert not (tmp_path / "model").exists()
