"""The hierarchy of classes that a download keeps beside its tables, for evaluation: what is easily had of it."""

from contextlib import suppress

from oid_async.concurrency import in_thread
from oid_async.errors import InputError, UnavailableError
from oid_async.jobs.gathering.gather import GatheredTables
from oid_async.metadata.cache import MetadataCache
from oid_async.openimages.catalogue import published
from oid_async.openimages.kinds import HIERARCHY_FILES, hierarchy_file
from oid_async.options.query import Options
from oid_async.store.disk import has_plain
from oid_async.store.folder import Folder
from oid_async.tables.class_tables import read_hierarchy
from oid_async.tables.reading import TableFile


async def kept_hierarchy(
    options: Options, cache: MetadataCache, tables: GatheredTables, folder: Folder | None = None
) -> bytes | None:
    """Return the published hierarchy as it is; None where it is not published, or tables are all the user's own.

    One attempt; with --offline the cache alone. A run does without it; one that an earlier run has saved in `folder`
    stays: there is but one, of all releases.
    """
    is_own = None not in (options.label, options.annotation, options.image_url)
    if hierarchy_file([source.kind.name for source in tables.saved]) is None or is_own:
        return None
    try:
        (table,) = published("hierarchy", (), options.release)
        file, _ = await cache.published(table, patient=False)
        return await in_thread(_read, file)
    except (UnavailableError, InputError, OSError):
        return None if folder is None else await in_thread(_saved, folder)


def _read(file: TableFile) -> bytes:
    """Return the bytes of a hierarchy. Raises InputError for a file that is none, OSError."""
    read_hierarchy(file)
    return file.path.read_bytes()


def _saved(folder: Folder) -> bytes | None:
    for path in (folder.path / name for name in HIERARCHY_FILES):
        if has_plain(path):
            with suppress(InputError, OSError):
                return _read(TableFile(path, str(path)))
    return None
