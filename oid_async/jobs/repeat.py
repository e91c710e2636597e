"""Running a stored query again, with the same tables and the same place of the images."""

from dataclasses import replace

from oid_async.dataset.query_file import StoredQuery
from oid_async.events import Sink
from oid_async.jobs.demo import SITE, look_alike_run
from oid_async.jobs.download import Run


def repeated_run(stored: StoredQuery, sink: Sink, *, retry_failed: bool = False) -> Run:
    """Return the run that repeats the query of query.json."""
    options = replace(stored.options, retry_failed=retry_failed)
    return look_alike_run(options, sink) if stored.site == SITE else Run(options, sink)
