"""The scripts for clusters, run on the one machine that there is here."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest
import yaml
from tests.training.runs import weights
from tests.training.test_launch import CONFIG, data
from torch import allclose

from ditto.training.base import train_from_folder

SCRIPTS = Path(__file__).parents[2] / "integrations" / "cluster"
__all__ = ["data"]

SRUN = """#!/bin/sh
# A SLURM of one machine.
while [ "${1#--}" != "$1" ]; do shift; done
SLURM_NODEID=0 exec "$@"
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, with what SLURM gives a script of one machine."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", "#!/bin/sh\necho 127.0.0.1\n")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    python = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{folder}:{python}:{os.environ['PATH']}")
    job = {"NODELIST": "here", "ID": str(os.getpid())}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_JOB_{name}", value)
    monkeypatch.setenv("SLURM_NNODES", "1")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")
    monkeypatch.delenv("SLURM_GPUS_ON_NODE", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sent(script: str, *words: object) -> None:
    """Run a script as ``sbatch`` would."""
    told = [str(word) for word in words]
    done = subprocess.run(["bash", SCRIPTS / script, *told], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_training_by_slurms_script(
    data: Path, slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (slurm / "recipe.json").write_text(json.dumps(asdict(CONFIG)))
    monkeypatch.setenv("DITTO_PROCESSES", "2")
    words = ("--config", "recipe.json", "--data", data, "--device", "cpu")
    sent("train.sbatch", "base", *words, "--out", "two")
    train_from_folder(CONFIG, data, Path("one"))
    one, two = weights(Path("one"), "ema"), weights(Path("two"), "ema")
    assert all(allclose(two[name], one[name], atol=1e-5) for name in one)


def test_a_batch_by_slurms_script(slurm: Path, model_folder: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: ditto-music[fleet]")
    line = {"loudness": "swell", "iterations": 1, "method": "ditto", "steps": 2}
    (slurm / "r.jsonl").write_text(json.dumps(line))
    words = ("--model", model_folder, "--no-pictures", "--no-compare")
    sent("batch.sbatch", "r.jsonl", "--out", "clips", *words)
    assert (slurm / "clips/00001.wav").is_file()
    port = str(20_000 + os.getpid() % 20_000)
    left = [p.info["cmdline"] or [] for p in psutil.process_iter(["cmdline"])]
    assert not [words for words in left if any(f":{port}" in word for word in words)]


def test_rays_file_is_one() -> None:
    """By what `ray up` does with it first."""
    pytest.importorskip("ray", reason="Ray is not installed: ditto-music[fleet]")
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((SCRIPTS / "ray.yaml").read_text())
    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["available_node_types"]["local.cluster.node"]["max_workers"] == 2


@pytest.mark.parametrize("before", [None, "", "case $- in *i*) ;; *) return;; esac\n"])
def test_rays_machines_find_ditto(tmp_path: Path, before: str | None) -> None:
    config = yaml.safe_load((SCRIPTS / "ray.yaml").read_text())
    (command,) = [each for each in config["setup_commands"] if ".bashrc" in each]
    file = tmp_path / ".bashrc"
    if before is not None:
        file.write_text(before)
    for _ in range(2):
        subprocess.run(["bash", "-c", command], env={"HOME": str(tmp_path)}, check=True)
        assert file.read_text() == "export PATH=~/ditto/bin:$PATH\n" + (before or "")
    assert list(tmp_path.iterdir()) == [file]


TWO = """#!/bin/bash
# A SLURM of two machines, whose exit status is the worse one.
while [ "${1#--}" != "$1" ]; do shift; done
SLURM_NODEID=1 "$@" & other=$!
SLURM_NODEID=0 "$@"; first=$?
wait $other; second=$?
exit $((first > second ? first : second))
"""
RAY = f"""#!{sys.executable}
# A head that listens, and a machine that joins it and, as Ray's do, fails when the head is gone.
import socket, sys, time
port = int(sys.argv[sys.argv.index("--port") + 1]) if "--head" in sys.argv else 0
if port:
    server = socket.create_server(("127.0.0.1", port))
    time.sleep(600)
host, port = sys.argv[sys.argv.index("--address") + 1].split(":")
print("joined", file=open("joined", "a"))
while True:
    try:
        socket.create_connection((host, int(port))).close()
    except OSError:
        sys.exit(1)
    time.sleep(0.2)
"""


@pytest.mark.parametrize("status", [0, 3])
def test_a_batch_on_two_machines_ends_as_the_batch_does(slurm: Path, status: int) -> None:
    batch = f"#!/bin/sh\nuntil [ -e joined ]; do sleep 0.1; done\necho $* >batch\nexit {status}\n"
    for name, text in (("srun", TWO), ("ray", RAY), ("ditto-music", batch)):
        (slurm / "bin" / name).write_text(text)
        (slurm / "bin" / name).chmod(0o755)
    words = ["bash", str(SCRIPTS / "batch.sbatch"), "r.jsonl", "--out", "my clips"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stderr
    assert (slurm / "batch").read_text().startswith("batch r.jsonl --out my clips --ray 127.0.0.1:")
    assert (slurm / "joined").read_text() == "joined\n"
