"""What is said of objects, and the two answers of a storage that are no fault: the key is taken, the key is free."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

# So much of a large object or file is in memory at a time, bytes.
BLOCK_BYTES = 32 << 20


class ExistsError(Exception):
    """Another object has the key, and other bytes."""


class MissingError(Exception):
    """No object has the key."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object: its key below the place, its size in bytes, the storage's ETag without quotes (a folder has none)."""

    key: str
    size: int
    etag: str | None


def size_of(body: bytes | Path) -> int:
    """Return the size in bytes of what is to be an object. Raises OSError."""
    return len(body) if isinstance(body, bytes) else body.stat().st_size


def md5_of(body: bytes | Path) -> str:
    """Return the MD5, hexadecimal, of what is to be an object. Raises OSError."""
    if isinstance(body, bytes):
        return hashlib.md5(body, usedforsecurity=False).hexdigest()
    with body.open("rb") as file:
        return md5_of_file(file)


def md5_of_file(file: BinaryIO) -> str:
    """Return the MD5, hexadecimal, of an open file, from here to its end. Raises OSError."""
    return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()  # type: ignore[arg-type]
