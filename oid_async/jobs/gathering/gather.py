"""Gathering the tables of one run, and what follows from them: the query with every name resolved, the rows to save."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import polars as pl

from oid_async.errors import InputError, UsageError
from oid_async.events import Note, Sink
from oid_async.jobs.gathering.availability import Use, require_published, uses_of
from oid_async.jobs.gathering.class_names import ClassNames
from oid_async.jobs.gathering.given_lists import GivenLists
from oid_async.jobs.gathering.restrictions import (
    AskedTriplets,
    RestrictionReader,
    RestrictionTerms,
    row_conditions,
    row_terms,
)
from oid_async.jobs.gathering.table_files import NO_BAD_ROWS, TableFiles
from oid_async.metadata.cache import MetadataCache
from oid_async.openimages.catalogue_tables import IMAGE_COLUMNS, TableKind
from oid_async.openimages.classes import Category, distinct, is_other_name
from oid_async.openimages.ids import KEY, IdForm
from oid_async.openimages.kinds import KINDS, Kind, KindName, named, table_of
from oid_async.openimages.vocabulary import SPLITS, Source, Split
from oid_async.options import readers as read
from oid_async.options.paths import shown
from oid_async.options.query import Options
from oid_async.quick_values import frozen
from oid_async.select.idlist import IdList, read_ids, write_image_rows
from oid_async.select.negatives import NegativeRule
from oid_async.select.query import Part, ResolvedQuery, Term, names_twice, read_image_keys
from oid_async.select.where import names, parse
from oid_async.store.annotation_rows import SavedAnnotations
from oid_async.tables.damage import looks_hexadecimal
from oid_async.tables.reading import TableFile, columns_of, reading, scan
from oid_async.tables.rows import RowSource, require_known_labels
from oid_async.tables.text_lists import read_words

if TYPE_CHECKING:
    from oid_async.select.image_where import ImageCondition


@frozen
class GatheredTables:
    """The tables of one run, and the query with every name resolved.

    `selecting` are the annotations that say which images match, None when nothing asks for any; `saved` those that are
    saved, `named` the labels of the classes that --where names, by kind. `triplets` is what --triplet asks for,
    `row_terms` each condition on rows by itself. `splits` keeps image rows of these splits only (empty: all),
    `looked_in` are those whose tables are read; `bare` says that `images` is no more than an id list, `given` that
    annotations or images are a user's own table; `identities` tells each table's state for query.json; `bad_rows` has
    File, Line and Reason of the damaged rows that were left out of the tables.
    """

    query: ResolvedQuery
    selecting: RowSource | None
    saved: tuple[RowSource, ...]
    named: Mapping[KindName, tuple[str, ...]]
    triplets: AskedTriplets | None
    row_terms: Mapping[str, Term]
    images: tuple[TableFile, ...]
    ids: IdForm
    has_subset: bool
    splits: tuple[Split, ...]
    looked_in: tuple[Split, ...]
    bare: bool
    given: bool
    identities: tuple[dict[str, Any], ...]
    bad_rows: pl.DataFrame
    _read: list[pl.DataFrame] = field(default_factory=list, compare=False, repr=False)

    def has_twins(self) -> bool:
        """Return whether an id occurs in two splits: they are two images. Tables of one split are not read for it."""
        if self.bare:
            return self.query.image_ids is not None and names_twice(self.query.image_ids.rows.select(KEY, "split"))
        if not self.has_subset or len(self.splits) == 1 or (len(self.images) == 1 and self.images[0].split):
            return False
        images = self.image_keys()
        self._read.append(images)
        return names_twice(images.select(KEY, "split"))

    def image_keys(self) -> pl.DataFrame:
        """Return what `read_image_keys` does of the images; a table of gigabytes was read by `has_twins` already."""
        if self._read:
            return self._read.pop()
        return read_image_keys(self.images, self.ids, self.splits, self.query.image_condition)

    def by_split(self) -> "GatheredTables":
        """Return the tables for keys that name the split."""
        query = replace(
            self.query,
            image_ids=self.query.image_ids.by_split() if self.query.image_ids is not None else None,
            exclude_ids=self.query.exclude_ids.by_split() if self.query.exclude_ids is not None else None,
        )
        return replace(self, query=query, ids=replace(self.ids, by_split=True), _read=[])

    def saved_labels(self, source: RowSource, *, all_boxes: bool) -> tuple[str, ...] | None:
        """Return the labels whose rows of a kind are saved, None for every class."""
        categories = [label for category in self.query.categories for label in category.labels]
        labels = (*categories, *self.named.get(source.kind.name, ()))
        return None if all_boxes or not labels else tuple(dict.fromkeys(labels))

    def saves(self, kind: KindName) -> bool:
        """Return whether annotations of a kind are saved."""
        return any(source.kind.name == kind for source in self.saved)

    def saved_annotations(self, *, all_boxes: bool) -> list[SavedAnnotations]:
        """Return the annotations to save, each with the labels whose rows are meant."""
        return [SavedAnnotations(source, self.saved_labels(source, all_boxes=all_boxes)) for source in self.saved]


class TableGatherer:
    """Brings a query's tables onto this disk: the small class table first, so that a typing error costs nothing.

    `scratch` is a folder for tables that are made: from an id list, or of the whole rows of a damaged one.
    """

    def __init__(self, options: Options, sink: Sink, scratch: Path, files: TableFiles, lists: GivenLists) -> None:
        self._options = options
        self._lists = lists
        self._sink = sink
        self._scratch = scratch
        self._files = files

    async def gather(self) -> GatheredTables:
        """Return the run's tables. Raises UsageError, InputError or UnavailableError."""
        options = self._options
        words = await asyncio.to_thread(self._words)
        kinds = named(options.kinds)
        by_class = options.balanced is not None or options.limit_per_class is not None
        selecting = self._selecting(kinds, has_words=bool(words or options.exclude or options.where or by_class))
        selects = bool(words) or self._chooses_rows(selecting)
        by_rows = selects or bool(kinds and not options.restricts)
        needs_rows = selects or bool(kinds or options.exclude or options.restricts)
        selects_rows = by_rows or bool(options.exclude)
        # Given ids may be of another form, which the image table tells; Open Images' own need no table to be read.
        lists = await self._id_lists(IdForm()) if options.image_url is None else (None, None)
        everywhere = self._splits(lists[0])
        uses = tuple(uses_of(options, selecting, selects=selects_rows))
        # The splits of a given image table are those that its rows name.
        are_known = options.image_url is None or bool(options.splits)
        missing = self._require_published(uses, everywhere if are_known else None)
        query = await asyncio.to_thread(partial(self._query, lists, by_rows=by_rows))
        await self._files.fetch_given()
        if not needs_rows and self._is_bare(lists[0]):
            return await self._from_list(query)
        where = None
        if needs_rows:
            query = await self._resolve(query, selecting, kinds, words)
            where = await RestrictionReader(self._files, options, selecting).read()
        needed = self._needed(selecting if selects_rows else None, kinds, where) - missing
        needed |= await self._telling_negatives(query)
        await asyncio.to_thread(self._files.announce, everywhere, needed)
        if options.image_url is None:
            self._files.expect(needed, everywhere)
        asked = tuple(use for use in uses if use.table in needed) if needs_rows else ()
        images, ids = await self._images(everywhere, query.image_condition, asked)
        has_subset, splits = True, everywhere
        if options.image_url is not None:
            has_subset, splits = await asyncio.to_thread(self._look_at, images[0])
            image_ids, exclude_ids = await self._id_lists(ids)
            query = replace(query, image_ids=image_ids, exclude_ids=exclude_ids)
        if not are_known:
            needed -= self._require_published(uses, splits)
        rows = await self._rows(needed, options.splits or splits, ids)
        query = self._with_rows(query, where, rows)
        sources = {kind: self._source(kind, rows, where) for kind in dict.fromkeys((selecting, *kinds))}
        boxes = sources.get(KINDS["bbox"])
        if options.annotation is not None and words and boxes is not None:
            classes = "the published classes" if options.label is None else f"the class table {shown(options.label)}"
            await asyncio.to_thread(require_known_labels, boxes, classes)
        return GatheredTables(
            query=query,
            selecting=sources[selecting] if sources[selecting].tables and selects_rows else None,
            saved=tuple(sources[kind] for kind in kinds if sources[kind].tables),
            named=where.labels if where is not None else {},
            triplets=where.asked_triplets(rows, self._files) if where is not None else None,
            row_terms=row_terms(options, selecting, sources[selecting].tables) if selects_rows else {},
            images=images,
            ids=ids,
            has_subset=has_subset,
            splits=self._row_splits(splits),
            looked_in=splits,
            bare=False,
            given=options.annotation is not None or options.image_url is not None,
            identities=tuple(self._files.identities),
            bad_rows=self._files.bad_rows(),
        )

    def _query(self, lists: tuple[IdList | None, IdList | None], *, by_rows: bool) -> ResolvedQuery:
        """Return the query as far as it needs no table. Blocking: a long --image-where takes Polars a second."""
        options = self._options
        return ResolvedQuery(
            match=options.match,
            min_boxes=options.min_boxes,
            max_boxes=options.max_boxes,
            image_ids=lists[0],
            exclude_ids=lists[1],
            limit_per_class=options.limit_per_class,
            balanced=options.balanced,
            limit=read.amount(options.limit),
            seed=options.seed if options.shuffle else None,
            top_up=options.top_up,
            by_boxes=by_rows,
            part=Part.of(options.shard),
            image_condition=self._image_condition(),
        )

    def _image_condition(self) -> "ImageCondition | None":
        """Return the condition on image rows; one on published tables is refused before any is fetched."""
        if self._options.image_where is None:
            return None
        from oid_async.select.image_where import read_image_condition

        condition = read_image_condition(self._options.image_where)
        if self._options.image_url is None:
            condition.require(IMAGE_COLUMNS, "the image table")
        return condition

    async def _rows(
        self, needed: set[TableKind], splits: Sequence[Split], ids: IdForm
    ) -> dict[TableKind, tuple[TableFile, ...]]:
        """Return the tables of annotations without their damaged rows."""
        rows: dict[TableKind, tuple[TableFile, ...]] = {}
        for kind in (kind for kind in get_args(TableKind) if kind in needed):
            rows[kind] = await self._files.without_damage(kind, await self._files.tables(kind, splits), ids)
        return rows

    async def _telling_negatives(self, query: ResolvedQuery) -> set[TableKind]:
        """Return the tables that tell which images may be negatives: boxes where a category may have any."""
        options = self._options
        if options.negatives is None:
            return set()
        if options.label is None and options.annotation is None:
            boxed = (await self._files.classes_of(KINDS["bbox"])).names.keys()
            if not any(boxed & {*category.labels, *category.below} for category in query.categories):
                return {"human_labels"}
        return {"boxes", "human_labels"}

    def _with_rows(
        self, query: ResolvedQuery, where: RestrictionTerms | None, rows: Mapping[TableKind, tuple[TableFile, ...]]
    ) -> ResolvedQuery:
        """Return the query with what it asks of tables beside the rows that select."""
        count = self._options.negatives
        if where is not None:
            query = replace(query, restriction=where.restriction(rows))
        if count is not None:
            rule = NegativeRule.of(count, query.categories, rows.get("boxes", ()), rows["human_labels"])
            query = replace(query, negatives=rule)
        return query

    async def _images(
        self, splits: Sequence[Split], condition: "ImageCondition | None", asked: Sequence[Use]
    ) -> tuple[tuple[TableFile, ...], IdForm]:
        """Return the image tables without their damaged rows, and the form of their ids; `asked` are uses of rows."""
        options = self._options
        images, ids = await self._files.tables("images", splits), IdForm()
        if condition is not None:
            for table in images:
                await asyncio.to_thread(_require_columns, condition, table)
        if options.image_url is not None:
            ids = IdForm(await asyncio.to_thread(looks_hexadecimal, images[0]))
            published = [use for use in asked if use.table != "boxes" or options.annotation is None]
            if published and not ids.hexadecimal:
                boxes = "give --annotation with the same ids, or --kind none"
                raise InputError(
                    f"{images[0].name}: its ids are none of Open Images', so the published {published[0].what} say "
                    f"nothing of them; {boxes if published[0].table == 'boxes' else published[0].way_out}"
                )
        return await self._files.without_damage("images", images, ids), ids

    def _splits(self, image_ids: IdList | None) -> tuple[Split, ...]:
        """Return the splits whose tables are read: as asked, as listed or counted, or all that given boxes may have."""
        if self._options.splits:
            return self._options.splits
        if self._options.annotation:
            return SPLITS
        named = image_ids.splits if image_ids is not None else ()
        counted = read.amount(self._options.limit)
        usual: tuple[Split, ...] = tuple(counted) if isinstance(counted, Mapping) else ("train",)
        if named and image_ids is not None and image_ids.is_complete:
            usual = ()
        return tuple(split for split in SPLITS if split in (*named, *usual))

    def _row_splits(self, looked_in: tuple[Split, ...]) -> tuple[Split, ...]:
        """Return the splits whose image rows count, empty for all: the table of all images has those of each split."""
        return self._options.splits or (looked_in if self._options.images == "all" else ())

    def _words(self) -> tuple[str, ...]:
        """Return the categories as typed: those of the options, then the lines of the category file."""
        table = self._lists.file("category_file")
        if table is None:
            return self._options.categories
        words = read_words(table)
        if not words:
            raise InputError(f"{table.name}: it names no class, so nothing would be asked for; one name or MID a line")
        self._files.add_identity("categories", table, self._lists.identity("category_file"))
        return (*self._options.categories, *words)

    async def _id_lists(self, ids: IdForm) -> tuple[IdList | None, IdList | None]:
        return (
            await asyncio.to_thread(self._id_list, "image_ids", ids),
            await asyncio.to_thread(self._id_list, "exclude_ids", ids),
        )

    def _id_list(self, option: str, ids: IdForm) -> IdList | None:
        table = self._lists.file(option)
        if table is None:
            return None
        self._files.add_identity(option.replace("_", "-"), table, self._lists.identity(option))
        return read_ids(table.path, table.name, ids, may_name_none=option == "exclude_ids")

    def _is_bare(self, image_ids: IdList | None) -> bool:
        """Return whether the list alone is enough: it gives each image's copy, and nothing else is asked for."""
        options = self._options
        by_copy = options.source is None or options.source == ("cvdf",)
        is_alone = options.image_url is None and options.image_where is None
        return image_ids is not None and image_ids.is_complete and is_alone and by_copy

    async def _from_list(self, query: ResolvedQuery) -> GatheredTables:
        """Make an image table of the list itself: nothing is fetched to know more."""
        assert query.image_ids is not None
        folder = self._scratch / "listed"
        table = await asyncio.to_thread(write_image_rows, query.image_ids, self._options.splits, folder)
        return GatheredTables(
            query=query,
            selecting=None,
            saved=(),
            named={},
            triplets=None,
            row_terms={},
            images=(table,),
            ids=IdForm(),
            has_subset=True,
            splits=self._options.splits,
            looked_in=(),
            bare=True,
            given=False,
            identities=tuple(self._files.identities),
            bad_rows=NO_BAD_ROWS,
        )

    def _selecting(self, kinds: Sequence[Kind], *, has_words: bool) -> Kind:
        """Return the kind that selects: as asked, else boxes if they are named, else the first one that has classes."""
        if self._options.select_by is not None:
            chosen = KINDS[self._options.select_by]
        else:
            chosen = next((kind for kind in kinds if kind.has_classes), kinds[0] if kinds else KINDS["bbox"])
        if has_words and not chosen.has_classes:
            raise UsageError(f"{chosen.what} name no class; say what selects: --select-by bbox, for example")
        if (of_boxes := self._options.box_options) and chosen.name != "bbox":
            raise UsageError(f"{of_boxes[0]} is of boxes, and {chosen.what} select; say --select-by bbox")
        self._require_points(kinds, chosen)
        return chosen

    def _require_points(self, kinds: Sequence[Kind], selecting: Kind) -> None:
        """Raise UsageError for an answer of points where no point is asked for."""
        where = self._options.where
        asked: set[str | None] = {kind.name for kind in (*kinds, selecting)}
        if where is not None:
            asked |= {name.kind for name in names(parse(where))}
        if self._options.point_answer is not None and "point" not in asked:
            raise UsageError(
                "--point-answer is of points, and none are saved or asked for; say --kind point or --select-by point"
            )

    def _chooses_rows(self, selecting: Kind) -> bool:
        """Return whether options other than categories say which rows match, or count by class."""
        options = self._options
        where = names(parse(options.where), wanted=True) if options.where is not None else ()
        by_where = any(name.kind != "absent" for name in where)
        counts = options.balanced is not None or (options.limit_per_class is not None and not by_where)
        answers = options.point_answer is not None and selecting.name == "point"
        return bool(options.box_options or answers or counts)

    def _needed(self, selecting: Kind | None, kinds: Sequence[Kind], where: RestrictionTerms | None) -> set[TableKind]:
        """Return which tables of annotations are read, if there are any."""
        needed = {table_of(kind, self._options.label_source) for kind in (selecting, *kinds) if kind is not None}
        return needed | where.tables if where is not None else needed

    def _require_published(self, uses: Sequence[Use], splits: Sequence[Split] | None) -> set[TableKind]:
        """Return which of these tables are not published. Raises UsageError for one that is required."""
        return require_published(uses, splits, self._options.release, self._sink, self._files.is_given)

    def _source(
        self, kind: Kind, tables: Mapping[TableKind, tuple[TableFile, ...]], where: RestrictionTerms | None
    ) -> RowSource:
        options = self._options
        return RowSource(
            kind,
            tables.get(table_of(kind, options.label_source), ()),
            self._files.class_names(kind),
            row_conditions(options, kind),
            least=options.min_confidence,
            triplets=where.triplets if where is not None and kind.name == "relationship" else (),
        )

    async def _resolve(
        self, query: ResolvedQuery, kind: Kind, saved: Sequence[Kind], words: Sequence[str]
    ) -> ResolvedQuery:
        """Return the query with its categories; names of the kinds that are saved are read, too."""
        options = self._options
        for each in dict.fromkeys((kind, *saved)):
            await self._files.read_class_names(each)
        if not kind.has_classes:
            return query
        called = ClassNames(self._files, options.release)
        found: list[list[Category]] = [[], []]
        for place, option, some in ((0, "--category", words), (1, "--exclude", options.exclude)):
            for word in some:
                from_file = place == 0 and word not in options.categories
                category = await called.category(word, kind, option="--category-file" if from_file else option)
                if is_other_name(word, category):
                    self._sink(Note(f"{word} is called {category.class_name} in this class table"))
                found[place].append(category)
        categories, excluded = map(distinct, found)
        for category in categories:
            if len(category.labels) > 1:
                labels = ", ".join(category.labels)
                self._sink(Note(f"{category.class_name} names {len(category.labels)} classes, all are taken: {labels}"))
        needed = options.with_subclasses or options.negatives is not None
        hierarchy = await self._files.hierarchy(needed=needed) if categories or excluded else None
        if hierarchy is not None:
            included = options.with_subclasses
            categories = distinct(each.with_subclasses(hierarchy, included=included) for each in categories)
            excluded = distinct(each.with_subclasses(hierarchy, included=included) for each in excluded)
        return replace(query, categories=categories, excluded=excluded)

    def _look_at(self, images: TableFile) -> tuple[bool, tuple[Split, ...]]:
        """Return whether a given image table has Subset, and the splits in it."""
        has_subset = "Subset" in columns_of(images)
        if not has_subset and isinstance(read.amount(self._options.limit), Mapping):
            raise InputError(
                f"{images.name}: column 'Subset' is missing, by which --ndata {self._options.limit} counts"
            )
        if not has_subset or self._options.splits or self._options.annotation is not None:
            # Nobody needs to know which splits are in it, which takes reading all of it.
            return has_subset, self._options.splits or SPLITS
        with reading(images):
            subsets = scan(images, ["Subset"], []).unique().collect(engine="streaming").to_series().to_list()
        return True, tuple(split for split in SPLITS if split in subsets) or SPLITS


def _require_columns(condition: "ImageCondition", table: TableFile) -> None:
    condition.require(columns_of(table), table.name)


async def gather_tables(
    options: Options, cache: MetadataCache, sink: Sink, scratch: Path, lists: GivenLists | None = None
) -> GatheredTables:
    """Return the tables of a query. Raises UsageError, InputError or UnavailableError.

    `lists` are those of the query where some came by a pipe; files do without.
    """
    files = await TableFiles.of(options, cache, sink, scratch)
    tables = await TableGatherer(options, sink, scratch, files, lists or GivenLists(options, {}, {})).gather()
    return tables.by_split() if await asyncio.to_thread(tables.has_twins) else tables


def choose_sources(options: Options, tables: GatheredTables, *, mirrored: bool) -> tuple[tuple[Source, ...], str]:
    """Return the order of sources and why it is so, in words. Raises InputError for cvdf without what it needs."""
    reachable = tables.has_subset and tables.ids.hexadecimal
    if options.source is not None:
        if "cvdf" in options.source and not reachable:
            lacks = "has no column 'Subset'" if not tables.has_subset else "has no Open Images ids"
            raise InputError(f"{tables.images[0].name}: it {lacks}, which --source cvdf needs; say --source original")
        return options.source, f"images from {', then '.join(options.source)} (as asked)"
    if not reachable:
        return ("original",), "images from original: the given image table has no Subset, or no Open Images ids"
    if tables.bare:
        return ("cvdf",), "images from cvdf alone, named by their ids: no table is read, so authors stay unknown"
    if mirrored:
        return ("cvdf",), "images from the mirror alone: it has the bucket's copies (cvdf), not Flickr's originals"
    return ("cvdf", "original"), "images from cvdf, then original"
