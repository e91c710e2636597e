"""The list of classes, of one kind of annotations or of several; beside the classes of relationships their names.

What a class is called, and for which kinds it is, the class tables say; how many images have it, the tables in the
cache. Nothing but class tables and the hierarchy is fetched.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from oid_async.concurrency import in_thread
from oid_async.errors import InputError, UnavailableError, UsageError
from oid_async.events import Note, Sink
from oid_async.jobs.gathering.availability import require_published, uses_of_kinds
from oid_async.jobs.gathering.table_files import require_given
from oid_async.jobs.listed import ClassList, ClassRow
from oid_async.metadata.cache import Cache, MetadataCache
from oid_async.metadata.given import local_table
from oid_async.openimages.catalogue import published
from oid_async.openimages.catalogue_tables import TableKind
from oid_async.openimages.classes import Classes
from oid_async.openimages.hierarchy import Hierarchy
from oid_async.openimages.kinds import KINDS, Kind, KindName, named
from oid_async.openimages.vocabulary import SPLITS, Release, Split
from oid_async.options.query import Options
from oid_async.tables.class_tables import read_classes, read_hierarchy, read_labels
from oid_async.tables.rows import PREDICATE, count_labels

# Images and rows of a label.
Counts = dict[str, tuple[int, int]]
_RELATIONSHIP = KINDS["relationship"]


@dataclass(frozen=True, slots=True)
class _Names:
    """The tables of names that were read, and the labels that are for a kind."""

    tables: Mapping[TableKind, Classes]
    masks: frozenset[str] | None

    def labels(self, kind: Kind) -> Iterable[str]:
        """Return the labels that a kind's classes have; none where its table was not to be had."""
        table = self.tables.get(kind.class_tables[0]) if kind.has_classes else None
        names = table.names if table is not None else {}
        return names if kind.name != "segmentation" else [label for label in names if label in (self.masks or ())]

    def of(self, kinds: Sequence[Kind]) -> Classes:
        """Return the classes of these kinds; the first kind that has a label says what it is called."""
        called: dict[str, str] = {}
        for kind in kinds:
            names = self.tables[kind.class_tables[0]].names
            called |= {label: names[label] for label in self.labels(kind) if label not in called}
        return Classes(called)


class ClassLister:
    """Lists classes by the options of one call: kinds, release, a class table of the user's own."""

    def __init__(self, cache: MetadataCache, options: Options, sink: Sink) -> None:
        self._cache = cache
        self._options = options
        self._sink = sink

    async def read(self, pattern: str | None, *, tree: bool) -> ClassList:
        """Return the classes whose name holds the pattern, or all; with `tree` also all classes below them."""
        kinds = self._kinds()
        names = await self._names(kinds)
        hierarchy = await self._hierarchy()
        return await in_thread(self._list, kinds, names, hierarchy, pattern, tree)

    def _kinds(self) -> list[Kind]:
        """Return the kinds that are listed. Raises UsageError for one without classes, or that the release lacks."""
        options = self._options
        kinds = [kind for kind in named(options.kinds) if kind.has_classes or "all" not in options.kinds]
        for kind in kinds:
            if not kind.has_classes:
                raise UsageError(f"--kind {kind.name}: {kind.what} name no class; leave it out")
        if not kinds:
            raise UsageError("--kind none: it has no classes; leave it out for those of boxes")
        uses = [use for kind in kinds for use in uses_of_kinds([kind.name], "human")]
        if "all" not in options.kinds:
            require_published(uses, None, options.release, self._sink)
        return [kind for kind in kinds if any(published(kind.table, SPLITS, options.release))]

    async def _names(self, kinds: Sequence[Kind]) -> _Names:
        """Return the names of these kinds, and those of others as far as they are easily had."""
        needed: set[TableKind] = {kind.class_tables[0] for kind in kinds}
        if _RELATIONSHIP in kinds:
            needed |= {"attributes", "predicates"}
        tables: dict[TableKind, Classes] = {}
        for table_kind in ("classes", "all_classes", "attributes", "predicates"):
            is_needed = table_kind in needed
            # Names that are no classes are looked up in the cache alone: they answer a PATTERN that finds nothing.
            if is_needed or table_kind in ("classes", "all_classes") or await in_thread(self._is_cached, table_kind):
                found = await self._read_names(table_kind, is_needed=is_needed)
                if found is not None:
                    tables[table_kind] = found
        masks = await self._mask_labels(is_needed=KINDS["segmentation"] in kinds)
        return _Names(tables, masks)

    async def _read_names(self, table_kind: TableKind, *, is_needed: bool) -> Classes | None:
        options = self._options
        is_given = table_kind == "classes" and options.label is not None
        if not is_needed and options.label is not None and not is_given:
            return None  # published names say nothing of a user's own classes
        try:
            if is_given:
                assert options.label is not None
                table = await in_thread(local_table, options.label)
                if table is None:
                    table, _ = await self._cache.given(options.label, partial(require_given, "classes", options))
            else:
                (wanted,) = published(table_kind, (), options.release)
                table, _ = await self._cache.published(wanted, patient=is_needed)
            classes, bad_rows = await in_thread(read_classes, table)
        except (UnavailableError, InputError):
            if is_needed:
                raise
            return None
        if is_needed and (count := len(bad_rows)):
            line, reason = bad_rows.row(0)
            rows_are = "row is" if count == 1 else "rows are"
            self._sink(Note(f"{table.name}: {count} damaged {rows_are} left out, first line {line}: {reason}"))
        return classes

    def _is_cached(self, table_kind: TableKind) -> bool:
        (table,) = published(table_kind, (), self._options.release)
        return self._cache.cache.entry(table).current_version() is not None

    async def _mask_labels(self, *, is_needed: bool) -> frozenset[str] | None:
        tables = published("mask_classes", (), self._options.release)
        if not tables or (self._options.label is not None and not is_needed):
            return None
        try:
            table, _ = await self._cache.published(tables[0], patient=is_needed)
            return await in_thread(read_labels, table)
        except (UnavailableError, InputError):
            if is_needed:
                raise
            return None

    async def _hierarchy(self) -> Hierarchy | None:
        try:
            (table,) = published("hierarchy", (), self._options.release)
            return await in_thread(read_hierarchy, (await self._cache.published(table, patient=False))[0])
        except (UnavailableError, InputError):
            return None

    def _list(
        self, kinds: Sequence[Kind], names: _Names, hierarchy: Hierarchy | None, pattern: str | None, tree: bool
    ) -> ClassList:
        """Return the list. Blocking: it counts the rows of cached tables."""
        cache, release = self._cache.cache, self._options.release
        counts = {kind.name: _counts(cache, release, kind) for kind in kinds}
        classes = names.of(kinds)
        labels = set(classes.matching(pattern) if pattern else classes.names)
        if tree and hierarchy is not None:
            labels |= {under for label in labels for under in hierarchy.below(label) if under in classes.names}
        of_kind = {kind.name: set(names.labels(kind)) for kind in KINDS.values() if kind.has_classes}
        for kind in (KINDS["relationship"], KINDS["point"]):
            # Their class tables have more than occurs: once all splits are counted, what has no row is not of the kind.
            of_split = counts.get(kind.name, {})
            if of_split and len(of_split) == len(published(kind.table, SPLITS, release)):
                of_kind[kind.name] &= {label for count in of_split.values() for label in count}
        labels &= set().union(*(of_kind[kind.name] for kind in kinds))
        rows = []
        for label in _in_order(labels, classes.names):
            its_kinds = tuple(kind for kind, there in of_kind.items() if label in there)
            children = hierarchy.children.get(label, ()) if hierarchy is not None else ()
            subclasses = tuple(classes.names.get(child, child) for child in children)
            rows.append(_row(label, classes.names[label], its_kinds, counts, subclasses))
        sides: list[tuple[ClassRow, ...]] = [(), ()]
        if _RELATIONSHIP in kinds:
            of_side = (_counts(cache, release, _RELATIONSHIP, PREDICATE), counts["relationship"])
            of_names = (names.tables["predicates"], names.tables["attributes"])
            sides = [_side_rows(each, pattern, count) for each, count in zip(of_names, of_side, strict=True)]
        nothing = None
        if pattern and not (rows or sides[0] or sides[1]):
            nothing = f"no class has {pattern!r} in its name; {classes.nearest(pattern)}{_others(names, pattern)}"
        asked = tuple(counts)
        uncounted = tuple(kind for kind in asked if not counts[kind])
        return ClassList(tuple(rows), hierarchy, nothing, asked, sides[0], sides[1], uncounted)


def _in_order(labels: Iterable[str], names: Mapping[str, str]) -> list[str]:
    return sorted(labels, key=lambda label: (names[label].casefold(), label))


def _row(
    label: str,
    class_name: str,
    kinds: tuple[str, ...],
    counts: Mapping[KindName, Mapping[Split, Counts]],
    subclasses: tuple[str, ...] = (),
) -> ClassRow:
    annotations: dict[str, dict[str, dict[str, int]]] = {}
    for kind, of_split in counts.items():
        found = {split: count.get(label, (0, 0)) for split, count in of_split.items()}
        annotations[kind] = {split: {"images": images, "rows": rows} for split, (images, rows) in found.items()}
    first = annotations[next(iter(counts))]
    return ClassRow(
        label,
        class_name,
        kinds,
        {split: count["images"] for split, count in first.items()},
        {split: count["rows"] for split, count in annotations.get("bbox", {}).items()},
        subclasses,
        annotations,
    )


def _side_rows(names: Classes, pattern: str | None, counts: Mapping[Split, Counts]) -> tuple[ClassRow, ...]:
    """Return what relationships, or attributes, are called."""
    labels = names.matching(pattern) if pattern else tuple(names.names)
    return tuple(
        _row(label, names.names[label], ("relationship",), {"relationship": counts})
        for label in _in_order(labels, names.names)
    )


def _others(names: _Names, pattern: str) -> str:
    """Return where else a pattern is found."""
    places: tuple[tuple[TableKind, str], ...] = (
        ("all_classes", "the classes of image-level labels and points: --kind label"),
        ("predicates", "the names of relationships: --kind relationship"),
        ("attributes", "the attributes: --kind relationship"),
    )
    found = {what: len(names.tables[table].matching(pattern)) for table, what in places if table in names.tables}
    return "".join(f"; {count} among {what}" for what, count in found.items() if count)


def _counts(cache: Cache, release: Release, kind: Kind, column: str | None = None) -> dict[Split, Counts]:
    """Return images and rows of each label in the cached tables of a kind; `column` is another one than its labels."""
    found: dict[Split, Counts] = {}
    for split in SPLITS:
        for table in published(kind.table, [split], release):
            entry = cache.entry(table)
            kept = entry.current_version()
            if kept is not None and entry.damaged_file(kept) is None:
                found[split] = count_labels(entry.table(kept), kind, column)
    return found
