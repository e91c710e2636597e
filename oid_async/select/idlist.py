"""Lists of images from a file: one ImageID or split/ImageID a line, as the official downloader script takes them.

`.jpg` (or .jpeg, .png) behind an id, upper-case digits, blank lines, spaces around, CR, a byte order mark and a header
`ImageID` are tolerated. Any other line names an unknown image: it is listed, never dropped.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TextIO

import polars as pl

from oid_async.errors import InputError
from oid_async.openimages.ids import KEY, IdForm, hexadecimal
from oid_async.openimages.vocabulary import SPLITS, Split
from oid_async.tables.reading import TableFile, reading

_BATCH_LINES = 1 << 16
_HEADERS = ("imageid", "image_id", "id")
_PARTS = r"(?i)^(?:([a-z0-9]+)/)?([^/]+?)(?:\.jpe?g|\.png)?$"


@dataclass(frozen=True, slots=True)
class IdList:
    """The images that a list names.

    `rows` has KEY, split (u8 index into SPLITS; null where the line names none) and line (u32, physical), one row per
    distinct image and reading of a line. `odd` are the lines that name no image: (line, text). `splits` are the named
    splits; `is_complete` is True if every line that names an image names its split.
    """

    name: str
    rows: pl.DataFrame
    odd: tuple[tuple[int, str], ...]
    splits: tuple[Split, ...]
    is_complete: bool

    def text_of(self, lines: pl.Series) -> list[str]:
        """Return the text of these lines, in order: split/ImageID or ImageID, an odd line as it is."""
        text = dict(self.odd)
        rows = self.rows.filter(pl.col("line").is_in(lines.implode()))
        image_id = hexadecimal() if rows.schema[KEY] == pl.UInt64 else pl.col(KEY)
        for line, split, name in rows.select("line", "split", image_id.alias("name")).iter_rows():
            text.setdefault(line, name if split is None else f"{SPLITS[split]}/{name}")
        return [text[line] for line in lines]


def read_ids(path: Path, name: str, ids: IdForm) -> IdList:
    """Read a list. Raises InputError when no line of it names an image."""
    frames: list[pl.DataFrame] = []
    odd: list[tuple[int, str]] = []
    with reading(TableFile(path, name)), path.open(encoding="utf-8-sig", errors="replace") as file:
        for frame in _batches(file):
            parsed = _parse(frame, ids)
            frames.append(parsed.filter(pl.col(KEY).is_not_null()).select(KEY, "split", "line"))
            odd += parsed.filter(pl.col(KEY).is_null()).select("line", "text").rows()
    schema: dict[str, type[pl.DataType]] = {KEY: ids.dtype, "split": pl.UInt8, "line": pl.UInt32}
    rows = _first_of_each(pl.concat([pl.DataFrame(schema=schema), *frames]))
    if odd and not len(rows):
        line, text = odd[0]
        raise InputError(f"{name}: no line names an image; line {line} is {text[:60]!r}, not ImageID or split/ImageID")
    codes = rows.get_column("split")
    return IdList(
        name=name,
        rows=rows,
        odd=tuple(odd),
        splits=tuple(SPLITS[code] for code in codes.unique().drop_nulls().sort()),
        is_complete=not codes.null_count(),
    )


def _first_of_each(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the first row of each image and split, in order of the lines: by sorting, which takes least memory."""
    rows = rows.with_row_index("at").sort(KEY, "split", "at")
    is_same = pl.all_horizontal(pl.col(name).eq_missing(pl.col(name).shift()) for name in (KEY, "split"))
    is_first = pl.int_range(pl.len()) == 0
    return rows.filter(is_first | ~is_same).sort("at").drop("at")


def _batches(file: TextIO) -> Iterator[pl.DataFrame]:
    """Yield the lines that are not blank, with their numbers."""
    number = 0
    while lines := list(islice(file, _BATCH_LINES)):
        numbers = range(number + 1, number + 1 + len(lines))
        if number == 0 and lines[0].strip().lower() in _HEADERS:
            lines[0] = ""
        number += len(lines)
        frame = pl.DataFrame({"line": numbers, "text": lines}, schema={"line": pl.UInt32, "text": pl.String})
        yield frame.with_columns(pl.col("text").str.strip_chars()).filter(pl.col("text") != "")


def _parse(frame: pl.DataFrame, ids: IdForm) -> pl.DataFrame:
    """Add KEY (null for what names no image) and split to lines of text.

    An id of a user's own may look like a path or a file name: its line is read both as one id and in parts.
    """
    if not ids.hexadecimal:
        as_one_id = frame.with_columns(ImageID="text", split=pl.lit(None, pl.UInt8)).with_columns(ids.key())
        in_parts = _in_parts(frame, ids)
        columns = ["line", "text", "split", KEY]
        fresh = in_parts.filter(pl.col(KEY).is_not_null(), pl.col(KEY) != pl.col("text"))
        return pl.concat([as_one_id.select(columns), fresh.select(columns)]).sort("line", maintain_order=True)
    return _in_parts(frame, ids)


def _in_parts(frame: pl.DataFrame, ids: IdForm) -> pl.DataFrame:
    word = pl.col("text").str.extract(_PARTS, 1).str.to_lowercase()
    image_id = pl.col("text").str.extract(_PARTS, 2)
    frame = frame.with_columns(
        ImageID=image_id.str.to_lowercase() if ids.hexadecimal else image_id,
        split=word.replace_strict(list(SPLITS), range(len(SPLITS)), default=None, return_dtype=pl.UInt8),
        is_known=word.is_null() | word.is_in(SPLITS),
    )
    return frame.with_columns(pl.when("is_known").then(ids.key()).alias(KEY))


def as_image_rows(images: IdList, splits: Iterable[Split]) -> pl.LazyFrame:
    """Return ImageID and Subset of a complete list of Open Images ids: the least columns of an image table."""
    codes = [SPLITS.index(split) for split in splits] or list(range(len(SPLITS)))
    rows = images.rows.filter(pl.col("split").is_in(codes)).sort(KEY, maintain_order=True)
    rows = rows.filter((pl.col(KEY) != pl.col(KEY).shift()).fill_null(True))
    subset = pl.col("split").replace_strict(range(len(SPLITS)), list(SPLITS), return_dtype=pl.String)
    # Lazily: a number in hex is made of sixteen texts of one digit, 250 bytes an image.
    return rows.lazy().select(ImageID=hexadecimal(), Subset=subset)
