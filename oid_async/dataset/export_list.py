"""The list of the files that an export wrote, in the folder of the export.

    .oid_async-export.json    what was exported, with which options, by which version: marks a folder as an export
    .oid_async-export.list    every other file: path, size and MD5, as Parquet

Readers of every format ignore both. The list does not end in .parquet: DuckDB and Polars would take it for one of the
export's tables. Version 0.1.0 wrote no list.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from oid_async.errors import InputError
from oid_async.store.atomic import replacing
from oid_async.store.disk import is_plain, plain_file, read_plain
from oid_async.store.written_files import are_inside

MARKER = ".oid_async-export.json"
LIST = ".oid_async-export.list"
# `path` is relative to the export, parts joined by "/"; `md5` is base64, null where it is not known (--no-hash).
LIST_SCHEMA: dict[str, type[pl.DataType]] = {"path": pl.String, "bytes": pl.Int64, "md5": pl.String}
_TIME = "oid_async.changed_ns"
_MARKER = "oid_async.marker"
_FILES_AT_ONCE = 1 << 16

# `changed` is the ctime in nanoseconds; `is_link` a symbolic link, which is not followed.
FOUND_SCHEMA: dict[str, type[pl.DataType]] = {
    "path": pl.String,
    "found_bytes": pl.Int64,
    "changed": pl.Int64,
    "inode": pl.UInt64,
    "is_link": pl.Boolean,
    "is_file": pl.Boolean,
}


def write_list(export: Path, files: pl.DataFrame) -> None:
    """Write the list of an export whose marker, and every other file, is there already. Raises OSError.

    The list holds the marker, and its time by the clock of its file system: what changed later was not the export. The
    shards of a download have no marker, and 0 as their time.
    """
    marker, metadata = export / MARKER, {_TIME: "0"}
    if is_plain(marker):
        metadata = {_TIME: str(os.lstat(marker).st_ctime_ns), _MARKER: read_plain(marker).decode()}
    with replacing(export / LIST) as part:
        files.select(list(LIST_SCHEMA)).sort("path").write_parquet(part, metadata=metadata)


def kept_marker(export: Path) -> str | None:
    """Return the marker as the list of an export holds it; None without a list that can be read, or without one."""
    try:
        with plain_file(export / LIST) as file:
            return pl.read_parquet_metadata(file).get(_MARKER)
    except (OSError, ValueError, pl.exceptions.PolarsError):
        return None


def read_list(export: Path) -> tuple[pl.DataFrame, int] | None:
    """Return the list of an export (LIST_SCHEMA) and its time in nanoseconds, None if there is no list.

    Raises InputError for a list that is damaged.
    """
    path = export / LIST
    if not os.path.lexists(path):
        return None
    try:
        with plain_file(path) as file:
            frame = pl.read_parquet(file, glob=False)
            file.seek(0)
            changed = int(pl.read_parquet_metadata(file).get(_TIME, 0))
        listed = frame.select(pl.col(name).cast(dtype) for name, dtype in LIST_SCHEMA.items())
        if not are_inside(listed.get_column("path")):
            raise ValueError("a path in it leads out of the export")
        return listed, changed
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        reason = str(error).split("\n", 1)[0]
        raise InputError(f"{path}: the list of the export's files cannot be read ({reason})") from error


def files_in(folder: Path) -> pl.DataFrame:
    """Return every file below a folder (FOUND_SCHEMA), sorted by path; links and odd files too, folders not.

    A name that is no UTF-8 has marks in place of its odd bytes. Raises OSError.
    """
    frames = [pl.DataFrame(schema=FOUND_SCHEMA)]
    rows: list[tuple[str, int, int, int, bool, bool]] = []
    for path, entry in _entries(folder, ""):
        found = entry.stat(follow_symlinks=False)
        is_link = entry.is_symlink()
        rows.append(
            (path, found.st_size, found.st_ctime_ns, found.st_ino, is_link, entry.is_file(follow_symlinks=False))
        )
        if len(rows) == _FILES_AT_ONCE:
            frames.append(pl.DataFrame(rows, schema=FOUND_SCHEMA, orient="row"))
            rows = []
    return pl.concat([*frames, pl.DataFrame(rows, schema=FOUND_SCHEMA, orient="row")]).sort("path")


def _entries(folder: Path, before: str) -> "Iterator[tuple[str, os.DirEntry[str]]]":
    folders = []
    with os.scandir(folder) as entries:
        for entry in entries:
            path = before + os.fsencode(entry.name).decode("utf-8", "backslashreplace")
            if entry.is_dir(follow_symlinks=False):
                folders.append((entry.path, f"{path}/"))
            else:
                yield path, entry
    for below, path in folders:
        yield from _entries(Path(below), path)
