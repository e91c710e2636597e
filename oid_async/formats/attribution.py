"""ATTRIBUTION.csv of an export: who to credit for each image in it, and what was done to it.

The columns are those of a download's (`store.image_tables`), the rows those of the exported images alone. Changes says
what the export did, too: `copy of at most 1024 px; resized to at most 512 px; cropped`. Formats that have no place for
authors and licences come with this file; the others have them where they belong.
"""

from pathlib import Path
from types import TracebackType
from typing import Self

import polars as pl

from oid_async.options.export import ExportOptions
from oid_async.store.changes import CHANGES, and_also
from oid_async.store.image_tables import ATTRIBUTION, ATTRIBUTION_COLUMNS

# What a format does to every image that it holds, in addition to making it smaller.
_MADE_BY = {"crops": "cropped"}


class ExportAttribution:
    """Writes the table into the folder of an export, span by span, by the format and options of the export."""

    def __init__(self, export: Path, options: ExportOptions) -> None:
        self._made = None if options.no_files else _MADE_BY.get(options.format or "")
        self._file = (export / ATTRIBUTION).open("wb")
        pl.DataFrame(schema=dict.fromkeys(ATTRIBUTION_COLUMNS, pl.String)).write_csv(self._file)

    def write(self, images: pl.DataFrame) -> None:
        """Append images of the export: those of a `formats.source.Span`. Raises OSError."""
        changes = and_also(pl.col(CHANGES), pl.lit(self._made, pl.String)).alias(CHANGES)
        images.with_columns(changes).select(ATTRIBUTION_COLUMNS).write_csv(self._file, include_header=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
