"""Everything that a run has open, in one object: folder, journal, shards, site, hosts, clients, cache.

`open_run` is the one place that opens it, in that order, and closes it again in reverse, however the run ends.
`open_cache` opens the part that listings and `resolve` need: client, cache and site.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic, time
from typing import TYPE_CHECKING

from oid_async.concurrency import acquired, in_thread, single_error
from oid_async.events import Hold, Holding, Note, Sink
from oid_async.http.descriptors import most_workers
from oid_async.http.estimator import MOST
from oid_async.http.hosts import Hosts, host_name
from oid_async.http.retry import Limits
from oid_async.http.urls import parse_url
from oid_async.jobs.gathering.given_lists import GivenLists, given_lists
from oid_async.jobs.ownership import owned_folder
from oid_async.jobs.site import Site, allowed_endpoints, named_endpoints, open_site
from oid_async.metadata.cache import MetadataCache
from oid_async.metadata.paths import default_cache
from oid_async.options.query import Options
from oid_async.quick_values import frozen
from oid_async.report import Report
from oid_async.store.folder import Folder
from oid_async.store.journal import Journal
from oid_async.store.scratch import ScratchFolder
from oid_async.system.forks import refuse_forked_child
from oid_async.system.processes import available_processors, open_files_limit
from oid_async.workers.starter import WorkerStarter, early_workers

if TYPE_CHECKING:
    from oid_async.http.client import Client
    from oid_async.jobs.packed_shards import PackedShards
    from oid_async.origin.server import Serve

_TABLE_CONNECTIONS = 8
# The share of --limit-rate that one of many transfers should have; bytes that come early wait in the sockets' buffers.
_SHARE_BYTES_S = 32 << 10


@frozen
class RunContext:
    """The open resources of one run, and its options, in which lists that came by a pipe are files of SAVEPATH.

    `transfers` is how many may be on at once. A dry run has no `journal` and no `client`, and writes nothing to
    SAVEPATH; `packed` are the shards that images go into when they are not to be files. A run that hands its images out
    and keeps no files (`keeps_files` is False) writes failures into the journal, and leaves SAVEPATH as it was.
    """

    options: Options
    lists: GivenLists
    sink: Sink
    report: Report
    limits: Limits
    transfers: int
    folder: Folder
    journal: Journal | None
    packed: "PackedShards | None"
    starter: WorkerStarter
    site: Site
    hosts: Hosts
    client: "Client | None"
    cache: MetadataCache
    keeps_files: bool = True

    def note(self, text: str) -> None:
        """Tell the user something."""
        self.sink(Note(text))


@contextmanager
def timed(report: Report) -> Iterator[None]:
    """Around a run: note in its report how long it took and whether it was interrupted; raise one error of several."""
    started = monotonic()
    report.measures.start()
    try:
        with single_error():
            yield
    except asyncio.CancelledError:
        report.interrupted = True
        raise
    finally:
        report.seconds = monotonic() - started


@asynccontextmanager
async def open_run(
    options: Options,
    sink: Sink,
    report: Report,
    *,
    limits: Limits,
    serve: "Serve | None",
    site_name: str | None,
    dry_run: bool = False,
    keeps_files: bool = True,
) -> AsyncIterator[RunContext]:
    """Open what a run needs. Raises LockedError, StorageError, UsageError.

    `serve` plays the published objects from an embedded origin, whose site is known by the name `site_name`. For
    `keeps_files` see RunContext.
    """
    transfers = most_transfers(options.concurrency, options.limit_rate)
    async with AsyncExitStack() as stack:
        # Before the folder is owned: who writes into the pipe may take a while.
        lists = await stack.enter_async_context(given_lists(options))
        options = lists.options
        journal, packed = None, None
        if dry_run:
            folder = _looked_at(options, await stack.enter_async_context(_scratch()))
            await in_thread(lambda: folder.tmp.mkdir(parents=True, exist_ok=True))
        else:
            folder = _own_folder(options, keeps_files=keeps_files)
            journal, packed = await stack.enter_async_context(owned_folder(folder, options, sink))
        early = 0 if dry_run else early_workers(options, available_processors(), lists.most_listed())
        starter = await stack.enter_async_context(WorkerStarter(early))
        site = await stack.enter_async_context(
            open_site(options.mirror, offline=options.offline, serve=serve, name=site_name)
        )
        hosts = Hosts(
            options.rate,
            options.period,
            most=transfers,
            estimates_concurrency=options.concurrency is None,
            max_wait_s=limits.max_wait_s,
            unanswered_s=limits.unanswered_s,
            patience_s=limits.first_byte_s,
            notify=lambda text: sink(Note(text)),
            on_wait=partial(_report_wait, sink),
            measures=report.measures,
        )
        if site.url is not None and site.name is not None and site.url != site.name:
            report.measures.known_as[host_name(parse_url(site.url))] = site.name
        client = None
        if not dry_run:
            # It takes a while to import, and answering a question from the cache needs none.
            from oid_async.http.client import Client

            client = await stack.enter_async_context(
                Client(
                    hosts,
                    limits,
                    connections=transfers,
                    allowed=allowed_endpoints(options, site),
                    offline=options.offline,
                    reports_closed_hosts=True,
                )
            )
        _, cache = await stack.enter_async_context(open_tables(options, sink, site, hosts, limits))
        yield RunContext(
            options,
            lists,
            sink,
            report,
            limits,
            transfers,
            folder,
            journal,
            packed,
            starter,
            site,
            hosts,
            client,
            cache,
            keeps_files,
        )


@asynccontextmanager
async def open_tables(
    options: Options, sink: Sink, site: Site, hosts: Hosts, limits: Limits
) -> AsyncIterator[tuple["Client | None", MetadataCache]]:
    """Open the client that tables are fetched with, None offline, and the cache that they are kept in.

    A table that the user has named by URL may be fetched from its exact host and port, images that it lists may not.
    """
    async with AsyncExitStack() as stack:
        client = None
        if not options.offline:
            from oid_async.http.client import Client

            client = await stack.enter_async_context(
                Client(
                    hosts,
                    replace(limits, rate_bytes_s=None),
                    connections=_TABLE_CONNECTIONS,
                    allowed=(*allowed_endpoints(options, site), *named_endpoints(options)),
                )
            )
        root, why = (options.cache_dir, None) if options.cache_dir is not None else await in_thread(default_cache)
        if why is not None:
            sink(Note(why))
        yield (
            client,
            await stack.enter_async_context(MetadataCache(client, sink, root=root, mirror=site.url, site=site.name)),
        )


@asynccontextmanager
async def open_cache(options: Options, sink: Sink) -> AsyncIterator[tuple["Client | None", MetadataCache, Site]]:
    """Open what looking something up in tables needs: client, None offline, cache and site."""
    refuse_forked_child()
    hosts = Hosts(None, 1.0, notify=lambda text: sink(Note(text)), on_wait=partial(_report_wait, sink))
    async with (
        open_site(options.mirror, offline=options.offline) as site,
        open_tables(options, sink, site, hosts, Limits()) as (client, cache),
    ):
        yield client, cache, site


def _report_wait(sink: Sink, name: str, seconds: float) -> None:
    """Tell the user that a table, or what is attached to images, waits for a host; or that it does no more."""
    sink(Holding((Hold("paused", name, until=float(round(time() + seconds))),) if seconds else ()))


def _own_folder(options: Options, *, keeps_files: bool) -> Folder:
    """Return the folder of a run. What keeps no files leaves the plan of an interrupted run to those who read it."""
    folder = Folder(options.folder)
    if not keeps_files:
        folder.use_own_names()
    return folder


def _looked_at(options: Options, scratch: Path) -> Folder:
    """Return the folder of a run that only plans. A bucket is as a folder in which nothing is yet."""
    return Folder(options.savepath if isinstance(options.savepath, Path) else scratch / "place", scratch=scratch)


def most_transfers(concurrency: int | None, limit_rate: int | None) -> int:
    """Return how many transfers may be on at once: with a limit on bytes no more than have something to share."""
    transfers = most_workers(concurrency or MOST, open_files_limit())
    return transfers if limit_rate is None else max(1, min(transfers, limit_rate // _SHARE_BYTES_S))


@asynccontextmanager
async def _scratch() -> AsyncIterator[Path]:
    """Yield a temporary folder; it is removed however this ends, also while it is being made."""
    folder = await acquired(ScratchFolder.make, "oid-async-run-", release=ScratchFolder.remove)
    try:
        yield folder.path
    finally:
        await in_thread(folder.remove)
