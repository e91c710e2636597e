"""Publishing the plan of a query of a mirror into a place, without any worker, engine or end."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from oid_async.events import Sink, ignore
from oid_async.http.retry import Limits
from oid_async.jobs.context import open_run
from oid_async.jobs.distributing.publish import Published, publish
from oid_async.objects.store import Objects
from oid_async.options.query import Options
from oid_async.report import Report

PART_SIZE = 512 << 20


async def publish_plan(
    objects: Objects,
    mirror: Path | str,
    *,
    part_size: int = PART_SIZE,
    job: str | None = None,
    sink: Sink = ignore,
    **query: Any,
) -> Published:
    """Publish the plan of a query of this mirror at a place; `query` are keywords of `oid_async.download`.

    Mean sizes count where no size is known: a part of 3 MB has ten images. Every published image is as in
    `support.published.publish_lookalike`, `Dataset.publish`, ...
    """
    keywords: dict[str, Any] = {"format": "webdataset", "no_files": True, "mirror": str(mirror)} | query
    with TemporaryDirectory() as folder:
        options = Options(savepath=Path(folder) / "place", **keywords)
        async with open_run(
            options, sink, Report(), limits=Limits.of(options), serve=None, site_name=None, dry_run=True
        ) as context:
            return await publish(context, objects, part_size=part_size, job=job)
