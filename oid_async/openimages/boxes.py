"""Box rows: which of them fit, how many there are of each class, those of given images.

A flag (IsOccluded, ...) is 1, 0 or -1; -1 means that nobody looked, and is neither yes nor no. A
table of a user's own may say true and false.
"""

from collections.abc import Mapping, Sequence

import polars as pl

from oid_async.openimages.ids import KEY, IdForm
from oid_async.openimages.tables import TableFile, reading, scan_keyed


def fits(flags: Mapping[str, bool]) -> pl.Expr:
    """Return the condition that a box is what the flags ask for: 1 is yes, 0 is no, -1 (unknown) is neither."""
    wanted = []
    for name, yes in flags.items():
        number = pl.col(name).cast(pl.Float32, strict=False) == int(yes)
        wanted.append(number.fill_null(pl.col(name).str.to_lowercase() == str(yes).lower()))
    return pl.all_horizontal(wanted).fill_null(False) if wanted else pl.lit(True)


def rows_of(
    table: TableFile, ids: IdForm, keys: pl.Series | None, *, labels: Sequence[str] | None, flags: Mapping[str, bool]
) -> pl.LazyFrame:
    """Return the box rows of these images (None: of all): KEY, ROW and every column as published, in no order.

    `labels` are those wanted, None for every class; rows must fit the flags.
    """
    frame = scan_keyed(table, ids, ["ImageID", "LabelName"], numbered=True).filter(fits(flags))
    if labels is not None:
        frame = frame.filter(pl.col("LabelName").is_in(list(labels)))
    return frame if keys is None else frame.filter(pl.col(KEY).is_in(keys.implode()))


def count_rows(boxes: Sequence[TableFile], ids: IdForm, flags: Mapping[str, bool], keys: pl.Series) -> int:
    """Return how many box rows of any class these images have that fit the flags."""
    total = 0
    for table in boxes:
        rows = scan_keyed(table, ids, list(flags), []).filter(fits(flags), pl.col(KEY).is_in(keys.implode()))
        with reading(table):
            total += int(rows.select(pl.len()).collect(engine="streaming").item())
    return total


def scan_pairs(table: TableFile) -> pl.LazyFrame | None:
    """Scan what a sorted box table says of each image and label: LabelName, KEY, boxes (u32), in that order.

    Return None for a table that does not say it.
    """
    pairs = sorted(table.path.glob("pairs-*.parquet")) if table.columns is not None else []
    return pl.scan_parquet(pairs, glob=False) if pairs else None


def count_labels(boxes: TableFile) -> dict[str, tuple[int, int]]:
    """Return how many images and boxes each label has in a box table of Open Images."""
    frame = scan_pairs(boxes)
    if frame is None:
        rows = scan_keyed(boxes, IdForm(), ["LabelName"], [])
        frame = rows.group_by("LabelName", KEY).agg(boxes=pl.len())
    counts = frame.group_by("LabelName").agg(images=pl.len(), boxes=pl.col("boxes").sum())
    with reading(boxes):
        found = counts.collect(engine="streaming")
    return {label: (images, count) for label, images, count in found.iter_rows() if label is not None}
