"""What is known of the files of an export while they are written: it becomes the list of the export."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from oid_async.dataset.export_list import LIST_SCHEMA, files_in
from oid_async.store.disk import OPENER, write_all
from oid_async.store.file_bytes import FileBytes
from oid_async.store.image_check import md5_base64

HashedFile = tuple[str, int, str]
"""A file that was written: its path, bytes, MD5."""


class FileRecord:
    """Files by their absolute path. What is not noted is read when the list is made."""

    def __init__(self) -> None:
        self._frames = [pl.DataFrame(schema=LIST_SCHEMA)]

    def linked(self, folder: Path, names: Sequence[str], images: pl.DataFrame) -> None:
        """Note images that are in a folder under these names with the bytes that were saved: Bytes, MD5 as there."""
        path = pl.concat_str(pl.lit(f"{folder}/"), pl.Series("path", names, pl.String))
        frame = images.select(path=path, bytes=pl.col("Bytes"), md5=pl.col("MD5"))
        # An image of unknown size is read, too.
        self._frames.append(frame.drop_nulls("bytes"))

    def hashed(self, path: Path, size: int, md5: str) -> None:
        """Note a file whose MD5 is known."""
        self.hashed_files([(str(path), size, md5)])

    def hashed_files(self, files: Sequence[HashedFile]) -> None:
        """Note files whose MD5s are known: path, bytes, MD5."""
        self._frames.append(pl.DataFrame(files, schema=LIST_SCHEMA, orient="row"))

    def read(self, path: Path) -> None:
        """Read a file that was just written, while the system still has it in memory. Raises OSError."""
        self.hashed(path, *_read(path))

    def listed(self, export: Path, stopped: Callable[[], bool]) -> pl.DataFrame:
        """Return path, bytes and MD5 of every file below the folder of an export (LIST_SCHEMA).

        Raises OSError; InterruptedError once `stopped` returns True.
        """
        noted = pl.concat(self._frames).with_columns(pl.col("path").str.strip_prefix(f"{export}/"))
        found = files_in(export).select("path").join(noted, on="path", how="left", maintain_order="left")
        unknown = []
        for path in found.filter(pl.col("bytes").is_null()).get_column("path"):
            if stopped():
                raise InterruptedError("the export was stopped")
            unknown.append((path, *_read(export / path)))
        read = pl.DataFrame(unknown, schema=LIST_SCHEMA, orient="row")
        return pl.concat([found.drop_nulls("bytes"), read])


def write_hashed(path: str, body: bytes) -> HashedFile:
    """Write a new file: of a million of them one after the other, so by the fewest calls. Raises OSError."""
    file = OPENER(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        if body:
            write_all(file, body)
    finally:
        os.close(file)
    return path, len(body), md5_base64(body)


def _read(path: Path) -> tuple[int, str]:
    with FileBytes(path, follows_links=True) as file:
        return len(file), file.md5_base64()
