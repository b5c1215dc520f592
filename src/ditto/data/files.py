"""Writing files so that they are either whole or absent."""

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ditto.errors import DataError

Progress = Callable[[int, int], None]
"""Told how many are done, and of how many."""


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file in one step: a reader, or a restart after a kill, sees the old file or the new
    one, never a part.

    Raises:
        DataError: the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error


def write_json(path: Path, value: Any) -> None:
    """Write JSON in one step, with sorted keys."""
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def write_json_lines(path: Path, values: Iterable[Any]) -> None:
    """Write one JSON value a line, in one step."""
    write_bytes(path, "".join(json.dumps(v, sort_keys=True) + "\n" for v in values).encode())


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: it is missing or damaged.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise DataError(
            f"{path} is missing: is {path.parent} a data folder made by `ditto-music data`?"
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def make_folder(path: Path) -> None:
    """Create a folder and its parents; remove temporary files that a killed run left there.

    Raises:
        DataError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        for leftover in path.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder {path}: {error.strerror or error}") from error


def write_npy(path: Path, array: npt.NDArray[Any]) -> None:
    """Write an array as .npy, in one step."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, buffer.getvalue())


def short_key(value: Any) -> str:
    """A short name of what a cache depends on: 12 hexadecimal digits of its JSON's SHA-256."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def cached_arrays(
    folder: Path,
    names: Sequence[str],
    make: Callable[[int], npt.NDArray[Any]],
    progress: Progress | None = None,
) -> list[Path]:
    """Make the arrays ``<name>.npy`` that the folder does not have yet; ``make(i)`` gives that of
    ``names[i]``.

    Returns:
        The files, in order.

    Raises:
        DataError: the folder cannot be written.
    """
    make_folder(folder)
    paths = [folder / f"{name}.npy" for name in names]
    for i, path in enumerate(paths):
        if not path.exists():
            write_npy(path, make(i))
        if progress:
            progress(i + 1, len(paths))
    return paths
