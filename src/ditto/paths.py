"""Files that are written whole or not at all, and paths as messages show them.

Every file and folder that Ditto leaves behind goes through this module: what is written appears
under its name in one step, nothing is replaced unasked, and nothing is left behind after a failure.
"""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unicodedata import normalize

from safetensors import SafetensorError

from ditto.errors import OutputError

StrPath = str | os.PathLike[str]
TEMPORARY = ".ditto-"
"""Begins the names of temporary files, ``.ditto-<process>-<target>-…``. Only a kill leaves them
behind, and the next output of the same name removes them."""
OLD = "old"
"""What a folder that is being replaced is called within the temporary one."""


def printable(path: StrPath) -> str:
    """Return a path (or any text) for a message on one line, control characters escaped."""
    text = os.fspath(path).encode(errors="backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def found_path(path: StrPath) -> StrPath:
    """Return the path under which a file is there: as typed, or in the other Unicode form.

    An accented letter may be written as one character or as two (NFC, NFD); systems and keyboards
    differ. Each part of the path is looked for by itself. What is not there is returned as it is.
    """
    text = os.fspath(path)
    if text.isascii() or "\0" in text or os.path.exists(text):
        return path
    here = Path(text).anchor or "."
    for part in Path(text).parts[bool(Path(text).anchor) :]:
        if not os.path.exists(os.path.join(here, part)):
            same = (
                name for name in _listed(here) if normalize("NFC", name) == normalize("NFC", part)
            )
            part = next(same, None)
        if part is None:
            return path
        here = os.path.join(here, part)
    return here


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def shown(value: Any) -> str:
    """Return a wrong setting on one line of at most 80 characters."""
    return printable(value if isinstance(value, str) else repr(value))[:80]


def reason(error: Exception) -> str:
    """Return an error's cause on one line, without the path."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else None
    return printable(text or str(error)).strip().rstrip(".")


@contextmanager
def atomic_file(path: StrPath, *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write to; it becomes `path` at the end, or vanishes.

    For any kind of file. The temporary file has the same ending and folder. A symbolic link is
    followed. A device or a folder is never replaced.

    Args:
        path: the file that is to be there in the end; its folder must exist.
        force: whether an existing file may be replaced.

    Raises:
        OutputError: the file exists (checked before and after) or cannot be written (OSError in the
            block).
    """
    with output_errors(path):
        target = _target(path, force)
        _remove_stale(target)
        temporary = target.with_name(_temporary_name(target) + target.suffix)
        try:  # from here on: Ctrl-C may come between any two lines
            # mode 0o666 leaves the permissions to the user's umask, which tempfile would not
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            mode = temporary.stat().st_mode
            yield temporary
            os.chmod(temporary, mode)  # some writers put a private file of theirs in its place
            _sync(temporary)
            _target(path, force)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def _temporary_name(target: Path) -> str:
    """Return a new name for a temporary of this process and target, without its ending."""
    return f"{TEMPORARY}{os.getpid()}-{_key(target)}-{secrets.token_hex(8)}"


def _key(target: Path) -> str:
    """Return what tells the temporaries of one target from others': a hash of its name."""
    return hashlib.sha256(os.fsencode(target.name)).hexdigest()[:8]


def _remove_stale(target: Path) -> None:
    """Remove temporaries of a file that killed processes left; those in use stay."""
    remove_leftovers(target.parent, f"*-{_key(target)}-*")


def remove_leftovers(folder: Path, which: str = "*") -> None:
    """Remove temporaries that killed processes left in a folder; those in use stay.

    Args:
        folder: to look in.
        which: pattern of the rest of their names.
    """
    for path in folder.glob(f"{TEMPORARY}{which}"):
        process = path.name.removeprefix(TEMPORARY).partition("-")[0]
        if process.isdecimal() and runs(int(process)):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def runs(process: int) -> bool:
    """Tell whether a process of this machine runs; on Windows, where asking kills, suppose so."""
    if os.name == "nt":
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is another user's
        return True
    return True


@contextmanager
def atomic_folder(folder: StrPath) -> Iterator[Path]:
    """Yield a temporary folder to fill; it takes the place of `folder` at the end, or vanishes.

    Killed at any moment, either the old folder or the whole new one is there, or the next call
    puts the new one in its place. A symbolic link is followed.

    Raises:
        OutputError: it cannot be written (OSError in the block).
    """
    final = Path(os.path.realpath(folder))
    temporary = final.with_name(_temporary_name(final))
    with output_errors(folder):
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            _finish_replacement(final)
            _remove_stale(final)
            temporary.mkdir()
            yield temporary
            _open_up(temporary)
            if final.exists():
                os.replace(final, temporary / OLD)
            os.replace(temporary, final)
        except BaseException:
            if (temporary / OLD).exists() and not final.exists():  # between the two steps
                os.replace(temporary / OLD, final)
            raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(final / OLD, ignore_errors=True)


def _open_up(folder: Path) -> None:
    """Give files the permissions of the user's umask; some writers make private ones."""
    mode = folder.stat().st_mode & 0o666
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            os.chmod(file, mode)


def _finish_replacement(final: Path) -> None:
    """Put in place the folder of a process that was killed between its last two steps."""
    if final.exists():
        return
    for left in final.parent.glob(f"{TEMPORARY}*-{_key(final)}-*/{OLD}"):
        os.replace(left.parent, final)
        shutil.rmtree(final / OLD, ignore_errors=True)
        return


@contextmanager
def output_folder(folder: StrPath) -> Iterator[None]:
    """Make a folder, if it is missing, for the block to fill; a failure leaves no empty one.

    Raises:
        OutputError: it cannot be made.
    """
    path = Path(folder)
    try:
        missing = [parent for parent in (path, *path.parents) if not parent.exists()]
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {printable(folder)}: {reason(error)}") from None
    try:
        yield
    except BaseException:
        with suppress(OSError):  # what is not empty stays
            for made in missing:
                made.rmdir()
        raise


def check_output(path: StrPath, *, force: bool = False) -> None:
    """Find out before long work whether `path` may be written.

    Raises:
        OutputError: its folder is missing or read-only, it exists (without `force`), or it is not a
            regular file.
    """
    with output_errors(path):
        folder = _target(path, force).parent
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(
                f"cannot write {printable(path)}: its folder is read-only, choose another"
            )


@contextmanager
def output_errors(path: StrPath) -> Iterator[None]:
    """Turn an error of writing in the block into an `OutputError` about `path`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise OutputError(f"cannot write {printable(path)}: {reason(error)}") from error


def refuse_inputs(outputs: Iterable[StrPath], inputs: Iterable[StrPath]) -> None:
    """Refuse to replace what is read, whatever the user forces.

    Args:
        outputs: that will be written.
        inputs: that are read; what is no file (any text) is left out.

    Raises:
        OutputError: an output is one of the inputs, under this name or another.
    """
    read = list(inputs)
    for output in outputs:
        if any(same_file(path, output) for path in read):
            raise OutputError(
                f"cannot write {printable(output)}: this command reads it, choose another name"
            )


def same_file(one: StrPath, other: StrPath) -> bool:
    """Tell whether two names, which may be any text, are of one existing file."""
    try:
        return os.path.samefile(found_path(one), found_path(other))
    except (OSError, ValueError):
        return False


def _target(path: StrPath, force: bool) -> Path:
    """Return the real file behind `path`, once it is clear that it may be written."""
    shown = printable(path)
    if "\0" in os.fspath(path):
        raise OutputError(f"cannot write {shown}: a file's name cannot hold a null character")
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise OutputError(f"cannot write {shown}: its folder does not exist, make it first")
    if target.exists() and not target.is_file():
        raise OutputError(f"cannot write {shown}: it is not a regular file, choose another name")
    if target.exists() and not force:
        raise OutputError(
            f"{shown} exists already: choose another name, or replace it with --force (force=True)"
        )
    return target


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
