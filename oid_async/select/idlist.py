"""Lists of images: an ImageID or split/ImageID a line, as the official downloader script takes them, and other forms.

An entry may also be a path, URL or S3 key that ends in `<ImageID>.<ext>`; a list may be JSON or a CSV with an ImageID
column (`tables.text_lists`). `.jpg` behind an id, upper-case digits, `val` and `valid`, quotes, comments and `\\` for
`/` are tolerated. The split is the one before the id (`train/ID`), that of the bucket's URL, or a CSV's Subset; a
folder of a user's own may well be called train. Any other entry names an unknown image: it is counted and listed.
"""

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import polars as pl

from oid_async.errors import InputError
from oid_async.openimages.ids import KEY, ROW, IdForm, among, hexadecimal, id_of_key, is_among, split_key
from oid_async.openimages.vocabulary import OTHER_SPLITS, SPLITS, Split
from oid_async.quick_values import frozen
from oid_async.tables.reading import TableFile
from oid_async.tables.text_lists import ListColumns, read_entries, what_it_seems, without_comment

_COLUMNS = ListColumns(("imageid", "id"), ("subset", "split"))
_PART_ROWS = 1 << 16
_ROW_GROUP = 4096
_SPLIT_WORDS: dict[str, int] = {split: code for code, split in enumerate(SPLITS)}
_SPLIT_WORDS |= {word: SPLITS.index(split) for word, split in OTHER_SPLITS.items()}
# What is before the last slash, what is behind it, and a suffix; a fragment (`#...`) is none of either.
_HEX_PARTS = r"^(?:(?<folder>.*)/)?(?<ImageID>[0-9A-Fa-f]{16})(?<suffix>\.[0-9A-Za-z]{1,8})?(?:#.*)?$"
_OWN_PARTS = r"(?i)^(?:([a-z0-9]+)/)?([^/]+?)(?:\.jpe?g|\.png)?$"
_OWN_PATH = r"/([^/]+?)\.[0-9A-Za-z]{1,8}$"
_BUCKET_URL = r"(?i)^[a-z][a-z0-9+.-]*://(?:[^?#]*/)?open-images-dataset(?:\.s3[^/]*)?/([a-z]+)$"


@frozen
class IdList:
    """The images that a list names.

    `rows` has KEY, split (u8 index into SPLITS; null where the line names none) and line (u32, physical, or the place
    in a JSON list), one row per distinct image and reading of a line. `odd` has line and text (as written) of those
    that name no image. `splits` are the named splits; `is_complete` is True if every line that names an image names its
    split.
    """

    name: str
    rows: pl.DataFrame
    odd: pl.DataFrame
    splits: tuple[Split, ...]
    is_complete: bool

    def by_split(self) -> "IdList":
        """Return the list with keys that name the split; a line without one is of every split."""
        image_id = hexadecimal() if self.rows.schema[KEY] == pl.UInt64 else pl.col(KEY)
        every = pl.lit(pl.Series([list(range(len(SPLITS) + 1))], dtype=pl.List(pl.UInt8)))
        places = pl.when(pl.col("split").is_null()).then(every).otherwise(pl.concat_list("split"))
        rows = self.rows.with_columns(__id=image_id, __place=places).explode("__place")
        rows = rows.with_columns(split_key(pl.col("__id"), pl.col("__place").cast(pl.String)))
        return replace(self, rows=rows.select(self.rows.columns))

    def text_of(self, lines: pl.Series) -> pl.Series:
        """Return the text of these lines, in order: split/ImageID or ImageID, an odd line as it is."""
        rows = self.rows.filter(pl.col("line").is_in(lines.implode())).unique("line", keep="first", maintain_order=True)
        image_id = hexadecimal() if rows.schema[KEY] == pl.UInt64 else id_of_key(pl.col(KEY))
        split = pl.col("split").replace_strict(range(len(SPLITS)), list(SPLITS), return_dtype=pl.String)
        texts = rows.select("line", text=pl.concat_str(split, image_id, separator="/", ignore_nulls=True))
        wanted = lines.alias("line").to_frame()
        return wanted.join(pl.concat([texts, self.odd]), on="line", maintain_order="left").get_column("text")


def read_ids(path: Path, name: str, ids: IdForm, *, may_name_none: bool = False) -> IdList:
    """Read a list. Raises InputError for what is no list, and unless `may_name_none` when no entry names an image."""
    table = TableFile(path, name)
    schema: dict[str, type[pl.DataType]] = {KEY: ids.dtype, "split": pl.UInt8, "line": pl.UInt32}
    found = [pl.DataFrame(schema=schema)]
    odd = [pl.DataFrame(schema={"line": pl.UInt32, "text": pl.String})]
    for frame in read_entries(table, _COLUMNS):
        parsed = parse_entries(frame, ids)
        is_odd = pl.col(KEY).is_null()
        found.append(_first_of_each(parsed.filter(~is_odd).select(KEY, "split", "line")))
        odd.append(parsed.filter(is_odd).select("line", "text"))
    rows, none = _first_of_each(pl.concat(found)), pl.concat(odd)
    if len(none) and not len(rows):
        _refuse(table, none, may_name_none=may_name_none)
    codes = rows.get_column("split")
    return IdList(
        name=name,
        rows=rows,
        odd=none,
        splits=tuple(SPLITS[code] for code in codes.unique().drop_nulls().sort()),
        is_complete=not codes.null_count(),
    )


def _refuse(table: TableFile, odd: pl.DataFrame, *, may_name_none: bool) -> None:
    """Raise InputError for a file whose entries all name no image."""
    seems = what_it_seems(table)
    if may_name_none and not seems:
        return
    line, text = odd.row(0)
    what = f"it is {seems}; " if seems else ""
    raise InputError(
        f"{table.name}: {what}no line names an image; line {line} is {text[:60]!r}, not ImageID, split/ImageID or "
        "a path or URL that ends in ImageID.jpg"
    )


def _first_of_each(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the first row of each image and split, in order of the lines.

    Keys alone are sorted, and rows only where a key stands more than once: all rows take four times the memory of keys.
    """
    keys = rows.get_column(KEY).sort()
    repeated = keys.filter((keys == keys.shift()).fill_null(False)).unique(maintain_order=True)
    del keys
    if not len(repeated):
        return rows
    some = rows.with_row_index("at").filter(is_among(repeated)).sort(KEY, "split", "at")
    del repeated
    is_same = pl.all_horizontal(pl.col(name).eq_missing(pl.col(name).shift()) for name in (KEY, "split"))
    is_first = pl.int_range(pl.len()) == 0
    again = some.filter(~is_first & is_same).get_column("at").sort()
    is_kept = ~among(pl.int_range(len(rows), dtype=pl.UInt32, eager=True), again)
    return rows.filter(is_kept)


def parse_entries(frame: pl.DataFrame, ids: IdForm) -> pl.DataFrame:
    """Return line, text, split (u8) and KEY (null for what names no image) of entries: line, text, and a CSV's split.

    Entries that are a comment alone have no row.
    """
    entries = frame.with_columns(
        entry=without_comment(pl.col("text")).str.replace_all("\\", "/", literal=True),
        said=_code(pl.col("split")),
        is_odd=pl.col("split").is_not_null() & _code(pl.col("split")).is_null(),
    )
    if ids.hexadecimal:
        return _hexadecimal(entries.filter(pl.col("entry") != ""), ids)
    # An id of a user's own may look like a path or a file name: its line is read as one id, and in parts.
    readings = [entries.with_columns(ImageID="text", split="said"), _own_parts(entries), _own_path(entries)]
    columns = ["line", "text", "split", pl.when(~pl.col("is_odd")).then(ids.key()).alias(KEY)]
    whole, *parts = [each.select(columns) for each in readings]
    fresh = [part.filter(pl.col(KEY).is_not_null(), pl.col(KEY) != pl.col("text")) for part in parts]
    return pl.concat([whole, *fresh]).sort("line", maintain_order=True)


def _code(word: pl.Expr) -> pl.Expr:
    """Return the expression split as somebody writes it -> index into SPLITS, null for any other word."""
    words, codes = list(_SPLIT_WORDS), list(_SPLIT_WORDS.values())
    return word.str.to_lowercase().replace_strict(words, codes, default=None, return_dtype=pl.UInt8)


def _hexadecimal(entries: pl.DataFrame, ids: IdForm) -> pl.DataFrame:
    """Read entries as ids of Open Images."""
    is_url = pl.col("entry").str.contains("://", literal=True)
    address = pl.when(is_url).then(pl.col("entry").str.replace(r"(?s)[?#].*$", "")).otherwise("entry")
    # Matched once for all three: that is most of what it takes to read a list.
    parts = entries.with_columns(address.str.extract_groups(_HEX_PARTS).alias("found")).unnest("found")
    parts = parts.with_columns(ImageID=pl.col("ImageID").str.to_lowercase())
    is_local = pl.col("folder").str.contains(r"(?i)^file:")
    in_folder = _code(pl.col("folder"))
    in_bucket = pl.when(~is_local).then(_code(pl.col("folder").str.extract(_BUCKET_URL, 1)))
    split = pl.coalesce("said", in_folder, in_bucket)
    is_bare = pl.col("folder").is_null() | (pl.col("folder") == ".")
    is_id = is_bare | in_folder.is_not_null() | pl.col("suffix").is_not_null()
    key = pl.when(is_id & ~pl.col("is_odd")).then(ids.key()).alias(KEY)
    return parts.select("line", "text", split.alias("split"), key)


def _own_parts(entries: pl.DataFrame) -> pl.DataFrame:
    """Read entries as an id with maybe a split before it and a suffix behind it."""
    word = pl.col("entry").str.extract(_OWN_PARTS, 1)
    parts = entries.with_columns(
        ImageID=pl.col("entry").str.extract(_OWN_PARTS, 2), split=pl.coalesce("said", _code(word))
    )
    return parts.filter(word.is_null() | _code(word).is_not_null())


def _own_path(entries: pl.DataFrame) -> pl.DataFrame:
    """Read entries as paths of files that are named by their ids."""
    name = pl.col("entry").str.extract(_OWN_PATH, 1)
    return entries.with_columns(ImageID=name, split="said").filter(name.is_not_null())


def write_image_rows(images: IdList, splits: Iterable[Split], folder: Path) -> TableFile:
    """Write an image table of a complete list of Open Images ids in the cache's own form, into a new folder.

    It has the least columns, ImageID and Subset. An id that the list names in two splits has two rows; they are in
    order of ImageID, then of the splits, in several parts, so that whoever reads some of them reads no others.
    """
    codes = [SPLITS.index(split) for split in splits] or list(range(len(SPLITS)))
    rows = images.rows.select(KEY, "split").filter(pl.col("split").is_in(codes)).sort(KEY, "split")
    subset = pl.col("split").replace_strict(range(len(SPLITS)), list(SPLITS), return_dtype=pl.String)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for number, part in enumerate(list(rows.iter_slices(_PART_ROWS)) or [rows]):
        # Part by part: the texts of all of them would take several times the memory of their keys.
        row = pl.int_range(number * _PART_ROWS, number * _PART_ROWS + len(part), dtype=pl.UInt32).alias(ROW)
        table = part.select(KEY, row, ImageID=hexadecimal(), Subset=subset)
        table.write_parquet(folder / f"part-{number:05}.parquet", row_group_size=_ROW_GROUP, compression="lz4")
    return TableFile(folder, images.name, columns=("ImageID", "Subset"))
