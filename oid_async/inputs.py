"""The tables of one run: given or published, all on this disk once gathered, and what follows from them."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from oid_async.errors import InputError
from oid_async.events import Note, Sink
from oid_async.openimages.catalogue import TableKind, published
from oid_async.openimages.classes import Category, Classes
from oid_async.openimages.ids import IdForm
from oid_async.openimages.tables import TableFile, columns_of, looks_hexadecimal, reading, scan
from oid_async.options import SPLITS, Options, Source, Split
from oid_async.transfer.metadata import Identity, MetadataCache, local_table

_MOST_HASHED = 256 << 20
# What a given table cannot do without.
_NEEDED: dict[TableKind, tuple[str, ...]] = {
    "boxes": ("ImageID", "LabelName"),
    "images": ("ImageID", "OriginalURL"),
}


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a selection is made from.

    `splits` keeps image rows of these splits only (empty: all); `identities` tells each table's state for query.json.
    """

    classes: Classes
    categories: tuple[Category, ...]
    boxes: tuple[TableFile, ...]
    images: tuple[TableFile, ...]
    ids: IdForm
    has_subset: bool
    splits: tuple[Split, ...]
    identities: tuple[dict[str, Any], ...]

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The labels of the chosen categories, None when every class is wanted."""
        if not self.categories:
            return None
        return tuple(dict.fromkeys(label for category in self.categories for label in category.labels))


class Gatherer:
    """Brings a query's tables onto this disk: the small class table first, so that a typing error costs nothing."""

    def __init__(self, options: Options, cache: MetadataCache, sink: Sink) -> None:
        self._options = options
        self._cache = cache
        self._sink = sink
        self._identities: list[dict[str, Any]] = []

    async def gather(self) -> Inputs:
        """Return the run's tables. Raises UsageError, InputError or UnavailableError."""
        options = self._options
        local = await asyncio.to_thread(self._local_tables)
        (label_table,) = await self._tables("classes", local, ())
        classes = await asyncio.to_thread(Classes.read, label_table)
        categories = classes.resolve_all(options.categories)
        self._say_shared(categories)
        everywhere: tuple[Split, ...] = options.splits or (SPLITS if options.annotation else ("train",))
        images = await self._tables("images", local, everywhere)
        ids, has_subset, said = IdForm(), True, everywhere
        if options.image_url is not None:
            ids, has_subset, said = await asyncio.to_thread(self._look_at, images[0])
        boxes = await self._tables("boxes", local, options.splits or said)
        return Inputs(
            classes=classes,
            categories=categories,
            boxes=boxes,
            images=images,
            ids=ids,
            has_subset=has_subset,
            splits=options.splits,
            identities=tuple(self._identities),
        )

    def _given(self) -> dict[TableKind, str | None]:
        options = self._options
        return {"classes": options.label, "boxes": options.annotation, "images": options.image_url}

    def _local_tables(self) -> dict[TableKind, TableFile]:
        """Return the given tables that lie on this disk; a wrong one is refused before anything is fetched."""
        tables: dict[TableKind, TableFile] = {}
        for kind, given in self._given().items():
            table = None if given is None else local_table(given)
            if table is not None:
                _check_columns(kind, table)
                tables[kind] = table
        return tables

    async def _tables(
        self, kind: TableKind, local: dict[TableKind, TableFile], splits: Sequence[Split]
    ) -> tuple[TableFile, ...]:
        given = self._given()[kind]
        if kind in local:
            self._identities.append({"table": kind, **await asyncio.to_thread(_identify, local[kind])})
            return (local[kind],)
        if given is not None:
            table = self._known(kind, *await self._cache.given(given))
            await asyncio.to_thread(_check_columns, kind, table)
            return (table,)
        return tuple([self._known(kind, *await self._cache.published(table)) for table in published(kind, splits)])

    def _known(self, kind: TableKind, table: TableFile, identity: Identity) -> TableFile:
        self._identities.append({"table": kind, "name": table.name, **asdict(identity)})
        return table

    def _look_at(self, images: TableFile) -> tuple[IdForm, bool, tuple[Split, ...]]:
        """Return what a given image table says: its kind of ids, whether it has Subset, and the splits in it."""
        has_subset = "Subset" in columns_of(images)
        ids = IdForm(looks_hexadecimal(images))
        if not has_subset:
            return ids, False, SPLITS
        with reading(images):
            subsets = scan(images, ["Subset"], []).unique().collect(engine="streaming").to_series().to_list()
        return ids, True, tuple(split for split in SPLITS if split in subsets) or SPLITS

    def _say_shared(self, categories: Sequence[Category]) -> None:
        for category in categories:
            if len(category.labels) > 1:
                labels = ", ".join(category.labels)
                self._sink(Note(f"{category.class_name} names {len(category.labels)} classes, all are taken: {labels}"))


def choose_sources(options: Options, inputs: Inputs, *, mirrored: bool) -> tuple[tuple[Source, ...], str]:
    """Return the order of sources and why it is so, in words. Raises InputError for cvdf without what it needs."""
    reachable = inputs.has_subset and inputs.ids.hexadecimal
    if options.source is not None:
        if "cvdf" in options.source and not reachable:
            lacks = "has no column 'Subset'" if not inputs.has_subset else "has no Open Images ids"
            raise InputError(f"{inputs.images[0].name}: it {lacks}, which --source cvdf needs; say --source original")
        return options.source, f"images from {', then '.join(options.source)} (as asked)"
    if not reachable:
        return ("original",), "images from original: the given image table has no Subset, or no Open Images ids"
    if mirrored:
        return ("cvdf",), "images from the mirror alone: it has the bucket's copies (cvdf), not Flickr's originals"
    return ("cvdf", "original"), "images from cvdf, then original"


def _check_columns(kind: TableKind, table: TableFile) -> None:
    """Refuse a given table without the columns it needs; a class table is read whole soon enough."""
    if kind != "classes":
        scan(table, _NEEDED[kind], [])


def _identify(table: TableFile) -> dict[str, Any]:
    """Return what tells one state of a given file from another: its size, and its MD5 if that is quickly had."""
    size = table.path.stat().st_size
    identity: dict[str, Any] = {"name": table.name, "bytes": size, "md5": None}
    if size <= _MOST_HASHED:
        with reading(table), table.path.open("rb") as file:
            identity["md5"] = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return identity
