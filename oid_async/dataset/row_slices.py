"""Annotation rows of some images at a time, exactly as the saved tables will have them, before these are written.

Published rows become the lines of a table and are read again as a table is: whatever a row holds, a reader of the
finished folder and a consumer of the run see the same.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl

from oid_async.dataset.tables import read_content
from oid_async.openimages.ids import KEY, IdForm
from oid_async.openimages.kinds import KindName
from oid_async.report import Rows
from oid_async.store.annotation_rows import AnnotationRows, SavedAnnotations
from oid_async.store.annotation_table import AnnotationTable
from oid_async.tables.reading import reading

# Of an image that is still to come these are not known.
_SIZES = {"Width": pl.lit(None, pl.Int32), "Height": pl.lit(None, pl.Int32)}


@dataclass(frozen=True, slots=True)
class _KindRows:
    """The rows of one kind, in order of the images; those of the n-th image are `starts[n]` to `starts[n + 1]`."""

    frame: pl.DataFrame
    starts: pl.Series

    def of(self, number: int, known: Mapping[str, Any]) -> Rows:
        start, end = self.starts[number], self.starts[number + 1]
        if start == end:
            return []
        rows = self.frame.slice(start, end - start).to_dicts()
        if known.keys() <= rows[0].keys():  # narratives have none of these columns
            for row in rows:
                row.update(known)
        return rows


@dataclass(frozen=True, slots=True)
class RowSlice:
    """The rows of the images with these sorted `keys`, by kind, with the columns of the saved tables in their dtypes.

    Held in columns: dicts are made of one image's rows when they are asked for.
    """

    keys: pl.Series
    kinds: Mapping[KindName, _KindRows]
    size: int
    """The bytes of its rows."""

    def of(
        self, key: int | str, *, width: int | None, height: int | None, file_name: str | None = None
    ) -> dict[str, Rows]:
        """Return the rows of one of the images by kind, as `SavedDataset` gives them; sizes are in pixels.

        `file_name` is the name that its file has got, None for the one that was planned.
        """
        known: dict[str, Any] = {"Width": width, "Height": height}
        if file_name is not None:
            known["FileName"] = file_name
        number = self.keys.search_sorted(pl.Series([key], dtype=self.keys.dtype)).item()
        return {kind: rows.of(number, known) for kind, rows in self.kinds.items()}


class RowSliceReader:
    """Reads the rows to save of any images, some hundred or thousand at a time. Blocking.

    `wanted` returns the keys of all images that may be asked for; `scratch` is a folder of its own, where a table that
    is not in the cache's own form leaves a copy of their rows.
    """

    def __init__(
        self, saved: Sequence[SavedAnnotations], ids: IdForm, wanted: Callable[[], pl.Series], scratch: Path
    ) -> None:
        self._scratch = scratch
        self._rows = [AnnotationRows(each, ids, wanted, scratch) for each in saved]

    def read(self, images: pl.DataFrame) -> RowSlice:
        """Return the rows of images: KEY (unique, in any order), FileName, OriginalURL. Raises InputError, ..."""
        images = images.select(KEY, "FileName", "OriginalURL").sort(KEY)
        kinds = {rows.source.kind.name: self._read(rows, images) for rows in self._rows}
        size = sum(rows.frame.estimated_size() for rows in kinds.values())
        return RowSlice(images.get_column(KEY), kinds, int(size))

    def _read(self, rows: AnnotationRows, images: pl.DataFrame) -> _KindRows:
        keys = images.get_column(KEY)
        table = AnnotationTable(rows.source.kind, rows.columns, rows.source.class_names)
        with reading(rows.read_from, into=self._scratch):
            found = rows.of(keys, keys, table.renamed).collect(engine="streaming")
        content = BytesIO()
        table.write_header(content)
        table.write_rows(table.completed(found.lazy(), images.lazy().with_columns(**_SIZES)).collect(), content)
        owners = found.get_column(KEY)
        starts = owners.search_sorted(keys, "left").append(pl.Series([len(owners)], dtype=pl.UInt32))
        return _KindRows(read_content(rows.source.kind, content.getvalue()), starts)
