"""What Windows would refuse, emulated: descriptors, names, open files, narrow encodings."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from ditto.audio import io, opening
from ditto.latents import Latent

ROOT = Path(__file__).parent.parent
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
fcntl = pytest.importorskip("fcntl")


def legal(name: str) -> bool:
    """Whether Windows takes a file's or a folder's name."""
    printable = not re.search(r'[<>:"/\\|?*\x00-\x1f]', name)
    return printable and not name.endswith((".", " ")) and not RESERVED.fullmatch(name)


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Refuse to synchronise what was opened for reading, and collect every name that is made."""
    names: list[str] = []
    fsync, opened, made, moved = os.fsync, os.open, os.mkdir, os.replace

    def checked_fsync(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(9, "Bad file descriptor")
        fsync(descriptor)

    def note(function: Any, which: int = 0) -> Any:
        def call(*args: Any, **settings: Any) -> Any:
            names.append(os.path.basename(os.fspath(args[which])))
            return function(*args, **settings)

        return call

    monkeypatch.setattr(os, "fsync", checked_fsync)
    monkeypatch.setattr(os, "open", note(opened))
    monkeypatch.setattr(os, "mkdir", note(made))
    monkeypatch.setattr(os, "replace", note(moved, 1))
    return names


def test_the_emulation_is_strict(strict: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with (tmp_path / "file").open("rb") as file, pytest.raises(OSError, match="Bad file"):
        os.fsync(file.fileno())
    assert not any(map(legal, ("a:b", "nul.wav", "what?", "end.", "CON")))
    assert legal("step-00000012")


def test_files_are_written_whole_with_names_that_are_legal(
    strict: list[str], ditto_music: Any, model_folder: Path, tmp_path: Path
) -> None:
    common = ("--model", model_folder, "--device", "cpu")
    for command in (
        ("generate", *common, "-o", "out.wav", "--latent", "out.latent", "--count", 2),
        ("vary", "out-0.latent", *common, "--count", 2, "-o", "variations", "-T", 1),
        ("loop", *common, "--seconds", 0.3, "-K", 1, "-o", "loop.wav", "--overlap", 0.1),
    ):
        code, _, error = ditto_music(*command)
        assert code == 0, error
    assert "out-0.wav" in strict
    assert [name for name in strict if not legal(name)] == []
    assert [p for p in tmp_path.rglob("*") if not legal(p.name)] == []


def test_a_runs_files_have_legal_names(strict: list[str], tmp_path: Path) -> None:
    from dataclasses import replace

    from tests.training.test_base import TINY, Clips

    from ditto.training.base import train_base

    train_base(replace(TINY, steps=1), Clips(), tmp_path / "run", show=False)
    assert [name for name in strict if not legal(name)] == []
    assert [p for p in (tmp_path / "run").rglob("*") if not legal(p.name)] == []


def test_the_checkout_has_legal_names_that_differ_by_more_than_case() -> None:
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    names = listing.stdout.splitlines()
    assert [name for name in names if not all(map(legal, name.split("/")))] == []
    assert len({name.lower() for name in names}) == len(names)


@pytest.mark.parametrize("ending", [".wav", ".flac", ".ogg", ".mp3"])
def test_no_descriptor_goes_to_another_library(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"song{ending}"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(40_000), 16_000)
    shared = io.read(path), io.read(path, start=1.0, seconds=0.5)
    monkeypatch.setattr(opening, "SHARED_DESCRIPTORS", False)
    opened = opening.SoundFile.__init__

    def without_numbers(self: Any, file: Any, *args: Any, **settings: Any) -> None:
        assert not isinstance(file, int)
        opened(self, file, *args, **settings)

    monkeypatch.setattr(opening.SoundFile, "__init__", without_numbers)
    through_python = io.read(path), io.read(path, start=1.0, seconds=0.5)
    for one, other in zip(shared, through_python, strict=True):
        np.testing.assert_array_equal(other.samples, one.samples)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="shown by Linux's own list")
def test_a_latent_that_was_read_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "kept.latent"
    Latent(torch.randn(1, 1, 64, 512), "model").save(path)
    latent = Latent.load(path)
    assert str(path) not in Path("/proc/self/maps").read_text()
    assert latent.x_T.shape[-1] == 512


@pytest.mark.parametrize("words", [["generate", "--help"], ["models", "--device", "cpu"]])
def test_a_pipe_that_knows_few_characters(words: list[str]) -> None:
    narrow = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run([sys.executable, "-m", "ditto", *words], env=narrow, capture_output=True)
    assert done.returncode == 0, done.stderr
