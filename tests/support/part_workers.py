"""Workers of parts in this process: on a published place, with the mirror behind an origin in a thread."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
from yarl import URL

from oid_async.cluster.part_worker import PartWorker
from oid_async.cluster.published import Part, PublishedQuery
from oid_async.cluster.work import PartResult, WorkSettings
from oid_async.http.retry import Limits
from oid_async.objects.store import Objects
from oid_async.options.query import Options


def settings_of(objects: Objects, query: PublishedQuery, mirror: str, **options: Any) -> WorkSettings:
    """Return the settings of a worker whose mirror is at this URL; `options` limit transfers or say how to pack."""
    keywords: dict[str, Any] = {"format": query.format, "no_files": True, "mirror": mirror, "concurrency": 8} | options
    read = Options(savepath=Path("place"), **keywords)
    url = URL(mirror)
    return WorkSettings(
        objects=objects,
        query=query,
        options=read,
        limits=Limits.of(read),
        mirror=mirror,
        recorded_mirror=mirror,
        allowed=((str(url.host), int(url.port or 80)),),
        transfers=read.concurrency or 8,
    )


@contextmanager
def worker(settings: WorkSettings) -> Iterator[PartWorker]:
    """Yield a worker that is closed in the end."""
    made = PartWorker(settings)
    try:
        yield made
    finally:
        made.close()


def carry_out(settings: WorkSettings, part: Part, *, attempt: int = 1) -> PartResult:
    """Carry one part out by a worker of its own."""
    with worker(settings) as made:
        return made.run(part, attempt=attempt, progress=lambda _: None)


def rows_of(objects: Objects, part: Part) -> pl.DataFrame:
    """Return the rows of a part's record."""
    return pl.read_parquet(objects.get(part.record_key))
