"""``--processes``: one training in several processes that a launcher starts."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tests.conftest import Command
from tests.training.runs import weights

from ditto.data.prepare import prepare_folder
from ditto.training.base import train_from_folder
from ditto.training.denoising import BaseConfig
from ditto.training.loop import read_log

CONFIG = BaseConfig(
    network={"patch": 8, "width": 16, "depth": 1, "heads": 2, "tag_sizes": [3, 2, 13]}
    | {"n_mels": 160},
    frames=16,
    steps=6,
    batch_size=4,
    warmup=2,
    log_every=1,
    checkpoint_every=3,
    evaluate_every=1000,
)

LAUNCH = ("--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--main_process_port", "0")
LAUNCH += ("--mixed_precision", "no", "--dynamo_backend", "no")
"""Whatever a machine's own settings are. `--multi_gpu` is its word for several processes."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder of two noisy pieces, beside the recipe that learns from it."""
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    for name in "ab":
        audio = 0.1 * np.random.default_rng(ord(name)).standard_normal(8192)
        soundfile.write(sounds / f"{name}.wav", audio, 22_050)
    (tmp_path / "tags.csv").write_text("file,genre,mood,tempo\na.wav,jazz,calm,100\nb.wav,rock,,\n")
    tags = tmp_path / "tags.csv"
    prepare_folder(sounds, tmp_path / "set", tags_csv=tags, heldout=0.0, shortest_seconds=0.3)
    (tmp_path / "recipe.json").write_text(json.dumps(asdict(CONFIG)))
    return tmp_path / "set" / "train"


def test_a_command_on_two_processes_leaves_what_one_does(
    ditto_music: Command, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_from_folder(CONFIG, data, Path("one"))
    Path("tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(Path("tmp").absolute()))
    words = ("train", "base", "--config", "recipe.json", "--data", data, "--device", "cpu")
    code, _, err = ditto_music(*words, "--out", "two", "--processes", 2)
    assert code == 0, err
    for group in ("model", "ema", "optimizer"):
        ours, theirs = weights(Path("two"), group), weights(Path("one"), group)
        for name in theirs:
            assert np.allclose(ours[name], theirs[name], atol=1e-5), name
    ours, theirs = read_log(Path("two/log.jsonl")), read_log(Path("one/log.jsonl"))
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    assert [row.get("loss") for row in ours] == pytest.approx(
        [row.get("loss") for row in theirs], abs=1e-5
    )
    assert not list(Path("tmp").iterdir())
    # What only the processes find out is one line, too.
    code, _, err = ditto_music(*words, "--out", "data.txt", "--processes", 2, "--held-out", "none")
    assert (code, err.strip().count("\n")) == (2, 0), err
    assert "none" in err


def test_accelerates_launcher_starts_a_training(data: Path, tmp_path: Path) -> None:
    """As docs/scale.md gives it for several machines; of one without graphics cards, by gloo."""
    train_from_folder(CONFIG, data, tmp_path / "one")
    words = ["accelerate.commands.launch", *LAUNCH, "--tee", "1", "--log_dir", str(tmp_path)]
    words += ["-m", "ditto.cli", "train", "base", "--config", "recipe.json", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-m", *words, "--data", str(data), "--out", "two"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert {path.parent.name for path in tmp_path.rglob("stdout.log")} == {"0", "1"}
    ours, theirs = read_log(tmp_path / "two" / "log.jsonl"), read_log(tmp_path / "one/log.jsonl")
    assert [row.get("loss") for row in ours] == pytest.approx(
        [row.get("loss") for row in theirs], abs=1e-5
    )
    one, two = weights(tmp_path / "one", "model"), weights(tmp_path / "two", "model")
    assert all(np.allclose(two[name], one[name], atol=1e-5) for name in one)


def test_what_cannot_be_shared_is_said_before_the_work(
    ditto_music: Command, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("train", "base", "--config", "recipe.json", "--data", data, "--device", "cpu")
    for more, said in (
        (("--processes", 3), "a batch of 4 cannot be shared by 3 processes"),
        (("--processes", 0), "should be greater than or equal to 1"),
    ):
        code, _, err = ditto_music(*words, "--out", "run", *more)
        assert code == 2
        assert said in err
    for name in ("classifier", "clap"):
        code, _, err = ditto_music("train", name, "--data", data, "--processes", 2)
        assert (code, f"{name} trains on one process" in err) == (2, True), err
    monkeypatch.setenv("LOCAL_RANK", "0")
    code, _, err = ditto_music(*words, "--out", "run", "--processes", 2)
    assert (code, "leave out --processes" in err) == (2, True), err
    assert not Path("run").exists()


def test_a_config_of_an_odd_batch_is_refused_for_processes_alone(
    ditto_music: Command, data: Path
) -> None:
    Path("odd.json").write_text(json.dumps(asdict(replace(CONFIG, batch_size=3, steps=1))))
    words = ("train", "base", "--config", "odd.json", "--data", data, "--out", "run")
    assert ditto_music(*words, "--processes", 2)[0] == 2
    assert ditto_music(*words, "--device", "cpu")[0] == 0
