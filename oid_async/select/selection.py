"""Which images: box tables and image tables in, the sorted keys of the selected images out.

The tables are read once each, lazily, two or three columns wide. What grows with the result is columns of numbers: a
key is the ImageID as UInt64 (8 bytes), or the id itself where a table of a user's own names its images otherwise.

The order of operations: boxes that match (class, flags), in images of the image table -> union or intersection ->
without excluded classes -> id lists -> the first N of each class -> the first N.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from oid_async.openimages.classes import Category
from oid_async.openimages.ids import KEY, IdForm
from oid_async.openimages.tables import TableFile, reading, scan, scan_keyed, scan_pairs
from oid_async.options import SPLITS, Match, Split
from oid_async.select.idlist import IdList

_ORDER = "__order"


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked of the tables, every name resolved.

    `flags` says what a box must be by column; `needs_boxes=False` selects by the image table and the id lists alone.
    `seed` is None for the order of ImageIDs. `limit_per_class` without categories means every label there is.
    """

    categories: tuple[Category, ...] = ()
    excluded: tuple[Category, ...] = ()
    match: Match = "any"
    flags: Mapping[str, bool] = field(default_factory=dict)
    image_ids: IdList | None = None
    exclude_ids: IdList | None = None
    limit_per_class: int | None = None
    limit: int | None = None
    seed: int | None = None
    needs_boxes: bool = True

    @property
    def labels(self) -> list[str]:
        """Every label that is looked for, sorted: of the categories, of what stands below them, of the excluded."""
        wanted = {label for category in self.categories for label in (*category.labels, *category.below)}
        return sorted(wanted | {label for category in self.excluded for label in category.labels})


@dataclass(frozen=True, slots=True)
class Selection:
    """The selected images and what is worth saying about them.

    `keys` is sorted ascending and unique; `classes` counts images per category and `splits` the selected ones per split
    (both in the image table); `added` counts the images that each category's subclasses would add to it; `rows` counts
    the matching box rows that the selected images bring; `unlisted` counts annotated images without a row in the image
    table; `unknown_lines` are those of the id list that name no image of the tables, `unboxed` counts listed images
    without a box; the damaged flags say which tables hold rows whose ImageID is no id.
    """

    keys: pl.Series
    classes: dict[str, int]
    added: dict[str, int]
    splits: dict[str, int]
    rows: int
    unlisted: int
    unknown_lines: pl.Series
    unboxed: int
    damaged_boxes: bool
    damaged_images: bool


def annotated(boxes: Sequence[TableFile], ids: IdForm, query: Query) -> pl.DataFrame:
    """Return key, label (u16), rows (u32): one row per image and label that it has boxes of, in no order.

    `label` is a place in `query.labels`, or behind its end for every other class, which counts only without categories;
    `rows` counts the boxes that fit the flags, maybe none: for an exclusion any box will do. A null key stands for
    damaged rows. Numbers, because a group by text costs some hundred bytes an image.
    """
    labels = query.labels
    if not query.categories and query.limit_per_class is not None:
        labels += [label for label in _all_labels(boxes) if label not in labels]
    others = not query.categories
    frames = []
    for table in boxes:
        indexed = table.columns is not None and not query.flags
        frame = scan_pairs(table) if indexed else scan_keyed(table, ids, ["LabelName", *query.flags], [])
        if not others:
            frame = frame.filter(pl.col("LabelName").is_in(labels) | pl.col(KEY).is_null())
        label = _place("LabelName", labels, len(labels) if others else None).alias("label")
        if indexed:
            counted_once = frame.select(KEY, label, rows="boxes")
            # Once per image and label already, unless several labels share one place.
            frames.append(counted_once.group_by(KEY, "label").agg(pl.col("rows").sum()) if others else counted_once)
            continue
        counted = fits(query.flags).sum() if query.flags else pl.len()
        columns = frame.select(KEY, label, *query.flags)
        frames.append(columns.group_by(KEY, "label").agg(rows=counted.cast(pl.UInt32)))
    pairs = _collect(frames, boxes)
    return pairs if len(boxes) == 1 else pairs.group_by(KEY, "label").agg(pl.col("rows").sum())


def count_rows(boxes: Sequence[TableFile], ids: IdForm, flags: Mapping[str, bool], keys: pl.Series) -> int:
    """Return how many box rows of any class these images have that fit the flags."""
    frames = [
        scan_keyed(table, ids, list(flags), [])
        .filter(fits(flags), pl.col(KEY).is_in(keys.implode()))
        .select(rows=pl.len())
        for table in boxes
    ]
    return int(_collect(frames, boxes).get_column("rows").sum()) if frames else 0


def fits(flags: Mapping[str, bool]) -> pl.Expr:
    """Return the condition that a box is what the flags ask for: 1 is yes, 0 is no, -1 (unknown) is neither."""
    wanted = [pl.col(name).cast(pl.Float32, strict=False) == int(yes) for name, yes in flags.items()]
    return pl.all_horizontal(wanted).fill_null(False) if wanted else pl.lit(True)


def listed(
    images: Sequence[TableFile], ids: IdForm, splits: Sequence[Split], among: pl.Series | None = None
) -> pl.DataFrame:
    """Return key and split (u8 index into SPLITS, null if unknown) of the image tables' rows, in no order.

    `splits` keeps the rows of these splits only, where the table says which; empty keeps all. `among` keeps the rows of
    these keys only, and damaged ones.
    """
    frames = []
    for table in images:
        frame = scan_keyed(table, ids, [], ["Subset"])
        if "Subset" in frame.collect_schema():
            split = _place("Subset", list(SPLITS), None, pl.UInt8)
            frame = in_splits(frame, splits)
        else:
            split = pl.lit(None, pl.UInt8)
        if among is not None:
            frame = frame.filter(pl.col(KEY).is_in(among.implode()) | pl.col(KEY).is_null())
        frames.append(frame.select(KEY, split=split))
    return _collect(frames, images)


def in_splits(images: pl.LazyFrame, splits: Sequence[Split]) -> pl.LazyFrame:
    """Keep the image rows of these splits; a table without Subset cannot tell and keeps all."""
    if not splits or "Subset" not in images.collect_schema():
        return images
    return images.filter(pl.col("Subset").is_in(list(splits)))


def choose(pairs: pl.DataFrame, images: pl.DataFrame, query: Query) -> Selection:
    """Decide which images are selected, in the order of operations that stands at the top. Pure.

    `pairs` comes from `annotated` (or is empty when the query needs no boxes), `images` from `listed`.
    """
    damaged_boxes = pairs.get_column(KEY).null_count() > 0
    damaged_images = images.get_column(KEY).null_count() > 0
    pairs = pairs.filter(pl.col(KEY).is_not_null())
    images = images.filter(pl.col(KEY).is_not_null()).unique(KEY, keep="any")
    in_table = pairs.join(images, on=KEY, how="semi")
    members, gained = _members(in_table, query)
    unlisted = _unlisted(pairs, images, query)
    keys = _matching(members, images, query)
    if query.excluded:
        banned = _labelled(in_table, query, [label for category in query.excluded for label in category.labels])
        keys = keys.filter(~keys.is_in(banned.implode()))
    unknown_lines, unboxed = pl.Series("line", [], pl.UInt32), 0
    if query.image_ids is not None:
        unknown_lines = query.image_ids.unknown_lines(images)
        named = query.image_ids.chosen(images).get_column(KEY)
        if query.needs_boxes and not query.categories:
            unboxed = int((~named.is_in(in_table.get_column(KEY).implode())).sum())
        keys = keys.filter(keys.is_in(named.implode()))
    if query.exclude_ids is not None:
        keys = keys.filter(~keys.is_in(query.exclude_ids.chosen(images).get_column(KEY).implode()))
    keys = _first(keys, members, query)
    chosen = keys.to_frame()
    counts = images.join(chosen, on=KEY, how="semi").group_by("split").len().drop_nulls().sort("split")
    saved = in_table.join(chosen, on=KEY, how="semi")
    if query.categories:
        saved = saved.filter(pl.col("label").is_in(_codes(query, _labels_of(query.categories))))
    return Selection(
        keys=keys,
        classes=_named(members, query),
        added=_named(gained, query),
        splits={SPLITS[code]: count for code, count in counts.iter_rows()},
        rows=int(saved.get_column("rows").sum()),
        unlisted=unlisted,
        unknown_lines=unknown_lines,
        unboxed=unboxed,
        damaged_boxes=damaged_boxes,
        damaged_images=damaged_images,
    )


def shuffled(seed: int) -> pl.Expr:
    """Return the expression key -> its place in the shuffled order of a seed: splitmix64 of ImageID + seed.

    The arithmetic is modulo 2^64, as Polars' is on UInt64; a shift to the right is a division by a power of two.
    """

    def number(value: int) -> pl.Expr:
        return pl.lit(value % 2**64, pl.UInt64)

    z = pl.col(KEY) + number(seed + 0x9E3779B97F4A7C15)
    z = (z ^ (z // number(2**30))) * number(0xBF58476D1CE4E5B9)
    z = (z ^ (z // number(2**27))) * number(0x94D049BB133111EB)
    return z ^ (z // number(2**31))


def _members(in_table: pl.DataFrame, query: Query) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return key and category (u16), once each, of the images that each category has, and of those it would gain.

    Without categories every label is a category of its own.
    """
    boxed = in_table.filter(pl.col("rows") > 0)
    if not query.categories:
        members = boxed.select(KEY, category="label")
        return members, members.clear()
    codes = {label: code for code, label in enumerate(query.labels)}
    asked = [
        (number, codes[label], is_below)
        for number, category in enumerate(query.categories)
        for labels, is_below in ((category.labels, False), (category.below, True))
        for label in labels
    ]
    schema = {"category": pl.UInt16, "label": pl.UInt16, "is_below": pl.Boolean}
    every = boxed.join(pl.DataFrame(asked, schema=schema, orient="row"), on="label")
    members = every.filter(~pl.col("is_below")).select(KEY, "category").unique()
    gained = every.filter("is_below").select(KEY, "category").unique().join(members, on=[KEY, "category"], how="anti")
    return members, gained


def _matching(members: pl.DataFrame, images: pl.DataFrame, query: Query) -> pl.Series:
    """Return the sorted keys of the images that match, before anything is taken away."""
    if not query.needs_boxes:
        return images.get_column(KEY).sort()
    if query.match == "any":
        return members.get_column(KEY).unique().sort()
    per_image = members.group_by(KEY).len("hits")
    return per_image.filter(pl.col("hits") == len(query.categories)).get_column(KEY).sort()


def _first(keys: pl.Series, members: pl.DataFrame, query: Query) -> pl.Series:
    """Return the first keys of each class, then the first of those, sorted by key again."""
    if query.limit is None and query.limit_per_class is None:
        return keys
    frame = _ordered(keys, query.seed)
    if query.limit_per_class is not None:
        per_class = members.join(frame, on=KEY).sort(_ORDER)
        frame = per_class.group_by("category", maintain_order=True).head(query.limit_per_class)
        frame = frame.select(KEY, _ORDER).unique(KEY)
    if query.limit is not None:
        frame = frame.sort(_ORDER).head(query.limit)
    return frame.get_column(KEY).sort()


def _ordered(keys: pl.Series, seed: int | None) -> pl.DataFrame:
    frame = keys.to_frame()
    if seed is None:
        return frame.with_columns(pl.col(KEY).alias(_ORDER))
    if keys.dtype == pl.UInt64:
        return frame.with_columns(shuffled(seed).alias(_ORDER))
    numbers = pl.Series(KEY, [_number(image_id) for image_id in keys], pl.UInt64)
    return frame.with_columns(numbers.to_frame().select(shuffled(seed)).to_series().alias(_ORDER))


def _number(image_id: str) -> int:
    """Return what stands for an id that is no number: the first eight bytes of its SHA-256."""
    return int.from_bytes(hashlib.sha256(image_id.encode("utf-8", "surrogatepass")).digest()[:8])


def _unlisted(pairs: pl.DataFrame, images: pl.DataFrame, query: Query) -> int:
    """Count the images that have a matching box and no row in the image table."""
    matching = pairs.filter(pl.col("rows") > 0)
    if query.categories:
        matching = matching.filter(pl.col("label").is_in(_codes(query, _labels_of(query.categories))))
    return matching.join(images, on=KEY, how="anti").get_column(KEY).n_unique()


def _labelled(in_table: pl.DataFrame, query: Query, labels: Sequence[str]) -> pl.Series:
    """Return the keys of images with a box of any of these labels, whatever its flags."""
    return in_table.filter(pl.col("label").is_in(_codes(query, labels))).get_column(KEY).unique()


def _labels_of(categories: Sequence[Category]) -> list[str]:
    return [label for category in categories for label in category.labels]


def _codes(query: Query, labels: Sequence[str]) -> list[int]:
    places = {label: code for code, label in enumerate(query.labels)}
    return sorted({places[label] for label in labels})


def _named(members: pl.DataFrame, query: Query) -> dict[str, int]:
    """Return how many images each category has among these, by its name."""
    counts = dict(members.group_by("category").len().iter_rows()) if query.categories else {}
    names = [category.class_name for category in query.categories]
    return {
        # Two MIDs may bear one name; asked for apart, they are counted apart.
        name if names.count(name) == 1 else f"{name} ({', '.join(query.categories[number].labels)})": counts.get(
            number, 0
        )
        for number, name in enumerate(names)
    }


def _place(column: str, values: Sequence[str], rest: int | None, dtype: type[pl.DataType] = pl.UInt16) -> pl.Expr:
    """Return the expression text -> its place among `values`, `rest` for any other."""
    if not values:
        return pl.lit(rest, dtype)
    places = list(range(len(values)))
    return pl.col(column).replace_strict(list(values), places, default=rest, return_dtype=dtype)


def _all_labels(boxes: Sequence[TableFile]) -> list[str]:
    """Return every label that a box has, sorted."""
    frames = [scan(table, ["LabelName"], []).unique() for table in boxes]
    return _collect(frames, boxes).get_column("LabelName").drop_nulls().unique().sort().to_list()


def _collect(frames: Sequence[pl.LazyFrame], tables: Sequence[TableFile]) -> pl.DataFrame:
    """Collect one frame per table, one after the other, so that an error names its table and memory holds one."""
    parts = []
    for frame, table in zip(frames, tables, strict=True):
        with reading(table):
            parts.append(frame.collect(engine="streaming"))
    return pl.concat(parts)
