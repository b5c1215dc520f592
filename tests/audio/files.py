"""Sounds and files for the tests of reading and writing."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

ENDINGS = (".wav", ".flac", ".ogg", ".mp3")
LAST_BIT = {
    "PCM_U8": 2**-7,
    "PCM_S8": 2**-7,
    "PCM_16": 2**-15,
    "PCM_24": 2**-23,
    "FLOAT": 0.0,
    "DOUBLE": 0.0,
}


def sine(
    rate: int = 22_050, seconds: float = 1.0, channels: int = 1, hertz: float = 440.0
) -> np.ndarray:
    """Shape (channels, n); each channel has its own level."""
    time_axis = np.arange(round(rate * seconds)) / rate
    levels = 0.5 / np.arange(1, channels + 1)
    return (levels[:, None] * np.sin(2 * np.pi * hertz * time_axis)).astype(np.float32)


def write_raw(
    path: Path, samples: np.ndarray, rate: int = 22_050, subtype: str | None = None
) -> Path:
    """Write without Ditto, shape (channels, n)."""
    soundfile.write(path, samples.T, rate, subtype=subtype)
    return path


def only_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    message = str(error.value)
    assert len(message.splitlines()) == 1
    assert message.isprintable()
    return message


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path
