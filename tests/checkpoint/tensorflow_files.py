"""Writes checkpoints in TensorFlow's format, as its BundleWriter does, without TensorFlow."""

import struct

import numpy as np

from deepfuse_d2.checkpoint.tensorflow_bundle import _masked_crc

MAGIC = 0xDB4775248B80FB57
TYPES = {"float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int64": 9, "bool": 10, "float16": 19}


def varint(number):
    encoded = b""
    while number >= 0x80:
        encoded += bytes([number & 0x7F | 0x80])
        number >>= 7
    return encoded + bytes([number])


def field(tag, value):
    if isinstance(value, int):
        return varint(tag << 3) + varint(value)
    return varint(tag << 3 | 2) + varint(len(value)) + value


def block(entries):
    """Each key shares what it can with the one before, as in LevelDB."""
    content, last = b"", b""
    for key, value in entries:
        shared = 0
        while shared < min(len(key), len(last)) and key[shared] == last[shared]:
            shared += 1
        content += varint(shared) + varint(len(key) - shared) + varint(len(value))
        content += key[shared:] + value
        last = key
    return content + struct.pack("<II", 0, 1)


def write_bundle(stem, arrays, *, shards=1, kinds=None, compression=0, per_block=3):
    """`stem`.index and its data files, with the arrays spread over `shards`.

    Args:
        kinds: names -> number of a type to say in place of the array's.
        compression: number of the kind that each block says.
    """
    data = [b""] * shards
    entries = [(b"", field(1, shards) + field(3, field(1, 1)))]
    for number, name in enumerate(sorted(arrays)):
        array = np.asarray(arrays[name])
        shard = number % shards
        shape = b"".join(field(2, field(1, int(side))) for side in array.shape)
        kind = (kinds or {}).get(name, TYPES[str(array.dtype)])
        entry = field(1, kind) + field(2, shape) + field(3, shard)
        entry += field(4, len(data[shard])) + field(5, array.nbytes)
        entry += varint(6 << 3 | 5) + struct.pack("<I", 0)
        entries.append((name.encode(), entry))
        data[shard] += array.tobytes()
    content, handles = b"", []

    def append(piece):
        nonlocal content
        handle = varint(len(content)) + varint(len(piece))
        piece += bytes([compression])
        content += piece + struct.pack("<I", _masked_crc(piece))
        return handle

    for start in range(0, len(entries), per_block):
        chunk = entries[start : start + per_block]
        handles.append((chunk[-1][0] + b"~", append(block(chunk))))
    meta = append(block([]))
    footer = (meta + append(block(handles))).ljust(40, b"\0") + struct.pack("<Q", MAGIC)
    index = stem.with_name(f"{stem.name}.index")
    index.write_bytes(content + footer)
    for number, piece in enumerate(data):
        file = stem.with_name(f"{stem.name}.data-{number:05d}-of-{shards:05d}")
        file.write_bytes(piece)
    return index
