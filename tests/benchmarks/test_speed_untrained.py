"""``bench speed --config``: an untrained network's costs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmarks.budget import Setting
from benchmarks.report import Report
from benchmarks.speed_untrained import (
    DITTO,
    ROWS,
    _iteration,
    chain_flops,
    checked_device,
    config_path,
    run_speed_untrained,
    untrained,
)
from torch.utils.flop_counter import FlopCounterMode

from ditto.errors import DataError
from ditto.training.denoising import BaseConfig
from ditto.training.loop import RECIPES, load_config

CONFIG = {
    "network_kind": "unet",
    "frames": 32,
    "network": {
        "block_out_channels": [8, 8, 8, 16],
        "layers_per_block": [1, 1, 1, 1],
        "attention_stages": 1,
        "attention_heads": 2,
        "norm_groups": 4,
        "tag_width": 8,
    },
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "base-tiny.json"
    path.write_text(json.dumps(CONFIG))
    return path


@pytest.fixture(scope="module")
def results(config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    out = tmp_path_factory.mktemp("out")
    return run_speed_untrained(str(config), count=1, iterations=1, out=out), out


def test_every_row_has_its_costs(results: tuple[Report, Path]) -> None:
    report, out = results
    for budget in ROWS:
        for column in (
            "seconds_per_clip",
            "seconds_per_iteration",
            "peak_memory_gb",
            "gflop_per_iteration",
        ):
            value = report.value(budget.row, column)
            assert value is not None
            assert value > 0
    assert {path.name for path in out.iterdir()} >= {
        f"speed-tiny.{kind}" for kind in ("json", "md", "png")
    }


def test_a_whole_chain_costs_a_whole_chain(results: tuple[Report, Path]) -> None:
    """20 checkpointed calls, each of 2 forwards and a backward, where the surrogate has one of 1
    and a backward."""
    chain, surrogate = (
        results[0].value(budget.row, "gflop_per_iteration") for budget in (DITTO, ROWS[0])
    )
    assert chain is not None
    assert surrogate is not None
    assert chain / surrogate > 25


def test_weights_come_from_the_config_alone(config: Path) -> None:
    recipe = load_config(config, BaseConfig)
    first, second = (
        untrained(recipe, torch.device("cpu"), "tiny").network.state_dict() for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_papers_network_has_its_name() -> None:
    assert config_path("paper") == RECIPES / "base-paper.json"


def test_mistakes_are_named() -> None:
    with pytest.raises(DataError, match="there is no config 'nothing'"):
        config_path("nothing")
    with pytest.raises(DataError, match="unknown device 'tpu'"):
        checked_device("tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_said() -> None:
    with pytest.raises(DataError, match="no CUDA device"):
        checked_device("cuda")


def test_a_chains_operations_are_counted_step_by_step(config: Path) -> None:
    model = untrained(load_config(config, BaseConfig), torch.device("cpu"), "tiny")
    setting = Setting(model, None, None, 0, 1, 5e-3, model.guidance, 0.0)
    with FlopCounterMode(display=False) as counter:
        _iteration(setting, replace(DITTO, decode=5))
    assert chain_flops(setting, replace(DITTO, decode=5)) == counter.get_total_flops()
