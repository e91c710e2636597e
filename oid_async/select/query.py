"""The query, every name resolved, and the reading of the columns that it needs.

Each table is read once, lazily, two or three columns wide. Only columns of numbers grow with the result: a key is the
ImageID as UInt64 (8 bytes), or the id itself in a table of a user's own with other ids.
"""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Self

import polars as pl

from oid_async.openimages.classes import Category
from oid_async.openimages.ids import KEY, IdForm
from oid_async.openimages.vocabulary import SPLITS, Split
from oid_async.options.query_table import Match
from oid_async.quick_values import frozen
from oid_async.select.idlist import IdList
from oid_async.select.negatives import NegativeRule
from oid_async.tables.reading import TableFile, cut, reading, scan, scan_keyed
from oid_async.tables.rows import RowSource, scan_pairs

if TYPE_CHECKING:
    from oid_async.select.image_where import ImageCondition

_ROWS_AT_ONCE = 1 << 18
_ROWS_GROUPED = 1 << 20


@frozen
class Part:
    """The `number`-th, from 1, of `count` disjoint parts of a sequence: every `count`-th row."""

    number: int
    count: int

    @classmethod
    def of(cls, shard: str | None) -> Self | None:
        """Return the part that --shard names, as `Options` has checked it: 'K/N' with K from 1; None for everything."""
        if shard is None:
            return None
        number, count = map(int, shard.split("/"))
        return cls(number, count)

    def holds(self, place: pl.Expr) -> pl.Expr:
        """Return the condition that the row at a place (a whole number from 0) belongs to this part.

        >>> rows = pl.LazyFrame({"place": range(7)})
        >>> [rows.filter(Part(k, 3).holds(pl.col("place"))).collect().to_series().to_list() for k in (1, 2, 3)]
        [[0, 3, 6], [1, 4], [2, 5]]
        """
        return place % self.count == self.number - 1

    def share(self, total: int) -> int:
        """Return how many of so many rows belong to this part.

        >>> [Part(k, 3).share(7) for k in (1, 2, 3)]
        [3, 2, 2]
        """
        return (total - self.number + self.count) // self.count


@frozen
class ResolvedQuery:
    """A query with every name resolved.

    `min_boxes` and `max_boxes` bound the matching boxes of an image, of all categories together; without `by_boxes`
    every image of the image table is a candidate. `seed` is None for the order of ImageIDs. `limit_per_class` and
    `balanced` count images of the categories, the former also of the classes of `restriction`; without any of them of
    `every_label`. `limit` is a number, a share, or numbers of splits, of which others get none. With `top_up` both
    limits count the images that did not fail. Only `part` of the selected images is returned. `restriction` is one more
    condition on an image, `image_condition` one on its row in the image table. `negatives` asks for others beside the
    selected images.
    """

    categories: tuple[Category, ...] = ()
    excluded: tuple[Category, ...] = ()
    match: Match = "any"
    min_boxes: int | None = None
    max_boxes: int | None = None
    image_ids: IdList | None = None
    exclude_ids: IdList | None = None
    limit_per_class: int | None = None
    balanced: int | None = None
    every_label: tuple[str, ...] = ()
    limit: int | Fraction | Mapping[Split, int | None] | None = None
    seed: int | None = None
    top_up: bool = False
    by_boxes: bool = True
    part: Part | None = None
    restriction: "Restriction | None" = None
    image_condition: "ImageCondition | None" = None
    negatives: NegativeRule | None = None

    @property
    def labels(self) -> list[str]:
        """Every label of the query, sorted: of the categories, their subclasses, the excluded ones, `every_label`."""
        wanted = {label for category in self.categories for label in (*category.labels, *category.below)}
        excluded = {label for category in self.excluded for label in category.labels}
        return sorted(wanted | excluded | set(self.every_label))

    @property
    def counts_every_label(self) -> bool:
        """Whether each label that a row has is a class whose images are counted."""
        named = self.restriction is not None and bool(self.restriction.classes)
        per_class = self.limit_per_class is not None and not named
        return not self.categories and (per_class or self.balanced is not None)


@frozen
class Term:
    """A question about an image: is there a row in these tables that meets the condition on these columns?"""

    tables: tuple[TableFile, ...]
    columns: tuple[str, ...]
    condition: pl.Expr


@frozen
class Restriction:
    """A condition on an image, over annotations of any kind: `where`, on the results t0, t1, ... of `terms`.

    `parts` are the conditions that it is made of, each with the option that asks for it; `classes` are the conditions
    of the classes whose images --limit-per-class counts.
    """

    terms: tuple[Term, ...]
    where: pl.Expr
    parts: tuple[tuple[str, pl.Expr], ...] = ()
    classes: tuple[pl.Expr, ...] = ()


@frozen
class RestrictedImages:
    """The keys of the images that meet a restriction; `classes` are those of each of its classes."""

    keys: pl.Series
    classes: tuple[pl.Series, ...] = ()


def restricted_images(restriction: Restriction, ids: IdForm) -> RestrictedImages:
    """Return the images that meet a restriction: one lazy query, however many kinds it reads."""
    images = answers(restriction.terms, ids)
    classes = [condition.alias(f"c{number}") for number, condition in enumerate(restriction.classes)]
    with reading(restriction.terms[0].tables[0]):
        found = images.filter(restriction.where).select(KEY, *classes).collect(engine="streaming")
    keys = found.get_column(KEY)
    return RestrictedImages(keys, tuple(keys.filter(column) for column in found.iter_columns() if column.name != KEY))


def answers(terms: Sequence[Term], ids: IdForm) -> pl.LazyFrame:
    """Return KEY and t0, t1, ... (Boolean, never null), the answers to terms, of each image that one is true of."""
    terms_of: dict[tuple[TableFile, ...], list[tuple[str, Term]]] = {}
    for number, term in enumerate(terms):
        terms_of.setdefault(term.tables, []).append((f"t{number}", term))
    frames = []
    for tables, asked in terms_of.items():
        columns = list(dict.fromkeys(name for _, term in asked for name in term.columns))
        results = [term.condition.fill_null(False).alias(name) for name, term in asked]
        for table in tables:
            rows = scan_keyed(table, ids, columns, []).select(KEY, *results)
            frames.append(rows.filter(pl.any_horizontal(name for name, _ in asked)))
    every = [f"t{number}" for number in range(len(terms))]
    # Terms that a frame has no column of are null there, and false in the end.
    return pl.concat(frames, how="diagonal").group_by(KEY).agg(pl.col(every).max().fill_null(False))


def read_label_counts(source: RowSource, ids: IdForm, query: ResolvedQuery) -> pl.DataFrame:
    """Return key, label (u16), rows (u32): one row per image and label that it has rows of, in no order.

    `label` is an index into `query.labels`, or its length for every other class, which counts only without categories;
    `rows` counts those with the flags, maybe none: for an exclusion any box counts. Numbers, because a group by text
    costs some hundred bytes an image. A relationship counts for each of its two classes.
    """
    labels = query.labels
    with_others = not query.categories
    # Where many labels count as one, an image may have rows of it in each part of a table.
    is_exact = bool(query.categories or query.every_label)
    frames, tables = [], []
    for table in source.tables:
        # Where every row counts, a sorted table has the counts of each image and label ready.
        counted = scan_pairs(table) if source.is_plain and not ids.by_split else None
        # Counted part by part, a table takes half the memory.
        parts = table.divided() if is_exact and counted is None else [table]
        for part in parts:
            frame = _label_rows(source, part, ids) if counted is None else counted.rename({"boxes": "rows"})
            if not with_others:
                frame = frame.filter(pl.col("LabelName").is_in(labels))
            label = _index("LabelName", labels, len(labels) if with_others else None)
            frame = frame.select(KEY, "rows", label=label)
            shares = [frame]
            if counted is not None and not is_exact:
                with reading(table):
                    shares = list(_by_key(frame))
            if counted is None or not is_exact:
                shares = [share.group_by(KEY, "label").agg(pl.col("rows").sum()) for share in shares]
            frames += [share.select(KEY, "label", "rows") for share in shares]
            tables += [table] * len(shares)
    pairs = _collect(frames, tables)
    return pairs if len(source.tables) == 1 else pairs.group_by(KEY, "label").agg(pl.col("rows").sum())


def _by_key(rows: pl.LazyFrame) -> Iterator[pl.LazyFrame]:
    """Yield the rows of a sorted table with numbers as keys, all those of an image together, about a million at a time.

    Groups of four times as many take twice the memory, and no less time (measured); of a table that is not sorted each
    share would be a reading of all.
    """
    count = 1 + rows.select(pl.len()).collect().item() // _ROWS_GROUPED
    edges = [2**64 * number // count for number in range(count + 1)]
    for first, behind in pairwise(edges):
        yield rows.filter(pl.col(KEY).is_between(pl.lit(first, pl.UInt64), pl.lit(behind - 1, pl.UInt64)))


def all_labels(source: RowSource) -> list[str]:
    """Return every label that a row has, sorted."""
    frames = []
    for table in source.tables:
        # A sorted table's pairs of label and image are fewer than its rows.
        pairs = scan_pairs(table) if source.is_plain else None
        rows = scan(table, [*source.kind.labels, *source.columns], []).filter(source.present())
        frames.append(rows if pairs is None else pairs)
    found = [frame.select(LabelName=pl.col(name)).unique() for frame in frames for name in source.kind.labels]
    if not found:
        return []
    with reading(source.tables[0]):
        return pl.concat(found).collect(engine="streaming").to_series().drop_nulls().unique().sort().to_list()


def no_label_counts(ids: IdForm) -> pl.DataFrame:
    """Return the result of `read_label_counts` when no rows are read."""
    return pl.DataFrame(schema={KEY: ids.dtype, "label": pl.UInt16, "rows": pl.UInt32})


def read_image_keys(
    images: Sequence[TableFile], ids: IdForm, splits: Sequence[Split], condition: "ImageCondition | None" = None
) -> pl.DataFrame:
    """Return key, split (u8 index into SPLITS, null if unknown) and fits of the image tables' rows, in published order.

    `splits` keeps the rows of these splits only, where the table has them; empty keeps all. `fits` (Boolean) says
    whether a row meets the condition: NULL is false, and without a condition every row does.
    """
    frames, tables = [], []
    for table in images:
        rows = scan_keyed(table, ids, [], ["Subset", *(condition.columns if condition is not None else ())])
        has_split = "Subset" in rows.collect_schema()
        split = _index("Subset", list(SPLITS), None, pl.UInt8) if has_split else pl.lit(None, pl.UInt8)
        fits = condition.condition.fill_null(False) if condition is not None else pl.lit(True)
        # A million rows of the cache at once take 60 MB in place of 20, and no less time (measured).
        with reading(table):
            parts = list(cut(table, ids, rows, _ROWS_AT_ONCE))
        for part in parts:
            frame = in_splits(part, splits) if has_split else part
            if condition is not None:
                frame = frame.with_columns(condition.typed())
            frames.append(frame.select(KEY, split=split, fits=fits))
            tables.append(table)
    return _collect(frames, tables, condition)


def names_twice(images: pl.DataFrame) -> bool:
    """Return whether any key of these rows (KEY, split) is of two splits."""
    rows = images.drop_nulls()
    if not rows.get_column(KEY).is_sorted():
        rows = rows.sort(KEY)
    is_same = pl.col(KEY) == pl.col(KEY).shift()
    repeated = rows.filter(is_same).get_column(KEY)
    if not len(repeated):
        return False
    splits = rows.filter(pl.col(KEY).is_in(repeated.implode())).group_by(KEY).agg(pl.col("split").n_unique())
    return bool((splits.get_column("split") > 1).any())


def in_splits(images: pl.LazyFrame, splits: Sequence[Split]) -> pl.LazyFrame:
    """Keep the image rows of these splits; a table without Subset keeps all."""
    if not splits or "Subset" not in images.collect_schema():
        return images
    return images.filter(pl.col("Subset").is_in(list(splits)))


def _index(column: str, values: Sequence[str], rest: int | None, dtype: type[pl.DataType] = pl.UInt16) -> pl.Expr:
    """Return the expression text -> its index in `values`, `rest` for any other."""
    if not values:
        return pl.lit(rest, dtype)
    indices = list(range(len(values)))
    return pl.col(column).replace_strict(list(values), indices, default=rest, return_dtype=dtype)


def _label_rows(source: RowSource, table: TableFile, ids: IdForm) -> pl.LazyFrame:
    """Return KEY, LabelName (null where none is named), rows (u32: 1 if it fits, else 0) of each class of a row."""
    rows = scan_keyed(table, ids, [*source.kind.labels, *source.columns], []).filter(source.present())
    rows = rows.with_columns(source.saved().cast(pl.UInt32).alias("rows"))
    sides = [rows.select(KEY, "rows", LabelName=pl.col(name)) for name in source.kind.labels]
    return pl.concat(sides) if sides else rows.select(KEY, "rows", LabelName=pl.lit(None, pl.String))


def _collect(
    frames: Sequence[pl.LazyFrame], tables: Sequence[TableFile], condition: "ImageCondition | None" = None
) -> pl.DataFrame:
    """Collect one frame per table, one after the other, so that an error names its table and memory holds one."""
    parts = []
    for frame, table in zip(frames, tables, strict=True):
        with reading(table) if condition is None else condition.evaluated(table.name):
            parts.append(frame.collect(engine="streaming"))
    return pl.concat(parts)
