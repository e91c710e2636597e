"""The metadata cache: tables of a server, fetched once, converted to Parquet once, kept.

A cached table is requested with its validators: a 304 costs one small response, a changed file is noticed. Two runs
that want the same table share the work: one does it, the other waits.
"""

import asyncio
import errno
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from oid_async.concurrency import CallsOnLoop, acquired, in_thread, until_stopped, wait_until_done
from oid_async.errors import InputError, StorageError, UnavailableError, storage_error, storage_errors
from oid_async.events import Note, Sink, TableProgress
from oid_async.http.retry import FetchError
from oid_async.metadata.entry import CachedVersion, CacheEntry, Identity, check_space, needed_bytes
from oid_async.metadata.name_list import NAMED, keep_names
from oid_async.metadata.paths import SUFFIX, given_folder, published_folder, recorded_url, site_folder
from oid_async.metadata.wanted import CONVERTED, Check, Wanted
from oid_async.openimages.catalogue import object_url
from oid_async.openimages.catalogue_tables import PublishedTable
from oid_async.store.lock import FileLock
from oid_async.tables.damage import StoppedError
from oid_async.tables.reading import TableFile

if TYPE_CHECKING:
    from oid_async.http.client import Client

_WORTH_A_NOTE_BYTES = 256 << 20
# A smaller table is converted in a second.
_WORTH_FETCHING_BESIDE = 64 << 20
_RETRY_LOCK_S = 0.1
_NOTE_WAITING_S = 1.0


def every_entry(root: Path) -> list[CacheEntry]:
    """Return the entries of all objects of all sites in the cache folder."""
    return [CacheEntry(folder, folder.name.removesuffix(SUFFIX)) for folder in sorted(root.rglob(f"*{SUFFIX}"))]


class Cache:
    """The cache entries of one site, to read; `site` is the lasting name of a mirror, None for the public buckets."""

    def __init__(self, root: Path, site: str | None) -> None:
        self.root = root
        self._site = site

    @property
    def objects(self) -> Path:
        """The folder of the site's objects, by bucket and key."""
        return site_folder(self.root, self._site)

    def entry(self, table: PublishedTable) -> CacheEntry:
        """Return the entry of a published table."""
        return CacheEntry(published_folder(self.root, self._site, table), table.name)

    def given_entry(self, url: str) -> CacheEntry:
        """Return the entry of a table that the user gave by URL."""
        name = re.split("[?#]", url, maxsplit=1)[0].rstrip("/").rsplit("/", 1)[-1] or "table.csv"
        return CacheEntry(given_folder(self.root, url), name)


class MetadataCache:
    """Fetches tables into the cache and pins them while the run reads them: use it as `async with`.

    `fetched_bytes` counts the bytes that this run has fetched. Without a client no request is made: what is not cached
    is unavailable.
    """

    def __init__(
        self, client: "Client | None", sink: Sink, *, root: Path, mirror: str | None, site: str | None
    ) -> None:
        self.cache = Cache(root, site)
        self.fetched_bytes = 0
        self._client = client
        self._sink = sink
        self._mirror = mirror
        self.site = site
        self._pins: list[FileLock] = []
        self._coming: list[tuple[PublishedTable, bool]] = []
        self._ahead: dict[PublishedTable, asyncio.Task[tuple[TableFile, Identity]]] = {}
        # Two conversions at a time would take the memory of two.
        self._converting = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._coming.clear()
        for task in self._ahead.values():
            task.cancel()
        for task in self._ahead.values():
            await wait_until_done(task)
            # Looking at the error keeps asyncio from logging it.
            if not task.cancelled():
                task.exception()
        for pin in self._pins:
            pin.release()

    @property
    def is_public(self) -> bool:
        """Whether tables come from the public buckets, so that the catalogue's sizes hold."""
        return self._mirror is None and self._client is not None

    def check_space(self, tables: Sequence[PublishedTable]) -> int:
        """Return the free bytes where tables are cached. Raises StorageError when these, as published, cannot fit."""
        need = 0
        for table in tables:
            have = min(self.cache.entry(table).raw_bytes(), table.bytes or 0)
            need += needed_bytes(table.bytes or 0, have, converted=table.kind in CONVERTED)
        return check_space("the tables", self.cache.root, need)

    async def published(
        self, table: PublishedTable, *, patient: bool = True, thorough: bool = False
    ) -> tuple[TableFile, Identity]:
        """Return a published table on this disk; one attempt if not `patient`. Raises UnavailableError.

        With `thorough` every byte of a cached one is checked, not only whether its files have changed.
        """
        if (task := self._ahead.pop(table, None)) is not None:
            return await task
        self._coming = [(each, how) for each, how in self._coming if each != table]
        return await self._published(table, patient=patient, thorough=thorough)

    def coming(self, tables: Iterable[PublishedTable], *, thorough: bool = False) -> None:
        """Say which tables are asked for next, in order: while a large one is converted the next one is fetched."""
        self._coming = [(table, thorough) for table in tables]

    def _begin_next(self) -> None:
        """Begin with the next table that is asked for."""
        if self._coming:
            table, thorough = self._coming.pop(0)
            self._ahead[table] = asyncio.create_task(self._published(table, patient=True, thorough=thorough))

    async def _published(self, table: PublishedTable, *, patient: bool, thorough: bool) -> tuple[TableFile, Identity]:
        url = object_url(table.bucket, table.key, self._mirror)
        written = object_url(table.bucket, table.key, self.site)
        wanted = Wanted(self.cache.entry(table), url, written, table, patient=patient)
        file, identity = await self._fetch(wanted, thorough=thorough)
        if table.kind in NAMED:
            await in_thread(keep_names, wanted.entry.folder, file)
        return file, replace(identity, url=written)

    async def given(self, url: str, check: Check | None = None) -> tuple[TableFile, Identity]:
        """Return a table that the user gave by URL, as it is. Raises UnavailableError when it cannot be had.

        A table for which `check` raises InputError is not kept, and does not replace one that passed.
        """
        name = recorded_url(url)
        file, identity = await self._fetch(Wanted(self.cache.given_entry(url), url, name, check=check))
        return TableFile(file.path, name), identity

    async def cached(self, table: PublishedTable) -> TableFile | None:
        """Return a published table if it is on this disk, whole; no request is made."""
        entry = self.cache.entry(table)
        with _cache_errors(entry.folder):
            version = await in_thread(self._pinned, entry)
            if version is None or await in_thread(entry.damaged_file, version) is not None:
                return None
        return entry.table(version)

    async def _fetch(self, wanted: Wanted, *, thorough: bool = False) -> tuple[TableFile, Identity]:
        entry = wanted.entry
        with _cache_errors(entry.folder):
            if self._client is None:
                return await self._offline(entry)
            began = time.time()
            async with self._locked(entry):
                cached = await asyncio.to_thread(entry.current_version)
                if cached is not None:
                    cached = await self._undamaged(entry, cached, thorough=thorough)
                # Another run may have checked it while this one waited; a time in the future is a wrong clock's.
                if cached is None or not began <= cached.checked_s <= time.time():
                    cached = await self._refresh(self._client, wanted, cached)
                await in_thread(self._pin, entry, cached)
        return entry.table(cached), cached.identity

    async def _offline(self, entry: CacheEntry) -> tuple[TableFile, Identity]:
        cached = await in_thread(self._pinned, entry)
        if cached is None:
            raise UnavailableError(
                f"{entry.name}: not in the cache, and --offline makes no request; "
                f"run once without it, or oid-async metadata pull"
            )
        if (damaged := await in_thread(entry.damaged_file, cached)) is not None:
            raise UnavailableError(
                f"{entry.name}: its copy in the cache is damaged ({entry.folder / cached.version / damaged}), and "
                "--offline makes no request; run once without it, or oid-async metadata pull"
            )
        return entry.table(cached), cached.identity

    async def _undamaged(self, entry: CacheEntry, cached: CachedVersion, *, thorough: bool) -> CachedVersion | None:
        """Return a cached version if its files are as they were stored."""
        damaged = await in_thread(partial(entry.damaged_file, cached, thorough=thorough))
        if damaged is None:
            return cached
        self._sink(Note(f"{entry.name}: its copy in the cache is damaged ({damaged}); it is fetched anew"))
        return None

    async def _refresh(self, client: "Client", wanted: Wanted, cached: CachedVersion | None) -> CachedVersion:
        """Return the latest version: the cached one if it is still that, or if no good one is to be had; else a new."""

        # Imported here: it takes a while, and offline nothing is fetched.
        from oid_async.metadata.fetch import FileFetch

        entry = wanted.entry

        def stored(count: int, done: int, total: int | None) -> None:
            self.fetched_bytes += count
            self._sink(TableProgress(entry.name, done, total))

        def check(total: int | None, have: int) -> None:
            if total is not None:
                check_space(entry.name, entry.folder, needed_bytes(total, have, converted=wanted.is_converted))

        try:
            identity, is_unsure = await FileFetch(
                client,
                entry,
                wanted.url,
                cached.identity if cached else None,
                stored=stored,
                check_space=check,
                patient=wanted.patient,
            ).run()
            if identity is None:
                assert cached is not None
                await in_thread(entry.note_checked, cached)
                return cached
            if is_unsure:
                text = "did not say how long it is; if it was cut off at the end of a line nobody can tell"
                self._sink(Note(f"{entry.name}: {wanted.written} {text}"))
            self._sink(TableProgress(entry.name, identity.bytes, identity.bytes, finished=True))
            return await self._make_version(wanted, identity, cached)
        except FetchError as error:
            if cached is None or error.kind in ("not_found", "gone", "forbidden", "bad_url"):
                why = _unavailable(error, wanted.written, entry.name)
                if error.kind == "network" and self.is_public and wanted.table is not None:
                    why = UnavailableError(f"{why}; to try without a network: oid-async demo")
                raise why from error
            return self._as_before(cached, f"{entry.name}: {wanted.written} cannot be asked ({error})")
        except (InputError, UnavailableError) as error:
            if cached is None:
                raise
            return self._as_before(cached, str(error))
        except (OSError, StorageError) as error:
            # A full disk, or a cache that may only be read.
            if cached is None:
                raise
            await in_thread(entry.give_up)
            failed = error if isinstance(error, StorageError) else storage_error(error, entry.folder)
            return self._as_before(cached, f"{entry.name}: its new version cannot be stored ({failed})")

    def _as_before(self, cached: CachedVersion, why: str) -> CachedVersion:
        """Return the cached version, and say why it is not the latest."""
        self._sink(Note(f"{why}; the copy of {cached.made_on} is used"))
        return cached

    async def _make_version(self, wanted: Wanted, identity: Identity, cached: CachedVersion | None) -> CachedVersion:
        """Make a version of the fetched file. When cancelled, stop at the next step and wait for that.

        It must be as good as a cached version that it is to replace. Raises InputError, UnavailableError.
        """
        if identity.bytes > _WORTH_FETCHING_BESIDE and wanted.is_converted:
            self._begin_next()
        async with self._converting:
            return await self._convert(wanted, identity, cached)

    async def _convert(self, wanted: Wanted, identity: Identity, cached: CachedVersion | None) -> CachedVersion:
        entry = wanted.entry
        if identity.bytes > _WORTH_A_NOTE_BYTES and wanted.is_converted:
            self._sink(Note(f"{entry.name}: turning it into Parquet, once"))
            self._sink(TableProgress(f"{entry.name} to Parquet", 0, None, unit="step"))
        sink = CallsOnLoop(self._sink)

        def progress(done: int, total: int) -> None:
            sink(TableProgress(f"{entry.name} to Parquet", done, total, finished=done == total, unit="step"))

        def work(stopped: Callable[[], bool]) -> CachedVersion:
            try:
                columns = wanted.build(cached, progress=progress, stopped=lambda: stopped() or sink.has_failed)
            except (InputError, UnavailableError):
                # Fetched again next time: an unreadable file may have been cut or mixed up on its way here.
                entry.give_up()
                raise
            return entry.publish(identity, columns)

        try:
            version = await until_stopped(work)
        except StoppedError:
            sink.check()
            raise
        # The sink may have refused the last step after the work was done.
        await asyncio.sleep(0)
        sink.check()
        return version

    @asynccontextmanager
    async def _locked(self, entry: CacheEntry) -> AsyncIterator[None]:
        """Hold the lock of an entry; wait while another run has it."""
        began, is_noted = time.monotonic(), False
        while (lock := await acquired(_try_lock, entry, release=_release)) is None:
            if not is_noted and time.monotonic() - began > _NOTE_WAITING_S:
                is_noted = True
                self._sink(Note(f"{entry.name}: another run is fetching it; waiting for that"))
            await asyncio.sleep(_RETRY_LOCK_S)
        with lock:
            yield

    def _pinned(self, entry: CacheEntry) -> CachedVersion | None:
        """Return the current version, pinned; try again if another run replaces it meanwhile."""
        while (cached := entry.current_version()) is not None:
            if self._pin(entry, cached):
                return cached
        return None

    def _pin(self, entry: CacheEntry, cached: CachedVersion) -> bool:
        """Pin a version until the run ends. The pin is recorded at once, so that a cancelled run releases it too."""
        pin = entry.pin(cached)
        if pin is not None:
            self._pins.append(pin)
        return pin is not None


@contextmanager
def _cache_errors(folder: Path) -> Iterator[None]:
    """Raise what the disk refuses in the cache as an error that says how to choose another one."""
    try:
        with storage_errors(folder):
            yield
    except StorageError as error:
        if "--cache-dir" in str(error):
            raise
        raise StorageError(f"{error}; --cache-dir or OID_ASYNC_CACHE names another cache") from error


def _release(lock: FileLock | None) -> None:
    if lock is not None:
        lock.release()


def _try_lock(entry: CacheEntry) -> FileLock | None:
    """Return the lock of an entry, or of a read-only one (such as in a cache for many users) a lock on nothing.

    Its cached version can be used all the same, as long as it is the latest.
    """
    try:
        return entry.lock()
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM) and entry.current_version() is not None:
            return FileLock.nothing()
        raise


def _unavailable(error: FetchError, url: str, name: str) -> UnavailableError:
    if error.kind in ("not_found", "gone"):
        # A folder is read through the embedded origin: its answer is no word for who has named a folder.
        why = "no such file" if url.startswith("file:") else error
        return UnavailableError(f"{name}: not published at {url} ({why})")
    if error.kind == "forbidden":
        what = "needs a login, which is not supported" if error.status == 401 else "is forbidden"
        return UnavailableError(f"{name}: {url} {what} ({error})")
    return UnavailableError(f"{name}: cannot be had from {url} ({error.kind}: {error})")
