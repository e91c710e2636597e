"""The table files of one run: given or published, all on this disk, each without its damaged rows."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Self, get_args

import polars as pl

from oid_async.concurrency import in_thread, until_stopped
from oid_async.errors import InputError, UnavailableError
from oid_async.events import Note, Sink
from oid_async.metadata.cache import MetadataCache
from oid_async.metadata.checks import have_mids, require_whole
from oid_async.metadata.entry import Identity
from oid_async.metadata.given import local_table
from oid_async.metadata.paths import WHOLE
from oid_async.openimages.catalogue import published
from oid_async.openimages.catalogue_tables import SIDES, PublishedTable, TableKind
from oid_async.openimages.classes import Classes
from oid_async.openimages.hierarchy import Hierarchy
from oid_async.openimages.ids import IdForm
from oid_async.openimages.kinds import KINDS, Kind
from oid_async.openimages.looks import other_table
from oid_async.openimages.vocabulary import SPLITS, Split
from oid_async.options.query import Options
from oid_async.report import size_text
from oid_async.store.disk import md5_of
from oid_async.tables.class_tables import read_classes, read_hierarchy
from oid_async.tables.damage import bad_rows, looks_hexadecimal, require_usable, without_damage
from oid_async.tables.reading import TableFile, columns_of, reading, require_rows, scan
from oid_async.tables.row_rules import RowRules

_MOST_HASHED = 256 << 20
# Smaller tables are there before a line about them is read.
_WORTH_A_LINE = 10_000_000
# Beyond the limit, damaged rows are counted so far.
_MOST_COUNTED = 100_000
# More rows than any table has; a larger limit is one that Polars cannot count to.
_MOST_LISTED = 1 << 40
NO_BAD_ROWS = pl.DataFrame(schema={"File": pl.String, "Line": pl.Int64, "Reason": pl.String})
# What a table of the user's own may be on purpose. Without its entry the cache would fetch all published ones anew.
_SHORTER = "if that is meant, save it and give its path in place of its URL"
# The columns that a given table must have.
_NEEDED: dict[TableKind, tuple[str, ...]] = {"boxes": ("ImageID", "LabelName"), "images": ("ImageID", "OriginalURL")}


class TableFiles:
    """Brings table files to this disk, reads the small ones, and keeps account of what was read.

    `local` are the given tables that are files already; `scratch` is a folder for tables that are made of the rows that
    are not damaged. `identities` describes the state of each table, for query.json.
    """

    def __init__(
        self, options: Options, cache: MetadataCache, sink: Sink, scratch: Path, local: dict[TableKind, TableFile]
    ) -> None:
        self.identities: list[dict[str, Any]] = []
        self._options = options
        self._cache = cache
        self._sink = sink
        self._scratch = scratch
        self._given = _given(options)
        self._local = local
        self._fetched: dict[TableKind, TableFile] = {}
        self._bad_rows: dict[TableKind, list[pl.DataFrame]] = {}
        self._classes: dict[TableKind, Classes] = {}
        self._is_unreachable = False
        self._hierarchy: Hierarchy | None = None

    @classmethod
    async def of(cls, options: Options, cache: MetadataCache, sink: Sink, scratch: Path) -> Self:
        """Begin with the given tables that are files: a wrong one is refused before anything is fetched."""
        files = cls(options, cache, sink, scratch, await asyncio.to_thread(_local_tables, options))
        for table in files._local.values():
            files._say_columns(table)
        return files

    async def fetch_given(self) -> None:
        """Fetch the tables that are given by URL: a wrong one is refused before any published one is fetched."""
        for kind, given in self._given.items():
            if given is not None and kind not in self._local:
                check = partial(require_given, kind, self._options)
                table = self._note_identity(kind, *await self._cache.given(given, check))
                # A copy that was checked for other options.
                self._fetched[kind] = await asyncio.to_thread(_checked, kind, table, self._options)
                self._say_columns(self._fetched[kind])

    async def tables(self, kind: TableKind, splits: Sequence[Split]) -> tuple[TableFile, ...]:
        """Return the tables of a kind, on this disk. Raises UnavailableError."""
        given = self._given.get(kind)
        if kind in self._local:
            self.identities.append({"table": kind, **await asyncio.to_thread(_identify, self._local[kind])})
            return (self._local[kind],)
        if given is not None:
            return (self._fetched[kind],)
        tables = [
            replace(self._note_identity(kind, *await self._cache.published(table)), split=table.split)
            for table in self._published(kind, splits)
        ]
        return tuple(tables)

    def expect(self, needed: Collection[TableKind], splits: Sequence[Split]) -> None:
        """Say which tables are asked for next: those of images, then those of the annotations needed, in this order."""
        kinds: list[TableKind] = ["images", *(kind for kind in get_args(TableKind) if kind in needed)]
        asked = [kind for kind in kinds if self._given.get(kind) is None]
        self._cache.coming(chain.from_iterable(self._published(kind, splits) for kind in asked))

    def _published(self, kind: TableKind, splits: Sequence[Split]) -> list[PublishedTable]:
        source = self._options.image_tables if kind == "images" else kind
        return list(published(source, splits, self._options.release))

    async def without_damage(self, kind: TableKind, tables: Sequence[TableFile], ids: IdForm) -> tuple[TableFile, ...]:
        """Return the tables without their damaged rows, which are noted. Raises InputError when there are too many."""
        whole = []
        for number, table in enumerate(tables):
            folder = self._scratch / f"{kind}-{number}"
            whole_table = await until_stopped(self._drop_damage, kind, table, ids, folder)
            table = replace(whole_table, split=table.split)
            await in_thread(require_usable, table)
            self._add_bad_rows(kind, table, await in_thread(self._first_bad_rows, table))
            whole.append(table)
        return tuple(whole)

    async def read_class_names(self, kind: Kind) -> None:
        """Read what the classes of a kind are called. A table of side names that cannot be had is done without."""
        for table_kind in kind.class_tables:
            if table_kind not in self._classes:
                (table,) = await self.tables(table_kind, ())
                self._classes[table_kind], bad_rows = await asyncio.to_thread(read_classes, table)
                self._add_bad_rows(table_kind, table, bad_rows)

    async def classes_of(self, kind: Kind) -> Classes:
        """Return the classes that may be asked for of a kind."""
        await self.read_class_names(kind)
        return self._classes[kind.class_tables[0]]

    async def side_names(self, table_kind: TableKind) -> Classes:
        """Return the names of what is no class: attributes, or what relationships are called."""
        if table_kind not in self._classes:
            (table,) = await self.tables(table_kind, ())
            self._classes[table_kind], _ = await asyncio.to_thread(read_classes, table)
        return self._classes[table_kind]

    async def cached_names(self, table_kind: TableKind) -> Classes | None:
        """Return the names of a table as far as it was read or is in the cache; nothing is fetched."""
        if table_kind not in self._classes:
            for table in await asyncio.to_thread(self.cached_tables, table_kind):
                # Another run may replace the version meanwhile: what is looked up for a hint is not worth an error.
                with suppress(InputError, OSError):
                    return (await asyncio.to_thread(read_classes, table))[0]
        return self._classes.get(table_kind)

    async def other_names(self, table_kind: TableKind) -> Classes | None:
        """Return the names of a small published table that only a message needs: fetched in one attempt, else None.

        With class names of the user's own nothing is fetched for it, nor after a table that could not be had.
        """
        names = await self.cached_names(table_kind)
        if names is not None or self._options.offline or self.is_given("classes") or self._is_unreachable:
            return names
        try:
            for table in published(table_kind, (), self._options.release):
                file, _ = await self._cache.published(table, patient=False)
                return (await asyncio.to_thread(read_classes, file))[0]
        except (UnavailableError, InputError, OSError):
            self._is_unreachable = True
        return None

    def cached_tables(self, kind: TableKind) -> list[TableFile]:
        """Return the published tables of a kind and of the splits asked for that are in the cache. Blocking."""
        cache, found = self._cache.cache, []
        for table in published(kind, self._options.splits or SPLITS, self._options.release):
            entry = cache.entry(table)
            version = entry.current_version()
            if version is not None and entry.damaged_file(version) is None:
                found.append(entry.table(version))
        return found

    async def hierarchy(self, *, needed: bool) -> Hierarchy | None:
        """Return the class hierarchy, None if it is not `needed` (for a hint alone) and not easily had."""
        if self._hierarchy is not None:
            return self._hierarchy
        (published_table,) = published("hierarchy", (), self._options.release)
        if not needed and None not in self._given.values():
            return None
        try:
            table, identity = await self._cache.published(published_table, patient=needed)
            hierarchy = await asyncio.to_thread(read_hierarchy, table)
        except (UnavailableError, InputError):
            if needed:
                raise
            return None
        if needed:
            self._note_identity("hierarchy", table, identity)
            self._hierarchy = hierarchy
        return hierarchy

    def announce(self, splits: Sequence[Split], needed: set[TableKind]) -> None:
        """Say what is to be fetched first, if it is much, before it is."""
        kinds: list[TableKind] = [*sorted(needed), self._options.image_tables]
        tables = [
            table
            for kind in kinds
            if self._given.get(kind) is None
            for table in published(kind, splits, self._options.release)
            if self._cache.cache.entry(table).current_version() is None
        ]
        size = sum(table.bytes or 0 for table in tables)
        if size > _WORTH_A_LINE and self._cache.is_public:
            named = ", ".join(f"{table.name} {size_text(table.bytes or 0)}" for table in tables)
            free = self._cache.check_space(tables)
            self._sink(Note(f"tables to fetch first: {size_text(size)} ({named}); {size_text(free)} free there"))

    def bad_rows(self) -> pl.DataFrame:
        """Return the damaged rows of all tables, in the order of the kinds of tables; image tables come last."""
        kinds = sorted(self._bad_rows, key=lambda kind: (kind == "images", get_args(TableKind).index(kind)))
        return pl.concat([NO_BAD_ROWS, *chain.from_iterable(self._bad_rows[kind] for kind in kinds)])

    def is_given(self, kind: TableKind) -> bool:
        """Return whether the user has given the table of a kind."""
        return self._given.get(kind) is not None

    def class_names(self, kind: Kind) -> dict[str, str]:
        """Return what the MIDs of a kind are called, as far as its class tables were read."""
        called: dict[str, str] = {}
        for table_kind in reversed(kind.class_tables):
            called |= self._classes[table_kind].names if table_kind in self._classes else {}
        return called

    def add_identity(self, role: str, table: TableFile, more: Mapping[str, Any]) -> None:
        """Note the state of a file that was read, and what else is known of it. Blocking."""
        self.identities.append({"table": role, **_identify(table), **more})

    def _say_columns(self, table: TableFile) -> None:
        """Say what the columns of a table without a header are taken for."""
        if table.header is not None:
            columns = ", ".join(name or "row number" for name in table.header)
            self._sink(Note(f"{table.name} has no header; its columns are taken for {columns}"))

    def _note_identity(self, kind: TableKind, table: TableFile, identity: Identity) -> TableFile:
        self.identities.append({"table": kind, "name": table.name, **asdict(identity)})
        return table

    def _drop_damage(
        self, kind: TableKind, table: TableFile, ids: IdForm, folder: Path, stopped: Callable[[], bool]
    ) -> TableFile:
        if table.columns is not None:
            return table
        folder.mkdir(exist_ok=True)
        notes = self._cache.cache.root / WHOLE
        form = _rules(kind, table, ids, self._options)
        return without_damage(table, form, folder, most=self._options.max_bad_rows, notes=notes, stopped=stopped)

    def _first_bad_rows(self, table: TableFile) -> pl.DataFrame:
        """Return a table's damaged rows; of a table of nothing else no more than it takes to refuse it."""
        most = min(self._options.max_bad_rows, _MOST_LISTED) + _MOST_COUNTED
        return bad_rows(table).head(most).collect(engine="streaming")

    def _add_bad_rows(self, kind: TableKind, table: TableFile, rows: pl.DataFrame) -> None:
        most = self._options.max_bad_rows
        self._bad_rows.setdefault(kind, []).append(rows.select(pl.lit(table.name).alias("File"), "Line", "Reason"))
        found = sum(map(len, chain.from_iterable(self._bad_rows.values())))
        if found > most:
            raise _too_damaged(table, found, most, rows)


def _too_damaged(table: TableFile, found: int, most: int, rows: pl.DataFrame) -> InputError:
    line, reason = rows.select("Line", "Reason").row(0)
    return InputError(
        f"{table.name}: with it {found} table rows are damaged, more than --max-bad-rows {most} allows; "
        f"its first is line {line}: {reason}; mend the table or allow more"
    )


def _given(options: Options) -> dict[TableKind, str | None]:
    return {"classes": options.label, "boxes": options.annotation, "images": options.image_url}


def _local_tables(options: Options) -> dict[TableKind, TableFile]:
    """Return the given tables that are on this disk. Raises InputError for a wrong one."""
    tables: dict[TableKind, TableFile] = {}
    for kind, given in _given(options).items():
        table = None if given is None else local_table(given)
        if table is not None:
            tables[kind] = _checked(kind, table, options)
    return tables


def require_given(kind: TableKind, options: Options, table: TableFile, good: TableFile | None, scratch: Path) -> None:
    """Raise InputError for a given table that a run would refuse, or that is part of a good copy. Blocking."""
    if good is not None:
        require_whole(table, good, _SHORTER)
    if kind == "classes":
        classes, _ = read_classes(table)
        if good is not None and have_mids(read_classes(good)[0]) and not have_mids(classes):
            raise InputError(f"{table.name}: most of its labels are no MIDs (/m/...), as those of the copy are")
        return
    table = _checked(kind, table, options)
    ids, most = IdForm(looks_hexadecimal(table)), options.max_bad_rows
    usable = without_damage(table, _rules(kind, table, ids, options), scratch, most=most)
    require_usable(usable)
    if len(rows := bad_rows(usable).head(most + 1).collect()) > most:
        raise _too_damaged(table, len(rows), most, rows)


def _rules(kind: TableKind, table: TableFile, ids: IdForm, options: Options) -> RowRules:
    columns = columns_of(table)
    if kind == "boxes":
        return RowRules.of_kind(KINDS["bbox"], columns, ids, options.flags, is_given=True)
    return RowRules.of_images(columns, ids, is_given=True)


def _checked(kind: TableKind, table: TableFile, options: Options) -> TableFile:
    """Return a given table, its columns by position where it has no header. Blocking.

    Raises InputError for one without the columns it needs or any row; a class table is read whole soon enough.
    """
    if kind != "boxes" and kind != "images":
        return table
    from oid_async.tables.headless import with_positions

    table = with_positions(table, kind)
    what = other_table(kind, columns_of(table))
    try:
        scan(table, (*_NEEDED[kind], *(_asked(options) if kind == "boxes" else ())), [])
    except InputError as error:
        raise InputError(f"{error}; {what}") if what is not None else error from None
    if what is not None:
        raise InputError(f"{table.name}: {what}")
    require_rows(table)
    return table


def _asked(options: Options) -> tuple[str, ...]:
    """Return the columns of boxes that the query's conditions ask."""
    return (*options.flags, *(SIDES if options.bounds_area else ()))


def _identify(table: TableFile) -> dict[str, Any]:
    """Return what tells one state of a given file from another: its size, and its MD5 if that is quickly had."""
    size = table.path.stat().st_size
    identity: dict[str, Any] = {"name": table.name, "bytes": size, "md5": None}
    if size <= _MOST_HASHED:
        with reading(table), table.path.open("rb") as file:
            identity["md5"] = md5_of(file).hexdigest()
    return identity
