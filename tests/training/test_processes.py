"""Trainings on several processes: they see together what one sees, whatever is killed."""

import os
import random
import secrets
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import numpy as np
import pytest
import torch
from tests.conftest import SPEC, VOCABULARY, make_network, make_vocoder
from tests.training import test_controlnet, test_distill, test_heads, test_vocoder
from tests.training.runs import fresh_processes, weights
from torch import Tensor

from ditto.errors import DataError
from ditto.models.model import MusicModel
from ditto.training import place
from ditto.training.base import train_base
from ditto.training.controlnet import train_controlnet
from ditto.training.denoising import BaseConfig
from ditto.training.distill import train_student
from ditto.training.heads import train_heads
from ditto.training.loop import Meter, read_log
from ditto.training.place import training_on
from ditto.training.vocoder import train_vocoder

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
    context = fresh_processes()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = [
        context.Process(target=_one_of, args=(rank, count, port, train), daemon=True)
        for rank in range(count)
    ]
    for process in found:
        process.start()
    return found


def ended(processes: list[Any]) -> list[int]:
    for process in processes:
        process.join(240)
        process.kill()  # one that hangs fails its test, and is not left behind
    return [process.exitcode for process in processes]


class Recorder(Meter):
    """A meter that keeps each loss as it is, since a run's log smooths them, in a file."""

    path: ClassVar[Path]

    def add(self, value: float) -> None:
        super().add(value)
        if os.environ.get("RANK", "0") == "0":
            with self.path.open("a") as file:
                file.write(f"{value!r}\n")


def train_recorded(run: Path, clips: Clips | None = None, config: BaseConfig = CONFIG) -> None:
    Recorder.path = run.with_suffix(".losses")
    with mock.patch("ditto.training.run.Meter", Recorder):
        train_base(config, clips or Clips(), run, show=False)


def losses(run: Path) -> np.ndarray:
    return np.loadtxt(run.with_suffix(".losses"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes") / "one"
    train_recorded(folder)
    return folder


def assert_close(run: Path, whole: Path, start: int = 0) -> None:
    """The same losses, of a run that was resumed at `start`, and the same weights."""
    ours, theirs = losses(run), losses(whole)
    assert len(theirs) == CONFIG.steps
    resumed = len(theirs) - start
    assert np.abs(ours[:start] - theirs[:start]).max(initial=0) < 1e-5
    assert np.abs(ours[-resumed:] - theirs[start:]).max() < 1e-5
    rows = [row["step"] for row in read_log(run / "log.jsonl") if "loss" in row]
    assert rows == list(range(1, CONFIG.steps + 1))
    for group in ("model", "ema"):
        ours, theirs = weights(run, group), weights(whole, group)
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert (ours[name] - theirs[name]).abs().max() < 1e-5, name


@pytest.mark.parametrize("count", [2, 4])
def test_processes_see_together_what_one_sees(whole: Path, tmp_path: Path, count: int) -> None:
    train = partial(train_recorded, tmp_path / "run")
    assert ended(started(count, train)) == [0] * count
    assert len(losses(tmp_path / "run")) == CONFIG.steps
    assert_close(tmp_path / "run", whole)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(
        path.name for path in whole.iterdir()
    )


def train_in_bf16(run: Path) -> None:
    with mock.patch.object(place, "has_bf16", return_value=True), training_on("cpu"):
        train_recorded(run, config=replace(CONFIG, precision="bf16"))


def test_bf16_on_two_differs_by_the_rounding_of_bf16(whole: Path, tmp_path: Path) -> None:
    """Gradients of half a batch each are rounded before they are averaged, to eight bits.

    Measured: losses differ by 6e-4 of themselves, where bf16 and float32 differ by 1.4e-3; a single
    rounding to bf16 by up to 2**-9, which is the bound. Weights differ by 1.0e-4 (root mean square
    of all), where bf16 and float32 differ by 1.2e-4 and the 50 steps moved them by 1.1e-2; single
    ones by 7e-3, those of the keys' biases, which softmax makes irrelevant and Adam all the same.
    """
    one, two = tmp_path / "one", tmp_path / "two"
    train_in_bf16(one)
    assert ended(started(2, partial(train_in_bf16, two))) == [0, 0]
    ours, theirs, exact = losses(two), losses(one), losses(whole)
    assert len(ours) == len(theirs) == CONFIG.steps
    assert np.abs(ours / theirs - 1).max() < 2**-9
    assert np.abs(ours / exact - 1).max() > 1e-4  # it was bf16 in both
    assert np.abs(theirs / exact - 1).max() > 1e-4
    for group in ("model", "ema"):
        ours, theirs = weights(two, group), weights(one, group)
        assert ours.keys() == theirs.keys()
        differences = torch.cat([(ours[name] - theirs[name]).flatten() for name in ours])
        assert differences.square().mean().sqrt() < 2e-4


def test_a_run_killed_on_two_goes_on_on_four(whole: Path, tmp_path: Path) -> None:
    """After a step drawn at random; KILL_SEED repeats a draw."""
    seed = int(os.environ.get("KILL_SEED") or secrets.randbelow(2**32))
    row = random.Random(seed).randint(11, 45)
    print(f"KILL_SEED={seed}: killed after row {row}")
    run = tmp_path / "run"
    processes = started(2, partial(train_recorded, run, Clips(slow_from=row - 1)))
    log, before = run / "log.jsonl", time.monotonic()
    while not log.exists() or log.read_text().count("\n") < row:
        assert time.monotonic() < before + 240
        time.sleep(0.01)
    for process in processes:
        process.kill()
    assert ended(processes) == [-9, -9]
    done, every = log.read_text().count("\n"), CONFIG.checkpoint_every
    assert row <= done < CONFIG.steps
    start = done - done % every
    # A step's row comes before its checkpoint: the kill may have been between the two.
    if start == done and not (run / f"step-{start:08d}").is_dir():
        start -= every
    assert max(path.name for path in run.glob("step-*")) == f"step-{start:08d}"
    assert ended(started(4, partial(train_recorded, run))) == [0] * 4
    assert_close(run, whole, start=start)


def test_a_signal_to_one_ends_all_at_one_step(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    processes = started(2, partial(train_recorded, run, Clips(slow_from=12)))
    log, before = run / "log.jsonl", time.monotonic()
    while not log.exists() or log.read_text().count("\n") < 13:
        assert time.monotonic() < before + 240
        time.sleep(0.01)
    processes[1].terminate()
    assert 0 not in ended(processes)
    (last,) = {path.name for path in run.glob("step-*")} - {"step-00000010"}
    assert 13 <= int(last[5:]) < CONFIG.steps
    train_recorded(run)
    assert_close(run, whole, start=int(last[5:]))


def _refused(out: Path) -> None:
    with pytest.raises(DataError, match="a batch of 3 cannot be shared by 2 processes"):
        train_base(replace(CONFIG, batch_size=3), Clips(), out, show=False)


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    assert ended(started(2, partial(_refused, tmp_path / "run"))) == [0, 0]
    assert not (tmp_path / "run").exists()


def tiny() -> MusicModel:
    network, vocoder = make_network(), make_vocoder()
    return MusicModel(network, vocoder, SPEC, VOCABULARY, guidance=1.5, shift=0.5, name="tiny")


def distil(out: Path) -> None:
    train_student(test_distill.TINY, tiny(), test_distill.Clips(), out, show=False)


def adapt(out: Path) -> None:
    model, clips = test_controlnet.make_model(), test_controlnet.Ramps()
    train_controlnet(test_controlnet.TINY, model, clips, out, show=False)


def read(out: Path) -> None:
    train_heads(test_heads.TINY, tiny(), test_heads.Ramps(), out, show=False)


def sound(out: Path) -> None:
    config = test_vocoder.TINY
    train_vocoder(config, test_vocoder.Notes(config.crop_samples), out, show=False)


@pytest.mark.parametrize("train", [distil, adapt, read, sound])
def test_the_other_trainings_on_two(train: Callable[[Path], None], tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    train(one)
    assert ended(started(2, partial(train, two))) == [0, 0]
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    ours, theirs = read_log(two / "log.jsonl"), read_log(one / "log.jsonl")
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for row, expected in zip(ours, theirs, strict=True):
        assert row.keys() == expected.keys()
        for name in row.keys() - {"seconds"}:
            assert row[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-5), name
    for file in sorted(one.glob("step-*"))[-1].glob("*.safetensors"):
        group = file.stem
        if "optimizer" in group:
            continue
        for name, value in weights(one, group).items():
            assert (weights(two, group)[name] - value).abs().max() < 1e-4, (group, name)


def train_accumulating(run: Path, times: int) -> None:
    with training_on("cpu", accumulate=times):
        train_recorded(run)


def test_parts_one_after_another_are_the_batch(whole: Path, tmp_path: Path) -> None:
    train_accumulating(tmp_path / "one", 4)
    assert_close(tmp_path / "one", whole)
    assert ended(started(2, partial(train_accumulating, tmp_path / "two", 2))) == [0, 0]
    assert_close(tmp_path / "two", whole)


def train_in_parts(run: Path, accumulate: int = 1) -> None:
    with training_on("cpu", accumulate=accumulate, in_parts=True):
        train_recorded(run)


def at_forty(run: Path, to: Path) -> Path:
    """Copy a run as it was at step 40."""
    shutil.copytree(run, to)
    shutil.rmtree(to / "step-00000050")
    first = run.with_suffix(".losses").read_text().splitlines(keepends=True)[:40]
    to.with_suffix(".losses").write_text("".join(first))
    return to


def test_weights_in_parts_are_those_of_one_process(whole: Path, tmp_path: Path) -> None:
    """Checkpoints are whole: those of a run in parts go on in one process, and the other way."""
    assert ended(started(2, partial(train_in_parts, tmp_path / "two"))) == [0, 0]
    assert_close(tmp_path / "two", whole)
    names = sorted(path.name for path in (tmp_path / "two").iterdir())
    assert names == sorted(path.name for path in whole.iterdir())
    train_recorded(at_forty(tmp_path / "two", tmp_path / "one"))
    assert_close(tmp_path / "one", whole)
    four = at_forty(whole, tmp_path / "four")
    assert ended(started(4, partial(train_in_parts, four, 2))) == [0] * 4
    assert_close(four, whole)


def _not_so(out: Path) -> None:
    with (
        training_on("cpu", accumulate=2),
        pytest.raises(DataError, match="are for `train base`: leave them out"),
    ):
        distil(out)


def test_what_cannot_be_in_parts_is_refused(tmp_path: Path) -> None:
    with (
        training_on("cpu", in_parts=True),
        pytest.raises(DataError, match="give --processes, 2 or more"),
    ):
        train_base(CONFIG, Clips(), tmp_path / "one", show=False)
    with (
        training_on("cpu", accumulate=3),
        pytest.raises(DataError, match="8 clips a process cannot be taken in 3 parts"),
    ):
        train_base(CONFIG, Clips(), tmp_path / "three", show=False)
    _not_so(tmp_path / "student")
    assert not list(tmp_path.iterdir())
