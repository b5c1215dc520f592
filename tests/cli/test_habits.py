"""What is expected of any command: its version, what it says when it is done, quiet pipes."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import soundfile
from tests.conftest import Command
from tests.tiny_soundfont import make_tiny_soundfont

import ditto

RATE = 8000


def test_the_version_is_that_of_the_package(ditto_music: Command) -> None:
    code, out, _ = ditto_music("--version")
    assert (code, out) == (0, f"ditto-music {version('ditto-music')}\n")
    assert ditto.__version__ == version("ditto-music")


def test_the_package_itself_is_the_command() -> None:
    command = [sys.executable, "-m", "ditto", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"ditto-music {version('ditto-music')}\n"


def test_what_was_prepared_says_what_to_train_with(ditto_music: Command, tmp_path: Path) -> None:
    (tmp_path / "songs").mkdir()
    samples = 0.1 * np.random.default_rng(0).standard_normal((7 * RATE, 1))
    soundfile.write(tmp_path / "songs" / "a.wav", samples, RATE)
    words = "data", "prepare", "songs", "--held-out", "0", "--out", "datasets/mine"
    (tmp_path / "datasets").mkdir()
    code, out, err = ditto_music(*words)
    assert code == 0, err
    data = Path("datasets") / "mine" / "train"
    assert out.endswith(f"train with --data {data}\n")
    assert (tmp_path / data).is_dir()
    assert out.count("\n") == 1
    assert "\r" not in err + out
    assert "\x1b" not in err + out
    assert "Prepared(" not in out


def test_a_pipe_gets_no_progress_bar(ditto_music: Command, tmp_path: Path) -> None:
    soundfont = make_tiny_soundfont(tmp_path / "tiny.sf2")
    words = "data", "compose", "--count", "1", "--soundfont", str(soundfont), "--out", "composed"
    code, out, err = ditto_music(*words)
    assert code == 0, err
    assert (tmp_path / "composed").is_dir()
    for said in (out, err):
        assert "\r" not in said
        assert "\x1b" not in said
        assert "━" not in said
