"""The checkpoint reader on checkpoints written by hand, and on damaged ones."""

import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ditto.errors import ModelError
from ditto.eval.ears.tf_checkpoint import MAGIC, read_checkpoint

ARRAYS = {
    "a/bias": np.arange(3, dtype=np.float32),
    "a/kernel": np.arange(24, dtype=np.float64).reshape(2, 3, 4),
    "b/step": np.array(7, dtype=np.int64),
    "c/empty": np.zeros((0, 5), dtype=np.int32),
}
TYPES = {"float32": 1, "float64": 2, "int32": 3, "int64": 9}


def varint(n: int) -> bytes:
    return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)


def block(entries: list[tuple[bytes, bytes]]) -> bytes:
    """A LevelDB block with shared prefixes and one restart point, and its trailer."""
    content, before = b"", b""
    for key, value in entries:
        shared = next(
            (i for i, (a, b) in enumerate(zip(key, before, strict=False)) if a != b),
            min(len(key), len(before)),
        )
        fresh = key[shared:]
        content += varint(shared) + varint(len(fresh)) + varint(len(value)) + fresh + value
        before = key
    return content + struct.pack("<II", 0, 1) + b"\0" + b"crc."


def entry(array: np.ndarray, offset: int) -> bytes:
    dims = b"".join(
        b"\x12" + varint(len(d)) + d for d in (b"\x08" + varint(n) for n in array.shape)
    )
    head = b"\x08" + varint(TYPES[str(array.dtype)]) + b"\x12" + varint(len(dims)) + dims
    return head + b"\x20" + varint(offset) + b"\x28" + varint(array.nbytes) + b"\x35" + b"\0" * 4


def table(entries: list[tuple[bytes, bytes]]) -> bytes:
    """An index of two blocks of data."""
    content, index = b"", []
    for part in (entries[:2], entries[2:]):
        data = block(part)
        index.append((part[-1][0], varint(len(content)) + varint(len(data) - 5)))
        content += data
    pointers = [(len(content), len(block([])) - 5)]
    content += block([])
    pointers.append((len(content), len(block(index)) - 5))
    footer = b"".join(varint(n) for pointer in pointers for n in pointer)
    return content + block(index) + footer.ljust(40, b"\0") + struct.pack("<Q", MAGIC)


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    entries, data = [(b"", b"\x08\x01")], b""
    for name, array in ARRAYS.items():
        entries.append((name.encode(), entry(array, len(data))))
        data += array.tobytes()
    (tmp_path / "made.index").write_bytes(table(entries))
    (tmp_path / "made.data-00000-of-00001").write_bytes(data)
    return str(tmp_path / "made")


def test_reads_what_was_written(prefix: str) -> None:
    arrays = read_checkpoint(prefix)
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)
    assert list(read_checkpoint(prefix, lambda name: "kernel" in name)) == ["a/kernel"]


def test_a_truncated_index_or_data_file_is_one_line(prefix: str) -> None:
    for ending in (".index", ".data-00000-of-00001"):
        path = Path(prefix + ending)
        whole = path.read_bytes()
        for size in range(0, len(whole) - 1, 3):
            path.write_bytes(whole[:size])
            with pytest.raises(ModelError, match="no TensorFlow checkpoint") as error:
                read_checkpoint(prefix)
            assert "\n" not in str(error.value)
        path.write_bytes(whole)


@given(st.data())
def test_a_garbled_index_is_read_or_refused_but_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("garbled")
    values = [(b"a", entry(ARRAYS["a/bias"], 0)), (b"b", entry(ARRAYS["a/kernel"], 12))]
    entries = [(b"", b"\x08\x01"), *values]
    content = bytearray(table(entries))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    (folder / "x.index").write_bytes(bytes(content))
    (folder / "x.data-00000-of-00001").write_bytes(bytes(300))
    with suppress(ModelError):
        read_checkpoint(str(folder / "x"))


def test_a_missing_checkpoint_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot read the checkpoint"):
        read_checkpoint(str(tmp_path / "none"))
