"""Recovery of masks and recordings after a power cut: those that were written last are read again.

They are not synced one by one, as images are not (`store.disk` says why), and a run records them at its end alone.
What is as it was recorded is whole. Anything else is torn if it has the shape of that: NULs, a PNG one of whose chunks
is not what its checksum says, an OGG file that ends at a block or has a block of NULs. Blocking.
"""

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import polars as pl

from oid_async.store.attached_files import NAMES, OGG
from oid_async.store.folder import Folder
from oid_async.store.image_check import md5_base64
from oid_async.store.mask_check import MOST_BYTES, SIGNATURE
from oid_async.store.written_files import RECORD_SCHEMA, read_record

_READ_AT_ONCE = 4096
# A block that was never written.
HOLE = bytes(4096)
_LENGTH_AND_NAME = struct.Struct(">L4s")


def remove_torn(folder: Folder, prefix: str, window_s: float) -> tuple[int, int]:
    """Remove the torn masks, or recordings (`prefix`), of the last minutes; return how many were read and removed.

    `window_s` is counted back from the latest of them. Raises OSError.
    """
    place, read, removed = folder.path / prefix, 0, 0
    latest = max((changed for _, changed in _files(place, prefix)), default=None)
    if latest is None:
        return 0, 0
    record = read_record(folder)
    record = pl.DataFrame(schema=RECORD_SCHEMA) if record is None else record
    recent = (name for name, changed in _files(place, prefix) if changed >= latest - window_s)
    while names := list(islice(recent, _READ_AT_ONCE)):
        torn = [path for path in _differing(place, names, record, prefix) if is_torn(path.read_bytes())]
        for path in torn:
            path.unlink(missing_ok=True)
        read, removed = read + len(names), removed + len(torn)
    return read, removed


def _files(place: Path, prefix: str) -> Iterator[tuple[str, float]]:
    """Yield the masks or recordings in a folder: name, and when it was changed."""
    if place.is_symlink() or not place.is_dir():
        return
    with os.scandir(place) as entries:
        for entry in entries:
            if NAMES[prefix].fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                state = entry.stat(follow_symlinks=False)
                if state.st_size <= MOST_BYTES:
                    yield entry.name, state.st_mtime


def _differing(place: Path, names: Sequence[str], record: pl.DataFrame, prefix: str) -> Iterator[Path]:
    """Yield the files of these names that are not as they were recorded, or were not."""
    rows = record.filter(pl.col("path").is_in([prefix + name for name in names])).iter_rows()
    known = {path: (size, md5) for path, size, md5 in rows}
    for name in names:
        path = place / name
        body = path.read_bytes()
        if known.get(prefix + name) != (len(body), md5_base64(body)):
            yield path


def is_torn(body: bytes) -> bool:
    """Return whether bytes are what a power cut leaves of a PNG or of an OGG file.

    >>> is_torn(b""), is_torn(bytes(99)), is_torn(b"a text of somebody's"), is_torn(OGG + b" and more")
    (True, True, False, False)
    """
    if not body[:8].strip(b"\0"):
        return True
    if body.startswith(SIGNATURE):
        return not _has_whole_chunks(body)
    # A whole recording may be so, hardly ever: then a request is what it costs.
    return body.startswith(OGG) and (not len(body) % len(HOLE) or HOLE in body)


def _has_whole_chunks(png: bytes) -> bool:
    """Return whether each chunk has the bytes that its checksum tells of, up to the last one."""
    at = len(SIGNATURE)
    while at + 12 <= len(png):
        length, name = _LENGTH_AND_NAME.unpack_from(png, at)
        stop = at + 8 + length
        if stop + 4 > len(png) or zlib.crc32(memoryview(png)[at + 4 : stop]) != int.from_bytes(png[stop : stop + 4]):
            return False
        if name == b"IEND":
            return True
        at = stop + 4
    return False
