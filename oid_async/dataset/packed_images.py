"""The images of a place that a download past one machine has filled: ranges of its shards, where its manifest says.

    manifest row ──Shard, ShardOffset, Bytes──▶ range of a tar ──▶ bytes of the image
                 ──Shard, FileName────────────▶ row of a Parquet shard (format parquet: no ShardOffset)

Of a span of images the ranges of one shard are read together. Nothing is held an image: an image is looked for in the
manifest, by the statistics of its row groups.
"""

import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock

import polars as pl

from oid_async.dataset.image_store import MOST_SAMPLE_BYTES, HeldBytes, StoredImage, members_of
from oid_async.dataset.place_files import PlaceFiles, missing_object
from oid_async.errors import InputError
from oid_async.tables.reading import TableFile, reading

# The columns of the manifest of a place, after the others. ShardOffset: the first byte of the image within a tar.
SHARD_SCHEMA: dict[str, type[pl.DataType]] = {"Shard": pl.String, "ShardOffset": pl.Int64}
# What a span needs to have to be read.
PLACES = ("ImageID", "FileName", "Bytes", *SHARD_SCHEMA)
# The manifest may have come with a folder from anywhere: what else it names is not opened.
_SHARD = re.compile(r"shards/[A-Za-z0-9_-]+-[0-9]{6,}(~[0-9a-f]{8})?\.(tar|parquet)")
_BLOCK = tarfile.BLOCKSIZE
_MOST_NAME_BYTES = 100
# So much of a shard is in memory at once, when a span is read.
_READ_BYTES = 32 << 20
# Parquet shards of a bucket that are on this disk at once.
_KEPT_SHARDS = 4


class PackedImages:
    """Images in the shards of one place."""

    def __init__(self, files: PlaceFiles, manifest: TableFile, images: pl.LazyFrame) -> None:
        self._files = files
        self._manifest = manifest
        self._images = images
        self._lock = Lock()
        # Parquet shards, the one that was used last at the end.
        self._shards: list[str] = []

    def open(self, image_id: str, file_name: str) -> StoredImage:
        """Open one image, to be closed. Raises InputError if it is not there."""
        shard, offset, _ = self._find(image_id, file_name)
        if offset is None:
            body = self.rows(shard, [file_name]).item(0, "bytes")
            return StoredImage(HeldBytes(body, self._files.changed_ns(shard)), 0, len(body))
        ranges = ShardRanges(self._files, shard)
        return StoredImage(ranges, offset, self._size(shard, offset, ranges.read(offset - _BLOCK, _BLOCK)))

    def read(self, image_id: str, file_name: str) -> bytes:
        """Return the bytes of one image."""
        shard, offset, size = self._find(image_id, file_name)
        if offset is None:
            body: bytes = self.rows(shard, [file_name]).item(0, "bytes")
            return body
        return self.bodies(shard, [offset], [size])[0]

    def path(self, file_name: str) -> Path | None:
        """Return None: images are in shards."""
        return None

    def sample(self, image_id: str) -> bytes | None:
        """Return the JSON of a sample. None in a Parquet shard."""
        shard, offset, _ = self._find(image_id, None)
        if offset is None:
            return None
        header = ShardRanges(self._files, shard).read(offset - _BLOCK, _BLOCK)
        return self.samples(shard, [offset], [self._size(shard, offset, header)])[0]

    def shards_of(self, images: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
        """Yield the shards of some images (PLACES) and their images there, so many at a time as memory may take."""
        for (shard,), rows in images.group_by("Shard", maintain_order=True):
            key = self._checked(shard if isinstance(shard, str) else None)
            rows = rows.sort("ShardOffset", maintain_order=True)
            part = rows["Bytes"].fill_null(0).cum_sum() // _READ_BYTES
            for _, some in rows.group_by(part, maintain_order=True):
                yield key, some

    def bodies(self, shard: str, offsets: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        """Return images of one tar by their first bytes; neighbours come by one request. Raises InputError.

        `sizes` are those of the saved images: one that was made smaller for its shard has fewer bytes there.
        """
        starts = [offset - _BLOCK for offset in offsets]
        found = self._files.read(shard, starts, [_BLOCK + size for size in sizes])
        bodies = []
        for body, offset in zip(found, offsets, strict=True):
            size = self._size(shard, offset, body[:_BLOCK])
            body = body[_BLOCK : _BLOCK + size]
            if len(body) < size:
                body += ShardRanges(self._files, shard).read(offset + len(body), size - len(body))
            bodies.append(body)
        return bodies

    def samples(self, shard: str, offsets: Sequence[int], sizes: Sequence[int]) -> list[bytes | None]:
        """Return the JSON of the samples of images, the members behind them; None where something else is.

        `sizes` are those of the images in the shard.
        """
        ends = [offset + -(-size // _BLOCK) * _BLOCK for offset, size in zip(offsets, sizes, strict=True)]
        headers = self._files.read(shard, ends, [_BLOCK] * len(ends))
        found = [_member(header) for header in headers]
        places = [
            (end + _BLOCK, each[1])
            for end, each in zip(ends, found, strict=True)
            if each is not None and each[0].endswith(".json") and each[1] <= MOST_SAMPLE_BYTES
        ]
        texts = self._files.read(shard, *(list(column) for column in zip(*places, strict=True))) if places else []
        by_start = dict(zip((start for start, _ in places), texts, strict=True))
        return [by_start.get(end + _BLOCK) for end in ends]

    def found(self, shard: str, images: pl.DataFrame) -> dict[str, bytes]:
        """Return FileName -> bytes of those of some images (PLACES) of a shard that are where the manifest says."""
        names, offsets = images.get_column("FileName").to_list(), images.get_column("ShardOffset").to_list()
        if None in offsets:
            return dict(self._rows(shard, names, masks=False).iter_rows())
        sizes = images.get_column("Bytes").fill_null(0).to_list()
        try:
            return dict(zip(names, self.bodies(shard, offsets, sizes), strict=True))
        except InputError:
            found = {}
            for name, offset, size in zip(names, offsets, sizes, strict=True):
                with suppress(InputError):
                    found[name] = self.bodies(shard, [offset], [size])[0]
            return found

    def rows(self, shard: str, names: Sequence[str], *, masks: bool = False) -> pl.DataFrame:
        """Return file_name, bytes, and with `masks` those of some rows of a Parquet shard. Raises InputError."""
        found = self._rows(shard, names, masks=masks)
        if missing := set(names).difference(found.get_column("file_name")):
            raise InputError(f"{self._files.name(shard)}: it does not hold {min(missing)}, though the manifest says so")
        return found

    def _rows(self, shard: str, names: Sequence[str], *, masks: bool) -> pl.DataFrame:
        with self._lock:
            path = self._brought(shard)
            with reading(TableFile(path, self._files.name(shard))):
                image = pl.col("image").struct.field("bytes")
                rows = pl.scan_parquet(path, glob=False).filter(pl.col("file_name").is_in(list(names)))
                return rows.select("file_name", image, *(["masks"] if masks else [])).collect()

    def _size(self, shard: str, offset: int, header: bytes) -> int:
        """Return the size of an image by its header. Raises InputError where no image begins."""
        member = _member(header)
        # Of a name of more than 100 bytes the header has the start.
        if member is None or not (member[0].endswith(".jpg") or len(member[0].encode()) == _MOST_NAME_BYTES):
            if len(header) < _BLOCK:
                raise cut_shard(self._files, shard)
            raise InputError(
                f"{self._files.name(shard)}: no image begins at byte {offset}, though the manifest says so; oid-async "
                f"verify {self._files.place} says what else is wrong"
            )
        return member[1]

    def _find(self, image_id: str, file_name: str | None) -> tuple[str, int | None, int]:
        """Return the shard of an image, its first byte there, its size."""
        is_meant = (pl.col("ImageID") == image_id) & (pl.col("Status") == "ok")
        if file_name is not None:
            is_meant &= pl.col("FileName") == file_name
        with reading(self._manifest):
            found = self._images.filter(is_meant).select(*SHARD_SCHEMA, "Bytes").head(1).collect()
        if not len(found):
            raise InputError(f"{self._manifest.name}: it has no saved image {image_id!r}")
        shard, offset, size = found.row(0)
        return self._checked(shard), offset, int(size or 0)

    def _checked(self, shard: str | None) -> str:
        if shard is None or _SHARD.fullmatch(shard) is None:
            raise InputError(f"{self._manifest.name}: Shard {shard or ''!r} names no shard; the manifest was changed")
        return shard

    def _brought(self, shard: str) -> Path:
        """Return a Parquet shard as a file; of a bucket few are kept at once."""
        path = self._files.fetch(shard)
        if not path.exists():
            raise missing_object(self._files, shard)
        if path.parent.is_symlink():
            raise InputError(f"{path.parent}: it is a link, not a folder, and so not opened")
        self._shards = [*(each for each in self._shards if each != shard), shard]
        while len(self._shards) > _KEPT_SHARDS:
            self._files.forget(self._shards.pop(0))
        return path


class ShardRanges:
    """One shard, read by ranges: what an open file is to an image that is one."""

    def __init__(self, files: PlaceFiles, key: str) -> None:
        self._files = files
        self._key = key

    @property
    def changed_ns(self) -> int:
        """A number that is another one once the shard was written anew. Raises OSError."""
        return self._files.changed_ns(self._key)

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes of the shard. Raises InputError where there is none, or it is shorter."""
        (body,) = self._files.read(self._key, [offset], [size])
        if len(body) < size:
            raise cut_shard(self._files, self._key)
        return body

    def close(self) -> None:
        """Do nothing: nothing is held between two ranges."""


def check_shards(files: PlaceFiles, images: pl.LazyFrame) -> None:
    """Raise InputError if a shard that the manifest speaks of is not there: before an hour of work, not after it."""
    named = images.filter(Status="ok").select(pl.col("Shard").drop_nulls().unique()).collect(engine="streaming")
    there = {found.key for found in files.listing("shards")}
    if missing := set(named.to_series()) - there:
        raise missing_object(files, min(missing))


def cut_shard(files: PlaceFiles, key: str) -> InputError:
    """Return the error for a shard that ends before an image does."""
    return InputError(f"{files.name(key)}: it was cut; oid-async verify {files.place} says what else is wrong")


def _member(header: bytes) -> tuple[str, int] | None:
    """Return name and size of a member by its header, None for what is none."""
    try:
        found = next(members_of(lambda at, size: header[at : at + size], 0, ""), None)
    except InputError:
        return None
    return None if found is None else (found[0], found[2])
