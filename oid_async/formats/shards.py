"""Tar shards for WebDataset: <split>-000000.tar, ..., filled in order, cut before they would be larger than they may.

    <key>.jpg    the image; <key> is the ImageID, a dot or slash in one of a user's own written as %2E, %2F
    <key>.json   its sample (samples)
    <key>.png    the masks of its objects, if the export has any: the number of the object, from 1, in each pixel

The bytes follow from the samples alone: no times, no owners, no padding that differs. The shard that is being filled
ends in .part. From time to time `progress.json` says how far each split has come; whoever goes on from there cuts off
what was written behind it, so that a killed export ends in the same bytes.
"""

import json
import os
import tarfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

_BLOCK = tarfile.BLOCKSIZE
_RECORD = tarfile.RECORDSIZE


@dataclass(slots=True)
class ShardPosition:
    """How far a split has come: the number of the shard that is filled, its bytes, and the samples of all shards."""

    shard: int = 0
    offset: int = 0
    samples: int = 0


class Shards:
    """The shards in one folder.

    `notes` are what was noted last together with how far they came, empty without an earlier export to go on with.
    `durable` has what is noted on the disk before the note.
    """

    def __init__(self, folder: Path, most_bytes: int, progress: Path, *, durable: bool = False) -> None:
        self._folder = folder
        self._most = most_bytes
        self._progress = progress
        self._durable = durable
        self._places: dict[str, ShardPosition] = {}
        self._open: dict[str, IO[bytes]] = {}
        self.notes: dict[str, Any] = {}
        self._go_on()

    def _go_on(self) -> None:
        """Take up what an earlier export has written, as far as it says it came."""
        try:
            said = json.loads(self._progress.read_text(encoding="utf-8"))
            places = {split: ShardPosition(**place) for split, place in said["places"].items()}
            notes = dict(said["notes"])
            for split, place in places.items():
                sizes = [self._size(split, number) for number in range(place.shard)]
                if None in sizes or (place.offset and (self._size(split, place.shard) or 0) < place.offset):
                    return  # what the note speaks of was removed, or lost with the power: from the beginning
        except (OSError, ValueError, KeyError, TypeError):
            return
        self._places, self.notes = places, notes

    def _size(self, split: str, number: int) -> int | None:
        for path in (self._part(split, number), self.path(split, number)):
            if path.is_file():
                return path.stat().st_size
        return None

    @property
    def samples(self) -> dict[str, int]:
        """How many samples each split has."""
        return {split: place.samples for split, place in self._places.items()}

    def path(self, split: str, number: int) -> Path:
        """Return a shard's path."""
        return self._folder / f"{split}-{number:06}.tar"

    def _part(self, split: str, number: int) -> Path:
        return self._folder / f"{split}-{number:06}.tar.part"

    def add(self, split: str, key: str, members: Sequence[tuple[str, bytes]]) -> None:
        """Put one sample into the split's shard, or the next one if it would grow too large. Raises OSError."""
        parts: list[bytes] = []
        for ending, body in members:
            head = tarfile.TarInfo(f"{key}.{ending}")
            head.size, head.mode = len(body), 0o644
            parts += (head.tobuf(tarfile.GNU_FORMAT), body, bytes(-len(body) % _BLOCK))
        sample = b"".join(parts)
        place = self._places.setdefault(split, ShardPosition())
        if place.offset and _closed_size(place.offset + len(sample)) > self._most:
            self._close(split)
        file, left = self._file(split), memoryview(sample)
        while left:
            left = left[file.write(left) :]
        place.offset += len(sample)
        place.samples += 1

    def note(self, **notes: Any) -> None:
        """Note how far the shards have come, and what else is true of what they hold now."""
        for file in self._open.values():
            self._sync(file)
        self.notes = notes
        said = {"notes": notes, "places": {split: asdict(place) for split, place in self._places.items()}}
        part = self._progress.with_suffix(".part")
        with part.open("w", encoding="utf-8") as text:
            json.dump(said, text)
            text.flush()
            self._sync(text)
        part.replace(self._progress)

    def seal(self) -> None:
        """Close the shards that are open: what is added from now on goes into new ones."""
        for split, place in self._places.items():
            if place.offset:
                self._close(split)

    def sweep(self) -> None:
        """Remove what an earlier export has left behind its last note."""
        whole = {self.path(split, n).name for split, place in self._places.items() for n in range(place.shard)}
        for path in self._folder.glob("*.tar*"):
            if path.name not in whole:
                path.unlink()

    def release(self) -> None:
        """Close the files, to be gone on with later."""
        for file in self._open.values():
            file.close()
        self._open.clear()

    def _file(self, split: str) -> IO[bytes]:
        if split not in self._open:
            place = self._places[split]
            path, whole = self._part(split, place.shard), self.path(split, place.shard)
            if place.offset and not path.exists():
                whole.rename(path)  # it was closed after the last note
            file = open_shard(path, "r+b" if place.offset else "wb")
            file.truncate(place.offset)
            file.seek(place.offset)
            self._open[split] = file
        return self._open[split]

    def _close(self, split: str) -> None:
        file, place = self._file(split), self._places[split]
        file.write(bytes(_closed_size(place.offset) - place.offset))
        self._sync(file)
        file.close()
        del self._open[split]
        self._part(split, place.shard).replace(self.path(split, place.shard))
        place.shard, place.offset = place.shard + 1, 0

    def _sync(self, file: IO[Any]) -> None:
        if self._durable:
            os.fsync(file.fileno())


def open_shard(path: Path, mode: str) -> IO[bytes]:
    """Open a shard. A sample is written in one call, past any buffer."""
    return open(path, mode, buffering=0)


def _closed_size(offset: int) -> int:
    """Return how large a shard becomes: two empty blocks end it, and its size is a multiple of a record."""
    return -(-(offset + 2 * _BLOCK) // _RECORD) * _RECORD


def key_of(image_id: str) -> str:
    """Return the key of a sample: its readers take all up to the first dot of the last part of a path.

    >>> key_of("0000048549557964"), key_of("my.photo/1")
    ('0000048549557964', 'my%2Ephoto%2F1')
    """
    return image_id.replace("%", "%25").replace(".", "%2E").replace("/", "%2F")
