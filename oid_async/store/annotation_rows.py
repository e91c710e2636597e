"""The annotation rows of one kind that belong to spans of images, in published order, whatever tables they stand in."""

from collections.abc import Callable, Mapping
from pathlib import Path

import polars as pl

from oid_async.openimages.ids import KEY, ROW, IdForm, within
from oid_async.quick_values import frozen
from oid_async.tables.reading import TableFile, columns_of, reading
from oid_async.tables.rows import RowSource, rows_of

_ROW_GROUP = 4096
_TABLE = "__table"


@frozen
class SavedAnnotations:
    """Annotations to save: their source, and the labels whose rows are saved, None for all."""

    source: RowSource
    labels: tuple[str, ...] | None


class AnnotationRows:
    """Reads the rows of one kind, as text under the names of their published `columns`, for a span of images at a time.

    The cache's own form is read in place: each class is in order of its keys, so that the statistics of its row groups
    find a span of images. Of any other table the rows of the images that are wanted at all, which `wanted` returns as
    keys, are copied into `scratch` once. Blocking.
    """

    def __init__(self, saved: SavedAnnotations, ids: IdForm, wanted: Callable[[], pl.Series], scratch: Path) -> None:
        self.source = saved.source
        self.columns = list(dict.fromkeys(name for table in saved.source.tables for name in columns_of(table)))
        self._labels = saved.labels
        self._ids = ids
        self._wanted = wanted
        self._scratch = scratch
        self._tables: list[pl.LazyFrame] | None = None

    @property
    def read_from(self) -> TableFile:
        """What is read, for `tables.reading.reading`: messages name every table."""
        return TableFile(self._scratch, ", ".join(table.name for table in self.source.tables))

    def of(self, span: pl.Series, chosen: pl.Series, names: Mapping[str, str] | None = None) -> pl.LazyFrame:
        """Return KEY and `columns` of the rows of the `chosen` images within a span of keys, by KEY, then as published.

        `names` are others for the columns. Raises InputError, StorageError.
        """
        if self._tables is None:
            self._tables = [self._table(number) for number in range(len(self.source.tables))]
        is_wanted = within(span) & pl.col(KEY).is_in(chosen.implode())
        rows = (table.filter(is_wanted).with_columns(pl.lit(at).alias(_TABLE)) for at, table in enumerate(self._tables))
        named = [pl.col(name).alias((names or {}).get(name, name)) for name in self.columns]
        return pl.concat(rows).sort(KEY, _TABLE, ROW).select(KEY, *named)

    def _table(self, number: int) -> pl.LazyFrame:
        """Return the rows of one table that may be wanted: KEY, ROW and the columns, those that it lacks as null."""
        table = self.source.tables[number]
        there = columns_of(table)
        # The same columns in the same order from every table, in whatever order each one has them.
        columns = [name if name in there else pl.lit(None, pl.String).alias(name) for name in self.columns]
        with reading(table, into=self._scratch):
            if table.columns is not None:
                rows = rows_of(self.source, table, self._ids, None, labels=self._labels)
                return rows.select(KEY, ROW, *columns)
            rows = rows_of(self.source, table, self._ids, self._wanted(), labels=self._labels).select(
                KEY, ROW, *columns
            )
            copy = self._scratch / f"{self.source.kind.name}-{number}.parquet"
            rows.sink_parquet(copy, row_group_size=_ROW_GROUP, compression="lz4", maintain_order=False)
            return pl.scan_parquet(copy, glob=False)
