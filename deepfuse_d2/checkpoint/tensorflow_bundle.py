"""TensorFlow's checkpoints (model.ckpt.index and its data files), read without TensorFlow.

The index is a sorted table of LevelDB's format: blocks of entries whose keys share prefixes, an
index block of these, a footer. A value is a small protocol buffer that says type, shape and place
of a tensor in a data file, which holds numbers and nothing else. Nothing in either can be executed.

Read are tables without compression, as TensorFlow writes them; the checksums of the index are
verified, those of the tensors are not.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import DamagedWeightsError, WeightsError

__all__ = ["load_tensorflow_bundle"]

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
# type, checksum
_BLOCK_TRAILER = 5
# TensorFlow's DataType -> NumPy's; others (strings, resources) are no weights and are left out
_TYPES = {
    1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 9: "<i8", 10: "?", 14: "<i2",
    19: "<f2",
}  # fmt: skip
_BFLOAT16 = 14
_MAX_TENSORS = 1_000_000


@dataclass(frozen=True)
class _Entry:
    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int


def load_tensorflow_bundle(path: Path) -> dict[str, Tensor]:
    """Tensors by the names of their variables ("spinenet/conv2d/kernel").

    Args:
        path: of the .index file; the files .data-00000-of-... lie beside it.

    Raises:
        WeightsError: a data file is missing, or the table is compressed.
        DamagedWeightsError: a file is cut short or is no such table.
    """
    try:
        entries = dict(_table(path.read_bytes(), path))
        shards = _fields(entries.pop(b"", b"")).get(1, [1])[0]
    except (IndexError, struct.error, UnicodeDecodeError, KeyError) as error:
        raise _damaged(path, str(error)) from error
    if not 1 <= shards <= len(entries) + 1:
        raise _damaged(path, f"{shards} data files")
    stem = str(path).removesuffix(".index")
    files = [Path(f"{stem}.data-{i:05d}-of-{shards:05d}") for i in range(shards)]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise WeightsError(
            f"{path} is the index of a TensorFlow checkpoint, and {', '.join(missing)} with its "
            "numbers is not beside it. Download all files of the checkpoint into one folder."
        )
    data = [np.memmap(file, dtype=np.uint8, mode="r") for file in files]
    tensors = {}
    for key, value in entries.items():
        entry = _entry(value, path)
        if entry is not None:
            name = key.decode("utf-8", "replace")
            tensors[name] = _tensor(entry, data, name, path)
    return tensors


def _tensor(entry: _Entry, data: list[np.ndarray], name: str, path: Path) -> Tensor:
    kind = np.dtype(_TYPES[entry.dtype])
    fits = entry.shard < len(data) and entry.offset + entry.size <= len(data[entry.shard])
    if not fits or math.prod(entry.shape) * kind.itemsize != entry.size:
        raise _damaged(path, f"{name} of shape {entry.shape} is not all in its data file")
    numbers = data[entry.shard][entry.offset : entry.offset + entry.size]
    tensor = torch.from_numpy(np.frombuffer(numbers.tobytes(), kind).reshape(entry.shape).copy())
    return tensor.view(torch.bfloat16) if entry.dtype == _BFLOAT16 else tensor


def _entry(value: bytes, path: Path) -> _Entry | None:
    """A BundleEntryProto; None for what holds no numbers, and for a slice of a larger tensor."""
    try:
        fields = _fields(value)
        dtype = fields.get(1, [0])[0]
        if dtype not in _TYPES or 7 in fields:
            return None
        dims = [_fields(dim).get(1, [0])[0] for dim in _fields(fields.get(2, [b""])[0]).get(2, [])]
        numbers = [fields.get(tag, [0])[0] for tag in (3, 4, 5)]
    except (IndexError, struct.error) as error:
        raise _damaged(path, str(error)) from error
    return _Entry(dtype, tuple(dims), *numbers)


def _table(content: bytes, path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a LevelDB table."""
    footer = content[-_FOOTER:]
    if len(footer) < _FOOTER or struct.unpack("<Q", footer[-8:])[0] != _MAGIC:
        raise _damaged(path, "it does not end as an index of TensorFlow does")
    # the block of meta-data, then that of the index: offset and size each
    position, numbers = 0, []
    for _ in range(4):
        number, position = _varint(footer, position)
        numbers.append(number)
    count = 0
    for _, handle in _block(content, *numbers[2:], path):
        offset, position = _varint(handle, 0)
        size, _ = _varint(handle, position)
        for entry in _block(content, offset, size, path):
            count += 1
            if count > _MAX_TENSORS:
                raise _damaged(path, f"more than {_MAX_TENSORS} entries")
            yield entry


def _block(content: bytes, offset: int, size: int, path: Path) -> Iterator[tuple[bytes, bytes]]:
    block = content[offset : offset + size + _BLOCK_TRAILER]
    if len(block) != size + _BLOCK_TRAILER or size < 4:
        raise _damaged(path, "a block reaches beyond its end")
    if block[size] != 0:
        raise WeightsError(
            f"{path} is compressed, which is not read here; write the checkpoint again with "
            "TensorFlow, whose default is without compression."
        )
    (checksum,) = struct.unpack("<I", block[size + 1 :])
    if _masked_crc(block[: size + 1]) != checksum:
        raise _damaged(path, "a checksum is wrong")
    (restarts,) = struct.unpack("<I", block[size - 4 : size])
    end = size - 4 - 4 * restarts
    position, key = 0, b""
    while position < end:
        shared, position = _varint(block, position)
        length, position = _varint(block, position)
        value_length, position = _varint(block, position)
        if position + length + value_length > end:
            raise _damaged(path, "an entry reaches beyond its block")
        key = key[:shared] + block[position : position + length]
        position += length
        yield key, block[position : position + value_length]
        position += value_length


def _fields(message: bytes) -> dict[int, list]:
    """Fields of a protocol buffer by tag: numbers and bytes."""
    fields: dict[int, list] = {}
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        kind = key & 7
        if kind == 0:
            value, position = _varint(message, position)
        elif kind == 2:
            length, position = _varint(message, position)
            value, position = message[position : position + length], position + length
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
            value, position = message[position : position + length], position + length
        else:
            raise IndexError(f"a field of kind {kind}")
        fields.setdefault(key >> 3, []).append(value)
    return fields


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """Number in groups of seven bits, and the position behind it."""
    number = 0
    for shift in range(0, 70, 7):
        byte = content[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise IndexError("a number of more than ten bytes")


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC = _crc_table()


def _masked_crc(content: bytes) -> int:
    """CRC-32C as LevelDB stores it."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _damaged(path: Path, reason: str) -> DamagedWeightsError:
    return DamagedWeightsError(
        f"{path} cannot be read as an index of a TensorFlow checkpoint; it is damaged or was cut "
        f"short ({reason}). Copy or download it again."
    )
