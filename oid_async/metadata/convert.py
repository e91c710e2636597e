"""Conversion of a published table to the cache's own form, made once and read by every later query.

    FOLDER/part-00000.parquet ...   the rows: published columns as text, KEY (u64), ROW (u32: published order)
    FOLDER/pairs-00000.parquet ...  of a sorted box table: LabelName, KEY, boxes (u32), one row per image and label
                                    of narratives: image_id, caption, line (the JSON object as published), always sorted
    FOLDER/damaged.parquet          Line (physical, header = 1), Reason of rows that were left out; absent without any

A table of up to a million rows is one part in published order: any query reads it in an instant, and converting it
takes little memory. Larger ones are sorted: box rows by LabelName, KEY, ROW (a class is then a few row groups, found
by their statistics), image rows by KEY, ROW. Their rows are copied once as they come, then sorted a slice at a time:
one sort of all train boxes needs 2.7 GB.

Nothing here is atomic; the caller publishes FOLDER when it is complete.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import polars as pl

from oid_async.errors import InputError
from oid_async.openimages.ids import KEY, ROW, IdForm, id_column
from oid_async.openimages.kinds import Kind
from oid_async.openimages.vocabulary import FLAGS
from oid_async.tables.damage import StoppedError, require_usable, without_damage
from oid_async.tables.reading import (
    LINE_COLUMNS,
    NO_NARRATIVE,
    TableFile,
    columns_of,
    reading,
    require,
    scan_keyed,
    scan_lines,
)
from oid_async.tables.row_rules import RowRules

_SORTED_FROM_ROWS = 1_000_000
_SLICE_ROWS = 700_000
# A row group is held in memory while it is written; larger ones are faster to read, again and again.
_SMALL_GROUP = 1 << 12
_LARGE_GROUP = 1 << 16
_LARGE_BYTES = 256 << 20
_SLICE_LINES = 200_000
_SORTED_GROUP = 1 << 15


def convert(
    raw: TableFile,
    folder: Path,
    *,
    kind: Kind | None,
    progress: Callable[[int, int], None],
    stopped: Callable[[], bool],
) -> tuple[str, ...]:
    """Write a table's converted form into an existing, empty folder and return its columns. Blocking.

    `kind` is that of its annotations, None for an image table; `progress` gets (done, total) steps. Raises InputError
    if it is no such table, StorageError for a full disk, StoppedError once `stopped` returns True.
    """
    if kind is not None and kind.is_json:
        return _convert_lines(raw, folder, progress=progress, stopped=stopped)
    by_label = kind is not None and kind.is_sorted
    copy, ids = folder / "rows.parquet", IdForm()
    group = _LARGE_GROUP if raw.path.stat().st_size > _LARGE_BYTES else _SMALL_GROUP
    with reading(raw, into=folder):
        columns = columns_of(raw)
        require(raw, [id_column(columns), *(kind.labels if kind is not None else ())])
        form = RowRules.of_images(columns, ids)
        if kind is not None:
            # Later queries may use any flag: all of them are checked.
            form = RowRules.of_kind(kind, columns, ids, FLAGS.values())
        undamaged = without_damage(raw, form, folder, stopped=stopped)
        require_usable(undamaged)
        frame = scan_keyed(undamaged, ids, [], numbered=True)
        frame.sink_parquet(copy, row_group_size=group, compression="lz4")
        if undamaged.path != raw.path:
            undamaged.path.unlink()
        rows = pl.scan_parquet(copy, glob=False)
        count = int(rows.select(pl.len()).collect(engine="streaming").item())
        if count > _SORTED_FROM_ROWS:
            slices = _label_slices(rows) if by_label else _key_ranges(-(-count // _SLICE_ROWS))
            _sort(rows, list(slices) or [pl.lit(True)], folder, by_label=by_label, progress=progress, stopped=stopped)
            copy.unlink()
        else:
            copy.replace(folder / "part-00000.parquet")
    return tuple(columns)


def _convert_lines(
    raw: TableFile, folder: Path, *, progress: Callable[[int, int], None], stopped: Callable[[], bool]
) -> tuple[str, ...]:
    """Convert JSON Lines of narratives: `line` is an object as published, `caption` the field that is searched."""
    copy, ids = folder / "rows.parquet", IdForm()
    with reading(raw, into=folder):
        rows = scan_lines(raw).with_columns(
            ids.key("image_id"), pl.col("line").str.json_path_match("$.caption").alias("caption")
        )
        is_narrative = pl.col(KEY).is_not_null() & pl.col("caption").is_not_null()
        rows.filter(is_narrative).select(KEY, ROW, *LINE_COLUMNS).sink_parquet(copy, compression="lz4")
        damaged = rows.filter(~is_narrative & (pl.col("line") != "")).select(
            (pl.col(ROW).cast(pl.Int64) + 1).alias("Line"), pl.lit(NO_NARRATIVE).alias("Reason")
        )
        bad = damaged.collect(engine="streaming")
        if len(bad):
            bad.write_parquet(folder / "damaged.parquet")
        parts = pl.scan_parquet(copy, glob=False)
        count = int(parts.select(pl.len()).collect(engine="streaming").item())
        if not count:
            raise InputError(f"{raw.name}: no line of it is a narrative")
        if len(bad) > count:
            raise InputError(
                f"{raw.name}: {len(bad)} of {len(bad) + count} lines are no narratives, the first is line {bad[0, 0]}"
            )
        ranges = list(_key_ranges(-(-count // _SLICE_LINES)))
        _sort(parts, ranges, folder, by_label=False, progress=progress, stopped=stopped)
        copy.unlink()
    return LINE_COLUMNS


def _sort(
    rows: pl.LazyFrame,
    slices: Sequence[pl.Expr],
    folder: Path,
    *,
    by_label: bool,
    progress: Callable[[int, int], None],
    stopped: Callable[[], bool],
) -> None:
    """Write the rows of each slice as a sorted part; the slices themselves are in order."""
    order = ["LabelName", KEY, ROW] if by_label else [KEY, ROW]
    for number, condition in enumerate(slices):
        if stopped():
            raise StoppedError
        part = rows.filter(condition).collect(engine="streaming").sort(order)
        part.write_parquet(folder / f"part-{number:05}.parquet", row_group_size=_SORTED_GROUP, compression="lz4")
        if by_label:
            pairs = part.group_by("LabelName", KEY, maintain_order=True).agg(boxes=pl.len().cast(pl.UInt32))
            pairs.write_parquet(folder / f"pairs-{number:05}.parquet", row_group_size=_SORTED_GROUP, compression="lz4")
        progress(number + 1, len(slices))


def _label_slices(rows: pl.LazyFrame) -> Iterator[pl.Expr]:
    """Yield conditions that divide the rows into runs of neighbouring labels; a large label is divided by its keys."""
    counts = rows.group_by("LabelName").len().collect(engine="streaming").sort("LabelName")
    label = pl.col("LabelName")
    if counts.get_column("LabelName").null_count():
        yield label.is_null()
    run: list[str] = []
    total = 0
    for name, count in counts.drop_nulls("LabelName").iter_rows():
        if run and total + count > _SLICE_ROWS:
            yield label.is_between(pl.lit(run[0]), pl.lit(run[-1]))
            run, total = [], 0
        if count > _SLICE_ROWS:
            yield from ((label == name) & keys for keys in _key_ranges(-(-count // _SLICE_ROWS)))
        else:
            run.append(name)
            total += count
    if run:
        yield label.is_between(pl.lit(run[0]), pl.lit(run[-1]))


def _key_ranges(count: int) -> Iterator[pl.Expr]:
    """Yield conditions that divide all keys into ranges of one width: ids are spread nearly evenly (0... 1.4 times)."""
    width = 2**64 // count
    for number in range(count):
        last = 2**64 - 1 if number == count - 1 else (number + 1) * width - 1
        yield pl.col(KEY).is_between(pl.lit(number * width, pl.UInt64), pl.lit(last, pl.UInt64))
