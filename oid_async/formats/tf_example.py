"""tf.train.Example and the records of a TFRecord file, without TensorFlow. Pure.

    record   length (u64), masked CRC-32C of it (u32), the example, masked CRC-32C of that (u32); little-endian
    example  Example {features = 1}, Features {map<string, Feature> feature = 1},
             Feature {BytesList = 1 | FloatList = 2 | Int64List = 3}, each {repeated value = 1}, numbers packed

tensorflow/core/example/{example,feature}.proto and tensorflow/core/lib/io/record_writer.cc say so; protobuf's form of
messages is that of https://protobuf.dev/programming-guides/encoding/. Four messages do not earn a dependency.
"""

import struct
from collections.abc import Iterable, Mapping

from oid_async.formats.crc32c import crc32c

# The wire type of a field whose length stands before it.
_LENGTH_DELIMITED = 2
_MASK_DELTA = 0xA282EAD8
_U32, _U64 = (1 << 32) - 1, (1 << 64) - 1


def example(features: Mapping[str, bytes]) -> bytes:
    """Return an Example of features that `texts`, `floats` and `integers` made, in the order of their names.

    >>> example({"a": texts(["b"])}).hex()
    '0a0c0a0a0a016112050a030a0162'
    """
    entries = (_field(1, _field(1, name.encode()) + _field(2, features[name])) for name in sorted(features))
    return _field(1, b"".join(entries))


def texts(values: Iterable[str | bytes]) -> bytes:
    """Return a feature of byte strings; text is UTF-8."""
    return _field(1, b"".join(_field(1, each.encode() if isinstance(each, str) else each) for each in values))


def floats(values: Iterable[float]) -> bytes:
    """Return a feature of numbers of 32 bits, to which they are rounded."""
    numbers = list(values)
    return _field(2, _field(1, struct.pack(f"<{len(numbers)}f", *numbers)) if numbers else b"")


def integers(values: Iterable[int]) -> bytes:
    """Return a feature of whole numbers of 64 bits."""
    packed = b"".join(_varint(each & _U64) for each in values)
    return _field(3, _field(1, packed) if packed else b"")


def record(body: bytes) -> bytes:
    """Return a record of a TFRecord file."""
    length = struct.pack("<Q", len(body))
    return b"".join((length, _checksum(length), body, _checksum(body)))


def _checksum(data: bytes) -> bytes:
    """Return a CRC as records have it: turned, and moved by a constant, for data that holds CRCs itself."""
    found = crc32c(data)
    return struct.pack("<I", (((found >> 15) | (found << 17)) + _MASK_DELTA) & _U32)


def _field(number: int, body: bytes) -> bytes:
    return b"".join((_varint(number << 3 | _LENGTH_DELIMITED), _varint(len(body)), body))


def _varint(value: int) -> bytes:
    """Return a number in groups of seven bits, the least first."""
    if value < 0x80:
        return bytes((value,))
    groups = bytearray()
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)
