"""The masks, or the recordings, of a folder: which of them are there, and what the record of files says of them.

Masks are thousands: names, sizes and hashes are columns. Blocking.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

import polars as pl

from oid_async.store.disk import is_plain, read_plain
from oid_async.store.folder import Folder
from oid_async.store.image_check import md5_base64
from oid_async.store.mask_check import MOST_BYTES, refuse_mask
from oid_async.store.written_files import MASKS, RECORD_SCHEMA, RECORDINGS, read_record
from oid_async.system.file_names import DEVICE

# Names as published: ImageID, label without slashes, BoxID of a mask. No name leads out of its folder.
NAMES = {
    MASKS: re.compile(r"[0-9a-f]{16}_[0-9A-Za-z_-]{1,60}\.png"),
    RECORDINGS: re.compile(rf"(?!(?i:{DEVICE}))[0-9A-Za-z_-]{{1,150}}\.ogg"),
}
_PNG_END = b"IEND\xaeB`\x82"
OGG = b"OggS"


class AttachedFiles:
    """The files of one kind that are attached to images, below `path`; `record` is what was recorded of them."""

    def __init__(self, path: Path, record: pl.DataFrame | None = None) -> None:
        self.path = path
        self._before = pl.DataFrame(schema=RECORD_SCHEMA) if record is None else record
        # Of this run; only ever appended to, from several threads.
        self._fresh: list[pl.DataFrame] = []

    @classmethod
    def of(cls, folder: Folder, prefix: str) -> "AttachedFiles":
        """Return the files of a folder below MASKS or RECORDINGS, with what its record says of them."""
        record = read_record(folder)
        if record is not None:
            record = record.filter(pl.col("path").str.starts_with(prefix))
            record = record.with_columns(pl.col("path").str.strip_prefix(prefix))
        return cls(folder.path / prefix.rstrip("/"), record)

    def add(self, files: Iterable[tuple[str, int, str]]) -> None:
        """Record files that were just written: name, size in bytes, MD5 in base64."""
        self._fresh.append(pl.DataFrame(list(files), schema=RECORD_SCHEMA, orient="row"))

    def are_there(self, names: pl.Series) -> pl.Series:
        """Return for each name whether its file is there and has the recorded size.

        A file without a record is looked at: it must begin and end as such a file does, and is recorded then.
        """
        sizes = names.alias("path").to_frame().join(self._before, on="path", how="left", maintain_order="left")
        found, fresh = [], []
        for name, size in zip(names, sizes.get_column("bytes"), strict=True):
            path = self.path / name
            try:
                if size is None:
                    fresh += (described := self._look_at(path))
                    found.append(bool(described))
                else:
                    found.append(is_plain(path) and os.stat(path).st_size == size)
            except OSError:
                found.append(False)
        self.add(fresh)
        return pl.Series(found, dtype=pl.Boolean)

    def record(self, prefix: str) -> pl.DataFrame:
        """Return the record's rows of the files that are there, of whatever query. Raises OSError."""
        try:
            names = pl.Series("path", os.listdir(self.path), dtype=pl.String)
        except (FileNotFoundError, NotADirectoryError):
            return self._before.clear()
        known = pl.concat([self._before, *self._fresh]).unique("path", keep="last")
        unknown = names.filter(~names.is_in(known.get_column("path").implode()))
        rows = [row for name in unknown if NAMES[prefix].fullmatch(name) for row in self._look_at(self.path / name)]
        looked_at = pl.DataFrame(rows, schema=RECORD_SCHEMA, orient="row")
        there = pl.concat([known, looked_at]).filter(pl.col("path").is_in(names.implode()))
        return there.with_columns(pl.concat_str(pl.lit(prefix), "path").alias("path"))

    @staticmethod
    def _look_at(path: Path) -> list[tuple[str, int, str]]:
        """Return the row of a file that is whole by its shape, none for any other."""
        if not is_plain(path) or path.stat().st_size > MOST_BYTES:
            return []
        body = read_plain(path)
        return [(path.name, len(body), md5_base64(body))] if is_whole(body) else []


def is_whole(body: bytes) -> bool:
    """Return whether bytes are a mask by their start and end, or begin as OGG does, whose end has no mark.

    >>> is_whole(b""), is_whole(_PNG_END), is_whole(b"OggS")
    (False, False, True)
    """
    return body.startswith(OGG) or (body.endswith(_PNG_END) and refuse_mask(body, len(body)) is None)


def record_of_attached(folder: Folder, masks: AttachedFiles | None, recordings: AttachedFiles | None) -> pl.DataFrame:
    """Return the record's rows of all masks and recordings of a folder; those not looked at yet are as recorded."""
    both = {MASKS: masks, RECORDINGS: recordings}
    return pl.concat((files or AttachedFiles.of(folder, prefix)).record(prefix) for prefix, files in both.items())
