"""Tar shards for WebDataset: <split>-000000.tar, ..., filled in order, each at most of a given size.

    <key>.jpg    the image; <key> is the ImageID, in ids of a user's own a dot or slash is %2E, %2F
    <key>.json   its sample (samples)
    <key>.png    the masks of its objects, if the export has any: the number of the object, from 1, in each pixel

The bytes follow from the samples alone: no times, no owners, no padding that differs. The shard that is being filled
ends in .part. `progress.json` is written now and then and has the position of each split; an export that continues
truncates the shards there, so that a killed export ends in the same bytes. Of shards that a download fills it also says
up to which number they were begun, so that one that somebody put there is not taken for a rest of a killed run.
"""

import hashlib
import os
import re
import tarfile
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from oid_async.errors import UsageError
from oid_async.store.atomic import own_bytes, read_json, write_json
from oid_async.store.disk import discard, is_plain, open_plain
from oid_async.store.file_bytes import FileBytes
from oid_async.system.syncing import sync

_BLOCK = tarfile.BLOCKSIZE
_RECORD = tarfile.RECORDSIZE
_READ_BYTES = 1 << 20
# The name of a shard of a split and its number.
_SHARD = re.compile(r"(.+)-([0-9]{6,})\.tar(?:\.part)?")
_SPLIT = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(slots=True)
class ShardPosition:
    """The position in a split: the number of the shard that is being filled, its bytes, the samples of all shards."""

    shard: int = 0
    offset: int = 0
    samples: int = 0


class Shards:
    """The shards in one folder.

    `notes` are the values that were noted last, together with the positions; empty if there is no earlier export to
    continue. With `durable` the shards are on the disk before a note about them is.
    """

    def __init__(self, folder: Path, max_bytes: int, progress: Path, *, durable: bool = False) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._progress = progress
        self._durable = durable
        self._open: dict[str, IO[bytes]] = {}
        self._digests: dict[str, hashlib._Hash] = {}
        # Size and MD5 of the closed shards by name.
        self._closed: dict[str, tuple[int, str]] = {}
        # The highest number of a shard of each split that was ever begun. Version 0.1.0 did not note it, nor need it be
        # known in a folder in which nobody else puts files.
        self._begun: dict[str, int] = {}
        self._knows_begun = durable
        self._positions, self.notes = self._read_progress()
        self._noted: dict[str, Any] = {"notes": self.notes, "places": self._places()}

    def _read_progress(self) -> tuple[dict[str, ShardPosition], dict[str, Any]]:
        """Return the positions and notes of an earlier export; nothing if its shards were removed or are torn."""
        try:
            progress = read_json(self._progress)
            positions = {split: ShardPosition(**position) for split, position in progress["places"].items()}
            notes = dict(progress["notes"])
            self._closed = {name: (int(size), str(md5)) for name, (size, md5) in progress.get("closed", {}).items()}
            self._begun = {split: int(number) for split, number in progress.get("begun", {}).items()}
            self._knows_begun = "begun" in progress
            for split, position in positions.items():
                if not _SPLIT.fullmatch(split):
                    return {}, {}
                sizes = [self._size(split, number) for number in range(position.shard)]
                if None in sizes or (position.offset and (self._size(split, position.shard) or 0) < position.offset):
                    return {}, {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}, {}
        return positions, notes

    def _size(self, split: str, number: int) -> int | None:
        for path in (self._part(split, number), self.path(split, number)):
            if is_plain(path):
                return path.stat().st_size
        return None

    @property
    def samples(self) -> dict[str, int]:
        """The number of samples by split."""
        return {split: position.samples for split, position in self._positions.items()}

    def path(self, split: str, number: int) -> Path:
        """Return a shard's path."""
        return self._folder / f"{split}-{number:06}.tar"

    def _part(self, split: str, number: int) -> Path:
        return self._folder / f"{split}-{number:06}.tar.part"

    def add(self, split: str, key: str, members: Sequence[tuple[str, bytes]], more: bytes = b"") -> int:
        """Write one sample into the shard of its split, or the next one if it would grow too large. Raises OSError.

        `more` are members that follow, as `member` returns them. Return where the bytes of its first member begin.
        """
        parts = [part for ending, body in members for part in _member(key, ending, body)]
        sample = b"".join((*parts, more))
        position = self._positions.setdefault(split, ShardPosition())
        if position.offset and _closed_size(position.offset + len(sample)) > self._max_bytes:
            self._close(split)
        file, remaining = self._file(split), memoryview(sample)
        while remaining:
            remaining = remaining[file.write(remaining) :]
        self._digests[split].update(sample)
        begin = position.offset + len(parts[0])
        position.offset += len(sample)
        position.samples += 1
        return begin

    def note(self, **notes: Any) -> None:
        """Write the positions to progress.json, together with other values about the samples so far."""
        for file in self._open.values():
            self._sync(file)
        self.notes = notes
        self._noted = {"notes": notes, "places": self._places()}
        self._write_progress()

    def _places(self) -> dict[str, Any]:
        return {split: asdict(position) for split, position in self._positions.items()}

    def _write_progress(self) -> None:
        part = self._progress.with_suffix(".part")
        begun = {"begun": self._begun} if self._knows_begun else {}
        progress = self._noted | {"closed": self._closed} | begun
        write_json(self._progress, progress, part=part, durable=self._durable)

    def seal(self) -> None:
        """Close the shards that are open: later samples go into new ones."""
        for split, position in self._positions.items():
            if position.offset:
                self._close(split)

    def sweep(self) -> None:
        """Remove the shards that an earlier export has written after its last note; no others."""
        for split, position in self._positions.items():
            last = self._begun.get(split, -1)
            if not self._knows_begun:
                found = (_SHARD.fullmatch(path.name) for path in self._folder.glob(f"{split}-*.tar*"))
                last = max((int(shard[2]) for shard in found if shard is not None and shard[1] == split), default=-1)
            for number in range(position.shard, last + 1):
                for path in (self.path(split, number), self._part(split, number)):
                    path.unlink(missing_ok=True)
            self._begun[split] = position.shard - 1
        self._knows_begun = True

    def files(self) -> list[tuple[Path, int, str]]:
        """Return path, size and MD5 of the closed shards; those closed by version 0.1.0 are read. Raises OSError."""
        paths = [
            self.path(split, number) for split, position in self._positions.items() for number in range(position.shard)
        ]
        for path in paths:
            if path.name not in self._closed:
                with FileBytes(path) as file:
                    self._closed[path.name] = (len(file), file.md5_base64())
        return [(path, *self._closed[path.name]) for path in paths]

    def release(self) -> None:
        """Close the files; another export may continue them."""
        for file in self._open.values():
            file.close()
        self._open.clear()
        self._digests.clear()

    def _file(self, split: str) -> IO[bytes]:
        if split not in self._open:
            position = self._positions[split]
            path = self._part(split, position.shard)
            self._begin(split, position.shard)
            if position.offset and not path.exists():
                self.path(split, position.shard).rename(path)  # it was closed after the last note
            file = open_shard(path, "r+b" if position.offset else "wb")
            file.truncate(position.offset)
            file.seek(position.offset)
            self._open[split] = file
            self._digests[split] = _digest_of(path, position.offset)
        return self._open[split]

    def _begin(self, split: str, number: int) -> None:
        """Note that a shard is begun, before it is. Raises UsageError where somebody else's file has its name."""
        if number <= self._begun.get(split, -1) or not self._knows_begun:
            return
        for path in (self.path(split, number), self._part(split, number)):
            if os.path.lexists(path):
                raise UsageError(
                    f"{path}: it is no shard of this download's, and stands where one is to be: move it away"
                )
        self._begun[split] = number
        self._write_progress()

    def _close(self, split: str) -> None:
        file, position = self._file(split), self._positions[split]
        end = bytes(_closed_size(position.offset) - position.offset)
        file.write(end)
        digest = self._digests.pop(split)
        digest.update(end)
        self._sync(file)
        file.close()
        del self._open[split]
        md5 = b64encode(digest.digest()).decode()
        self._closed[self.path(split, position.shard).name] = (position.offset + len(end), md5)
        self._part(split, position.shard).replace(self.path(split, position.shard))
        position.shard, position.offset = position.shard + 1, 0

    def _sync(self, file: IO[Any]) -> None:
        if self._durable:
            sync(file.fileno())


def member(key: str, ending: str, body: bytes) -> bytes:
    """Return a member of a sample as it stands in a shard."""
    return b"".join(_member(key, ending, body))


def _member(key: str, ending: str, body: bytes) -> tuple[bytes, bytes, bytes]:
    head = tarfile.TarInfo(f"{key}.{ending}")
    head.size, head.mode = len(body), 0o644
    return head.tobuf(tarfile.GNU_FORMAT), body, bytes(-len(body) % _BLOCK)


def open_shard(path: Path, mode: str) -> IO[bytes]:
    """Open a shard. A sample is written in one call, past any buffer."""
    if mode == "wb":
        # What has the name goes, not what it may be a link to.
        discard(path)
        return os.fdopen(open_plain(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), mode, buffering=0)
    own_bytes(path)
    return os.fdopen(open_plain(path, os.O_RDWR), mode, buffering=0)


def _digest_of(path: Path, size: int) -> "hashlib._Hash":
    """Return the MD5 of the first bytes of a file, to go on with."""
    digest = hashlib.md5(usedforsecurity=False)
    if size:
        with FileBytes(path) as file:
            for start in range(0, size, _READ_BYTES):
                digest.update(file[start : min(size, start + _READ_BYTES)])
    return digest


def _closed_size(offset: int) -> int:
    """Return the size of a closed shard: two empty blocks end it, and it is a multiple of a record."""
    return -(-(offset + 2 * _BLOCK) // _RECORD) * _RECORD
