"""Tar shards for WebDataset: <split>-000000.tar, ..., filled in order, each at most of a given size.

    <key>.jpg    the image; <key> is the ImageID, in ids of a user's own a dot or slash is %2E, %2F
    <key>.json   its sample (samples)
    <key>.png    the masks of its objects, if the export has any: the number of the object, from 1, in each pixel

The bytes follow from the samples alone: no times, no owners, no padding that differs. The shard that is being filled
ends in .part. `progress.json` is written now and then and has the position of each split; an export that continues
truncates the shards there, so that a killed export ends in the same bytes.
"""

import os
import tarfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from oid_async.store.atomic import read_json, write_json

_BLOCK = tarfile.BLOCKSIZE
_RECORD = tarfile.RECORDSIZE


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
        self._positions, self.notes = self._read_progress()

    def _read_progress(self) -> tuple[dict[str, ShardPosition], dict[str, Any]]:
        """Return the positions and notes of an earlier export; nothing if its shards were removed or are torn."""
        try:
            progress = read_json(self._progress)
            positions = {split: ShardPosition(**position) for split, position in progress["places"].items()}
            notes = dict(progress["notes"])
            for split, position in positions.items():
                sizes = [self._size(split, number) for number in range(position.shard)]
                if None in sizes or (position.offset and (self._size(split, position.shard) or 0) < position.offset):
                    return {}, {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}, {}
        return positions, notes

    def _size(self, split: str, number: int) -> int | None:
        for path in (self._part(split, number), self.path(split, number)):
            if path.is_file():
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

    def add(self, split: str, key: str, members: Sequence[tuple[str, bytes]]) -> None:
        """Write one sample into the shard of its split, or the next one if it would grow too large. Raises OSError."""
        parts: list[bytes] = []
        for ending, body in members:
            head = tarfile.TarInfo(f"{key}.{ending}")
            head.size, head.mode = len(body), 0o644
            parts += (head.tobuf(tarfile.GNU_FORMAT), body, bytes(-len(body) % _BLOCK))
        sample = b"".join(parts)
        position = self._positions.setdefault(split, ShardPosition())
        if position.offset and _closed_size(position.offset + len(sample)) > self._max_bytes:
            self._close(split)
        file, remaining = self._file(split), memoryview(sample)
        while remaining:
            remaining = remaining[file.write(remaining) :]
        position.offset += len(sample)
        position.samples += 1

    def note(self, **notes: Any) -> None:
        """Write the positions to progress.json, together with other values about the samples so far."""
        for file in self._open.values():
            self._sync(file)
        self.notes = notes
        positions = {split: asdict(position) for split, position in self._positions.items()}
        part = self._progress.with_suffix(".part")
        write_json(self._progress, {"notes": notes, "places": positions}, part=part, durable=self._durable)

    def seal(self) -> None:
        """Close the shards that are open: later samples go into new ones."""
        for split, position in self._positions.items():
            if position.offset:
                self._close(split)

    def sweep(self) -> None:
        """Remove the shards that an earlier export has written after its last note."""
        complete = {
            self.path(split, number).name
            for split, position in self._positions.items()
            for number in range(position.shard)
        }
        for path in self._folder.glob("*.tar*"):
            if path.name not in complete:
                path.unlink()

    def release(self) -> None:
        """Close the files; another export may continue them."""
        for file in self._open.values():
            file.close()
        self._open.clear()

    def _file(self, split: str) -> IO[bytes]:
        if split not in self._open:
            position = self._positions[split]
            path = self._part(split, position.shard)
            if position.offset and not path.exists():
                self.path(split, position.shard).rename(path)  # it was closed after the last note
            file = open_shard(path, "r+b" if position.offset else "wb")
            file.truncate(position.offset)
            file.seek(position.offset)
            self._open[split] = file
        return self._open[split]

    def _close(self, split: str) -> None:
        file, position = self._file(split), self._positions[split]
        file.write(bytes(_closed_size(position.offset) - position.offset))
        self._sync(file)
        file.close()
        del self._open[split]
        self._part(split, position.shard).replace(self.path(split, position.shard))
        position.shard, position.offset = position.shard + 1, 0

    def _sync(self, file: IO[Any]) -> None:
        if self._durable:
            os.fsync(file.fileno())


def open_shard(path: Path, mode: str) -> IO[bytes]:
    """Open a shard. A sample is written in one call, past any buffer."""
    return open(path, mode, buffering=0)


def _closed_size(offset: int) -> int:
    """Return the size of a closed shard: two empty blocks end it, and it is a multiple of a record."""
    return -(-(offset + 2 * _BLOCK) // _RECORD) * _RECORD
