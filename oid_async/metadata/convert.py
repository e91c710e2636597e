"""Conversion of a published table to the cache's own form, made once and read by every later query.

    FOLDER/part-00000.parquet ...   the rows: published columns as text, KEY (u64), ROW (u32: published order)
    FOLDER/pairs-00000.parquet ...  of a sorted box table: LabelName, KEY, boxes (u32), one row per image and label
                                    of narratives: image_id, caption, line (the JSON object as published), always sorted
    FOLDER/damaged.parquet          Line (physical, header = 1), Reason of rows that were left out; absent without any

A table of up to a million rows is one part in published order: any query reads it in an instant, and converting it
takes little memory. Larger ones are sorted: box rows by LabelName, KEY, ROW (a class is then a few row groups, found
by their statistics), image rows by KEY, ROW. They are divided once, then sorted a slice at a time (see
`metadata.slices`): one sort of all train boxes needs 2.7 GB.

Nothing here is atomic; the caller publishes FOLDER when it is complete.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import polars as pl

from oid_async.errors import InputError
from oid_async.metadata.slices import PART_GROUP, SlicedTable, Slices, count_rows
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
    scan,
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
    ids = IdForm()
    with reading(raw, into=folder):
        columns = columns_of(raw)
        require(raw, [id_column(columns), *(kind.labels if kind is not None else ())])
        form = RowRules.of_images(columns, ids)
        if kind is not None:
            # Later queries may use any flag: all of them are checked.
            form = RowRules.of_kind(kind, columns, ids, FLAGS.values())
        undamaged = without_damage(raw, form, folder, stopped=stopped)
        require_usable(undamaged)
        if (slices := _slices(undamaged, by_label=by_label)) is not None:
            sliced = SlicedTable(undamaged, folder, slices, stopped)
            sliced.divide()
            _forget_copy(undamaged, raw)
            sliced.make_parts(progress)
        else:
            group = _LARGE_GROUP if raw.path.stat().st_size > _LARGE_BYTES else _SMALL_GROUP
            frame = scan_keyed(undamaged, ids, [], numbered=True)
            frame.sink_parquet(folder / "part-00000.parquet", row_group_size=group, compression="lz4")
            _forget_copy(undamaged, raw)
    return tuple(columns)


def _slices(table: TableFile, *, by_label: bool) -> Slices | None:
    """Return how the rows of a large table are divided, None for one that stays as it is."""
    if not by_label:
        rows = count_rows(table)
        return Slices.by_key(rows, _SLICE_ROWS) if rows > _SORTED_FROM_ROWS else None
    counts = scan(table, ["LabelName"], []).group_by("LabelName").len().collect(engine="streaming")
    return Slices.by_label(counts, _SLICE_ROWS) if int(counts["len"].sum()) > _SORTED_FROM_ROWS else None


def _forget_copy(undamaged: TableFile, raw: TableFile) -> None:
    if undamaged.path != raw.path:
        undamaged.path.unlink()


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
        _sort(parts, ranges, folder, progress=progress, stopped=stopped)
        copy.unlink()
    return LINE_COLUMNS


def _sort(
    rows: pl.LazyFrame,
    slices: Sequence[pl.Expr],
    folder: Path,
    *,
    progress: Callable[[int, int], None],
    stopped: Callable[[], bool],
) -> None:
    """Write the rows of each slice as a sorted part; the slices themselves are in order."""
    for number, condition in enumerate(slices):
        if stopped():
            raise StoppedError
        part = rows.filter(condition).collect(engine="streaming").sort(KEY, ROW)
        part.write_parquet(folder / f"part-{number:05}.parquet", row_group_size=PART_GROUP, compression="lz4")
        progress(number + 1, len(slices))


def _key_ranges(count: int) -> Iterator[pl.Expr]:
    """Yield conditions that divide all keys into ranges of one width: ids are spread nearly evenly (0... 1.4 times)."""
    width = 2**64 // count
    for number in range(count):
        last = 2**64 - 1 if number == count - 1 else (number + 1) * width - 1
        yield pl.col(KEY).is_between(pl.lit(number * width, pl.UInt64), pl.lit(last, pl.UInt64))
