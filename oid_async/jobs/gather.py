"""The tables of one run: given or published, all on this disk once gathered, and what follows from them."""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import polars as pl

from oid_async.concurrency import in_thread, until_stopped
from oid_async.errors import InputError, UnavailableError, UsageError
from oid_async.events import Note, Sink
from oid_async.jobs.restrictions import RestrictionReader, RestrictionTerms
from oid_async.metadata.cache import MetadataCache, local_file, local_table
from oid_async.metadata.entry import Identity
from oid_async.metadata.paths import WHOLE
from oid_async.openimages.catalogue import TableKind, published
from oid_async.openimages.classes import Classes, distinct, is_other_name
from oid_async.openimages.hierarchy import Hierarchy
from oid_async.openimages.ids import IdForm
from oid_async.openimages.kinds import KINDS, Kind, KindName, named, table_of
from oid_async.openimages.vocabulary import SPLITS, Source, Split
from oid_async.options.query import Names, Options
from oid_async.report import size_text
from oid_async.select.idlist import IdList, as_image_rows, read_ids
from oid_async.select.parts import Part
from oid_async.select.query import Query
from oid_async.tables.class_tables import read_classes, read_hierarchy
from oid_async.tables.damage import RowForm, bad_rows, looks_hexadecimal, without_damage
from oid_async.tables.reading import TableFile, columns_of, reading, require_rows, scan
from oid_async.tables.rows import RowSource

_MOST_HASHED = 256 << 20
# Smaller tables are there before a line about them is read.
_WORTH_A_LINE = 10_000_000
_ROW_GROUP = 1 << 15
# Beyond the limit, damaged rows are counted so far.
_MOST_COUNTED = 100_000
_NO_BAD_ROWS = pl.DataFrame(schema={"File": pl.String, "Line": pl.Int64, "Reason": pl.String})
# What a given table cannot do without.
_NEEDED: dict[TableKind, tuple[str, ...]] = {
    "boxes": ("ImageID", "LabelName"),
    "images": ("ImageID", "OriginalURL"),
}


@dataclass(frozen=True, slots=True)
class GatheredTables:
    """What a selection is made from.

    `selecting` are the annotations that say which images match, None when nothing asks for any; `saved` those that are
    saved, and `named` the labels of the classes that --where names, by kind; `splits` keeps image rows of these splits
    only (empty: all), `looked_in` are those whose tables are read; `bare` says that `images` is no more
    than an id list; `identities` tells each table's state for query.json; `bad_rows` has File, Line and Reason of the
    damaged rows that were left out of the tables.
    """

    query: Query
    selecting: RowSource | None
    saved: tuple[RowSource, ...]
    named: Mapping[KindName, tuple[str, ...]]
    images: tuple[TableFile, ...]
    ids: IdForm
    has_subset: bool
    splits: tuple[Split, ...]
    looked_in: tuple[Split, ...]
    bare: bool
    identities: tuple[dict[str, Any], ...]
    bad_rows: pl.DataFrame

    def saved_labels(self, source: RowSource, *, all_boxes: bool) -> tuple[str, ...] | None:
        """Return the labels whose rows of a kind are saved, None for every class."""
        categories = [label for category in self.query.categories for label in category.labels]
        labels = (*categories, *self.named.get(source.kind.name, ()))
        return None if all_boxes or not labels else tuple(dict.fromkeys(labels))


class TableGatherer:
    """Brings a query's tables onto this disk: the small class table first, so that a typing error costs nothing.

    `scratch` is a folder for tables that are made: from an id list, or of the whole rows of a damaged one.
    """

    def __init__(self, options: Options, cache: MetadataCache, sink: Sink, scratch: Path) -> None:
        self._options = options
        self._cache = cache
        self._sink = sink
        self._scratch = scratch
        self._identities: list[dict[str, Any]] = []
        self._fetched: dict[TableKind, TableFile] = {}
        self._bad_rows: dict[TableKind, list[pl.DataFrame]] = {}
        self._classes: dict[TableKind, Classes] = {}
        self._whole_tables: dict[TableKind, tuple[TableFile, ...]] = {}

    async def gather(self) -> GatheredTables:
        """Return the run's tables. Raises UsageError, InputError or UnavailableError."""
        options = self._options
        local = await asyncio.to_thread(self._local_tables)
        words = await asyncio.to_thread(self._words)
        await self._given_tables(local)
        selects = bool(words or options.flags or options.limit_per_class is not None)
        kinds = named(options.kinds)
        by_rows = selects or bool(kinds and not options.restricts)
        selecting = self._selecting(kinds, has_words=bool(words or options.exclude or options.where))
        needs_rows = selects or bool(kinds or options.exclude or options.restricts)
        # Given ids may be of another form, which the image table tells; Open Images' own need no table to be read.
        lists = await self._id_lists(IdForm()) if options.image_url is None else (None, None)
        query = Query(
            match=options.match,
            flags=options.flags,
            image_ids=lists[0],
            exclude_ids=lists[1],
            limit_per_class=options.limit_per_class,
            limit=options.limit,
            seed=options.seed if options.shuffle else None,
            top_up=options.top_up,
            by_boxes=by_rows,
            part=Part.of(options.shard),
        )
        if not needs_rows and self._is_bare(lists[0]):
            return await self._from_list(query)
        where = None
        if needs_rows:
            for kind in dict.fromkeys((selecting, *kinds)):
                await self._class_names(kind, local)
            query = await self._resolve(query, selecting, words)
            where = await RestrictionReader(self, options, selecting, local).read()
        everywhere = self._splits(lists[0])
        asked = self._asked(selecting if by_rows or options.exclude else None, kinds, where, everywhere)
        await asyncio.to_thread(self._announce, local, everywhere, asked)
        images = await self._tables("images", local, everywhere)
        ids, has_subset, said = IdForm(), True, everywhere
        if options.image_url is not None:
            ids = IdForm(await asyncio.to_thread(looks_hexadecimal, images[0]))
            if needs_rows and not ids.hexadecimal and (options.annotation is None or asked - {"boxes"}):
                raise InputError(
                    f"{images[0].name}: its ids are none of Open Images', so the published boxes say nothing of them; "
                    "give --annotation with the same ids, or --kind none"
                )
        images = await self._whole("images", images, ids)
        if options.image_url is not None:
            has_subset, said = await asyncio.to_thread(self._look_at, images[0])
            image_ids, exclude_ids = await self._id_lists(ids)
            query = replace(query, image_ids=image_ids, exclude_ids=exclude_ids)
        for table_kind in (kind for kind in get_args(TableKind) if kind in asked):
            tables = await self._tables(table_kind, local, options.splits or said)
            self._whole_tables[table_kind] = await self._whole(table_kind, tables, ids)
        if where is not None:
            query = replace(query, restriction=where.restriction(self._whole_tables))
        sources = {kind: self._source(kind, where) for kind in dict.fromkeys((selecting, *kinds))}
        return GatheredTables(
            query=query,
            selecting=sources[selecting] if sources[selecting].tables and (by_rows or options.exclude) else None,
            saved=tuple(sources[kind] for kind in kinds if sources[kind].tables),
            named=where.labels if where is not None else {},
            images=images,
            ids=ids,
            has_subset=has_subset,
            splits=options.splits,
            looked_in=said,
            bare=False,
            identities=tuple(self._identities),
            bad_rows=self._all_bad_rows(),
        )

    def _all_bad_rows(self) -> pl.DataFrame:
        """Return the damaged rows of all tables, in the order of the kinds of tables; image tables come last."""
        kinds = sorted(self._bad_rows, key=lambda kind: (kind == "images", get_args(TableKind).index(kind)))
        return pl.concat([_NO_BAD_ROWS, *chain.from_iterable(self._bad_rows[kind] for kind in kinds)])

    def _splits(self, image_ids: IdList | None) -> tuple[Split, ...]:
        """Return the splits whose tables are asked: as said, or what the list says, or where given boxes may be."""
        if self._options.splits:
            return self._options.splits
        if self._options.annotation:
            return SPLITS
        named = image_ids.splits if image_ids is not None else ()
        usual: tuple[Split, ...] = () if named and image_ids is not None and image_ids.is_complete else ("train",)
        return tuple(split for split in SPLITS if split in (*named, *usual))

    def _words(self) -> tuple[str, ...]:
        """Return the categories as typed: those of the options, then the lines of the category file."""
        given = self._options.category_file
        if given is None:
            return self._options.categories
        path = local_file(given)
        with reading(TableFile(path, given)):
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        words = tuple(line.strip() for line in lines if line.strip())
        if not words:
            raise InputError(f"{given}: it names no category")
        self._identities.append({"table": "categories", **_identify(TableFile(path, given))})
        return (*self._options.categories, *words)

    async def _id_lists(self, ids: IdForm) -> tuple[IdList | None, IdList | None]:
        return (
            await asyncio.to_thread(self._id_list, "image-ids", self._options.image_ids, ids),
            await asyncio.to_thread(self._id_list, "exclude-ids", self._options.exclude_ids, ids),
        )

    def _id_list(self, role: str, given: str | None, ids: IdForm) -> IdList | None:
        if given is None:
            return None
        path = local_file(given)
        self._identities.append({"table": role, **_identify(TableFile(path, given))})
        return read_ids(path, given, ids)

    def _is_bare(self, image_ids: IdList | None) -> bool:
        """Return whether the list alone says all there is to know: where each image's copy is."""
        options = self._options
        by_copy = options.source is None or options.source == ("cvdf",)
        return image_ids is not None and image_ids.is_complete and options.image_url is None and by_copy

    async def _from_list(self, query: Query) -> GatheredTables:
        """Make an image table of the list itself: nothing is fetched to know more."""
        assert query.image_ids is not None
        table = TableFile(self._scratch / "listed.parquet", query.image_ids.name)
        rows = await asyncio.to_thread(as_image_rows, query.image_ids, self._options.splits)
        await asyncio.to_thread(rows.sink_parquet, table.path, row_group_size=_ROW_GROUP)
        return GatheredTables(
            query=query,
            selecting=None,
            saved=(),
            named={},
            images=(table,),
            ids=IdForm(),
            has_subset=True,
            splits=self._options.splits,
            looked_in=(),
            bare=True,
            identities=tuple(self._identities),
            bad_rows=_NO_BAD_ROWS,
        )

    def _selecting(self, kinds: Sequence[Kind], *, has_words: bool) -> Kind:
        """Return the kind that selects: as asked, else boxes if they are named, else the first one that has classes."""
        if self._options.select_by is not None:
            chosen = KINDS[self._options.select_by]
        else:
            chosen = next((kind for kind in kinds if kind.has_classes), kinds[0] if kinds else KINDS["bbox"])
        if has_words and not chosen.has_classes:
            raise UsageError(f"{chosen.what} name no class; say what selects: --select-by bbox, for example")
        if self._options.flags and chosen.name != "bbox":
            raise UsageError(f"--is-occluded and its like are of boxes, and {chosen.what} select; say --select-by bbox")
        return chosen

    def _asked(
        self, selecting: Kind | None, kinds: Sequence[Kind], where: "RestrictionTerms | None", splits: Sequence[Split]
    ) -> set[TableKind]:
        """Return the tables of annotations that are read. Raises UsageError for what the release does not publish."""
        source = self._options.label_source
        asked = {table_of(kind, source) for kind in (selecting, *kinds) if kind is not None}
        for kind in kinds:
            self._require_published(kind, table_of(kind, source), splits, asked, maybe="all" in self._options.kinds)
        if where is not None:
            asked |= where.tables
        for table_kind in sorted(asked - {table_of(kind, source) for kind in kinds}):
            what = next((kind for kind in KINDS.values() if table_kind in (kind.table,)), KINDS["label"])
            self._require_published(what, table_kind, splits, asked, maybe=False)
        return asked

    def _require_published(
        self, kind: Kind, table_kind: TableKind, splits: Sequence[Split], asked: set[TableKind], *, maybe: bool
    ) -> None:
        release = self._options.release
        if self._given().get(table_kind) is not None:
            return
        there = {table.split for table in published(table_kind, splits, release)}
        lacking = [split for split in splits if split not in there]
        if not lacking:
            return
        said = f"release {release} publishes no {kind.what} of {', '.join(lacking)}"
        if not maybe:
            raise UsageError(f"{said}; choose another --release or --split, or leave --kind {kind.name} out")
        self._sink(Note(f"{said}: none are saved"))
        if not there:
            asked.discard(table_kind)

    async def _class_names(self, kind: Kind, local: dict[TableKind, TableFile]) -> None:
        """Read what the classes of a kind are called. A table of side names that cannot be had is done without."""
        for table_kind in kind.class_tables:
            if table_kind not in self._classes:
                (table,) = await self._tables(table_kind, local, ())
                self._classes[table_kind], bad_rows = await asyncio.to_thread(read_classes, table)
                self._add_bad_rows(table_kind, table, bad_rows)

    async def classes_of(self, kind: Kind, local: dict[TableKind, TableFile]) -> Classes:
        """Return the classes that may be asked for of a kind."""
        await self._class_names(kind, local)
        return self._classes[kind.class_tables[0]]

    async def side_names(self, table_kind: TableKind, local: dict[TableKind, TableFile]) -> Classes:
        """Return the names of what is no class: attributes, or what relationships are called."""
        if table_kind not in self._classes:
            (table,) = await self._tables(table_kind, local, ())
            self._classes[table_kind], _ = await asyncio.to_thread(read_classes, table)
        return self._classes[table_kind]

    def _source(self, kind: Kind, where: "RestrictionTerms | None") -> RowSource:
        options = self._options
        called: dict[str, str] = {}
        for table_kind in reversed(kind.class_tables):
            called |= self._classes[table_kind].names if table_kind in self._classes else {}
        return RowSource(
            kind,
            self._whole_tables.get(table_of(kind, options.label_source), ()),
            called,
            flags=options.flags if kind.name == "bbox" else {},
            least=options.min_confidence,
            triplets=where.triplets if where is not None and kind.name == "relationship" else (),
        )

    async def _resolve(self, query: Query, kind: Kind, words: Sequence[str]) -> Query:
        options = self._options
        if not kind.has_classes:
            return query
        classes = self._classes[kind.class_tables[0]]
        for word in (*words, *options.exclude):
            category = classes.resolve(word)
            if is_other_name(word, category):
                self._sink(Note(f"{word} is called {category.class_name} in this class table"))
        categories = classes.resolve_all(words)
        excluded = classes.resolve_all(options.exclude)
        for category in categories:
            if len(category.labels) > 1:
                labels = ", ".join(category.labels)
                self._sink(Note(f"{category.class_name} names {len(category.labels)} classes, all are taken: {labels}"))
        hierarchy = await self.hierarchy(needed=options.with_subclasses) if categories or excluded else None
        if hierarchy is not None:
            included = options.with_subclasses
            categories = distinct(each.with_subclasses(hierarchy, included=included) for each in categories)
            excluded = distinct(each.with_subclasses(hierarchy, included=included) for each in excluded)
        return replace(query, categories=categories, excluded=excluded)

    async def hierarchy(self, *, needed: bool) -> Hierarchy | None:
        """Return the class hierarchy; when it is not needed it is only for a hint, and not worth a failure.

        A run on given tables alone asks nobody for a hint.
        """
        (published_table,) = published("hierarchy", (), self._options.release)
        if not needed and None not in self._given().values():
            return None
        try:
            table, identity = await self._cache.published(published_table, patient=needed)
            hierarchy = await asyncio.to_thread(read_hierarchy, table)
        except (UnavailableError, InputError):
            if needed:
                raise
            return None
        if needed:
            self._known("hierarchy", table, identity)
        return hierarchy

    def _announce(self, local: dict[TableKind, TableFile], splits: Sequence[Split], asked: set[TableKind]) -> None:
        """Say what is to be fetched first, if it is much, before it is."""
        kinds: list[TableKind] = [*sorted(asked), "images"]
        tables = [
            table
            for kind in kinds
            if self._given().get(kind) is None
            for table in published(kind, splits, self._options.release)
            if self._cache.cache.entry(table).kept() is None
        ]
        size = sum(table.bytes or 0 for table in tables)
        if size > _WORTH_A_LINE and self._cache.is_public:
            named = ", ".join(f"{table.name} {size_text(table.bytes or 0)}" for table in tables)
            free = self._cache.room_for(tables)
            self._sink(Note(f"tables to fetch first: {size_text(size)} ({named}); {size_text(free)} free there"))

    def _given(self) -> dict[TableKind, str | None]:
        options = self._options
        return {"classes": options.label, "boxes": options.annotation, "images": options.image_url}

    def _local_tables(self) -> dict[TableKind, TableFile]:
        """Return the given tables that lie on this disk; a wrong one is refused before anything is fetched."""
        tables: dict[TableKind, TableFile] = {}
        for kind, given in self._given().items():
            table = None if given is None else local_table(given)
            if table is not None:
                self._check_columns(kind, table)
                tables[kind] = table
        return tables

    async def _tables(
        self, kind: TableKind, local: dict[TableKind, TableFile], splits: Sequence[Split]
    ) -> tuple[TableFile, ...]:
        given = self._given().get(kind)
        if kind in local:
            self._identities.append({"table": kind, **await asyncio.to_thread(_identify, local[kind])})
            return (local[kind],)
        if given is not None:
            return (self._fetched[kind],)
        release = self._options.release
        tables = [self._known(kind, *await self._cache.published(table)) for table in published(kind, splits, release)]
        return tuple(tables)

    def _known(self, kind: TableKind, table: TableFile, identity: Identity) -> TableFile:
        self._identities.append({"table": kind, "name": table.name, **asdict(identity)})
        return table

    async def _given_tables(self, local: dict[TableKind, TableFile]) -> None:
        """Fetch the tables that are given by URL: a wrong one is refused before any published one is fetched."""
        for kind, given in self._given().items():
            if given is not None and kind not in local:
                table = self._known(kind, *await self._cache.given(given))
                await asyncio.to_thread(self._check_columns, kind, table)
                self._fetched[kind] = table

    def _check_columns(self, kind: TableKind, table: TableFile) -> None:
        """Refuse a given table without the columns it needs or any row; a class table is read whole soon enough."""
        if kind != "classes":
            flags = tuple(self._options.flags) if kind == "boxes" else ()
            scan(table, (*_NEEDED[kind], *flags), [])
            require_rows(table)

    async def _whole(self, kind: TableKind, tables: Sequence[TableFile], ids: IdForm) -> tuple[TableFile, ...]:
        """Return the tables without their damaged rows, which are noted. Raises InputError when there are too many."""
        whole = []
        for number, table in enumerate(tables):
            folder = self._scratch / f"{kind}-{number}"
            table = await until_stopped(self._without_damage, kind, table, ids, folder)
            self._add_bad_rows(kind, table, await in_thread(self._first_bad_rows, table))
            whole.append(table)
        return tuple(whole)

    def _without_damage(
        self, kind: TableKind, table: TableFile, ids: IdForm, folder: Path, stopped: Callable[[], bool]
    ) -> TableFile:
        if table.columns is not None:
            return table
        columns = columns_of(table)
        form = RowForm.of_images(columns, ids)
        if kind == "boxes":
            form = RowForm.of_kind(KINDS["bbox"], columns, ids, self._options.flags)
        folder.mkdir(exist_ok=True)
        notes = self._cache.cache.root / WHOLE
        return without_damage(table, form, folder, most=self._options.max_bad_rows, notes=notes, stopped=stopped)

    def _first_bad_rows(self, table: TableFile) -> pl.DataFrame:
        """Return a table's damaged rows; of a table of nothing else no more than it takes to refuse it."""
        return bad_rows(table).head(self._options.max_bad_rows + _MOST_COUNTED).collect(engine="streaming")

    def _add_bad_rows(self, kind: TableKind, table: TableFile, rows: pl.DataFrame) -> None:
        most = self._options.max_bad_rows
        self._bad_rows.setdefault(kind, []).append(rows.select(pl.lit(table.name).alias("File"), "Line", "Reason"))
        found = sum(map(len, chain.from_iterable(self._bad_rows.values())))
        if found > most:
            line, reason = rows.row(0)
            raise InputError(
                f"{table.name}: with it {found} table rows are damaged, more than --max-bad-rows {most} allows; "
                f"its first is line {line}: {reason}; mend the table or allow more"
            )

    def _look_at(self, images: TableFile) -> tuple[bool, tuple[Split, ...]]:
        """Return what a given image table says: whether it has Subset, and the splits in it."""
        has_subset = "Subset" in columns_of(images)
        if not has_subset or self._options.splits or self._options.annotation is not None:
            # Nobody needs to know which splits are in it, which takes reading all of it.
            return has_subset, self._options.splits or SPLITS
        with reading(images):
            subsets = scan(images, ["Subset"], []).unique().collect(engine="streaming").to_series().to_list()
        return True, tuple(split for split in SPLITS if split in subsets) or SPLITS


def choose_sources(options: Options, inputs: GatheredTables, *, mirrored: bool) -> tuple[tuple[Source, ...], str]:
    """Return the order of sources and why it is so, in words. Raises InputError for cvdf without what it needs."""
    reachable = inputs.has_subset and inputs.ids.hexadecimal
    if options.source is not None:
        if "cvdf" in options.source and not reachable:
            lacks = "has no column 'Subset'" if not inputs.has_subset else "has no Open Images ids"
            raise InputError(f"{inputs.images[0].name}: it {lacks}, which --source cvdf needs; say --source original")
        return options.source, f"images from {', then '.join(options.source)} (as asked)"
    if not reachable:
        return ("original",), "images from original: the given image table has no Subset, or no Open Images ids"
    if inputs.bare:
        return ("cvdf",), "images from cvdf alone, named by their ids: no table is read, so authors stay unknown"
    if mirrored:
        return ("cvdf",), "images from the mirror alone: it has the bucket's copies (cvdf), not Flickr's originals"
    return ("cvdf", "original"), "images from cvdf, then original"


def choose_names(options: Options, inputs: GatheredTables) -> Names:
    """Return what files are called by: without an image table nothing but the id is known."""
    return "id" if inputs.bare else options.names


def _identify(table: TableFile) -> dict[str, Any]:
    """Return what tells one state of a given file from another: its size, and its MD5 if that is quickly had."""
    size = table.path.stat().st_size
    identity: dict[str, Any] = {"name": table.name, "bytes": size, "md5": None}
    if size <= _MOST_HASHED:
        with reading(table), table.path.open("rb") as file:
            identity["md5"] = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return identity
