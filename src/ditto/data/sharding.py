"""Write a data folder as shards, to a folder or a URL; `ditto.data.shards` reads them."""

import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ditto.audio.spec import AudioSpec
from ditto.data.dataset import band_statistics, mel_cache, mel_key, read_labels
from ditto.data.files import Progress, read_array, read_errors, read_json
from ditto.data.shards import FACTS, LABELS, SHARDS, file_system
from ditto.errors import DataError, OutputError, one_line
from ditto.paths import StrPath, printable

OWN = (SHARDS, "count", "mel", "n_mels", "bands")
"""Keys of ``dataset.json`` that are the shards' and change as the data set grows."""


@dataclass(frozen=True)
class Written:
    """What there is now.

    Attributes:
        pieces, shards, bytes: in all.
    """

    pieces: int
    shards: int
    bytes: int


def write_shards(
    root: Path,
    out: StrPath,
    *,
    shard_bytes: int = 256 * 2**20,
    spec: AudioSpec | None = None,
    progress: Progress | None = None,
) -> Written:
    """Write a finished data folder as shards; what a call that was stopped wrote is kept.

    A data set that has grown since then appends to the last shard and adds others, which disturbs
    no training that reads them. The bytes follow from the folder and the sizes alone.

    Args:
        root: the data folder; its cache of log-mels is completed first.
        out: a folder or a URL that fsspec writes.
        shard_bytes: most bytes of a shard of more than one piece; one is in memory at a time.
        spec: of the log-mels; by default the embedded base's.
        progress: called with (pieces done, pieces).

    Raises:
        DataError: `root` is not a data folder, or `out` holds something else.
        OutputError: `out` cannot be written.
    """
    spec, facts = spec or AudioSpec(), read_json(root / FACTS)
    labels, mels = read_labels(root), mel_cache(root, spec)
    store = _Store(out)
    known = {key: value for key, value in facts.items() if key not in OWN}
    there = store.begun(known)
    sizes: list[int] = []
    done = 0
    for shard in _shards(root, labels, mels, shard_bytes, sizes):
        if there.get(shard.name) != len(shard.data):
            store.write(shard.name, shard.data)
        done += shard.pieces
        if progress:
            progress(done, len(labels))
    store.write(LABELS, "".join(json.dumps(label, sort_keys=True) + "\n" for label in labels))
    names = [{"name": _name(i), "bytes": size} for i, size in enumerate(sizes)]
    found = {"count": len(labels), "mel": mel_key(spec), "n_mels": spec.n_mels, SHARDS: names}
    found["bands"] = asdict(band_statistics(root, spec))
    store.write(FACTS, json.dumps(known | found, sort_keys=True))
    return Written(len(labels), len(sizes), sum(sizes))


def _name(number: int) -> str:
    return f"shard-{number:05d}.tar"


@dataclass(frozen=True, eq=False)
class _Shard:
    name: str
    data: bytes
    pieces: int


def _shards(
    root: Path, labels: list[dict[str, Any]], mels: Sequence[Path], most: int, sizes: list[int]
) -> Iterator[_Shard]:
    """Yield the shards; labels receive where their pieces lie, `sizes` the shards' sizes."""
    room, first, last = most, 0, len(labels)
    tar = _Tar()
    for i, (label, mel) in enumerate(zip(labels, mels, strict=True)):
        with read_errors(root / label["file"]):
            sound = (root / label["file"]).read_bytes()
        levels = read_array(mel)
        size = len(sound) + levels.nbytes
        if i > first and size > room:
            yield tar.closed(len(sizes), i - first, sizes)
            tar, room, first = _Tar(), most, i
        room -= size
        key, number = f"{i:08d}", len(sizes)
        text = json.dumps(label, sort_keys=True).encode()
        place, ending = tar.add(f"{key}{Path(label['file']).suffix}", sound), io.BytesIO()
        np.save(ending, levels, allow_pickle=False)
        array = (
            tar.add(f"{key}.mel.npy", ending.getvalue()) + len(ending.getvalue()) - levels.nbytes
        )
        tar.add(f"{key}.json", text)
        label["shard"] = {
            "sound": [number, place, len(sound)],
            "mel": [number, array, levels.nbytes],
        }
    yield tar.closed(len(sizes), last - first, sizes)


class _Tar:
    """A tar file in memory, of the same bytes whenever it is made."""

    def __init__(self) -> None:
        self._bytes = io.BytesIO()
        self._tar = tarfile.TarFile(fileobj=self._bytes, mode="w", format=tarfile.USTAR_FORMAT)

    def add(self, name: str, data: bytes) -> int:
        """Add a file, and return the place of its first byte."""
        about = tarfile.TarInfo(name)
        about.size, about.mode = len(data), 0o644
        start = self._tar.offset + tarfile.BLOCKSIZE  # after its header
        self._tar.addfile(about, io.BytesIO(data))
        return start

    def closed(self, number: int, pieces: int, sizes: list[int]) -> _Shard:
        """Return it as a shard, without the usual filling at its end: one that grows is longer."""
        end = self._tar.offset + 2 * tarfile.BLOCKSIZE
        self._tar.close()
        data = self._bytes.getvalue()[:end]
        sizes.append(len(data))
        return _Shard(_name(number), data, pieces)


class _Store:
    """A place that shards are written to."""

    def __init__(self, out: StrPath) -> None:
        self._shown = printable(out)
        self._files, self._path = file_system(os.fspath(out))

    def begun(self, facts: dict[str, Any]) -> dict[str, int]:
        """Make the place that of these facts, and return names and sizes of what is there.

        Raises:
            DataError: there is something else.
            OutputError: it cannot be written.
        """
        try:
            listed = self._files.ls(self._path, detail=True)
            there = {str(f["name"]).rsplit("/", 1)[-1]: int(f["size"] or 0) for f in listed}
        except FileNotFoundError:
            there = {}
        except Exception as error:  # each store has errors of its own
            raise OutputError(f"cannot write to {self._shown}: {one_line(error)}") from None
        if FACTS in there:
            try:
                old = dict(json.loads(self._files.cat_file(f"{self._path}/{FACTS}")))
            except (OSError, TypeError, ValueError) as error:
                raise DataError(f"cannot read {self._shown}/{FACTS}: {one_line(error)}") from None
            if {key: value for key, value in old.items() if key not in OWN} == facts and (
                SHARDS in old
            ):
                return there
        elif not there:
            self.write(FACTS, json.dumps({**facts, "count": 0, SHARDS: []}, sort_keys=True))
            return there
        raise DataError(f"{self._shown} holds other files: give --out a new or empty folder")

    def write(self, name: str, data: str | bytes) -> None:
        """Write or replace a file; on this machine it appears whole.

        Raises:
            OutputError: it cannot be written.
        """
        whole = data.encode() if isinstance(data, str) else data
        path = f"{self._path}/{name}"
        half = f"{path}.half" if "file" in self._protocols else path
        try:
            self._files.makedirs(self._path, exist_ok=True)
            self._files.pipe_file(half, whole)
            if half != path:
                self._files.mv(half, path)
        except Exception as error:
            raise OutputError(f"cannot write {self._shown}/{name}: {one_line(error)}") from None

    @property
    def _protocols(self) -> tuple[str, ...]:
        found = self._files.protocol
        return (found,) if isinstance(found, str) else tuple(found)
