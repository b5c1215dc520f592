"""What recipes share: configs, checkpoints, averages, learning rates, logs."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from ditto.errors import DataError, OutputError
from ditto.training.loop import (
    Checkpoints,
    Ema,
    Meter,
    RunLog,
    load_config,
    load_optimizer,
    optimizer_tensors,
    read_log,
    start_run,
    step_seed,
    warmup_stable_decay,
)


@dataclass(frozen=True)
class Config:
    lr: float = 0.1
    betas: tuple[float, float] = (0.9, 0.99)
    network: dict = field(default_factory=dict)
    steps: int = 10
    __pydantic_config__: ClassVar = {"extra": "forbid"}


@dataclass(frozen=True)
class GrownConfig(Config):
    kind: str = "old"


def write(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def test_a_config_is_read(tmp_path: Path) -> None:
    config = load_config(write(tmp_path / "c.json", '{"lr": 0.5, "network": {"width": 3}}'), Config)
    assert config == Config(lr=0.5, network={"width": 3})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"learning_rate": 1}',
            "learning_rate: Unexpected .*; known are betas, lr, network, steps",
        ),
        ("[1]", "does not fit: Input should be an object"),
        ("{", "does not fit: Invalid JSON"),
        ("", "does not fit: Invalid JSON"),
    ],
)
def test_a_bad_config_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_config(write(tmp_path / "c.json", content), Config)
    assert len(str(caught.value).splitlines()) == 1


def test_a_config_that_is_no_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no config file"):
        load_config(tmp_path / "none.json", Config)
    with pytest.raises(DataError, match="cannot read"):
        load_config(tmp_path, Config)
    (tmp_path / "binary.json").write_bytes(b"\xff\x00")
    with pytest.raises(DataError, match="Invalid JSON"):
        load_config(tmp_path / "binary.json", Config)


def test_a_run_keeps_its_config(tmp_path: Path) -> None:
    start_run(tmp_path / "a" / "run", Config())
    start_run(tmp_path / "a" / "run", Config(steps=99))  # a run may be extended
    assert json.loads((tmp_path / "a" / "run" / "config.json").read_text())["steps"] == 99
    with pytest.raises(OutputError, match="another betas, network: choose another folder"):
        start_run(tmp_path / "a" / "run", Config(betas=(0.8, 0.99), network={"width": 3}))
    assert [p.name for p in (tmp_path / "a" / "run").iterdir()] == ["config.json"]


def test_a_key_that_the_recipe_has_gained_counts_as_its_default(tmp_path: Path) -> None:
    start_run(tmp_path, Config())
    start_run(tmp_path, GrownConfig())
    start_run(tmp_path, GrownConfig())
    with pytest.raises(OutputError, match="another kind"):
        start_run(tmp_path, GrownConfig(kind="new"))


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    write(tmp_path / "file", "")
    for path in (tmp_path / "file" / "run", tmp_path / "file"):
        with pytest.raises(OutputError, match="cannot make the run folder"):
            start_run(path, Config())


def tensors(value: float) -> dict[str, dict[str, Tensor]]:
    return {"model": {"w": torch.full((2, 3), value)}, "ema": {"w": torch.full((2, 3), -value)}}


def test_checkpoints_come_back_and_the_newest_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.latest() is None
    for step in (5, 10, 20):
        checkpoints.save(step, tensors(step), {"note": step})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000010", "step-00000020"]
    found = checkpoints.latest()
    assert found is not None
    step, groups, state = found
    assert (step, state["note"], sorted(groups)) == (20, 20, ["ema", "model"])
    assert torch.equal(groups["ema"]["w"], torch.full((2, 3), -20.0))


def test_a_half_written_checkpoint_is_passed_over(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(5, tensors(5), {})
    (tmp_path / ".step-00000010.tmp").mkdir()
    (tmp_path / ".step-00000010.tmp" / "model.safetensors").write_bytes(b"half")
    found = checkpoints.latest()
    assert found is not None
    assert found[0] == 5
    checkpoints.save(10, tensors(10), {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000005", "step-00000010"]


def test_checkpoints_hold_no_pickle(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save(1, tensors(1), {})
    names = sorted(p.name for p in (tmp_path / "step-00000001").iterdir())
    assert names == ["ema.safetensors", "model.safetensors", "state.json"]


def train(layer: nn.Linear, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        layer(x).square().sum().backward()
        optimizer.step()


def a_layer() -> tuple[nn.Linear, torch.optim.Optimizer]:
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.arange(p.numel()).reshape(p.shape) / 7)
    return layer, torch.optim.AdamW(layer.parameters(), lr=0.01)


def test_an_optimiser_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole, optimizer = a_layer()
    train(whole, optimizer, range(10))
    first, optimizer = a_layer()
    train(first, optimizer, range(6))
    Checkpoints(tmp_path).save(
        6, {"model": first.state_dict(), "optimizer": optimizer_tensors(optimizer)}, {}
    )
    found = Checkpoints(tmp_path).latest()
    assert found is not None
    second, optimizer = a_layer()
    second.load_state_dict(found[1]["model"])
    load_optimizer(optimizer, found[1]["optimizer"])
    train(second, optimizer, range(6, 10))
    assert torch.equal(second.weight, whole.weight)
    assert torch.equal(second.bias, whole.bias)


def test_the_average_is_the_recursion_with_its_warm_up() -> None:
    layer, optimizer = a_layer()
    ema, expected = Ema(layer, 0.9), layer.weight.detach().clone()
    for step in range(200):
        train(layer, optimizer, range(step, step + 1))
        ema.update(layer, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * layer.weight.detach()
    torch.testing.assert_close(ema.shadow["weight"], expected)
    assert not torch.allclose(ema.shadow["weight"], layer.weight)
    other, _ = a_layer()
    ema.copy_to(other)
    assert torch.equal(other.weight, ema.shadow["weight"])
    fresh = Ema(a_layer()[0], 0.9)
    fresh.load(ema.shadow)
    assert torch.equal(fresh.shadow["bias"], ema.shadow["bias"])


def test_learning_rate() -> None:
    factors = [warmup_stable_decay(step, steps=100, warmup=10, decay=0.2) for step in range(100)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factors[10:80] == [1.0] * 70
    assert factors[80:] == pytest.approx([(100 - i) / 20 for i in range(80, 100)])
    assert warmup_stable_decay(100, steps=100, warmup=10, decay=0.2) == 0
    extended = [warmup_stable_decay(step, steps=200, warmup=10, decay=0.2) for step in range(80)]
    assert extended == factors[:80]


def test_cosine_decay() -> None:
    for step in range(20, 100):
        factor = warmup_stable_decay(step, steps=100, warmup=10, decay=1.0, shape="cosine")
        assert factor == pytest.approx((1 + math.cos(math.pi * step / 100)) / 2)
    assert warmup_stable_decay(50, steps=100, warmup=0, decay=0.0) == 1.0


class Writer:
    def __init__(self) -> None:
        self.scalars, self.closed = [], False

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        self.scalars.append((tag, scalar_value, global_step))

    def close(self) -> None:
        self.closed = True


def test_the_log_is_cut_back_to_where_a_run_resumes(tmp_path: Path) -> None:
    writer = Writer()
    log = RunLog(tmp_path, 0, writer)
    for step in (10, 20, 30):
        log.write(step, loss=1 / step)
    log.close()
    assert writer.scalars == [("loss", 1 / step, step) for step in (10, 20, 30)]
    assert writer.closed
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')  # a kill cut this short
    assert [row["step"] for row in read_log(tmp_path / "log.jsonl")] == [10, 20, 30]
    before = read_log(tmp_path / "log.jsonl")[1]["seconds"]
    again = RunLog(tmp_path, 20, None)
    again.write(30, loss=5.0, held_out_loss=6.0)
    again.close()
    rows = read_log(tmp_path / "log.jsonl")
    assert [row["step"] for row in rows] == [10, 20, 30]
    assert (rows[2]["loss"], rows[2]["held_out_loss"]) == (5.0, 6.0)
    assert rows[2]["seconds"] >= before


def test_the_meter_smooths() -> None:
    meter = Meter()
    assert math.isnan(meter.smooth)
    meter.add(1.0)
    assert meter.smooth == 1.0
    meter.add(2.0)
    assert meter.smooth == pytest.approx(1.02)


def test_steps_and_seeds_draw_differently() -> None:
    draws = {
        torch.rand(1, generator=torch.Generator().manual_seed(step_seed(seed, step))).item()
        for seed in range(20)
        for step in range(50)
    }
    assert len(draws) == 1000
