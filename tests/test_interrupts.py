"""Ctrl-C and SIGTERM where an exception would be lost: they come afterwards."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from ditto.audio import writing
from ditto.audio.writing import write
from ditto.interrupts import delayed, waiting


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
