"""Label files: a text file an image, which may be empty."""

import os

import polars as pl

from oid_async.store.disk import OPENER, write_all

NO_LABELS = pl.DataFrame(schema={"ImageID": pl.String, "text": pl.String})


def joined_lines(lines: pl.DataFrame) -> pl.DataFrame:
    """Return ImageID and `text`, the content of its label file, of rows with ImageID and `line`."""
    grouped = lines.group_by("ImageID", maintain_order=True)
    return grouped.agg(text=pl.concat_str(pl.col("line").str.join("\n"), pl.lit("\n")).first())


def write_label_files(folder: str, images: pl.DataFrame) -> None:
    """Write `<stem>.txt` of images with FileName and `text`; null is an empty file."""
    stems = images.get_column("FileName").str.replace(r"\.[^.]*$", "")
    for stem, text in zip(stems, images.get_column("text"), strict=True):
        _write(f"{folder}{os.sep}{stem}.txt", text)


def _write(path: str, text: str | None) -> None:
    """Write a label file: a million of them are written one after the other, so by the fewest calls."""
    file = OPENER(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        if text:
            write_all(file, text.encode())
    finally:
        os.close(file)
