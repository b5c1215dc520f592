"""Files that controls are read from: scores, MIDI, tables. Untrusted, and of any encoding."""

import stat
from pathlib import Path

from ditto.errors import ControlError
from ditto.paths import StrPath, found_path, printable


def file_bytes(path: StrPath, noun: str, most: int) -> bytes:
    """Return the contents of a regular file.

    Args:
        path: the file.
        noun: what it is to be, for messages: "the melody".
        most: bytes that it may have.

    Raises:
        ControlError: it cannot be read, is no regular file, empty, or too large.
    """
    try:
        file = Path(found_path(path))
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ControlError(f"cannot read {noun} {printable(path)}: it is not a regular file")
        if not status.st_size:
            raise ControlError(f"cannot read {noun} {printable(path)}: it is empty")
        if status.st_size > most:
            raise ControlError(
                f"cannot read {noun} {printable(path)}: it is too large (over {most // 10**6} MB)"
            )
        return file.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "a file's name cannot hold a null character"
        raise ControlError(f"cannot read {noun} {printable(path)}: {reason}") from None


def decoded(data: bytes) -> str:
    """Return text of an unknown encoding: UTF-8, UTF-16 (with or without mark), else Windows-1252.

    A mark at its beginning is no part of it.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace")
    zeros = data[:1000].count(0), data[:1000:2].count(0)
    if zeros[0] > len(data[:1000]) // 4:
        return data.decode("utf-16-be" if zeros[1] > zeros[0] // 2 else "utf-16-le", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")
