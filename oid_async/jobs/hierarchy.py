"""The hierarchy of classes that a download keeps beside its tables, for evaluation: what is easily had of it."""

from contextlib import suppress
from pathlib import Path

import polars as pl

from oid_async.concurrency import in_thread
from oid_async.errors import InputError, UnavailableError
from oid_async.jobs.context import RunContext
from oid_async.jobs.gathering.gather import GatheredTables
from oid_async.openimages.catalogue import published
from oid_async.openimages.kinds import HIERARCHY_FILES, hierarchy_file
from oid_async.store.written_files import read_record, size_and_md5
from oid_async.tables.class_tables import read_hierarchy
from oid_async.tables.reading import TableFile


async def kept_hierarchy(context: RunContext, tables: GatheredTables) -> bytes | None:
    """Return the published hierarchy as it is; None where it is not published, or tables are all the user's own.

    One attempt; with --offline the cache alone. A run does without it; one that an earlier run has saved stays, as long
    as it is whole: all releases have the same.
    """
    options = context.options
    is_own = None not in (options.label, options.annotation, options.image_url)
    if hierarchy_file([source.kind.name for source in tables.saved]) is None or is_own:
        return None
    try:
        (table,) = published("hierarchy", (), options.release)
        file, _ = await context.cache.published(table, patient=False)
        return await in_thread(_read, file)
    except (UnavailableError, InputError, OSError):
        return await in_thread(_saved, context)


def _read(file: TableFile) -> bytes:
    """Return the bytes of a hierarchy. Raises InputError for a file that is none, OSError."""
    read_hierarchy(file)
    return file.path.read_bytes()


def _saved(context: RunContext) -> bytes | None:
    """Return the hierarchy that an earlier run has saved, if it is as it was then; say so if it is not."""
    record = read_record(context.folder)
    if record is None:
        return None
    for name, size, md5 in record.filter(pl.col("path").is_in(HIERARCHY_FILES)).iter_rows():
        with suppress(OSError):
            path: Path = context.folder.path / name
            if size_and_md5(path) == (size, md5):
                return path.read_bytes()
        context.note(f"{name} is damaged, and cannot be had now: exports do without it; run again to have it")
    return None
