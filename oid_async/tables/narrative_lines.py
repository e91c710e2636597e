"""Localized narratives: JSON Lines, one object for each image and annotator.

An object is kept as the line that was published, whatever keys it has. It has at least `image_id` and `caption`; an
image may have several.
"""

import polars as pl

from oid_async.openimages.ids import ROW
from oid_async.tables.reading import TableFile

LINE_COLUMNS = ("image_id", "caption", "line")
NO_NARRATIVE = "no JSON object with an image_id of 16 lower-case hex digits and a caption"
# A character that no JSON text holds as it is, so that Polars takes a line for a field.
_NEVER = "\x01"


def scan_lines(table: TableFile) -> pl.LazyFrame:
    """Scan JSON Lines: ROW (u32, from 0; blank lines count), image_id and line as text, null where there is none."""
    lines = pl.scan_csv(
        table.path,
        has_header=False,
        separator=_NEVER,
        quote_char=None,
        infer_schema=False,
        new_columns=["line"],
        row_index_name=ROW,
        encoding="utf8-lossy",
    )
    return lines.with_columns(pl.col("line").str.json_path_match("$.image_id").alias("image_id"))
