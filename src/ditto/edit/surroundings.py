"""What new music lacks beside a recording: high frequencies and width that the model has not."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np

HEARD, MUCH_LESS = 1e-6, 0.03
"""Shares of the power that count at all (−60 dB), and that are missing (−15 dB of what is
there)."""
BLOCK, MOST_BLOCKS = 1024, 256
"""Samples of a block, and how many blocks of a sound, evenly spread, are measured."""
BEYOND = 1.1
"""The model's filters end this far above half its rate."""


class Sound(Protocol):
    """Sound that is read in blocks, such as a long recording's."""

    @property
    def length(self) -> int:
        """Number of samples."""
        ...

    def block(self, start: int, end: int) -> np.ndarray:
        """Return the samples from `start` to `end`, shape (channels, n)."""
        ...


def lacking(new: Sound, old: Sound, sample_rate: int, model_rate: int, name: str) -> list[str]:
    """Return what new music lacks that a recording has, a line each.

    Args:
        new: what was made.
        old: the recording.
        sample_rate: of both, in Hz.
        model_rate: of the model, in Hz.
        name: of the recording.
    """
    notes, end = [], BEYOND * model_rate / 2
    there, made = (share_above(sound, sample_rate, end) for sound in (old, new))
    if there > HEARD and made < MUCH_LESS * there:
        notes.append(
            f"what is new has nothing above {model_rate / 2000:.1f} kHz, where the model ends; "
            f"{name} goes on above it"
        )
    there, made = width(old), width(new)
    if there > HEARD and made < MUCH_LESS * there:
        notes.append(
            f"what is new is mono, placed between the loudspeakers as {name} is on average; {name} "
            "is wider"
        )
    return notes


def share_above(sound: Sound, sample_rate: int, hertz: float) -> float:
    """Return the share of a sound's power above a frequency; 0 without any power."""
    power = np.zeros(BLOCK // 2 + 1)
    for block in _blocks(sound):
        power += (np.abs(np.fft.rfft(block * np.hanning(BLOCK))) ** 2).sum(axis=0)
    above = power[np.fft.rfftfreq(BLOCK, 1 / sample_rate) > hertz].sum()
    return float(above / power.sum()) if power.sum() > 0 else 0.0


def width(sound: Sound) -> float:
    """Return the share of power that no single panned channel explains; 0 of a mono sound."""
    values = np.linalg.eigvalsh(sum(block @ block.T for block in _blocks(sound)))
    total = values.sum()
    return float(values[:-1].clip(min=0).sum() / total) if total > 0 else 0.0


def _blocks(sound: Sound) -> Iterator[np.ndarray]:
    """Yield blocks of a sound, (channels, BLOCK), float64, evenly spread over it."""
    last = max(sound.length - BLOCK, 0)
    for start in np.unique(np.linspace(0, last, MOST_BLOCKS).astype(int)).tolist():
        block = sound.block(start, start + BLOCK).astype(np.float64)
        yield np.pad(block, ((0, 0), (0, BLOCK - block.shape[1])))
