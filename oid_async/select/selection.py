"""Which images: box tables and image tables in, the sorted keys of the selected images out.

The tables are read once each, lazily, two or three columns wide. What grows with the result is columns of numbers: a
key is the ImageID as UInt64 (8 bytes), or the id itself where a table of a user's own names its images otherwise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from oid_async.openimages.classes import Category
from oid_async.openimages.ids import KEY, IdForm
from oid_async.openimages.tables import TableFile, reading, scan
from oid_async.options import SPLITS, Match, Split


@dataclass(frozen=True, slots=True)
class Selection:
    """The selected images and what is worth saying about them.

    `keys` is sorted ascending and unique; `classes` counts images per category and `splits` the selected ones per split
    (both in the image table); `rows` counts the box rows that the selected images bring; `unlisted` counts annotated
    images without a row in the image table; the damaged flags say which tables hold rows whose ImageID is no id.
    """

    keys: pl.Series
    classes: dict[str, int]
    splits: dict[str, int]
    rows: int
    unlisted: int
    damaged_boxes: bool
    damaged_images: bool


def annotated(boxes: Sequence[TableFile], ids: IdForm, categories: Sequence[Category]) -> pl.DataFrame:
    """Return key, label (u16) and rows (u32): one row per image and label that it has boxes of, in no order.

    `label` is a place in `wanted_labels`; without categories it is 0 and every image with a box has one row. A null key
    stands for damaged rows. Numbers, because a group by text costs some hundred bytes an image.
    """
    labels = wanted_labels(categories)
    frames = []
    for table in boxes:
        frame = scan(table, ["ImageID", "LabelName"], []).with_columns(ids.key())
        if labels:
            frame = frame.filter(pl.col("LabelName").is_in(labels) | pl.col(KEY).is_null())
            places = list(range(len(labels)))
            label = pl.col("LabelName").replace_strict(labels, places, default=None, return_dtype=pl.UInt16)
        else:
            label = pl.lit(0, pl.UInt16)
        frames.append(frame.select(KEY, label=label).group_by(KEY, "label").agg(rows=pl.len()))
    return _collect(frames, boxes).group_by(KEY, "label").agg(pl.col("rows").sum())


def wanted_labels(categories: Sequence[Category]) -> list[str]:
    """Return every label of the categories once, sorted."""
    return sorted({label for category in categories for label in category.labels})


def listed(images: Sequence[TableFile], ids: IdForm, splits: Sequence[Split]) -> pl.DataFrame:
    """Return key and split (u8 index into SPLITS, null if unknown) of the image tables' rows, in no order.

    `splits` keeps the rows of these splits only, where the table says which; empty keeps all.
    """
    frames = []
    codes = list(range(len(SPLITS)))
    for table in images:
        frame = scan(table, ["ImageID"], ["Subset"])
        if "Subset" in frame.collect_schema():
            split = pl.col("Subset").replace_strict(list(SPLITS), codes, default=None, return_dtype=pl.UInt8)
            frame = in_splits(frame, splits)
        else:
            split = pl.lit(None, pl.UInt8)
        frames.append(frame.select(ids.key(), split=split))
    return _collect(frames, images)


def in_splits(images: pl.LazyFrame, splits: Sequence[Split]) -> pl.LazyFrame:
    """Keep the image rows of these splits; a table without Subset cannot tell and keeps all."""
    if not splits or "Subset" not in images.collect_schema():
        return images
    return images.filter(pl.col("Subset").is_in(list(splits)))


def choose(
    pairs: pl.DataFrame, images: pl.DataFrame, categories: Sequence[Category], *, match: Match, limit: int | None
) -> Selection:
    """Decide which images are selected: union or intersection, only those with an image row, the first `limit`.

    `pairs` comes from `annotated`, `images` from `listed`. Pure.
    """
    damaged_boxes = pairs.get_column(KEY).null_count() > 0
    damaged_images = images.get_column(KEY).null_count() > 0
    pairs = pairs.filter(pl.col(KEY).is_not_null())
    images = images.filter(pl.col(KEY).is_not_null()).unique(KEY)
    in_table = pairs.join(images, on=KEY, how="semi")
    unlisted = pairs.get_column(KEY).n_unique() - in_table.get_column(KEY).n_unique()
    keys, classes = _matching(in_table, categories, match)
    if limit is not None:
        keys = keys.head(limit)
    chosen = keys.to_frame()
    counts = images.join(chosen, on=KEY, how="semi").group_by("split").len().drop_nulls().sort("split")
    return Selection(
        keys=keys,
        classes=classes,
        splits={SPLITS[code]: count for code, count in counts.iter_rows()},
        rows=int(in_table.join(chosen, on=KEY, how="semi").get_column("rows").sum()),
        unlisted=unlisted,
        damaged_boxes=damaged_boxes,
        damaged_images=damaged_images,
    )


def _matching(pairs: pl.DataFrame, categories: Sequence[Category], match: Match) -> tuple[pl.Series, dict[str, int]]:
    """Return the sorted keys that match, and how many images each category has on its own."""
    if not categories:
        return pairs.get_column(KEY).unique().sort(), {}
    place = {label: number for number, label in enumerate(wanted_labels(categories))}
    asked = pl.DataFrame(
        [(number, place[label]) for number, category in enumerate(categories) for label in category.labels],
        schema={"category": pl.UInt16, "label": pl.UInt16},
        orient="row",
    )
    of_category = pairs.join(asked, on="label").select(KEY, "category").unique()
    per_category = dict(of_category.group_by("category").len().iter_rows())
    names = [category.class_name for category in categories]
    classes = {
        # Two MIDs may bear one name; asked for apart, they are counted apart.
        name if names.count(name) == 1 else f"{name} ({', '.join(categories[number].labels)})": per_category.get(
            number, 0
        )
        for number, name in enumerate(names)
    }
    per_image = of_category.group_by(KEY).len("hits")
    if match == "all":
        per_image = per_image.filter(pl.col("hits") == len(categories))
    return per_image.get_column(KEY).sort(), classes


def _collect(frames: Sequence[pl.LazyFrame], tables: Sequence[TableFile]) -> pl.DataFrame:
    """Collect one frame per table, one after the other, so that an error names its table and memory holds one."""
    parts = []
    for frame, table in zip(frames, tables, strict=True):
        with reading(table):
            parts.append(frame.collect(engine="streaming"))
    return pl.concat(parts)
