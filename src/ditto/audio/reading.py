"""Read and resample sound files.

Input is not trusted: any fault raises `AudioFileError` with a one-line message. Nothing is repaired
silently: NaN is an error.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import soundfile
import soxr

from ditto.audio.opening import SoundFile, opened_file
from ditto.audio.spec import AudioSpec
from ditto.audio.writing import BLOCK_FRAMES, TAGS
from ditto.errors import AudioFileError
from ditto.paths import StrPath, printable

MIN_SECONDS = 0.05
"""Shortest sound accepted: one STFT window needs 0.047 s."""
MAX_SECONDS = 7200.0
"""Longest sound read at once; of a longer file, read a part."""
MIN_RATE, MAX_RATE, MAX_CHANNELS = 4_000, 768_000, 64
MAX_VALUES = 2**30
"""Most samples (times channels) decoded: a small file may hold any amount of silence."""
SILENCE_PEAK = 1e-5
"""Peak (-100 dB) below which a recording is silent."""
MAX_PEAK = 100.0
"""Highest peak accepted (full scale is 1): beyond it the file is wrongly encoded."""

# After a seek the first mp3 frames decode wrongly, since a frame borrows up to 511 bytes from its
# predecessors; so does the first block of Vorbis. A seek into the last Ogg page is off by what is
# trimmed at the end (libsndfile issue 885); a page has at most 255 packets of 4096 samples.
_WARM_UP = 1 << 15
_OGG_PAGE = 255 * 4096
_FARTHEST = 2.0**62  # samples: beyond any file, and within what counts them
_EXACT_FORMATS = ("WAV", "WAVEX", "RF64", "W64", "FLAC", "AIFF")  # their headers know their length


@dataclass(frozen=True, eq=False)
class Audio:
    """Hold `samples` (channels, n), float32, ±1 at full scale, at `sample_rate` Hz."""

    samples: np.ndarray
    sample_rate: int

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.samples.shape[1] / self.sample_rate

    def mono(self) -> "Audio":
        """Average the channels; shape (1, n)."""
        return Audio(self.samples.mean(axis=0, keepdims=True, dtype=np.float32), self.sample_rate)

    def resample(self, sample_rate: int) -> "Audio":
        """Resample to `sample_rate` Hz by soxr, quality VHQ."""
        if sample_rate == self.sample_rate:
            return self
        resampled = soxr.resample(
            np.ascontiguousarray(self.samples.T), self.sample_rate, sample_rate, quality="VHQ"
        )
        return Audio(np.ascontiguousarray(resampled.T, dtype=np.float32), sample_rate)


@dataclass(frozen=True)
class AudioInfo:
    """Hold a sound file's header; `frames` is samples per channel (approximate in mp3)."""

    sample_rate: int
    channels: int
    frames: int
    format: str
    subtype: str

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.frames / self.sample_rate


def info(path: StrPath) -> AudioInfo:
    """Read a sound file's header.

    Raises:
        AudioFileError: the file is missing, not a regular file, empty, not audio, or of an absurd
            sample rate or number of channels.
    """
    with _opened(path) as file:
        return AudioInfo(file.samplerate, file.channels, file.frames, file.format, file.subtype)


def read(
    path: StrPath,
    *,
    start: float = 0.0,
    seconds: float | None = None,
    max_seconds: float = MAX_SECONDS,
    require_sound: bool = False,
    double: bool = False,
) -> Audio:
    """Read a sound file or a part of it: wav, flac, ogg, opus, mp3, aiff, …; m4a, video by PyAV.

    Only the requested part is decoded; it is shorter if the file ends before.

    Args:
        path: the file.
        start: beginning of the part, in seconds.
        seconds: length of the part; None reads to the end.
        max_seconds: longest sound accepted if `seconds` is None.
        require_sound: refuse silence (a peak below -100 dB).
        double: read float64, which holds 32-bit samples bit for bit.

    Returns:
        All channels at the file's own rate, at least 0.05 s.

    Raises:
        AudioFileError: the file cannot be read, is too short or too long, holds NaN or infinities,
            or is silent.
    """
    kind = "float64" if double else "float32"
    return _read(path, start, seconds, max_seconds, require_sound, mono=False, kind=kind)


def read_mono(
    path: StrPath,
    spec: AudioSpec,
    *,
    start: float = 0.0,
    seconds: float | None = None,
    max_seconds: float = MAX_SECONDS,
    require_sound: bool = True,
) -> np.ndarray:
    """Read a file as model input: the mean of its channels at `spec.sample_rate`.

    Arguments and errors are those of `read`, but silence (also of channels that cancel out) is
    refused by default.

    Returns:
        Shape (samples,), float32.
    """
    audio = _read(path, start, seconds, max_seconds, require_sound, mono=True)
    return audio.resample(spec.sample_rate).samples[0]


def read_blocks(path: StrPath) -> Iterator[np.ndarray]:
    """Yield a whole sound file in blocks of (channels, up to 65536), float32.

    Raises:
        AudioFileError: see `info`.
    """
    with _opened(path) as file:
        while len(block := file.read(BLOCK_FRAMES, dtype="float32", always_2d=True)):
            yield block.T


def read_tags(path: StrPath) -> dict[str, str]:
    """Read the non-empty tags of a sound file, by name (see `TAGS`).

    Raises:
        AudioFileError: see `info`.
    """
    with _opened(path) as file:
        values = {name: getattr(file, name) for name in TAGS}
        fix = _unmangled if file.format == "MP3" else str
    return {name: fix(value) for name, value in values.items() if value}


def _unmangled(text: str) -> str:
    """Undo libsndfile's confusion of UTF-8 with Latin-1 in the tags of mp3."""
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        return text


@contextmanager
def _opened(path: StrPath, until: float | None = None) -> Iterator[soundfile.SoundFile]:
    """Open a sound file whose header makes sense; see `opened_file`."""
    with opened_file(path, until) as file:
        _check_header(path, file)
        yield file


def _check_header(path: StrPath, file: soundfile.SoundFile) -> None:
    if not MIN_RATE <= file.samplerate <= MAX_RATE:
        raise AudioFileError(
            f"cannot read {printable(path)}: its sample rate is {file.samplerate} Hz, "
            f"from {MIN_RATE} to {MAX_RATE} Hz can be read"
        )
    if file.channels > MAX_CHANNELS:
        raise AudioFileError(
            f"cannot read {printable(path)}: it has {file.channels} channels, "
            f"at most {MAX_CHANNELS} can be read"
        )


def _read(
    path: StrPath,
    start: float,
    seconds: float | None,
    max_seconds: float,
    require_sound: bool,
    mono: bool,
    kind: str = "float32",
) -> Audio:
    if not (0 <= start < np.inf and (seconds is None or 0 < seconds < np.inf)):
        raise AudioFileError(
            f"cannot read {printable(path)} from {start} s for {seconds} s: "
            "give a start >= 0, a length > 0"
        )
    with _opened(path, None if seconds is None else start + seconds) as file:
        rate = file.samplerate
        first = round(min(start * rate, _FARTHEST))
        count = round(min((max_seconds if seconds is None else seconds) * rate, _FARTHEST))
        _seek(path, file, first)
        samples = _decode(path, file, first, count, mono, kind)
        if seconds is None and len(file.read(1)):
            raise AudioFileError(
                f"{printable(path)} is longer than {max_seconds:g} s: "
                "choose a part (start and seconds)"
            )
        _check_length(path, file, first, count, samples.shape[1])
    _check_samples(path, samples, require_sound)
    return Audio(samples, rate)


def _seek(path: StrPath, file: soundfile.SoundFile, first: int) -> None:
    if first >= file.frames:
        rate = file.samplerate
        raise AudioFileError(
            f"cannot read {printable(path)} from {first / rate:g} s: "
            f"it lasts {file.frames / rate:.3g} s"
        )
    position = first
    if file.format in ("MP3", "OGG"):
        position = max(0, first - _WARM_UP)
    if file.format == "OGG":
        position = max(0, min(position, file.frames - _OGG_PAGE))
    if position:
        file.seek(position)
    for skipped in range(position, first, BLOCK_FRAMES):
        file.read(min(BLOCK_FRAMES, first - skipped), dtype="float32")


def _decode(
    path: StrPath, file: soundfile.SoundFile, first: int, count: int, mono: bool, kind: str
) -> np.ndarray:
    """Decode up to `count` frames from here on; shape (channels, n), or (1, n) if `mono`.

    The array is made at once, for as many frames as the header promises, so that a long file needs
    its samples' memory and no more.
    """
    channels = 1 if mono else file.channels
    promised = min(count, max(file.frames - first, 0))
    samples = np.empty((channels, min(promised, MAX_VALUES // channels)), kind)
    done = 0
    while done < count:
        block = file.read(min(BLOCK_FRAMES, count - done), dtype=cast(Any, kind), always_2d=True)
        if not len(block):
            break
        if (done + len(block)) * channels > MAX_VALUES:
            raise AudioFileError(
                f"{printable(path)} holds too much sound to read at once: "
                "choose a part (start and seconds)"
            )
        if done + len(block) > samples.shape[1]:
            more = max(promised - samples.shape[1], samples.shape[1] // 2, len(block))
            samples = np.concatenate([samples, np.empty((channels, more), kind)], axis=1)
        samples[:, done : done + len(block)] = (
            block.mean(axis=1, keepdims=True) if mono else block
        ).T
        done += len(block)
    if done == samples.shape[1]:
        return samples
    return samples[:, :done] if done > 0.9 * samples.shape[1] else samples[:, :done].copy()


def _check_length(
    path: StrPath, file: soundfile.SoundFile, first: int, count: int, got: int
) -> None:
    """Refuse sound that is too short or ends before its header says."""
    rate = file.samplerate
    whole = file.frames
    if isinstance(file, SoundFile) and whole * (file.promised - 1) > MIN_SECONDS * rate:
        whole = round(whole * file.promised)
    if file.format in _EXACT_FORMATS and got < min(count, whole - first):
        raise AudioFileError(
            f"{printable(path)} is damaged: it ends after {(first + got) / rate:.3f} s, "
            f"{whole / rate:.3f} s are promised; get it whole, or save what is there as a new file"
        )
    if got < MIN_SECONDS * rate:
        raise AudioFileError(
            f"{printable(path)} is too short: {got} sample{'s' * (got != 1)} ({got / rate:.4f} s) "
            f"of sound, at least {MIN_SECONDS} s is needed"
        )


def _check_samples(path: StrPath, samples: np.ndarray, require_sound: bool) -> None:
    peak = float(max(-samples.min(), samples.max()))  # NaN if any sample is; copies nothing
    if not np.isfinite(peak):
        raise AudioFileError(
            f"{printable(path)} holds values that are not finite (NaN or infinity): export it again"
        )
    if peak > MAX_PEAK:
        raise AudioFileError(
            f"{printable(path)} holds values up to {peak:.3g}, full scale is 1: export it again"
        )
    if require_sound and peak < SILENCE_PEAK:
        raise AudioFileError(
            f"{printable(path)} is silent: choose a recording, or a part of one, that can be heard"
        )
