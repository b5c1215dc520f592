"""Recipes of one's own that cannot be carried out: one line, before the data are read."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.training.test_base import TINY, Clips

from ditto.errors import DataError
from ditto.training.base import BaseConfig, train_base, train_from_folder
from ditto.training.clap import ClapTraining, train_clap
from ditto.training.classifier import ClassifierConfig
from ditto.training.distill import DistillConfig
from ditto.training.heads import HeadsConfig
from ditto.training.learner import Recipe
from ditto.training.loop import load_config
from ditto.training.vocoder import VocoderConfig

NETWORK = {"n_mels": 160, "patch": 8, "width": 16, "depth": 1, "heads": 2}


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (BaseConfig, {"batch_size": 0}, "batch_size: Input should be greater"),
        (BaseConfig, {"steps": -1}, "steps: Input should be greater"),
        (BaseConfig, {"log_every": 0}, "log_every: Input should be greater"),
        (BaseConfig, {"ema_every": 0}, "ema_every: Input should be greater"),
        (BaseConfig, {"lr": -1.0}, "lr: Input should be greater"),
        (BaseConfig, {"clip_norm": float("nan")}, "clip_norm: Input should be a finite"),
        (BaseConfig, {"betas": [2.0, 0.9]}, "betas: 0: Input should be less"),
        (BaseConfig, {"shift": 0.0}, "shift: Input should be greater"),
        (BaseConfig, {"seed": -1}, "seed: Input should be greater"),
        (DistillConfig, {"evaluate_every": 0}, "evaluate_every: Input should be greater"),
        (DistillConfig, {"target_ema": 1.5}, "target_ema: Input should be less"),
        (HeadsConfig, {"step": 0}, "step: Input should be greater"),
        (VocoderConfig, {"checkpoint_every": 0}, "checkpoint_every: Input should be greater"),
        (ClassifierConfig, {"frames": 0}, "frames: Input should be greater"),
        (ClapTraining, {"unknown": 2.0}, "unknown: Input should be less"),
    ],
)
def test_numbers_out_of_range_are_refused_where_they_are_read(
    kind: type[Recipe], changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.json").write_text(json.dumps(changes))
    with pytest.raises(DataError, match=message):
        load_config(tmp_path / "mine.json", kind)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": NETWORK | {"widht": 16}}, "network cannot be built.*widht"),
        ({"network": NETWORK | {"heads": 3}}, "network cannot be built: a width of 16 has no 3"),
        ({"network": NETWORK | {"depth": "1"}}, "network cannot be built"),
        ({"network": NETWORK | {"prediction": "x"}}, "predicts none of sample"),
        ({"network": NETWORK | {"n_mels": 80}}, "n_mels must be 160"),
        ({"frames": 63}, "frames a multiple of 8, not 160 and 63"),
    ],
)
def test_a_network_that_cannot_be_is_refused(
    changes: dict[str, Any], message: str, composed: Path, tmp_path: Path
) -> None:
    config = replace(BaseConfig(network=NETWORK, frames=64), **changes)
    with pytest.raises(DataError, match=message):
        train_from_folder(config, composed, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_parts_of_other_recipes_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"network cannot be built.*widht"):
        VocoderConfig(network={"widht": 8}).make_network()
    with pytest.raises(DataError, match="discriminators cannot be built"):
        VocoderConfig(discriminators={"period": [2]}).make_discriminators()
    with pytest.raises(DataError, match="front_end cannot be built: hop"):
        train_clap(ClapTraining(front_end={"hop_length": 0}), tmp_path, tmp_path / "run")
    with pytest.raises(DataError, match="text cannot be built"):
        train_clap(ClapTraining(text={"hidden_size": "x"}), tmp_path, tmp_path / "run")


def test_what_cannot_be_continued_is_said(tmp_path: Path) -> None:
    for start in ("", "embedded"):
        config = replace(TINY, continued=True, start_from=start)
        with pytest.raises(DataError, match="continued needs start_from"):
            train_base(config, Clips(), tmp_path / "none", show=False)
    first = replace(TINY, steps=1)
    train_base(first, Clips(), tmp_path / "first", show=False)
    then = replace(first, start_from=str(tmp_path / "first"), continued=True, steps=2)
    for number, changes in enumerate(
        ({"slow_ema": 0.9}, {"optimizer": "muon"}, {"network": TINY.network | {"width": 32}})
    ):
        config = replace(then, **changes)
        with pytest.raises(DataError, match="cannot be continued with this config") as found:
            train_base(config, Clips(), tmp_path / str(number), show=False)
        assert "\n" not in str(found.value)
