"""Label files: a text file an image, which may be empty."""

import os

import polars as pl

from oid_async.formats.file_record import HashedFile, write_hashed
from oid_async.formats.source import PART_ROWS
from oid_async.formats.writer import ExportContext

NO_LABELS = pl.DataFrame(schema={"ImageID": pl.String, "text": pl.String})


def joined_lines(lines: pl.DataFrame) -> pl.DataFrame:
    """Return ImageID and `text`, the content of its label file, of rows with ImageID and `line`."""
    grouped = lines.group_by("ImageID", maintain_order=True)
    return grouped.agg(text=pl.concat_str(pl.col("line").str.join("\n"), pl.lit("\n")).first())


def write_label_files(context: ExportContext, images: pl.DataFrame, *folder: str) -> None:
    """Write `<stem>.txt` of images with FileName and `text` into a folder; null is an empty file."""
    path = str(context.folder(*folder))
    calls = ((path, some) for some in images.select("FileName", "text").iter_slices(PART_ROWS))
    for files in context.pictures.each(_write, calls, 1):
        context.pictures.record.hashed_files(files)


def _write(folder: str, images: pl.DataFrame) -> list[HashedFile]:
    stems = images.get_column("FileName").str.replace(r"\.[^.]*$", "")
    return [
        write_hashed(f"{folder}{os.sep}{stem}.txt", (text or "").encode())
        for stem, text in zip(stems, images.get_column("text"), strict=True)
    ]
