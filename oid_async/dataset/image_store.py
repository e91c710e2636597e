"""The bytes of saved images: from files under images/, from tar shards, or from ranges (`dataset.packed_images`)."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from io import BufferedReader
from pathlib import Path
from typing import Protocol, Self

import polars as pl

from oid_async.errors import InputError, NotPlainError
from oid_async.store.disk import is_plain, plain_file
from oid_async.system.file_names import NOT_IN_FOLDER
from oid_async.system.positions import pread

_BLOCK = 512
# The JSON of a sample with a thousand masks has some hundred kilobytes.
MOST_SAMPLE_BYTES = 64 << 20
_INDEX_SCHEMA = {"key": pl.String, "offset": pl.Int64, "size": pl.Int64}
# A tar header: the bytes of the name, of the size in octal digits, and of the type.
_NAME, _SIZE, _TYPE = slice(0, 100), slice(124, 136), slice(156, 157)
# The type of a member that holds the name, of over 100 bytes, of the next one.
_LONG_NAME = b"L"


class ByteSource(Protocol):
    """Bytes that are read by ranges: an open file, an object in a bucket."""

    @property
    def changed_ns(self) -> int:
        """A number that is another one once it was written anew: nanoseconds of a file. Raises OSError."""
        ...

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes from `offset` on. Raises OSError, InputError for what is not there."""
        ...

    def close(self) -> None:
        """Give it back."""
        ...


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file that is open to be read."""

    file: BufferedReader

    @property
    def changed_ns(self) -> int:
        """When the file was written to last, in nanoseconds. Raises OSError."""
        return os.fstat(self.file.fileno()).st_mtime_ns

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes from `offset` on, fewer at the end of the file. Raises OSError."""
        data = pread(self.file.fileno(), size, offset)
        # One call gives two gigabytes at the most.
        while len(data) < size and (more := pread(self.file.fileno(), size - len(data), offset + len(data))):
            data += more
        return data

    def close(self) -> None:
        """Close the file."""
        self.file.close()


@dataclass(frozen=True, slots=True)
class HeldBytes:
    """Bytes in memory."""

    body: bytes
    changed_ns: int = 0

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes from `offset` on."""
        return self.body[offset : offset + size]

    def close(self) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class StoredImage:
    """One image: `size` bytes of a source, from `offset` on. A context that closes the source."""

    source: ByteSource
    offset: int
    size: int

    @classmethod
    def of_file(cls, file: BufferedReader) -> Self:
        """Return the image that is the whole of an open file. Raises OSError."""
        return cls(OpenFile(file), 0, os.fstat(file.fileno()).st_size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the source."""
        self.source.close()

    @property
    def changed_ns(self) -> int:
        """When the source was written to last, in nanoseconds. Raises OSError."""
        return self.source.changed_ns

    def read(self, start: int = 0, size: int | None = None) -> bytes:
        """Return bytes of the image from `start` on, up to its end unless `size` says less. Raises as the source."""
        size = self.size - start if size is None else min(size, self.size - start)
        return self.source.read(self.offset + start, size)


class ImageStore(Protocol):
    """Reads saved images."""

    def open(self, image_id: str, file_name: str) -> StoredImage:
        """Open one image, to be closed. Raises InputError if it is not there, OSError if it cannot be read."""

    def read(self, image_id: str, file_name: str) -> bytes:
        """Return the bytes of one image. Raises as `open` does."""

    def path(self, file_name: str) -> Path | None:
        """Return where an image is a file, whether it is there or not; None where images are no files."""

    def sample(self, image_id: str) -> bytes | None:
        """Return the JSON of a sample, which holds its annotations; None where images are files. Raises as `open`."""


class ImageFiles:
    """Images as files of one folder, by FileName."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, image_id: str, file_name: str) -> StoredImage:
        """Open one image, to be closed."""
        path = self.folder / file_name
        try:
            file = plain_file(path)
        except FileNotFoundError as error:
            raise missing_file(path) from error
        except NotPlainError as error:
            raise InputError(error.advice) from error
        return StoredImage.of_file(file)

    def read(self, image_id: str, file_name: str) -> bytes:
        """Return the bytes of one image."""
        with self.open(image_id, file_name) as image:
            return image.read()

    def path(self, file_name: str) -> Path | None:
        """Return where an image is a file."""
        return self.folder / file_name

    def sample(self, image_id: str) -> bytes | None:
        """Return None: annotations are in tables."""
        return None


class ImageShards:
    """Images as members `<key>.jpg` of tar shards in one folder, by ImageID.

    A shard is indexed when an image is first looked for in it: about 0.1 s for 10,000 samples, 50 bytes a sample.
    Samples are in order of ImageID within a run, so the first key of each shard says where to look first.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._indexes: dict[Path, pl.DataFrame] = {}

    def open(self, image_id: str, file_name: str) -> StoredImage:
        """Open one image, to be closed."""
        key = key_of(image_id)
        for shard in self._likely(key):
            index = self._index(shard)
            keys = index.get_column("key")
            row = keys.search_sorted(key)
            if row < len(keys) and keys[row] == key:
                return StoredImage(OpenFile(plain_file(shard)), index["offset"][row], index["size"][row])
        raise InputError(f"{self.folder}: no shard holds image {image_id}")

    def read(self, image_id: str, file_name: str) -> bytes:
        """Return the bytes of one image."""
        with self.open(image_id, file_name) as image:
            return image.read()

    def path(self, file_name: str) -> Path | None:
        """Return None: images are members of shards."""
        return None

    def sample(self, image_id: str) -> bytes | None:
        """Return the JSON of a sample: it is the member behind the image."""
        with self.open(image_id, "") as image:
            header = image.offset + -(-image.size // _BLOCK) * _BLOCK
            members = members_of(image.source.read, header, self.folder)
            name, offset, size = next(members, ("", 0, 0))
            if name != f"{key_of(image_id)}.json" or size > MOST_SAMPLE_BYTES:
                return None
            return image.source.read(offset, size)

    def located(self) -> pl.DataFrame:
        """Return where all images are: key, shard (its name), offset, size; of equal keys that of the first shard."""
        found = [
            self._index(shard).select("key", pl.lit(shard.name).alias("shard"), "offset", "size")
            for _, shard in self._first_keys
        ]
        nowhere = pl.DataFrame(schema={"key": pl.String, "shard": pl.String, "offset": pl.Int64, "size": pl.Int64})
        return pl.concat([nowhere, *found]).unique("key", keep="first", maintain_order=True)

    @cached_property
    def _first_keys(self) -> list[tuple[str, Path]]:
        """Return the first key of each shard, and the shard, in order; the shard that is being filled ends in .part."""
        shards = (
            path for path in self.folder.glob("*.tar*") if path.name.endswith((".tar", ".tar.part")) and is_plain(path)
        )
        first = ((next(_members(path), None), path) for path in shards)
        return sorted((member[0].partition(".")[0], path) for member, path in first if member is not None)

    def _likely(self, key: str) -> list[Path]:
        """Return the shards, the one that should hold a key first."""
        before = [path for first, path in self._first_keys if first <= key]
        return before[::-1] + [path for first, path in self._first_keys if first > key]

    def _index(self, shard: Path) -> pl.DataFrame:
        """Return where the images of a shard are, sorted by key."""
        if shard not in self._indexes:
            rows = [
                (name.removesuffix(".jpg"), offset, size)
                for name, offset, size in _members(shard)
                if name.endswith(".jpg")
            ]
            self._indexes[shard] = pl.DataFrame(rows, schema=_INDEX_SCHEMA, orient="row").sort("key")
        return self._indexes[shard]


class ImagesBeingPacked:
    """Images of a run that packs them: those that are not packed yet, or may be packed again, are files."""

    def __init__(self, files: ImageFiles, shards: ImageShards) -> None:
        self._files = files
        self._shards = shards
        self.folder = shards.folder

    def located(self) -> pl.DataFrame:
        """Return where the images are that are packed: see `ImageShards.located`."""
        return self._shards.located()

    def open(self, image_id: str, file_name: str) -> StoredImage:
        """Open one image, to be closed."""
        with suppress(InputError):
            return self._files.open(image_id, file_name)
        return self._shards.open(image_id, file_name)

    def read(self, image_id: str, file_name: str) -> bytes:
        """Return the bytes of one image."""
        with self.open(image_id, file_name) as image:
            return image.read()

    def path(self, file_name: str) -> Path | None:
        """Return None: not all of them are files."""
        return None

    def sample(self, image_id: str) -> bytes | None:
        """Return the JSON of a sample that is packed already, None for one that is not."""
        with suppress(InputError):
            return self._shards.sample(image_id)
        return None


def key_of(image_id: str) -> str:
    """Return the key of a sample: its readers take all up to the first dot of the last part of a path.

    >>> key_of("0000048549557964"), key_of("my.photo/1")
    ('0000048549557964', 'my%2Ephoto%2F1')
    """
    return image_id.replace("%", "%25").replace(".", "%2E").replace("/", "%2F")


def leads_out(name: pl.Expr) -> pl.Expr:
    """Return whether the name of an image, from a table, would lead out of the folder of images."""
    return name.str.contains(NOT_IN_FOLDER)


def missing_file(path: str | Path) -> InputError:
    """Return the error for a picture that is not there."""
    return InputError(f"{path}: it is not there, though the tables speak of it; oid-async verify SAVEPATH --repair")


def _members(shard: Path) -> Iterator[tuple[str, int, int]]:
    """Yield name, offset and size of each member."""
    with plain_file(shard) as file:
        yield from members_of(OpenFile(file).read, 0, shard)


def members_of(read: Callable[[int, int], bytes], at: int, shard: Path | str) -> Iterator[tuple[str, int, int]]:
    """Yield name, offset and size of the members of a tar from a header on; `read` gives bytes by offset and size.

    Only headers are read: twenty times faster than tarfile.
    """
    long_name = None
    while len(header := read(at, _BLOCK)) == _BLOCK and header[0]:
        try:
            size = int(header[_SIZE].rstrip(b"\0 "), 8)
        except ValueError as error:
            raise InputError(f"{shard}: no tar shard, or a damaged one: byte {at} begins no member") from error
        offset = at + _BLOCK
        at = offset + -(-size // _BLOCK) * _BLOCK
        if header[_TYPE] == _LONG_NAME:
            long_name = read(offset, size)
            continue
        name, long_name = long_name or header[_NAME], None
        yield name.rstrip(b"\0").decode("utf-8", "replace"), offset, size
