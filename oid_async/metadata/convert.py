"""Turning a published table into the cache's own form, once: what every later question is answered from.

    FOLDER/part-00000.parquet ...   the rows: published columns as text, KEY (u64), ROW (u32: published order)
    FOLDER/pairs-00000.parquet ...  of a box table: LabelName, KEY, boxes (u32), one row per image and label, same order
    FOLDER/labels.parquet           of a box table: LabelName, boxes (u32), images (u32)
    FOLDER/damaged.parquet          Line (physical, header = 1), Reason of rows that were left out; absent without any

Box rows are sorted by LabelName, KEY, ROW: a class is a few row groups, found by their statistics. Image rows are
sorted by KEY, ROW. The rows are copied once as they come, then sorted a slice at a time: one sort of all box rows needs
2.7 GB.
Nothing here is atomic; whoever calls makes FOLDER known when it is whole.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl

from oid_async.openimages.ids import KEY, ROW, IdForm
from oid_async.openimages.tables import TableFile, bad_ids, reading, scan_keyed

_SLICE_ROWS = 600_000
_ROW_GROUP = 1 << 16


class StoppedError(Exception):
    """The caller wants no more of it."""


def convert(
    raw: TableFile, folder: Path, *, by_label: bool, progress: Callable[[int, int], None], stopped: Callable[[], bool]
) -> None:
    """Write a table's converted form into an existing, empty folder. Blocking; `progress` gets (done, total) steps.

    Raises InputError for what is no such table, StorageError for a full disk, StoppedError when asked to stop.
    """
    copy = folder / "rows.parquet"
    order = ["LabelName", KEY, ROW] if by_label else [KEY, ROW]
    with reading(raw, into=folder):
        frame = scan_keyed(raw, IdForm(), ["LabelName"] if by_label else [], numbered=True)
        frame.sink_parquet(copy, row_group_size=_ROW_GROUP, compression="lz4")
        _keep_damaged(raw, copy, folder)
        count = pl.scan_parquet(copy).select(pl.len()).collect().item()
        slices = list(_label_slices(copy) if by_label else _key_ranges(-(-count // _SLICE_ROWS)))
        slices = slices or [pl.lit(True)]
        labels = []
        for number, rows in enumerate(slices):
            if stopped():
                raise StoppedError
            progress(number + 1, len(slices) + 1)
            part = pl.scan_parquet(copy).filter(rows, pl.col(KEY).is_not_null()).collect(engine="streaming").sort(order)
            part.write_parquet(folder / f"part-{number:05}.parquet", row_group_size=_ROW_GROUP, compression="lz4")
            if by_label:
                pairs = part.group_by("LabelName", KEY, maintain_order=True).agg(boxes=pl.len().cast(pl.UInt32))
                pairs.write_parquet(folder / f"pairs-{number:05}.parquet", row_group_size=_ROW_GROUP, compression="lz4")
                labels.append(pairs.group_by("LabelName").agg(pl.col("boxes").sum(), images=pl.len()))
        if by_label:
            counts = pl.concat(labels).group_by("LabelName").sum().sort("LabelName")
            counts.write_parquet(folder / "labels.parquet")
    copy.unlink()
    progress(len(slices) + 1, len(slices) + 1)


def _keep_damaged(raw: TableFile, copy: Path, folder: Path) -> None:
    if not pl.scan_parquet(copy).select(pl.col(KEY).is_null().any()).collect(engine="streaming").item():
        return
    schema = {"Line": pl.Int64, "Reason": pl.String}
    pl.DataFrame(list(bad_ids(raw)), schema=schema, orient="row").write_parquet(folder / "damaged.parquet")


def _label_slices(copy: Path) -> Iterator[pl.Expr]:
    """Yield conditions that cut the rows into runs of neighbouring labels; a large label is cut by its keys."""
    counts = pl.scan_parquet(copy).group_by("LabelName").len().collect(engine="streaming").sort("LabelName")
    label = pl.col("LabelName")
    if counts.get_column("LabelName").null_count():
        yield label.is_null()
    run: list[str] = []
    rows = 0
    for name, count in counts.drop_nulls("LabelName").iter_rows():
        if run and rows + count > _SLICE_ROWS:
            yield label.is_between(pl.lit(run[0]), pl.lit(run[-1]))
            run, rows = [], 0
        if count > _SLICE_ROWS:
            yield from ((label == name) & keys for keys in _key_ranges(-(-count // _SLICE_ROWS)))
        else:
            run.append(name)
            rows += count
    if run:
        yield label.is_between(pl.lit(run[0]), pl.lit(run[-1]))


def _key_ranges(count: int) -> Iterator[pl.Expr]:
    """Yield conditions that cut all keys into ranges of one width: ids are spread nearly evenly (0... 1.4 times)."""
    width = 2**64 // max(1, count)
    for number in range(count):
        last = 2**64 - 1 if number == count - 1 else (number + 1) * width - 1
        yield pl.col(KEY).is_between(pl.lit(number * width, pl.UInt64), pl.lit(last, pl.UInt64))
