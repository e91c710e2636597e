"""The record of what runs have written other than images: size and MD5 of each file. Blocking.

    .oid_async/files.parquet    path String (relative to SAVEPATH, parts joined by "/"), bytes Int64, md5 String, base64
    .oid_async/files.md5        the MD5 of files.parquet itself, as md5sum writes it

One row per file, in order of path: tables, query.json, lists kept in SAVEPATH, masks, recordings, the journal as long
as it was. Images stand in the manifest. Version 0.1.0 wrote no record.
"""

import hashlib
import os
from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import polars as pl

from oid_async.errors import NotPlainError
from oid_async.store.atomic import rename_all
from oid_async.store.disk import md5_of, plain_file, read_plain
from oid_async.store.folder import Folder

RECORD_SCHEMA: dict[str, type[pl.DataType]] = {"path": pl.String, "bytes": pl.Int64, "md5": pl.String}
RECORD = ".oid_async/files.parquet"
RECORD_SUM = ".oid_async/files.md5"
JOURNAL = ".oid_async/journal.tsv"
INDEX = ".oid_async/lines/"
NARRATIVES = "narrative/narratives.jsonl"
MASKS, RECORDINGS = "segmentation/masks/", "narrative/voice/"
ATTACHED = (MASKS, RECORDINGS)
ATTACHED_FAILURES = ("segmentation/failures.csv", "narrative/failures.csv")


def read_record(folder: Folder) -> pl.DataFrame | None:
    """Return the record (RECORD_SCHEMA), None if there is none or it is damaged."""
    path = folder.path / RECORD
    try:
        # A file that was replaced meanwhile differs from its sum, too: then nothing is known.
        if read_plain(folder.path / RECORD_SUM) != _sum_text(path):
            return None
        record = pl.read_parquet(path, glob=False).select(
            pl.col(name).cast(type_) for name, type_ in RECORD_SCHEMA.items()
        )
        return record if are_inside(record.get_column("path")) else None
    except (OSError, pl.exceptions.PolarsError):
        return None


def are_inside(paths: pl.Series) -> bool:
    """Return whether none of these relative paths leads out of its folder: files are read, moved, removed by them.

    >>> are_inside(pl.Series(["a/b.png"])), are_inside(pl.Series(["a/../../b"])), are_inside(pl.Series(["/etc/passwd"]))
    (True, False, False)
    """
    return not paths.fill_null("").str.contains(r"\x00|(?:^|/)\.{0,2}(?:/|$)").any()


def has_record(folder: Folder) -> bool:
    """Return whether there is a record, or what is left of one."""
    return any(os.path.lexists(folder.path / name) for name in (RECORD, RECORD_SUM))


def write_record(folder: Folder, record: pl.DataFrame) -> None:
    """Replace the record. Raises OSError."""
    rename_all({part: folder.path / name for part, name in stage_record(folder.tmp, record).items()})


def stage_record(scratch: Path, record: pl.DataFrame) -> dict[Path, str]:
    """Write a record to temporaries; return each with the name that it is to have. Raises OSError."""
    parts = {scratch / "files.parquet": RECORD, scratch / "files.md5": RECORD_SUM}
    table, sums = parts
    record.select(list(RECORD_SCHEMA)).unique("path", keep="last").sort("path").write_parquet(table, statistics=False)
    sums.write_bytes(_sum_text(table))
    return parts


def describe(files: Mapping[str, Path]) -> pl.DataFrame:
    """Return the record's rows of files by their names in SAVEPATH; those that do not exist are left out."""
    rows = []
    for name, path in files.items():
        with suppress(FileNotFoundError, NotADirectoryError, NotPlainError):
            rows.append((name, *size_and_md5(path)))
    return pl.DataFrame(rows, schema=RECORD_SCHEMA, orient="row")


def size_and_md5(path: Path, most_bytes: int | None = None) -> tuple[int, str]:
    """Return the size of a file, or of its first bytes, and their MD5 in base64. Raises OSError."""
    digest, size = hashlib.md5(usedforsecurity=False), 0
    with plain_file(path) as file:
        while block := file.read(1 << 20 if most_bytes is None else min(1 << 20, most_bytes - size)):
            digest.update(block)
            size += len(block)
    return size, b64encode(digest.digest()).decode()


def _sum_text(path: Path) -> bytes:
    with plain_file(path) as file:
        digest = md5_of(file)
    return f"{digest.hexdigest()}  {path.name}\n".encode()


def record_of_tables(folder: Folder, tables: Mapping[str, Path]) -> pl.DataFrame:
    """Return the record after a run has made these tables, by their names in SAVEPATH, and has read these lists.

    Masks, recordings and their failures stay as they were recorded: a run comes to them after its tables.
    """
    before = read_record(folder)
    attached = pl.DataFrame(schema=RECORD_SCHEMA) if before is None else before.filter(is_attached())
    return pl.concat([attached, describe(tables)])


def record_of_run(folder: Folder, attached: pl.DataFrame) -> pl.DataFrame:
    """Return the record at the end of a run: tables as recorded, masks and recordings (rows), what came with them."""
    before = read_record(folder)
    tables = pl.DataFrame(schema=RECORD_SCHEMA) if before is None else before.filter(~is_attached())
    last = {name: folder.path / name for name in (*ATTACHED_FAILURES, NARRATIVES, JOURNAL)}
    if folder.index.is_dir():
        last |= {f"{INDEX}{path.name}": path for path in folder.index.iterdir()}
    return pl.concat([tables, attached, describe(last)])


def is_attached() -> pl.Expr:
    """Return whether a row of the record is of what is fetched after the tables: masks, recordings, their failures."""
    path = pl.col("path")
    return pl.any_horizontal(path.str.starts_with(start) for start in ATTACHED) | path.is_in(ATTACHED_FAILURES)
