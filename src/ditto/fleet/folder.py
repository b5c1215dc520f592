"""A folder of clips and its index, ``index.jsonl``: a line for every request that is done.

The index is written by one process, a whole line at a time. A clip's line comes before its files,
so that a file without a line is somebody else's and is never replaced; a line without its files is
of a clip that has yet to be made.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ditto.audio.io import SUBTYPES
from ditto.errors import OutputError
from ditto.paths import (
    TEMPORARY,
    StrPath,
    atomic_file,
    check_output,
    output_errors,
    output_folder,
    printable,
    refuse_inputs,
    remove_leftovers,
)

INDEX = "index.jsonl"
LOCK = f"{TEMPORARY}lock"
PLACE = "clip"
"""In the name of a folder that a process puts a clip's files in at first."""
DIGEST = 16
"""Characters of a request's hash in the index."""


def digest_of(text: str, model: str) -> str:
    """Return a hash of a request's text and its model's."""
    return hashlib.sha256(f"{model}\n{text}".encode()).hexdigest()[:DIGEST]


def content_of(value: Any) -> str:
    """Return a hash of all that a control or a tensor holds, the same in every process."""
    whole = hashlib.sha256()

    def take(part: Any) -> None:
        if isinstance(part, Tensor):
            part = part.detach().cpu().numpy()
        if isinstance(part, np.ndarray):
            whole.update(f"{part.dtype} {part.shape}".encode() + part.tobytes())
        elif is_dataclass(part):
            whole.update(type(part).__name__.encode())
            for one in fields(part):
                take(getattr(part, one.name))
        elif isinstance(part, list | tuple):
            whole.update(f"{len(part)}".encode())
            for one in part:
                take(one)
        else:  # of what else there may be its kind: an address is another in every process
            plain = isinstance(part, str | int | float | bytes | Path | None)
            whole.update((repr(part) if plain else type(part).__name__).encode())

    take(value)
    return whole.hexdigest()[:DIGEST]


class ClipFolder:
    """A folder of clips, open for one process: see `opened`.

    Attributes:
        path: of the folder.
        made: names of the clips that are there, with the hashes of their requests.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.made: dict[str, str] = {}
        self._own: set[str] = set()
        self._doubled = False

    @classmethod
    @contextmanager
    def opened(cls, folder: StrPath) -> Iterator["ClipFolder"]:
        """Make a folder, if it is missing, and keep other batches out of it.

        Raises:
            OutputError: it cannot be made or written, another batch writes to it, or its index is
                none.
        """
        path = Path(folder)
        with output_folder(path), _alone(path):
            check_output(path / INDEX, force=True)
            found = cls(path)
            found._read()
            try:
                yield found
            finally:
                found._sweep()  # what killed processes and full disks left, on other machines too
            if found._doubled:
                found._read()

    def _read(self) -> None:
        """Read the index, and write it anew without what a kill cut short or left undone."""
        index, rows = self.path / INDEX, {}
        remove_leftovers(self.path, "[0-9]*")
        self._sweep()
        if not index.exists():
            return
        text = index.read_bytes()
        for line in text.splitlines():
            with suppress(ValueError, RecursionError):
                row = json.loads(line)
                if isinstance(row, dict) and isinstance(row.get("name"), str):
                    rows[row["name"]] = row
        if text.strip() and not rows:
            raise OutputError(f"{printable(index)} is no index of clips: choose another folder")
        for name, row in rows.items():
            if "error" not in row and (self.path / name).is_file():
                self.made[name] = str(row.get("digest"))
        # Rows without their sound stay until they are made again: their other files are theirs.
        self._own = set(rows)
        if b"".join(_line(row) for row in rows.values()) != text:
            with atomic_file(index, force=True) as temporary, temporary.open("wb") as file:
                file.writelines(_line(row) for row in rows.values())

    def _sweep(self) -> None:
        """Remove the folders of clips that nobody waits for: no other batch writes here."""
        for place in self.path.glob(f"{TEMPORARY}*-{PLACE}-*"):
            drop(place)

    def has(
        self, name: str, digest: str, inputs: Iterable[StrPath] = (), *, force: bool = False
    ) -> bool:
        """Tell whether a clip is there; its files may be written otherwise.

        Args:
            name: of its sound file.
            digest: of its request.
            inputs: files that are read, and never replaced.
            force: whether what is there may be replaced.

        Raises:
            OutputError: one of another request is, or a file that no batch made.
        """
        sound = self.path / name
        if Path(name).name != name or name.startswith("."):
            raise OutputError(f"{printable(name)} is no name for a clip: give one without folders")
        if not _is_encodable(name):
            raise OutputError(f"{printable(name)} is no name for a clip: give one of characters")
        if name in self.made:
            if self.made[name] == digest:
                return True
            if not force:
                raise OutputError(
                    f"{printable(sound)} was made from another request or by another model: give "
                    "another name or folder, or replace it with --force (force=True)"
                )
        if sound.suffix.lower() not in SUBTYPES:
            raise OutputError(f"the name {printable(name)} must end in {', '.join(SUBTYPES)}")
        for ending in (sound.suffix, ".png", ".json"):
            if (file := sound.with_suffix(ending)).exists():
                refuse_inputs([file], inputs)
                check_output(file, force=force or name in self._own)
        return False

    def add(self, row: Mapping[str, Any], files: Path | None = None) -> None:
        """Write a row, then put its files in their places.

        Args:
            row: with its `name`.
            files: folder that holds them, which is then removed.

        Raises:
            OutputError: it cannot be written, for instance because the disk is full.
        """
        index = self.path / INDEX
        self._doubled |= row["name"] in self._own  # until the folder is closed
        with output_errors(index):
            handle = os.open(index, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            before = os.fstat(handle).st_size
            try:
                line = _line(row)
                if os.write(handle, line) != len(line):
                    os.ftruncate(handle, before)
                    raise OSError(28, "No space left on device")
            finally:
                os.close(handle)
        if files is None:
            return
        sound = str(row["name"])
        with output_errors(self.path / sound):
            for file in sorted(files.iterdir(), key=lambda file: file.name == sound):
                os.replace(file, self.path / file.name)
            files.rmdir()
        self.made[sound] = str(row["digest"])


def place_for(folder: Path) -> Path:
    """Return a new folder within one of clips, where a process puts a clip's files at first."""
    return Path(tempfile.mkdtemp(prefix=f"{TEMPORARY}{os.getpid()}-{PLACE}-", dir=folder))


def drop(files: Path) -> None:
    """Remove a folder that `place_for` made."""
    shutil.rmtree(files, ignore_errors=True)


def _is_encodable(name: str) -> bool:
    """Tell whether a text may name a file, and stand in the index as it is."""
    try:
        return b"\0" not in name.encode()
    except UnicodeEncodeError:  # half of a pair of surrogates
        return False


def _line(row: Mapping[str, Any]) -> bytes:
    text = json.dumps(row, ensure_ascii=False)
    # Tags, too, may hold half of a pair of surrogates.
    return ((text if _is_encodable(text) else json.dumps(row)) + "\n").encode()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other batches out of a folder, as far as its file system can."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    path = folder / LOCK
    with output_errors(folder):  # whose name the user knows
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"another batch writes to {printable(folder)}: wait for it, or choose another"
            ) from None
        except OSError:  # a file system without locks
            pass
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(handle)
