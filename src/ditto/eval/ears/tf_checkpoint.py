"""Read a TensorFlow V2 checkpoint without TensorFlow.

``PREFIX.index`` is a sorted table in LevelDB's format: blocks of (key, value) with shared prefixes,
and a footer of 48 bytes that points to the block of blocks. A key is a variable's name, its value a
``BundleEntryProto``: type, shape, offset and size in ``PREFIX.data-00000-of-00001``. Every length
and offset is checked before it is used, and nothing is executed.
"""

import struct
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ditto.errors import ModelError
from ditto.paths import printable

FOOTER_BYTES = 48
MAGIC = 0xDB4775248B80FB57
DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 10: "|b1"}
"""NumPy's names of the types in ``tensorflow/core/framework/types.proto`` that are read."""
MAX_DIMENSIONS = 8

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types


def read_checkpoint(
    prefix: str, keep: Callable[[str], bool] = lambda name: True
) -> dict[str, NDArray[Any]]:
    """Read variables of a checkpoint that has one data file.

    Args:
        prefix: path without ``.index``; it may end in a slash.
        keep: whether to read the variable of a name.

    Returns:
        Arrays by name, read-only.

    Raises:
        ModelError: a file is missing, truncated or no such checkpoint, or a variable has a type
            other than those of `DTYPES`.
    """
    index, data = Path(f"{prefix}.index"), Path(f"{prefix}.data-00000-of-00001")
    try:
        table, values = index.read_bytes(), data.read_bytes()
    except OSError as error:
        raise ModelError(
            f"cannot read the checkpoint {printable(prefix)}: {error.strerror}"
        ) from error
    try:
        return {
            name: _array(entry, values)
            for key, entry in _entries(table)
            if key and keep(name := key.decode())
        }
    except (_GarbledError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{printable(prefix)} is no TensorFlow checkpoint, or a damaged one: {error}"
        ) from error


class _GarbledError(Exception):
    """The bytes cannot be what they should be."""


def _entries(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (key, value) of all blocks of a sorted table."""
    if len(table) < FOOTER_BYTES or struct.unpack("<Q", table[-8:])[0] != MAGIC:
        raise _GarbledError("its index does not end as one")
    footer = table[-FOOTER_BYTES:-8]
    position = _handle(footer, 0)[2]  # of the block of meta-data, which is empty
    for _, value in _block(table, *_handle(footer, position)[:2]):
        yield from _block(table, *_handle(value, 0)[:2])


def _block(table: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield (key, value) of a block: entries, restart points, their number, the type (0)."""
    content = _part(table, offset, size)
    if _part(table, offset + size, 1) != b"\0":
        raise _GarbledError("a block of its index is compressed")
    restarts = struct.unpack("<I", _part(content, size - 4, 4))[0]
    end = size - 4 * (restarts + 1)
    if end < 0:
        raise _GarbledError("a block of its index is too short")
    position, key = 0, b""
    while position < end:
        shared, position = _varint(content, position)
        fresh, position = _varint(content, position)
        length, position = _varint(content, position)
        if shared > len(key):
            raise _GarbledError("a key of its index shares more than there is")
        key = key[:shared] + _part(content, position, fresh)
        position += fresh
        yield key, _part(content, position, length)
        position += length


def _array(entry: bytes, values: bytes) -> NDArray[Any]:
    """Read the variable that a ``BundleEntryProto`` describes."""
    fields = dict(_fields(entry))
    dtype = DTYPES.get(_number(fields, 1))
    if dtype is None or _number(fields, 3):
        raise _GarbledError("a variable has a type that is not read here, or lies in another file")
    shape = [
        _number(dict(_fields(_bytes(dimension))), 1)
        for field, dimension in _fields(_bytes(fields.get(2, b"")))
        if field == 2
    ]
    offset, size = _number(fields, 4), _number(fields, 5)
    if len(shape) > MAX_DIMENSIONS or prod(shape) * np.dtype(dtype).itemsize != size:
        raise _GarbledError("a variable's shape does not fit its size")
    return np.frombuffer(_part(values, offset, size), dtype).reshape(shape)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield (number, value) of a protobuf message's fields."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        wire = key & 7
        if wire == _VARINT:
            value, position = _varint(message, position)
        elif wire == _BYTES:
            length, position = _varint(message, position)
            value = _part(message, position, length)
            position += length
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
            value = _part(message, position, length)
            position += length
        else:
            raise _GarbledError("a field of its index has no known kind")
        yield key >> 3, value


def _number(fields: dict[int, int | bytes], field: int) -> int:
    value = fields.get(field, 0)
    if not isinstance(value, int):
        raise _GarbledError("a field of its index is not a number")
    return value


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise _GarbledError("a field of its index is a number")
    return value


def _handle(content: bytes, position: int) -> tuple[int, int, int]:
    """Read offset and size of a block, and where to read on."""
    offset, position = _varint(content, position)
    size, position = _varint(content, position)
    return offset, size, position


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """Read a number of at most 64 bits, 7 to a byte, and where to read on."""
    value = 0
    for shift in range(0, 70, 7):
        byte = _part(content, position, 1)[0]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise _GarbledError("a number of its index has no end")


def _part(content: bytes, offset: int, size: int) -> bytes:
    """Return `size` bytes from `offset` on, all of which must be there."""
    if offset < 0 or size < 0 or offset + size > len(content):
        raise _GarbledError("it is truncated")
    return content[offset : offset + size]
