"""Open sound files of any kind, as one object that decodes them.

libsndfile reads most. What only FFmpeg reads (m4a, video) is decoded by PyAV, if it is there, into
a temporary file. Nothing here changes a user's file.
"""

import importlib.util
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import soundfile

from ditto.audio.speakers import by_names, tell
from ditto.errors import AudioFileError, one_line
from ditto.paths import StrPath, found_path, printable, reason

SNDFILE_ENDINGS = (
    *(".wav", ".wave", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2"),
    *(".aif", ".aiff", ".aifc", ".caf", ".au", ".snd"),
)
PYAV_ENDINGS = (
    *(".m4a", ".m4b", ".m4r", ".aac", ".ac3", ".wma", ".amr", ".ape", ".wv", ".tta", ".mka"),
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".wmv", ".mpg", ".mpeg", ".3gp", ".flv"),
)
ENDINGS = (*SNDFILE_ENDINGS, *PYAV_ENDINGS)
"""Endings of recordings; what a file holds is found out when it is read."""

SHARED_DESCRIPTORS = os.name != "nt"
"""Whether all libraries of a process share one C runtime, and so its file descriptors."""

_SIZES: tuple[tuple[bytes, int, int, Literal["little", "big"], int], ...] = (
    (b"RIFF", 4, 8, "little", 8),
    (b"RIFX", 4, 8, "big", 8),
    (b"FORM", 4, 8, "big", 8),
    (b"RF64", 20, 28, "little", 8),
    (b"riff", 16, 24, "little", 0),
)
"""Where wav, aiff, rf64 and w64 have their size: magic, place, byte order, bytes left out of it."""
_UNKNOWN = 0x7FFF0000
_MAX_LEADING = 64 * 2**20
"""Bytes before an mp3's first frame that are looked through."""
_NOT_ZERO = re.compile(rb"[^\0]")
_MAX_DECODED = 2**32
"""Bytes of samples that PyAV may decode a file to."""


def is_recording(text: str) -> bool:
    """Tell whether a text is a recording's name, by its ending."""
    return Path(text).suffix.lower() in ENDINGS


class SoundFile(soundfile.SoundFile):
    """Stop soundfile from seeking after each read, which breaks the next mp3 frames.

    Attributes:
        promised: how many times as long as it is the file says to be; 1 where it does not say.
        decoded: whether this is what PyAV made of a file, and not the file itself.
    """

    promised: float = 1.0
    decoded: bool = False

    def seekable(self) -> bool:
        """Return False: soundfile then does not seek by itself."""
        return False


def _sound_file(raw: BinaryIO, *settings: Any, **named: Any) -> SoundFile:
    """Return a sound file that reads from an open file, or writes to it.

    By its descriptor, or, where libsndfile may have another C runtime with descriptors of its own,
    through Python, where a Ctrl-C may be lost.

    Args:
        raw: the file, of which Python's buffer holds nothing.
        settings: of `soundfile.SoundFile`.
        named: likewise.
    """
    if not SHARED_DESCRIPTORS:
        return SoundFile(raw, *settings, **named)
    return SoundFile(raw.fileno(), *settings, **named, closefd=False)


@contextmanager
def opened_file(path: StrPath, until: float | None = None) -> Iterator[SoundFile]:
    """Open a sound file; any failure in the block becomes an `AudioFileError`.

    Args:
        path: the file, in either Unicode form of its name.
        until: seconds that are needed of it, where decoding all would take long.
    """
    try:
        with _regular_file(found_path(path)) as raw, _decoder(path, raw, until) as file:
            yield file
    except OSError as error:
        raise AudioFileError(f"cannot read {printable(path)}: {reason(error)}") from error
    except MemoryError:
        raise AudioFileError(
            f"{printable(path)} holds too much sound for this machine's memory: "
            "choose a part (start and seconds)"
        ) from None
    except soundfile.LibsndfileError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: StrPath, error: soundfile.LibsndfileError) -> AudioFileError:
    name = printable(path)
    if Path(path).suffix.lower() in PYAV_ENDINGS and not _has_pyav():
        return AudioFileError(
            f"reading {name} needs PyAV: pip install 'ditto-music[media]', or give a wav, flac, "
            "ogg or mp3 file"
        )
    cause = printable(error.error_string).strip().rstrip(".")
    return AudioFileError(
        f"cannot read {name}: it is damaged or no sound file (wav, flac, ogg or mp3): {cause}"
    )


def _regular_file(path: StrPath) -> BinaryIO:
    """Open a regular file; opening a device or a pipe might block or have effects."""
    if "\0" in os.fspath(path):
        raise AudioFileError(
            f"cannot read {printable(path)}: a file's name cannot hold a null character"
        )
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a device or a pipe"
        raise AudioFileError(f"cannot read {printable(path)}: it is {kind}, not a sound file")
    if not status.st_size:
        raise AudioFileError(f"cannot read {printable(path)}: it is empty (0 bytes)")
    return open(path, "rb")


@contextmanager
def _decoder(path: StrPath, raw: BinaryIO, until: float | None) -> Iterator[SoundFile]:
    """Open with libsndfile; if it refuses, without what leads an mp3, then with PyAV."""
    promised = _promised(raw)
    try:
        file = _sound_file(raw)
    except soundfile.LibsndfileError as refused:
        with _second_try(path, raw, refused, until) as file:
            yield file
        return
    with file:
        file.promised = promised
        yield file


def _promised(raw: BinaryIO) -> float:
    """Return how many times as long as it is a file says to be, from the size in its header.

    libsndfile takes a wav that was cut for a shorter one. Sizes that stand for "unknown", as
    programs write that do not know the end yet, promise nothing.
    """
    # By the descriptor: what Python's buffer takes in would be missed by libsndfile.
    head = os.read(raw.fileno(), 32)
    os.lseek(raw.fileno(), 0, os.SEEK_SET)
    there = os.fstat(raw.fileno()).st_size
    for kind, first, last, order, more in _SIZES:
        if head.startswith(kind):
            told = int.from_bytes(head[first:last], order)
            unknown = told == 0 or told >= _UNKNOWN << 8 * (last - first - 4)
            return 1.0 if unknown else max(1.0, (told + more) / there)
    return 1.0


@contextmanager
def _second_try(
    path: StrPath, raw: BinaryIO, refused: soundfile.LibsndfileError, until: float | None
) -> Iterator[SoundFile]:
    start = _first_frame(raw)
    if start:
        raw.seek(start)
        with tempfile.TemporaryFile() as kept:
            shutil.copyfileobj(raw, kept)
            kept.seek(0)
            try:
                file = _sound_file(kept)
            except soundfile.LibsndfileError:
                start = 0
            else:
                with file:
                    yield file
                return
    if not _has_pyav():
        raise refused
    with tempfile.TemporaryFile() as decoded:
        if not _decode_by_pyav(path, decoded, until):
            raise refused
        decoded.seek(0)
        with _sound_file(decoded) as file:
            file.decoded = True
            yield file


def _first_frame(raw: BinaryIO) -> int:
    """Return where an mp3 begins behind zeros and tags that libsndfile does not skip; 0 if not.

    The ID3 tag right before the frames stays, since libsndfile reads it.
    """
    raw.seek(0)
    data = raw.read(_MAX_LEADING)
    position, last_tag = 0, None
    while position < len(data):
        if data[position] == 0:  # looked for in place: a copy for each tag would take hours
            sound = _NOT_ZERO.search(data, position)
            position = len(data) if sound is None else sound.start()
        elif data.startswith(b"ID3", position) and len(data) >= position + 10:
            size = 0
            for byte in data[position + 6 : position + 10]:
                size = size << 7 | byte & 0x7F
            last_tag, position = position, position + 10 + size
        elif data.startswith(b"APETAGEX", position) and len(data) >= position + 32:
            size = int.from_bytes(data[position + 12 : position + 16], "little")
            header = bool(data[position + 23] & 0x80)
            if size + 32 * header < 32:  # a tag has a footer at least
                break
            last_tag, position = None, position + size + 32 * header
        else:
            break
    frame = data[position : position + 2]
    if len(frame) < 2 or frame[0] != 0xFF or frame[1] & 0xE0 != 0xE0:
        return 0
    return position if last_tag is None else last_tag


def _has_pyav() -> bool:
    return importlib.util.find_spec("av") is not None


def _decode_by_pyav(path: StrPath, into: Any, until: float | None) -> bool:
    """Decode a file's first audio stream as float32 RF64; return whether it has one.

    Raises:
        AudioFileError: FFmpeg knows the file, but cannot decode it.
    """
    import av
    from av.error import FFmpegError

    try:
        container = av.open(os.fspath(found_path(path)))
    except (FFmpegError, ValueError):
        return False
    with container:
        # A damaged file may have a stream without a rate, or without channels.
        streams = container.streams.audio
        if not streams or not getattr(streams[0], "rate", 0) or not streams[0].channels:
            raise AudioFileError(f"cannot read {printable(path)}: it has no sound in it")
        try:
            _copy(container, into, until)
        except FFmpegError as error:
            raise AudioFileError(
                f"cannot read {printable(path)}: it is damaged ({one_line(error)})"
            ) from None
    return True


def _copy(container: Any, into: Any, until: float | None) -> None:
    import av

    stream = container.streams.audio[0]
    rate, channels = stream.rate, stream.codec_context.channels
    resampler = av.AudioResampler(format="flt", layout=stream.layout, rate=rate)
    most = _MAX_DECODED // (4 * channels)
    frames = most if until is None else int(min(most, (until + 1) * rate))
    speakers = by_names([channel.name for channel in stream.layout.channels])
    with _sound_file(into, "w", rate, channels, "FLOAT", format="RF64") as out:
        tell(out, speakers)
        for name in ("title", "artist", "album", "comment", "date", "genre", "copyright"):
            if container.metadata.get(name):
                setattr(out, name, container.metadata[name])
        for decoded in container.decode(stream):
            for frame in resampler.resample(decoded):
                out.write(frame.to_ndarray().reshape(-1, channels).astype(np.float32))
            if out.frames >= frames:
                break
