"""Ctrl-C and SIGTERM where an exception would be lost: they come afterwards."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from ditto.audio import writing
from ditto.audio.writing import write
from ditto.interrupts import delayed, terminable, waiting


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """Python's own handler, which is missing where a shell started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_comes_after_the_block() -> None:
    done = []

    def block() -> None:
        with delayed():
            interrupt()
            done.append(1)

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done == [1]
    # Within a block that waits for its own moment, that block has it.
    with waiting() as caught:
        with delayed():
            interrupt()
            assert not caught
        assert caught == [signal.SIGINT]
    with delayed():
        pass


def test_ctrl_c_while_libsndfile_calls_python_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    sent: list[int] = []

    class Interrupted(writing._Sink):
        def __init__(self, raw: Any) -> None:
            super().__init__(raw)
            self.tell = self._tell

        def _tell(self) -> int:
            if not sent:
                sent.append(1)
                interrupt()
            return self.raw.tell()

    monkeypatch.setattr(writing, "_Sink", Interrupted)
    samples = 0.1 * np.random.default_rng(0).standard_normal(9600)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a.flac", samples, 8000)
    assert sent
    assert "Exception ignored" not in capfd.readouterr().err
    assert soundfile.info(tmp_path / "a.flac").frames == 9600
    assert [path.name for path in tmp_path.iterdir()] == ["a.flac"]


def test_sigterm_is_a_ctrl_c_unless_somebody_handles_it() -> None:
    def end() -> None:
        with terminable():
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(KeyboardInterrupt):
            end()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        heard: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
        end()
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_command_that_is_terminated_takes_its_temporaries_away(tmp_path: Path) -> None:
    """In a process of its own, which without a handler would end where it stands."""
    code = """
import os, signal, sys
from ditto import cli, paths
from ditto.data import prepare
def end(*args, **settings):
    with paths.atomic_file("o.json") as temporary:
        temporary.write_text("half")
        os.kill(os.getpid(), signal.SIGTERM)
        os.getpid()
prepare.prepare_folder = end
sys.argv = ["ditto-music", "data", "prepare", ".", "--out", "o"]
cli.main()
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 130, ran.stderr
    assert "Traceback" not in ran.stderr
    assert not list(tmp_path.iterdir())
