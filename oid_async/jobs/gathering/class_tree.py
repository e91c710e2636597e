"""The hierarchy of classes that a download keeps beside its tables, for evaluation: what is easily had of it."""

from oid_async.concurrency import in_thread
from oid_async.errors import InputError, UnavailableError
from oid_async.jobs.gathering.gather import GatheredTables
from oid_async.metadata.cache import MetadataCache
from oid_async.openimages.catalogue import published
from oid_async.openimages.kinds import hierarchy_file
from oid_async.options.query import Options
from oid_async.tables.class_tables import read_hierarchy


async def kept_hierarchy(options: Options, cache: MetadataCache, tables: GatheredTables) -> bytes | None:
    """Return the published hierarchy as it is; None where it is not published, or tables are all the user's own.

    One attempt; with --offline the cache alone. A run does without it.
    """
    is_own = None not in (options.label, options.annotation, options.image_url)
    if hierarchy_file([source.kind.name for source in tables.saved]) is None or is_own:
        return None
    try:
        (table,) = published("hierarchy", (), options.release)
        file, _ = await cache.published(table, patient=False)
        await in_thread(read_hierarchy, file)
        return await in_thread(file.path.read_bytes)
    except (UnavailableError, InputError, OSError):
        return None
