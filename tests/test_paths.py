"""Files appear whole or not at all, nothing is replaced unasked, paths print on one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ditto import paths
from ditto.errors import OutputError
from ditto.paths import atomic_file, atomic_folder, check_output, printable


def test_atomic_file_serves_any_kind_of_file(tmp_path):
    path = tmp_path / "a.json"
    with atomic_file(path) as temporary:
        assert (temporary.parent, temporary.suffix) == (tmp_path, ".json")
        temporary.write_text("{}")
        assert not path.exists()
    assert path.read_text() == "{}"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError("mine"), KeyboardInterrupt(), ValueError("mine")])
def test_atomic_file_passes_errors_on_and_cleans_up(tmp_path, error):
    path = tmp_path / "a.png"
    path.write_text("old")

    def write_half() -> None:
        with atomic_file(path, force=True) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)) as caught:
        write_half()
    assert caught.value is error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_file_sees_a_file_that_appears_meanwhile(tmp_path):
    path = tmp_path / "a.json"

    def write_slowly() -> None:
        with atomic_file(path) as temporary:
            temporary.write_text("mine")
            path.write_text("another's")

    with pytest.raises(OutputError, match="exists already"):
        write_slowly()
    assert path.read_text() == "another's"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_file_follows_links_and_keeps_to_the_umask(tmp_path):
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    with atomic_file(tmp_path / "link.json", force=True) as temporary:
        temporary.write_text("new")
    (tmp_path / "plain").touch()
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text() == "new"
    assert (tmp_path / "real.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_files_of_an_atomic_folder_keep_to_the_umask(tmp_path):
    with atomic_folder(tmp_path / "model") as temporary:
        (temporary / "part").mkdir()
        save_file({"a": torch.ones(1)}, temporary / "part" / "weights.safetensors")
    (tmp_path / "plain").touch()
    written = tmp_path / "model" / "part" / "weights.safetensors"
    assert written.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_output_can_be_checked_before_the_work(tmp_path):
    check_output(tmp_path / "new.wav")
    (tmp_path / "old.wav").write_bytes(b"old")
    check_output(tmp_path / "old.wav", force=True)
    with pytest.raises(OutputError, match="exists already"):
        check_output(tmp_path / "old.wav")
    with pytest.raises(OutputError, match="its folder does not exist"):
        check_output(tmp_path / "none" / "new.wav")
    assert [path.name for path in tmp_path.iterdir()] == ["old.wav"]


@pytest.mark.parametrize("name", ["line\nbreak\r\x1b[2J", "paragraph\u2029", "bytes\udcff", "音"])
def test_paths_print_on_one_line(name):
    shown = printable(name)
    assert shown.isprintable()
    assert shown.encode().decode() == shown  # a lone surrogate would not encode
    assert (shown == name) == name.isprintable()


def test_an_atomic_folder_replaces_the_old_one_or_leaves_it(tmp_path):
    folder = tmp_path / "model"
    for content in ("old", "new"):
        with atomic_folder(folder) as temporary:
            (temporary / content).write_text(content)
        assert [path.name for path in folder.iterdir()] == [content]

    def fail() -> None:
        with atomic_folder(folder) as temporary:
            (temporary / "half").touch()
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"cannot write .*model: No space left on device$"):
        fail()
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [folder]


def test_leftovers_of_killed_processes_go_and_files_in_use_stay(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True
    )
    gone = tmp_path / f"{paths.TEMPORARY}{int(ended.stdout)}-00ff.npy"
    nameless = tmp_path / f"{paths.TEMPORARY}0123.flac"
    odd = tmp_path / f"{paths.TEMPORARY}{10**20}-00ff.npy"
    used = tmp_path / f"{paths.TEMPORARY}{os.getpid()}-00ff.npy"
    kept = tmp_path / "clip.npy"
    for file in (gone, nameless, odd, used, kept):
        file.write_bytes(b"x")
    paths.remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([used, kept])


def test_an_interrupt_between_the_steps_of_a_replacement_loses_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, replace = tmp_path / "model", os.replace
    folder.mkdir()
    (folder / "old").write_text("precious")

    def interrupted(source: Path, target: Path) -> None:
        if target == folder and source.name != paths.OLD:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_folder(folder) as temporary:
        (temporary / "new").write_text("")
    assert [path.read_text() for path in folder.iterdir()] == ["precious"]
    assert list(tmp_path.iterdir()) == [folder]


def test_an_atomic_folder_follows_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "disk" / "real", tmp_path / "link"
    real.mkdir(parents=True)
    (real / "before").write_text("")
    link.symlink_to(real)
    with atomic_folder(link) as temporary:
        (temporary / "after").write_text("")
    assert link.is_symlink()
    assert [path.name for path in real.iterdir()] == ["after"]
    assert list(real.parent.iterdir()) == [real]
