"""A part of a recording to be like: from some second on, or from its first sound."""

import math
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ditto.audio.io import SILENCE_PEAK, info, read_blocks, read_mono
from ditto.audio.spec import AudioSpec
from ditto.errors import AudioFileError, ControlError
from ditto.paths import StrPath, printable, shown

Begin = float | Literal["auto"]
"""Where to begin, in seconds; "auto" is the first sound, or note."""

TOP_DB = 40.0
"""A recording's first sound is the first that lies at most this far under its loudest."""
LONGEST_SECONDS = 230.0
"""How much of a recording is read where the clip's length is not known."""
_FRAME, _HOP = 2048, 512


@dataclass(frozen=True, eq=False)
class Excerpt:
    """A part of a recording.

    Attributes:
        samples: mono at the model's rate, shape (n,), float32.
        about: what it is, in words: "song.wav, 2.00 to 7.94 s".
        start: where it begins in the recording, in seconds.
    """

    samples: np.ndarray
    about: str
    start: float


def begin_of(value: Any, option: str = "begin") -> Begin:
    """Return a beginning from a number, its text, or "auto".

    Raises:
        ControlError: it is something else.
    """
    if value == "auto":
        return "auto"
    try:
        seconds = float(value) if isinstance(value, Real | str) else math.nan
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ControlError(f'{option} is a second, from 0 on, or "auto", not {shown(value)}')
    return seconds


def read_from(path: StrPath, spec: AudioSpec, seconds: float, begin: Begin = 0.0) -> Excerpt:
    """Read a part of a recording as the model hears it.

    Args:
        path: a sound file.
        spec: of the model.
        seconds: how much, at most.
        begin: where from.

    Raises:
        AudioFileError: the file cannot be read, or is silent there.
        ControlError: `begin` makes no sense.
    """
    begin = begin_of(begin)
    start = first_sound(path) if begin == "auto" else begin
    samples = read_mono(path, spec, start=start, seconds=seconds, require_sound=False)
    if np.abs(samples).max() < SILENCE_PEAK:
        sound = first_sound(path)
        raise AudioFileError(
            f"{printable(path)} is silent from {start:g} to {start + seconds:.2f} s, its first "
            f"sound comes at {sound:.2f} s: begin there (begin, --melody-from, --like-from: "
            f'seconds, or "auto")'
            if sound > start
            else f"{printable(path)} is silent from {start:g} s on: choose another part of it"
        )
    end = start + len(samples) / spec.sample_rate
    about = f"{printable(Path(path).name)}, {start:.2f} to {end:.2f} s"
    return Excerpt(samples, about, float(start))


def first_sound(path: StrPath) -> float:
    """Return when a recording's first sound begins, in seconds, as ``librosa.effects.trim``.

    That is the first frame whose RMS lies within `TOP_DB` of the loudest frame's.

    Raises:
        AudioFileError: the file cannot be read, or is silent.
    """
    rate = info(path).sample_rate
    powers, rest = [], np.zeros(_FRAME // 2, np.float32)
    for block in read_blocks(path):
        joined = np.concatenate([rest, block.mean(axis=0)])
        count = max((len(joined) - _FRAME) // _HOP + 1, 0)
        if count:
            frames = np.lib.stride_tricks.sliding_window_view(joined, _FRAME)[::_HOP]
            powers.append(np.square(frames, dtype=np.float64).mean(axis=1))
        rest = joined[count * _HOP :]
    power = np.concatenate(powers) if powers else np.zeros(1)
    if power.max() < SILENCE_PEAK**2:
        raise AudioFileError(
            f"{printable(path)} is silent: choose a recording, or a part of one, that can be heard"
        )
    first = int(np.argmax(power > power.max() * 10 ** (-TOP_DB / 10)))
    return first * _HOP / rate
