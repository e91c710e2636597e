"""Given tables without a header: what their columns are, by position and by the looks of the first rows.

The columns are those that Open Images publishes, in its order, or the needed ones alone. An image table may also lack
Subset. Positions say nothing where the looks of the fields contradict them: such a table is refused, with the line to
put on top of it.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Literal

from oid_async.errors import InputError
from oid_async.openimages.catalogue_tables import BOX_COLUMNS, CLICK_COLUMNS, IMAGE_COLUMNS, SIDES
from oid_async.openimages.ids import ANY_HEX
from oid_async.openimages.vocabulary import FLAGS, OTHER_SPLITS, SPLITS
from oid_async.tables.class_tables import MID
from oid_async.tables.csv_records import MOST_BYTES, Lines, split
from oid_async.tables.reading import TableFile, open_bytes, reading, require_csv, require_line_ends
from oid_async.tables.row_rules import BLANKS, NOTHING

HeadlessKind = Literal["boxes", "images"]
_PUBLISHED: dict[HeadlessKind, tuple[str, ...]] = {"boxes": (*BOX_COLUMNS, *CLICK_COLUMNS), "images": IMAGE_COLUMNS}
_TAKEN_BY: dict[HeadlessKind, str] = {
    "boxes": "boxes; give it with --annotation",
    "images": "images; give it with --imageURL",
}
_EXAMPLES: dict[HeadlessKind, str] = {"boxes": "ImageID,LabelName,XMin,XMax,YMin,YMax", "images": "ImageID,OriginalURL"}
_LOOKED_AT = 100

_HEX = re.compile(ANY_HEX)
_URL = re.compile(r"(?i:https?)://.+")
_NUMBER = re.compile(r"[-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?")
# What the fields of a column look like, without blanks around them; others hold any text. Damage is found later.
_MAY_BE_URL = re.compile(rf"(?:{_URL.pattern}|)")
_SPLIT = re.compile(rf"(?i:{'|'.join((*SPLITS, *OTHER_SPLITS))}|)")
_TEXT = re.compile(rf"(?!{MID.pattern}$|{_URL.pattern}$|{_NUMBER.pattern}$).*", re.DOTALL)
_LABEL = re.compile(rf"(?!{_URL.pattern}$|{_NUMBER.pattern}$).+", re.DOTALL)
_LOOKS = {
    "ImageID": re.compile(rf"(?!{MID.pattern}$|{_URL.pattern}$).+", re.DOTALL),
    "Source": _TEXT,
    "LabelName": _LABEL,
    "Subset": _SPLIT,
    "OriginalURL": _URL,
    "OriginalSize": re.compile(r"(?:[0-9]+(?:\.0*)?|)"),
    "OriginalMD5": re.compile("(?:[A-Za-z0-9+/]{22}==|[0-9a-fA-F]{32}|)"),
    **dict.fromkeys(("OriginalLandingURL", "License", "AuthorProfileURL", "Thumbnail300KURL"), _MAY_BE_URL),
    **dict.fromkeys(SIDES, _NUMBER),
    **dict.fromkeys(("Confidence", *CLICK_COLUMNS, "Rotation"), re.compile(rf"(?:{_NUMBER.pattern}|)")),
    **dict.fromkeys(FLAGS.values(), re.compile(r"(?:-?[01](?:\.0*)?|(?i:true|false)|)")),
}


def with_positions(table: TableFile, kind: HeadlessKind) -> TableFile:
    """Return a table of a user's own with the names of its columns, if it has no header; others as they are. Blocking.

    Raises InputError for a file that is no CSV, and for one without a header whose fields do not look as they should.
    """
    if table.is_parquet or table.columns is not None:
        return table
    rows = _first_rows(table)
    if not _is_row(rows[0]):
        return table
    width = Counter(map(len, rows)).most_common(1)[0][0]
    rows = [row for row in rows if len(row) == width]
    names = _names(rows, kind)
    if names is None:
        raise InputError(f"{table.name}: it has no header, and {_what_it_is(rows, kind)}")
    return replace(table, header=names)


def _first_rows(table: TableFile) -> list[list[str]]:
    """Return the fields of the first line, whatever it is, and of some others that are rows by themselves."""
    with reading(table), open_bytes(table.path) as file:
        start = file.read(MOST_BYTES)
        require_csv(table, start)
        require_line_ends(table, start)
        file.seek(0)
        lines = Lines(file)
        lines.skip_mark()
        first, *others = islice(lines, _LOOKED_AT)
    rows = [[field.value for field in split(first) or ()] or first.split(b",")]
    rows += ([field.value for field in split(line) or ()] for line in others if line.strip())
    return [[field.decode(errors="replace").strip(f"{BLANKS}\r\n") for field in row] for row in rows if row]


def _is_row(first: Sequence[str]) -> bool:
    """Return whether the first line of a table is a row: names of columns are no ids, no MIDs and no addresses."""
    return "ImageID" not in first and any(pattern.fullmatch(field) for field in first for pattern in (_HEX, MID, _URL))


def _names(rows: Sequence[Sequence[str]], kind: HeadlessKind) -> tuple[str, ...] | None:
    """Return the names of the columns of these rows, None if most rows do not look like them."""
    return next((names for names in _layouts(rows, kind) if _fit(rows, names)), None)


def _layouts(rows: Sequence[Sequence[str]], kind: HeadlessKind) -> Iterator[tuple[str, ...]]:
    """Yield what the columns may be. In front of them may stand the row numbers that pandas writes."""
    numbered = all(row[0].isdecimal() and not _HEX.fullmatch(row[0]) for row in rows)
    columns, start = _PUBLISHED[kind], ("",) if numbered else ()
    width = len(rows[0]) - len(start)
    if kind == "boxes" and width == 2:
        yield *start, "ImageID", "LabelName"
    if 3 <= width <= len(columns):
        yield *start, *columns[:width]
    if kind == "images" and 2 <= width < len(columns):
        yield *start, *(name for name in columns[: width + 1] if name != "Subset")


def _fit(rows: Sequence[Sequence[str]], names: Sequence[str]) -> bool:
    """Return whether most rows look as these columns do; sides of boxes stand there all or none."""
    if 0 < len({*names} & {*SIDES}) < len(SIDES):
        return False
    looks = [(at, _LOOKS[name]) for at, name in enumerate(names) if name in _LOOKS]
    fitting = sum(all(look.fullmatch(_known(row[at])) for at, look in looks) for row in rows)
    return fitting * 2 > len(rows)


def _known(field: str) -> str:
    return "" if field.lower() in NOTHING else field


def _what_it_is(rows: Sequence[Sequence[str]], kind: HeadlessKind) -> str:
    """Return in words what is wrong with rows that do not look like those of a kind."""
    other: HeadlessKind = "images" if kind == "boxes" else "boxes"
    if _names(rows, other) is not None:
        return f"its rows look like {_TAKEN_BY[other]}"
    if sum(MID.fullmatch(row[0]) is not None for row in rows) * 2 > len(rows):
        return "its rows look like classes; give it with --label"
    wanted = ", ".join(name for name in _PUBLISHED[kind] if name not in CLICK_COLUMNS)
    return (
        f"its first line ({', '.join(rows[0])[:80]!r}) is none of {wanted} in this order; put the names of its columns "
        f"on top, as {_EXAMPLES[kind]}"
    )
