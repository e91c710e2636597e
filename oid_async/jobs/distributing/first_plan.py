"""The first generation: published by this run, or by another one that this run waits for."""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

from oid_async.cluster.array_task import ArrayTask
from oid_async.cluster.generations import has_begun, read_generation, read_generations
from oid_async.cluster.published import Generation, PublishedQuery
from oid_async.concurrency import in_thread
from oid_async.dataset.query_digest import query_digest, shard_digests
from oid_async.events import Note, Sink, Stage
from oid_async.jobs.context import RunContext
from oid_async.jobs.distributing.publish import check_same, publish, query_there
from oid_async.objects.store import Objects
from oid_async.options.query import Options
from oid_async.options.query_table import KEPT_LISTS
from oid_async.report import size_text

# The tables of the user's own, and lists: what is in them is a part of the query.
_GIVEN = ("label", "annotation", "image_url", *KEPT_LISTS)
_LOOK_S = 2.0
# A task begins to publish itself once nothing has come for so long: each one later than those before it.
_EACH_S, _MOST_S = 20.0, 300.0


async def first_generation(
    context: RunContext, objects: Objects, task: ArrayTask, check: Callable[[], Awaitable[None]]
) -> tuple[PublishedQuery, list[Generation]]:
    """Return the query and all generations of a place, published now if nobody has. Raises as `publish` does.

    Of the tasks of an array the first publishes, the others wait for it as long as it comes on. `check` is called
    before that: what it raises stops a run that would fetch tables for nothing.
    """
    if task.index:
        await _wait_for_plan(context.sink, objects, min(_EACH_S * task.index, _MOST_S))
    query = await in_thread(_published, objects, context.options)
    if query is None:
        await check()
        published = await publish(context, objects, part_size=context.options.part_size, job=task.job)
        query = published.query
    elif query.part_size != context.options.part_size:
        size = size_text(query.part_size)
        context.sink(Note(f"the plan there has parts of {size}: --part-size has no effect any more"))
    return query, await in_thread(read_generations, objects)


async def _wait_for_plan(sink: Sink, objects: Objects, patience_s: float) -> None:
    """Wait until generation 00 is published, or nothing new of it has come for so long."""
    seen, since = -1, monotonic()
    while await in_thread(read_generation, objects, 0) is None:
        if seen < 0:
            # A log shows no stage, and this may take minutes.
            sink(Note("another task publishes the plan; this one waits for it"))
            sink(Stage("waiting for the plan"))
        now, count = monotonic(), await in_thread(has_begun, objects)
        if count != seen:
            seen, since = count, now
        if now - since >= patience_s:
            return
        await asyncio.sleep(_LOOK_S)


def _published(objects: Objects, options: Options) -> PublishedQuery | None:
    """Return the query of a place that is published, if it can be told without any table that it is this one.

    Raises UsageError, before tables are fetched, for a place that holds anything else as far as that can be told.
    """
    query = query_there(objects)
    if query is None or any(getattr(options, name) is not None for name in _GIVEN):
        return None
    check_same(objects, query, query_digest(options, ()), shard_digests(options)[0])
    return query if read_generation(objects, 0) is not None else None
