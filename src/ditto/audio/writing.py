"""Write sound files, and know what their containers hold.

Any fault of an output raises `OutputError` with a one-line message. Nothing is repaired silently:
NaN is an error, and so is clipping.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
import soundfile

from ditto.audio.layout import Layout
from ditto.errors import OutputError
from ditto.interrupts import delayed
from ditto.paths import StrPath, atomic_file, output_errors, printable

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

BLOCK_FRAMES = 1 << 16
"""Samples per channel that are read or written at once."""
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

    Samples beyond ±1 are an error, unless the encoding is FLOAT or DOUBLE. Ctrl-C waits until the
    file is there.

    Args:
        path: the file; its folder must exist.
        samples: shape (channels, n) or (n,), ±1 at full scale.
        sample_rate: in Hz.
        subtype: libsndfile's name of the encoding; default 16 bit in wav, 24 bit in flac, Vorbis in
            ogg.
        tags: values by name (see `TAGS`). libsndfile appends its own name to `software`.
        layout: of a recording that this is an edit of; its container and loudspeakers are kept,
            and channels are put in the format's own order.
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
    order = layout.order_in(container, frames.shape[1])
    moved = order != sorted(order)
    with (
        delayed(),
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
            for first in range(0, len(frames), BLOCK_FRAMES):
                sink.check()
                block = frames[first : first + BLOCK_FRAMES]
                block = block[:, order] if moved else block
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
        """Write, or remember why it failed."""
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
        with delayed():
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
    with delayed():
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
