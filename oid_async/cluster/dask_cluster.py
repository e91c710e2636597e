"""A Dask cluster as a run uses it: one of this machine that it starts, or one that is up, joined by its address."""

import asyncio
import importlib.metadata
import logging
import ssl
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

from distributed import Client, Scheduler, Security
from distributed.versions import VersionMismatchWarning

from oid_async.cluster.dask_tasks import MakeWorker, PartPlugin
from oid_async.cluster.local_workers import LocalWorkers
from oid_async.cluster.work import WorkSettings
from oid_async.errors import UsageError
from oid_async.store.scratch import scratch_folder
from oid_async.version import __version__

_CONNECT_S = 15.0
_CLOSE_S = 1.0
_ANSWER_S = 45.0
# The parts that are under way at the workers get that much time to give everything back.
_TEARDOWN_S = 2.5
_PACKAGE = "oid-async"


@asynccontextmanager
async def local_cluster(count: int) -> AsyncIterator[tuple[Client, LocalWorkers]]:
    """Start a scheduler in this loop and workers as processes; all of it listens on 127.0.0.1 alone."""
    plain = Security(require_encryption=False)
    with scratch_folder("oid-async-dask-") as folder:
        scheduler = Scheduler(
            host="127.0.0.1",
            port=0,
            protocol="tcp",
            security=plain,
            dashboard=False,
            dashboard_address="127.0.0.1:0",
            # Else it makes a folder in TMPDIR, and leaves it there.
            local_directory=str(folder),
        )
        await scheduler
        try:
            async with (
                LocalWorkers(count, scheduler.address, folder) as workers,
                _client(scheduler.address, security=plain) as client,
            ):
                yield client, workers
        finally:
            with suppress(TimeoutError, OSError):
                async with asyncio.timeout(_CLOSE_S):
                    await scheduler.close()


@asynccontextmanager
async def joined_cluster(address: str) -> AsyncIterator[Client]:
    """Join a cluster that is up; TLS as Dask's own configuration says. Raises UsageError."""
    try:
        context = _client(address)
        client = await context.__aenter__()
    except (TypeError, ssl.SSLError, FileNotFoundError) as error:
        # A TypeError is Dask's way to say that it has found no key and certificate.
        what = "none is configured" if isinstance(error, TypeError) else " ".join(str(error).split())[:200]
        raise UsageError(
            f"--cluster {address}: no TLS connection ({what}); key, certificate and CA are those of Dask's own "
            "configuration, distributed.comm.tls"
        ) from error
    except (OSError, TimeoutError, ImportError, ValueError) as error:
        raise UsageError(
            f"--cluster {address}: no Dask scheduler answers there within {_CONNECT_S:.0f} s; see that one is up "
            "(dask scheduler), and that this machine can reach it"
        ) from error
    try:
        yield client
    finally:
        await context.__aexit__(None, None, None)


@asynccontextmanager
async def _client(address: str, **more: Any) -> AsyncIterator[Client]:
    client = Client(address, asynchronous=True, set_as_default=False, timeout=_CONNECT_S, **more)
    try:
        async with asyncio.timeout(_CONNECT_S + 1):
            await client
        yield client
    finally:
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(_CLOSE_S):
                await client.close(timeout=_CLOSE_S)


@asynccontextmanager
async def part_workers(client: Client, name: str, settings: WorkSettings, make: MakeWorker) -> AsyncIterator[None]:
    """Give every worker, also those that come later, what it needs for a run; take it back however that ends."""
    try:
        async with asyncio.timeout(_ANSWER_S):
            await client.register_plugin(PartPlugin(name, settings, make), name=name)
    except (OSError, TimeoutError) as error:
        raise UsageError(
            "--cluster: a worker there does not answer, and cannot be told what to do; end it, and run again"
        ) from error
    try:
        yield
    finally:
        if client.status == "running":
            with suppress(TimeoutError, OSError, ValueError):
                async with asyncio.timeout(_TEARDOWN_S):
                    await client.unregister_worker_plugin(name)


async def check_versions(client: Client, address: str) -> None:
    """Raise UsageError if scheduler or workers lack this version of the program."""
    function = importlib.metadata.version
    try:
        found: dict[str, Any] = {"the scheduler": await client.run_on_scheduler(function, _PACKAGE)}
    except importlib.metadata.PackageNotFoundError as error:
        found = {"the scheduler": error}
    # A worker that does not answer is told of when it is to get its work.
    with suppress(TimeoutError, OSError):
        async with asyncio.timeout(_ANSWER_S):
            found |= await client.run(function, _PACKAGE, on_error="return")
    for where, what in found.items():
        if what == __version__:
            continue
        there = f"oid-async {what}" if isinstance(what, str) else "no oid-async"
        raise UsageError(
            f"--cluster {address}: {where} has {there}, this is {__version__}; install the same on scheduler and "
            'workers: pip install "oid-async[dask]"'
        )


@contextmanager
def silenced() -> Iterator[None]:
    """Keep Dask's own lines and warnings from the user's terminal while a run is on."""
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in ("distributed", "tornado")]
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger, logger.level) for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    filters: Any = warnings.filters
    warnings.simplefilter("ignore", VersionMismatchWarning)
    added = filters[0]
    try:
        yield
    finally:
        with suppress(ValueError):
            filters.remove(added)
        for logger, level in before:
            logger.setLevel(level)
