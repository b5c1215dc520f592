"""Weights of installed wheels: absent, damaged, and what loading them imports."""

import sys
from pathlib import Path

import pytest

from ditto.errors import ModelError
from ditto.eval.ears import load_ears
from ditto.eval.ears.basic_pitch import load_basic_pitch
from ditto.eval.ears.swift_f0 import load_swift_f0
from ditto.eval.ears.wheels import onnx_session, wheel_file


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made musicnn of one file, whose hash in RECORD is that of b"weights"."""
    record = tmp_path / "musicnn-0.1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: musicnn\nVersion: 0.1.0\n")
    digest = "mhKQONmgCu0M9qfqBZylCoE0SQYauHhIzxoT6v3zOyw"
    (record / "RECORD").write_text(f"musicnn/net.bin,sha256={digest},7\n")
    (tmp_path / "musicnn").mkdir()
    (tmp_path / "musicnn/net.bin").write_bytes(b"weights")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "musicnn/net.bin"


def test_a_file_is_found_and_verified(installed: Path) -> None:
    assert wheel_file("musicnn", "net.bin") == installed
    installed.write_bytes(b"weightz")
    with pytest.raises(ModelError, match=r"net\.bin of musicnn is damaged: pip install .*--force"):
        wheel_file("musicnn", "net.bin")
    installed.unlink()
    with pytest.raises(ModelError, match=r"cannot read net\.bin of musicnn: pip install"):
        wheel_file("musicnn", "net.bin")
    with pytest.raises(ModelError, match=r"has no other\.bin: pip install"):
        wheel_file("musicnn", "other.bin")


def test_a_missing_ear_is_one_line_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [])
        for package in ("musicnn==0.1.0", "basic-pitch==0.4.0"):
            with pytest.raises(ModelError, match=f"pip install --no-deps {package}"):
                wheel_file(package.split("==")[0], "x")
    for module, load in (("onnxruntime", load_basic_pitch), ("swift_f0", load_swift_f0)):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            with pytest.raises(ModelError, match=r"pip install 'ditto-music\[ears\]'"):
                load()


def test_a_file_that_is_no_network_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"not an onnx file")
    with pytest.raises(ModelError, match=r"cannot load x\.onnx") as error:
        onnx_session(tmp_path / "x.onnx")
    assert "\n" not in str(error.value)


def test_the_packages_of_the_weights_are_not_imported() -> None:
    load_ears()
    assert not {"tensorflow", "musicnn", "basic_pitch"} & set(sys.modules)
