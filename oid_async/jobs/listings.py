"""`oid-async classes` and `oid-async metadata`: what there is to ask for, and what of it is on this disk."""

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, get_args

from oid_async.concurrency import in_thread
from oid_async.errors import UnavailableError, storage_errors
from oid_async.events import Note, Sink, Stage
from oid_async.http.retry import FetchError
from oid_async.jobs.class_list import ClassLister
from oid_async.jobs.context import open_cache
from oid_async.jobs.gathering.availability import require_published, uses_of_kinds
from oid_async.jobs.listed import ClassList, TableList, TableRow
from oid_async.metadata.cache import MetadataCache, every_entry
from oid_async.metadata.entry import CacheEntry
from oid_async.metadata.paths import cache_root
from oid_async.metadata.sizes import Sizes
from oid_async.openimages.catalogue import IMAGE_BUCKET, object_url, published
from oid_async.openimages.catalogue_tables import PublishedTable, TableKind
from oid_async.openimages.kinds import named, table_of
from oid_async.openimages.vocabulary import SPLITS, Release, Split
from oid_async.options.query import Options
from oid_async.report import size_text

if TYPE_CHECKING:
    from oid_async.http.client import Client


class Listings:
    """Answers both commands for one release, one cache folder and one site."""

    def __init__(self, options: Options, sink: Sink) -> None:
        self.root = cache_root(options.cache_dir)
        self._options = options
        self._sink = sink

    async def classes(self, pattern: str | None, *, tree: bool = False) -> ClassList:
        """Return the classes whose name holds the pattern, or all; with `tree` also all classes below them."""
        async with self._open() as (cache, _, _):
            return await ClassLister(cache, self._options, self._sink).read(pattern, tree=tree)

    def listed(self, tables: Sequence[TableRow]) -> TableList:
        """Return these tables, and where they are cached."""
        return TableList(self.root, tuple(tables))

    async def tables(self, *, ask: bool = False) -> list[TableRow]:
        """Return the tables of the release; no request is made unless `ask`, which brings their sizes up to date."""
        async with self._open() as (cache, client, mirror):
            rows = []
            for table in self._wanted(self._options.splits or SPLITS):
                url = object_url(table.bucket, table.key, mirror)
                size = await self._size(client, url) if ask and client is not None else None
                rows.append(await self._row(cache, table, size))
            for split in self._options.splits or SPLITS:
                url = object_url(IMAGE_BUCKET, f"{split}/", cache.site)
                rows.append(await in_thread(_size_row, Sizes(cache.cache.objects, split), url))
            return rows

    async def _row(self, cache: MetadataCache, table: PublishedTable, asked: int | None = None) -> TableRow:
        entry, url = cache.cache.entry(table), object_url(table.bucket, table.key, cache.site)
        return await in_thread(_table_row, table, entry, url, asked)

    async def pull(self) -> list[TableRow]:
        """Fetch the tables of the release for the splits asked for (train, as download does) and return them."""
        splits: tuple[Split, ...] = self._options.splits or ("train",)
        uses = uses_of_kinds(self._options.kinds, self._options.label_source)
        require_published(uses, splits, self._options.release, self._sink)
        async with self._open() as (cache, _, _):
            rows, wanted = [], list(self._wanted(splits, self._options.kinds))
            cache.coming(wanted, thorough=True)
            for table in wanted:
                self._sink(Stage(f"reading {table.name}"))
                try:
                    await cache.published(table, thorough=True)
                except UnavailableError as error:
                    if table.kind != "hierarchy":
                        raise
                    self._sink(Note(str(error)))
                rows.append(await self._row(cache, table))
            return rows

    async def clear(self, *, everything: bool = False) -> list[TableRow]:
        """Remove cached tables: those asked for, or all. A table that a run reads from is kept, and named."""
        async with self._open() as (cache, _, _):
            wanted = [*self._wanted(self._options.splits or SPLITS)]
            splits = self._options.splits or SPLITS
            if self._options.images == "all":
                wanted, splits = [table for table in wanted if table.kind == "all_images"], ()
            elif self._options.splits:
                wanted = [table for table in wanted if table.split is not None]
            for split in splits if not everything else SPLITS:
                await in_thread(Sizes(cache.cache.objects, split).clear)
            entries = every_entry(self.root) if everything else [cache.cache.entry(table) for table in wanted]
            with storage_errors(self.root):
                freed = await in_thread(self._clear, list(entries))
            self._sink(Note(f"{size_text(freed)} freed"))
            return [await self._row(cache, table) for table in wanted]

    def _clear(self, entries: Sequence[CacheEntry]) -> int:
        freed = 0
        for entry in entries:
            before = entry.size()
            if before and not entry.try_clear():
                self._sink(Note(f"{entry.name}: in use by a run, not removed"))
            freed += before - entry.size()
        return freed

    def _wanted(self, splits: Sequence[Split], kinds: Sequence[str] | None = None) -> Iterator[PublishedTable]:
        """Yield the tables that kinds of annotations take (None: all there are), in the catalogue's order of kinds."""
        wanted = {"classes", "hierarchy", self._options.image_tables}
        for kind in named(kinds or ()):
            wanted |= {table_of(kind, self._options.label_source), *kind.class_tables, *kind.side_tables}
        for table_kind in get_args(TableKind):
            if kinds is None or table_kind in wanted:
                yield from published(table_kind, splits, self._options.release)

    async def pull_sizes(self) -> list[TableRow]:
        """List the image bucket for the splits asked for (train, as download does)."""
        async with self._open() as (cache, client, mirror):
            rows = []
            for split in self._options.splits or ("train",):
                sizes = Sizes(cache.cache.objects, split)
                if client is None:
                    raise UnavailableError("the bucket is not listed with --offline")
                count = await sizes.pull(client, self._sink, mirror)
                self._sink(Note(f"{count} images of {split} are in the bucket"))
                rows.append(_size_row(sizes, object_url(IMAGE_BUCKET, f"{split}/", cache.site)))
            return rows

    async def _size(self, client: "Client", url: str) -> int | None:
        try:
            async with client.get(url, method="HEAD") as response:
                return response.length
        except FetchError as error:
            self._sink(Note(f"{url}: {error}"))
            return None

    @asynccontextmanager
    async def _open(self) -> "AsyncIterator[tuple[MetadataCache, Client | None, str | None]]":
        """Yield the cache, the client (None offline) and the mirror's URL."""
        async with open_cache(self._options, self._sink) as (client, cache, site):
            yield cache, client, site.url


def _table_row(table: PublishedTable, entry: CacheEntry, url: str, asked: int | None) -> TableRow:
    kept = entry.current_version()
    size = asked if asked is not None else (kept.identity.bytes if kept is not None else table.bytes)
    age_s = max(0.0, time.time() - kept.made_s) if kept is not None else None
    is_cached, size_here = kept is not None, entry.size()
    place = f"{table.bucket}/{table.key}"
    return TableRow(table.kind, table.split, table.releases, table.name, url, size, is_cached, size_here, age_s, place)


def _size_row(sizes: Sizes, url: str) -> TableRow:
    size = sizes.path.stat().st_size if sizes.is_there else None
    name, releases, is_cached = sizes.path.parent.name, get_args(Release), size is not None
    place = f"{IMAGE_BUCKET}/{sizes.split}/"
    return TableRow("sizes", sizes.split, releases, name, url, None, is_cached, size or 0, sizes.age_s, place)
