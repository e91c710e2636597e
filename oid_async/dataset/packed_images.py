"""The images of a place that a download past one machine has filled: ranges of its shards, where its manifest says.

    manifest row ──Shard, ShardOffset, Bytes──▶ range of a tar ──▶ bytes of the image
                 ──Shard, FileName────────────▶ row of a Parquet shard (format parquet: no ShardOffset)

Of a span of images the ranges of one shard are read together. Nothing is held an image: an image is looked for in the
manifest, by the statistics of its row groups.
"""

import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock

import polars as pl

from oid_async.dataset.image_store import MOST_SAMPLE_BYTES, HeldBytes, StoredImage, key_of, members_of
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
        shard, offset, size = self._find(image_id, file_name)
        if offset is None:
            body = next(self._rows(shard, [file_name]))[1]
            return StoredImage(HeldBytes(body, self._files.changed_ns(shard)), 0, len(body))
        return StoredImage(ShardRanges(self._files, shard), offset, size)

    def read(self, image_id: str, file_name: str) -> bytes:
        """Return the bytes of one image."""
        with self.open(image_id, file_name) as image:
            return image.read()

    def path(self, file_name: str) -> Path | None:
        """Return None: images are in shards."""
        return None

    def sample(self, image_id: str) -> bytes | None:
        """Return the JSON of a sample: it is the member behind the image. None in a Parquet shard."""
        shard, offset, size = self._find(image_id, None)
        if offset is None:
            return None
        file = ShardRanges(self._files, shard)
        header = offset + -(-size // _BLOCK) * _BLOCK
        name, at, length = next(members_of(file.read, header, self._files.name(shard)), ("", 0, 0))
        if name != f"{key_of(image_id)}.json" or length > MOST_SAMPLE_BYTES:
            return None
        return file.read(at, length)

    def read_span(self, rows: pl.DataFrame) -> Iterator[tuple[str, bytes]]:
        """Yield FileName and bytes of some images (PLACES), shard by shard; neighbours come by one request."""
        for (shard,), images in rows.group_by("Shard", maintain_order=True):
            key = self._checked(shard if isinstance(shard, str) else None)
            if images["ShardOffset"].null_count():
                yield from self._rows(key, images.get_column("FileName").to_list())
                continue
            for part in _parts(images.sort("ShardOffset")):
                names, starts, sizes = (part[name].to_list() for name in ("FileName", "ShardOffset", "Bytes"))
                yield from zip(names, self._whole(key, starts, sizes), strict=True)

    def _whole(self, key: str, starts: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        bodies = self._files.read(key, starts, sizes)
        for body, size in zip(bodies, sizes, strict=True):
            if len(body) != size:
                raise cut_shard(self._files, key)
        return bodies

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

    def _rows(self, shard: str, names: list[str]) -> Iterator[tuple[str, bytes]]:
        """Yield FileName and bytes of some rows of a Parquet shard. Raises InputError for one that is not there."""
        with self._lock:
            path = self._brought(shard)
            with reading(TableFile(path, self._files.name(shard))):
                image = pl.col("image").struct.field("bytes")
                rows = pl.scan_parquet(path, glob=False).select("file_name", image)
                found = rows.filter(pl.col("file_name").is_in(names)).collect()
        missing = set(names).difference(found.get_column("file_name"))
        if missing:
            raise InputError(f"{self._files.name(shard)}: it does not hold {min(missing)}, though the manifest says so")
        yield from found.iter_rows()

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


def cut_shard(files: PlaceFiles, key: str) -> InputError:
    """Return the error for a shard that ends before an image does."""
    return InputError(f"{files.name(key)}: it was cut; oid-async verify {files.place} says what else is wrong")


def _parts(images: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield images of a shard, so many at a time that they fit into the memory they may take."""
    part = images["Bytes"].cum_sum() // _READ_BYTES
    for _, rows in images.with_columns(__part=part).group_by("__part", maintain_order=True):
        yield rows
