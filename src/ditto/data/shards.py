"""A data set that lies in shards, by URL: tar files that are read in place, clip by clip.

A folder of shards holds ``dataset.json``, ``labels.jsonl`` and ``shard-00000.tar`` …, and may be
anywhere that fsspec reads: a folder, ``https://…``, ``s3://…``. The tars hold each piece's
``<name>.flac`` (its sound), ``<name>.mel.npy`` (its log-mel, float16) and ``<name>.json`` (its
label), in the order that webdataset's readers ask for. A label says where its piece lies, so that a
clip is one request of some 160 kB: any clip at any time, without a local copy. Hence draws are
those of the folder that the shards were made of.

`ditto.data.sharding` writes them.
"""

import io
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ditto.errors import DataError, one_line
from ditto.paths import StrPath, printable

FACTS, LABELS = "dataset.json", "labels.jsonl"
SHARDS = "shards"
"""Key of ``dataset.json`` with the shards' names and sizes."""
WAITS = (0.5, 2.0, 8.0)
"""Seconds before a read that failed is tried again: storage far away has its moments."""


def is_url(place: StrPath) -> bool:
    """Tell whether a place is one that fsspec reads, not a path."""
    return "://" in os.fspath(place)


def file_system(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of a URL, and the path within it.

    Raises:
        DataError: there is none for such URLs, or it needs a package that is missing.
    """
    from fsspec.core import url_to_fs  # slow to import, and of no use to who generates

    try:
        system, path = url_to_fs(url)
    except ImportError as error:
        raise DataError(f"cannot read {printable(url)}: {one_line(error)}") from None
    except ValueError as error:
        raise DataError(f"{printable(url)} is no URL of data: {one_line(error)}") from None
    return system, str(path).rstrip("/")


class Shards:
    """A data set in shards.

    Args:
        url: of the folder; a path of this machine is one, too.

    Attributes:
        facts: what ``dataset.json`` says.
        labels: of the pieces, in order.

    Raises:
        DataError: it cannot be read, or there is no finished data set.
    """

    def __init__(self, url: StrPath) -> None:
        self.url = os.fspath(url)
        self._files, self._path = file_system(self.url)
        try:
            self.facts = dict(json.loads(self._whole(FACTS)))
            count, names = int(self.facts["count"]), self.facts[SHARDS]
            lines = self._whole(LABELS).splitlines()[:count]
            self.labels: list[dict[str, Any]] = [json.loads(line) for line in lines]
            self._names = [str(shard["name"]) for shard in names]
            self._sounds = [_place(label, "sound") for label in self.labels]
            self._mels = [_place(label, "mel") for label in self.labels]
        except (KeyError, TypeError, ValueError):
            raise DataError(
                f"{self} is no data set in shards: make one by `ditto-music data shard`"
            ) from None
        if not self.labels:
            raise DataError(f"{self} is not finished: run `ditto-music data shard` again")

    def __str__(self) -> str:
        return printable(self.url)

    def frames(self, piece: int) -> int:
        """Return the length of a piece's log-mel."""
        return self._mels[piece][2] // self._row

    def mels(self, crops: Sequence[tuple[int, int, int]]) -> list[npt.NDArray[np.float16]]:
        """Read stretches of log-mels, all at once.

        Args:
            crops: (piece, first frame, last frame + 1) of each.

        Returns:
            Arrays of shape (frames, n_mels).

        Raises:
            DataError: they cannot be read.
        """
        row, ranges = self._row, []
        for piece, first, last in crops:
            shard, start, _ = self._mels[piece]
            ranges.append((shard, start + first * row, start + last * row))
        found = self._parts(ranges)
        return [np.frombuffer(data, np.float16).reshape(-1, row // 2) for data in found]

    def sounds(self, pieces: Sequence[int]) -> list[BinaryIO]:
        """Read the sound files of pieces, all at once.

        Raises:
            DataError: they cannot be read.
        """
        places = [self._sounds[piece] for piece in pieces]
        found = self._parts([(shard, start, start + size) for shard, start, size in places])
        return [io.BytesIO(data) for data in found]

    @property
    def _row(self) -> int:
        """Bytes of a frame."""
        return 2 * int(self.facts["n_mels"])

    def _whole(self, name: str) -> bytes:
        (data,) = self._tried([name], [None], [None])
        return data

    def _parts(self, ranges: Sequence[tuple[int, int, int]]) -> list[bytes]:
        """Read (shard, start, end) each, in bytes."""
        shards, starts, ends = zip(*ranges, strict=True)
        names = [self._names[shard] for shard in shards]
        found = self._tried(names, list(starts), list(ends))
        for name, data, start, end in zip(names, found, starts, ends, strict=True):
            if len(data) != end - start:
                raise DataError(
                    f"{self}/{name} gives {len(data)} bytes for {end - start}: it was cut off, or "
                    "its server reads no parts of files"
                )
        return found

    def _tried(self, names: list[str], starts: list[Any], ends: list[Any]) -> list[bytes]:
        """Read parts of files, and those that fail again, a few times.

        Raises:
            DataError: with the reason of the last time.
        """
        found: list[Any] = [None] * len(names)
        left = list(range(len(names)))
        for wait in (*WAITS, None):
            paths = [f"{self._path}/{names[i]}" for i in left]
            asked = [starts[i] for i in left], [ends[i] for i in left]
            for i, data in zip(
                left, self._files.cat_ranges(paths, *asked, on_error="return"), strict=True
            ):
                found[i] = data
            left = [i for i in left if isinstance(found[i], BaseException)]
            missing = [i for i in left if isinstance(found[i], FileNotFoundError)]
            if missing:
                raise DataError(
                    f"there is no {self}/{names[missing[0]]}: give --data a folder that "
                    "`ditto-music data` made, or a URL of one that `data shard` wrote"
                )
            if not left:
                return found
            if wait is not None:
                time.sleep(wait)
        raise DataError(f"cannot read {self}/{names[left[0]]}: {one_line(found[left[0]])}")


def _place(label: dict[str, Any], kind: str) -> tuple[int, int, int]:
    """Return the shard, the first byte and the bytes of a piece's sound or log-mel."""
    shard, start, size = (int(number) for number in label["shard"][kind])
    return shard, start, size


def find_data(place: "StrPath | Shards") -> "Path | Shards":
    """Return the data set at a place: a folder, or shards.

    Raises:
        DataError: see `Shards`.
    """
    if isinstance(place, Shards):
        return place
    if is_url(place):
        return Shards(place)
    folder = Path(place)
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return folder  # what is wrong with it is said where it is read
    return Shards(place) if isinstance(facts, dict) and SHARDS in facts else folder


def folder_of(place: "StrPath | Shards", what: str) -> Path:
    """Return a data set's folder.

    Args:
        place: of the data set.
        what: needs a folder, for the message.

    Raises:
        DataError: it lies in shards.
    """
    found = find_data(place)
    if isinstance(found, Shards):
        raise DataError(
            f"{what} reads a folder: give --data the one that {found} was made of, not shards"
        )
    return found
