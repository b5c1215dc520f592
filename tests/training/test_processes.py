"""Trainings on several processes: they see together what one sees, whatever is killed."""

import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.runs import weights
from torch import Tensor

from ditto.errors import DataError
from ditto.training.base import train_base
from ditto.training.denoising import BaseConfig
from ditto.training.loop import read_log

CONFIG = BaseConfig(
    network={
        "n_mels": 16,
        "patch": 2,
        "width": 16,
        "depth": 1,
        "heads": 2,
        "tag_sizes": [4, 3, 13],
    },
    frames=16,
    steps=50,
    batch_size=8,
    lr=1e-3,
    warmup=5,
    log_every=1,
    checkpoint_every=10,
    evaluate_every=1000,
)


@dataclass
class Clips:
    """Clips that are noise around a level that the genre gives, from the step alone.

    Attributes:
        slow_from: step from which each takes a while, so that a run can be killed there.
    """

    slow_from: int = 1000

    def batch(self, step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        time.sleep(0.1 * (step >= self.slow_from))
        generator = torch.Generator().manual_seed(step)
        tags = torch.randint(1, 3, (batch_size, 3), generator=generator)
        noise = torch.randn(batch_size, 1, 16, 16, generator=generator)
        return 0.1 * noise + 0.3 * tags[:, :1, None, None] - 0.5, tags


def _one_of(rank: int, count: int, port: int, train: Callable[[], Any]) -> None:
    """Train as one of the processes that a launcher starts."""
    words = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    words |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    os.environ.update({name: str(word) for name, word in words.items()})
    train()


def started(count: int, train: Callable[[], Any]) -> list[Any]:
    """Start a training on so many processes, forks of a server that has everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.test_processes", "torch.utils.tensorboard"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = [
        context.Process(target=_one_of, args=(rank, count, port, train)) for rank in range(count)
    ]
    for process in found:
        process.start()
    return found


def ended(processes: list[Any]) -> list[int]:
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def losses(run: Path) -> np.ndarray:
    rows = [row for row in read_log(run / "log.jsonl") if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, CONFIG.steps + 1))
    return np.array([row["loss"] for row in rows])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes") / "one"
    train_base(CONFIG, Clips(), folder, show=False)
    return folder


def assert_close(run: Path, whole: Path) -> None:
    assert np.abs(losses(run) - losses(whole)).max() < 1e-5
    for group in ("model", "ema"):
        ours, theirs = weights(run, group), weights(whole, group)
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert (ours[name] - theirs[name]).abs().max() < 1e-5, name


@pytest.mark.parametrize("count", [2, 4])
def test_processes_see_together_what_one_sees(whole: Path, tmp_path: Path, count: int) -> None:
    train = partial(train_base, CONFIG, Clips(), tmp_path / "run", show=False)
    assert ended(started(count, train)) == [0] * count
    assert_close(tmp_path / "run", whole)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(
        path.name for path in whole.iterdir()
    )


def test_a_run_killed_on_two_goes_on_on_four(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    processes = started(2, partial(train_base, CONFIG, Clips(slow_from=23), run, show=False))
    log, before = run / "log.jsonl", time.monotonic()
    while not log.exists() or log.read_text().count("\n") < 24:
        assert time.monotonic() < before + 60
        time.sleep(0.01)
    for process in processes:
        process.kill()
    assert ended(processes) == [-9, -9]
    assert (run / "step-00000020").is_dir()
    assert ended(started(4, partial(train_base, CONFIG, Clips(), run, show=False))) == [0] * 4
    assert_close(run, whole)


def test_a_signal_to_one_ends_all_at_one_step(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    processes = started(2, partial(train_base, CONFIG, Clips(slow_from=12), run, show=False))
    log, before = run / "log.jsonl", time.monotonic()
    while not log.exists() or log.read_text().count("\n") < 13:
        assert time.monotonic() < before + 60
        time.sleep(0.01)
    processes[1].terminate()
    assert 0 not in ended(processes)
    (last,) = {path.name for path in run.glob("step-*")} - {"step-00000010"}
    assert 13 <= int(last[5:]) < CONFIG.steps
    train_base(CONFIG, Clips(), run, show=False)
    assert_close(run, whole)


def _refused(out: Path) -> None:
    with pytest.raises(DataError, match="a batch of 3 cannot be shared by 2 processes"):
        train_base(replace(CONFIG, batch_size=3), Clips(), out, show=False)


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    assert ended(started(2, partial(_refused, tmp_path / "run"))) == [0, 0]
    assert not (tmp_path / "run").exists()
