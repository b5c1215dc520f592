"""Read, resample and write sound files.

Input is not trusted: any fault raises `AudioFileError`, and any fault of an output `OutputError`,
with a one-line message. Nothing is repaired silently: NaN is an error, and so is clipping.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from ditto.audio.layout import Layout
from ditto.audio.opening import SoundFile, opened_file
from ditto.audio.spec import AudioSpec
from ditto.errors import AudioFileError, OutputError
from ditto.paths import StrPath, atomic_file, output_errors, printable

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

SUBTYPES = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_24"),
    ".ogg": ("OGG", "VORBIS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
"""Format and default encoding by file name ending."""
TAGS = (
    *("title", "artist", "album", "comment", "date", "genre"),
    *("software", "copyright", "license", "tracknumber"),
)
"""Tags that `write` accepts. wav drops license; mp3 drops license, copyright and software."""
MAX_TAG_BYTES, MAX_SOFTWARE_BYTES = 2000, 100
"""Longest tags. In wav libsndfile drops longer ones; it cuts `software` within a character, which
crashes in flac."""

_BLOCK_FRAMES = 1 << 16
# After a seek the first mp3 frames decode wrongly, since a frame borrows up to 511 bytes from its
# predecessors; so does the first block of Vorbis. A seek into the last Ogg page is off by what is
# trimmed at the end (libsndfile issue 885); a page has at most 255 packets of 4096 samples.
_WARM_UP = 1 << 15
_OGG_PAGE = 255 * 4096
_FLOAT_SUBTYPES = ("FLOAT", "DOUBLE")
KEPT_SUBTYPES = (
    *("PCM_U8", "PCM_S8", "PCM_16", "PCM_24", "PCM_32", *_FLOAT_SUBTYPES, "ULAW", "ALAW"),
    *("VORBIS", "OPUS", "MPEG_LAYER_III"),
)
"""Encodings that an edit writes as it read them, where the container has them. The others, such as
ADPCM, would change what is kept."""
_IN_CONTAINER = {"MPEG_LAYER_III": "MP3", "VORBIS": "OGG", "OPUS": "OGG"}
"""Containers of encodings that belong to one; libsndfile offers, but cannot write, mp3 in wav."""
_MAX_VORBIS_RATE = 192_000
"""libvorbis ends the process at rates from 200 kHz on."""
_TRIAL_FRAMES = 4800
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
        while len(block := file.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)):
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


def write(
    path: StrPath,
    samples: np.ndarray,
    sample_rate: int,
    *,
    subtype: str | None = None,
    tags: Mapping[str, str] | None = None,
    layout: Layout | None = None,
    repeats: int = 1,
    gain: float = 1.0,
    force: bool = False,
) -> None:
    """Write a sound file atomically, in the format of its ending (.wav, .flac, .ogg, .mp3).

    Samples beyond ±1 are an error, unless the encoding is FLOAT or DOUBLE.

    Args:
        path: the file; its folder must exist.
        samples: shape (channels, n) or (n,), ±1 at full scale.
        sample_rate: in Hz.
        subtype: libsndfile's name of the encoding; default 16 bit in wav, 24 bit in flac, Vorbis in
            ogg.
        tags: values by name (see `TAGS`). libsndfile appends its own name to `software`.
        layout: of a recording that this is an edit of; its container and loudspeakers are kept.
        repeats: how often the samples are written, one after the other.
        gain: factor of all samples.
        force: replace an existing file.

    Raises:
        OutputError: the file exists, cannot be written, or the sound does not fit the format.
        ValueError: `samples` is empty or of another shape, or a tag is unknown or too long.
    """
    path = Path(path)
    frames = np.atleast_2d(np.asarray(samples)).T
    if frames.ndim != 2 or not frames.size:
        raise ValueError(f"samples must have shape (channels, n) or (n,), not {np.shape(samples)}")
    encoding = check_format(path, frames.shape[1], sample_rate, subtype)
    _check_range(path, frames, encoding, gain)
    _check_tags(tags or {})
    layout = layout or Layout()
    container = layout.format_for(SUBTYPES[path.suffix.lower()][0])
    form: dict[str, Any] = {"format": container, "subtype": encoding}
    with (
        atomic_file(path, force=force) as temporary,
        open(temporary, "wb") as raw,
        _writing(path, _Sink(raw)) as sink,
        soundfile.SoundFile(cast(Any, sink), "w", sample_rate, frames.shape[1], **form) as file,
    ):
        layout.apply(file)
        for name, value in (tags or {}).items():
            setattr(file, name, _without_surrogates(value))
        # in blocks: libsndfile's Vorbis encoder overflows the stack on one long write
        for _ in range(repeats):
            for first in range(0, len(frames), _BLOCK_FRAMES):
                sink.check()
                block = frames[first : first + _BLOCK_FRAMES]
                file.write(block if gain == 1 else block * block.dtype.type(gain))


class _Sink:
    """A file that libsndfile writes to by callbacks, out of which no exception comes: it is kept.

    libsndfile itself calls a full disk a "System error", or says nothing.
    """

    def __init__(self, raw: BinaryIO) -> None:
        self.raw, self.tell = raw, raw.tell
        self.error: BaseException | None = None

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move, which writes what is buffered, or remember why that failed."""
        try:
            return self.raw.seek(offset, whence)
        except BaseException as error:
            self.error = self.error or error
            return -1

    def write(self, data: Any) -> int:
        """Write, or remember why it failed; Ctrl-C may come here too."""
        try:
            return self.raw.write(data) if self.error is None else 0
        except BaseException as error:
            self.error = error
            return 0

    def read(self, count: int) -> bytes:
        """Read nothing: the file is only written."""
        return b""

    def flush(self) -> None:
        """Do nothing; closing the file flushes it."""

    def check(self) -> None:
        """Raise what went wrong."""
        if self.error is not None:
            raise self.error


@contextmanager
def _writing(path: Path, sink: _Sink) -> Iterator[_Sink]:
    """Turn what goes wrong while a sound file is written into an `OutputError`."""
    with output_errors(path):
        try:
            yield sink
        except (soundfile.LibsndfileError, AssertionError) as error:
            sink.check()  # the cause, where there is one
            cause = _cause(error) if isinstance(error, soundfile.LibsndfileError) else "no room"
            raise OutputError(f"cannot write {printable(path)}: {cause}") from error
        sink.check()
        sink.raw.flush()


def check_format(path: StrPath, channels: int, sample_rate: int, subtype: str | None = None) -> str:
    """Find out before long work whether a sound of some channels and rate can be written.

    The encoder is tried on a moment of sound, in memory.

    Args:
        path: the file; its ending chooses the container.
        channels: of the sound.
        sample_rate: in Hz.
        subtype: libsndfile's name of the encoding; None is the container's default.

    Returns:
        The encoding.

    Raises:
        OutputError: it cannot, with the endings that can.
    """
    path = Path(path)
    encoding = _encoding(path, subtype)
    ending = path.suffix.lower()
    if not _encodes(SUBTYPES[ending][0], encoding, channels, sample_rate):
        able = [
            other
            for other, (container, default) in SUBTYPES.items()
            if other != ending and _encodes(container, default, channels, sample_rate)
        ]
        advice = f": name it {' or '.join(able)}" if able else ""
        raise OutputError(
            f"cannot write {printable(path)}: {SUBTYPES[ending][0].lower()} holds no sound of "
            f"{channels} channel{'s' * (channels != 1)} at {sample_rate} Hz{advice}"
        )
    return encoding


def _encodes(container: str, encoding: str, channels: int, sample_rate: int) -> bool:
    """Tell whether an encoder takes a sound, and gives back its channels and rate."""
    if encoding == "VORBIS" and sample_rate > _MAX_VORBIS_RATE:
        return False
    buffer, silence = BytesIO(), np.zeros((_TRIAL_FRAMES, channels), np.float32)
    try:
        soundfile.write(buffer, silence, sample_rate, format=container, subtype=encoding)
        buffer.seek(0)
        about = soundfile.info(buffer)
    except (soundfile.LibsndfileError, ValueError, TypeError):
        return False
    return (about.channels, about.samplerate) == (channels, sample_rate)


def kept_subtype(path: StrPath, subtype: str, peak: float = 0.0) -> str | None:
    """Return the encoding in which `path` keeps a recording's samples best; None is its default.

    Args:
        path: the output; its ending chooses the container.
        subtype: the recording's encoding; "" if there is no recording.
        peak: of its samples; beyond 1 only floating point holds them.
    """
    container = SUBTYPES[Path(path).suffix.lower()][0]
    known = soundfile.available_subtypes(container)
    fits = subtype in known and _IN_CONTAINER.get(subtype, container) == container
    if fits and subtype in KEPT_SUBTYPES and (peak <= 1 or subtype in _FLOAT_SUBTYPES):
        return subtype
    if container == "WAV" and peak > 1:
        return "FLOAT"
    return "PCM_24" if container in ("WAV", "FLAC") and subtype else None


def holds_peaks(path: StrPath, subtype: str | None) -> bool:
    """Tell whether an encoding holds samples beyond ±1."""
    return (subtype or SUBTYPES[Path(path).suffix.lower()][1]) in _FLOAT_SUBTYPES


def fitting_tag(text: str) -> str:
    """Return a text as a tag can hold it: printable, and cut to `MAX_TAG_BYTES`."""
    whole = printable(text).encode()
    return whole[:MAX_TAG_BYTES].decode(errors="ignore")


def _without_surrogates(text: str) -> str:
    """Return a text that UTF-8 can encode: bytes of odd file names are escaped."""
    return text.encode(errors="backslashreplace").decode()


def encode_flac(audio: npt.NDArray[np.floating[Any]], sample_rate: int) -> bytes:
    """Encode mono audio, shape (samples,), as 16-bit FLAC."""
    buffer = BytesIO()
    soundfile.write(buffer, audio, sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _cause(error: soundfile.LibsndfileError) -> str:
    """Return libsndfile's message on one line."""
    return printable(error.error_string).strip().rstrip(".")


def _encoding(path: Path, subtype: str | None) -> str:
    """Return libsndfile's name of the encoding for `path`."""
    if path.suffix.lower() not in SUBTYPES:
        raise OutputError(
            f"cannot write {printable(path)}: its name must end in {', '.join(SUBTYPES)}"
        )
    file_format, default = SUBTYPES[path.suffix.lower()]
    encoding = (subtype or default).upper()
    known = [
        name
        for name in soundfile.available_subtypes(file_format)
        if _IN_CONTAINER.get(name, file_format) == file_format
    ]
    if encoding not in known:
        raise OutputError(
            f"cannot write {printable(path)} as {printable(encoding)}: "
            f"{file_format} takes {', '.join(known)}"
        )
    return encoding


def _check_range(path: Path, frames: np.ndarray, encoding: str, gain: float) -> None:
    peak = gain * float(max(-frames.min(), frames.max()))  # NaN if any sample is; copies nothing
    if not np.isfinite(peak):
        raise OutputError(
            f"cannot write {printable(path)}: "
            "the sound holds values that are not finite (NaN or infinity)"
        )
    if peak > 1 and encoding not in _FLOAT_SUBTYPES:
        raise OutputError(
            f"cannot write {printable(path)}: "
            f"it would clip, its peak is {peak:.4g} and may be at most 1"
        )


def _check_tags(tags: Mapping[str, str]) -> None:
    for name, value in tags.items():
        if name not in TAGS:
            raise ValueError(f"unknown tag {name!r}: known ones are {', '.join(TAGS)}")
        limit = MAX_SOFTWARE_BYTES if name == "software" else MAX_TAG_BYTES
        if len(_without_surrogates(value).encode()) > limit or "\0" in value:
            raise ValueError(f"the tag {name!r} may have at most {limit} bytes, none of them null")


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
        first = round(start * rate)
        count = round((max_seconds if seconds is None else seconds) * rate)
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
    for skipped in range(position, first, _BLOCK_FRAMES):
        file.read(min(_BLOCK_FRAMES, first - skipped), dtype="float32")


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
        block = file.read(min(_BLOCK_FRAMES, count - done), dtype=cast(Any, kind), always_2d=True)
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
