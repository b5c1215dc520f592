"""Read and write the files of data folders; writing is atomic, see `ditto.paths`."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from ditto.errors import DataError
from ditto.paths import atomic_file, printable, reason, remove_leftovers

Progress = Callable[[int, int], None]
"""Progress callback: (done, total)."""


def write_bytes(path: Path, data: bytes) -> None:
    """Write or replace a file atomically.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_file(path, force=True) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys; see `write_bytes`."""
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def write_json_lines(path: Path, values: Iterable[Any]) -> None:
    """Write one JSON value per line; see `write_bytes`."""
    write_bytes(path, "".join(json.dumps(v, sort_keys=True) + "\n" for v in values).encode())


def read_json(path: Path) -> Any:
    """Read a JSON file of a data folder.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            f"{printable(path)} is missing: give --data a folder that `ditto-music data` made (of "
            "`data prepare … --out mine` it is mine/train)"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{printable(path)} cannot be read: {error}") from error


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Turn an error of reading in the block into a `DataError` about a file of a data folder."""
    try:
        yield
    except (OSError, ValueError, EOFError, soundfile.LibsndfileError) as error:
        raise DataError(
            f"{printable(path)} is missing or damaged ({reason(error)}): remove it, and make the "
            "data again by the same command; what lies in a cache is made by itself"
        ) from None


def read_array(path: Path) -> npt.NDArray[Any]:
    """Return an array of a data folder's cache, mapped into memory.

    Raises:
        DataError: the file is missing or damaged.
    """
    with read_errors(path):
        return np.load(path, mmap_mode="r", allow_pickle=False)


def make_folder(path: Path) -> None:
    """Create a folder with its parents; delete temporary files of a killed run.

    Raises:
        DataError: the folder cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
    except OSError as error:
        raise DataError(f"cannot make the folder {printable(path)}: {reason(error)}") from error


def open_data_folder(out: Path, config: dict[str, Any]) -> int:
    """Create a data folder made with `config`, or continue one; return its finished pieces.

    Raises:
        DataError: it holds data made with another config, or cannot be created.
        OutputError: it cannot be written.
    """
    make_folder(out / "audio")
    make_folder(out)
    if not (out / "dataset.json").exists():
        write_json(out / "dataset.json", {**config, "count": 0})
    old = read_json(out / "dataset.json")
    different = [key for key in config if old.get(key) != config[key]]
    if different:
        raise DataError(
            f"{printable(out)} holds data made with another {different[0]}: choose another folder "
            "or the same settings"
        )
    return int(old["count"])


def short_key(value: Any) -> str:
    """Name a cache by what it depends on: 12 hexadecimal digits of its JSON's SHA-256."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def cached_arrays(
    folder: Path,
    names: Sequence[str],
    make: Callable[[int], npt.NDArray[Any]],
    progress: Progress | None = None,
) -> list[Path]:
    """Make the missing arrays ``<name>.npy``; ``make(i)`` computes that of ``names[i]``.

    Returns:
        The files, in order.

    Raises:
        DataError: the folder cannot be created.
        OutputError: it cannot be written.
    """
    make_folder(folder)
    paths = [folder / f"{name}.npy" for name in names]
    for i, path in enumerate(paths):
        if not path.exists():
            with atomic_file(path, force=True) as temporary:
                np.save(temporary, make(i), allow_pickle=False)
        if progress:
            progress(i + 1, len(paths))
    return paths
