"""Reading a damaged table, and what must hold of any: shared by tests and fuzzing."""

import csv
from pathlib import Path

from oid_async.openimages.ids import IdForm
from oid_async.openimages.kinds import KINDS
from oid_async.tables.damage import bad_rows, without_damage
from oid_async.tables.reading import TableFile, columns_of, scan
from oid_async.tables.row_rules import RowRules

HEADER = "ImageID,LabelName,XMin,Title\n"


def whole(
    folder: Path, body: bytes | str, name: str = "boxes.csv", *, own_ids: bool = False, flags: tuple[str, ...] = ()
) -> tuple[list[tuple[str, ...]], list[tuple[int, str]], TableFile]:
    """Return the whole rows of a box table, its bad rows (line, reason), and where the whole ones stand."""
    path = folder / name
    path.write_bytes(body.encode() if isinstance(body, str) else body)
    table = TableFile(path, name)
    form = RowRules.of_kind(KINDS["bbox"], columns_of(table), IdForm(not own_ids), flags)
    found = without_damage(table, form, folder)
    rows = scan(found, ["ImageID"]).collect().fill_null("").rows()
    return rows, bad_rows(found).collect().rows(), found


TITLES = ["", "plain", '"with, comma"', '"a ""quote"" in it"', "Žofie 安藤", "5' pipe", '""', '"two\nlines, or\nthree"']


def check_damaged(folder: Path, body: bytes, rows: list[bytes]) -> None:
    """Check what is read of a damaged body below HEADER; `rows` are clean ones that stand on a line each."""
    found, bad_lines, table = whole(folder, HEADER.encode() + body)
    lines = body.split(b"\n")
    # An untouched line is a row.
    untouched = [line for line in lines[:-1] if line + b"\n" in rows]
    cells = [tuple(next(csv.reader([line.decode().removesuffix("\r")]))) for line in untouched]
    there = iter(found)
    assert all(cell in there for cell in cells)
    # Every line that is not blank belongs to a row or is named: without those that are named the same rows are left.
    named = {line - 2 for line, _ in bad_lines}
    assert all(0 <= at < len(lines) and lines[at].strip(b"\r") for at in named)
    rest, rounds = [line for at, line in enumerate(lines) if at not in named], 0
    while True:
        again, more, _ = whole(folder, HEADER.encode() + b"\n".join(rest))
        if not more:
            break
        # A bad row of several lines is named by its first: what it leaves behind makes no row.
        rest = [line for at, line in enumerate(rest) if at + 2 not in {line for line, _ in more}]
        rounds += 1
        assert rounds < 10
    assert again == found
    assert all(len(row) == 4 and len(row[0]) == 16 and float(row[2]) == float(row[2]) for row in found)
    assert table.path.name == ("whole.csv" if bad_lines else table.path.name)
