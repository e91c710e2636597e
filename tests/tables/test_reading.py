"""Tables as users and publishers write them: every form reads the same, what is no table is refused by name."""

import csv
import gzip
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from oid_async.errors import InputError, UsageError
from oid_async.openimages.classes import Category, Classes, distinct
from oid_async.tables.class_tables import read_classes, read_headless
from oid_async.tables.damage import looks_hexadecimal
from oid_async.tables.reading import TableFile, columns_of, reading, scan

REAL = Path(__file__).resolve().parents[3] / "shared" / "real"

HEADER = "ImageID,LabelName,XMin"
IDS = ["0000048549557964", "00e4060885034751", "0012e45111111111"]
CLEAN = f"{HEADER}\n{IDS[0]},/m/01g317,0.10\n{IDS[1]},/m/01226z,1\n{IDS[2]},/m/01g317,-1\n"
ROWS = [(IDS[0], "/m/01g317", "0.10"), (IDS[1], "/m/01226z", "1"), (IDS[2], "/m/01g317", "-1")]
QUOTED = "".join(",".join(f'"{field}"' for field in line.split(",")) + "\n" for line in CLEAN.splitlines())
TWO_GZIPS = gzip.compress(CLEAN[:60].encode()) + gzip.compress(CLEAN[60:].encode())


def put(folder: Path, body: bytes | str, name: str = "boxes.csv") -> TableFile:
    path = folder / name
    path.write_bytes(body.encode() if isinstance(body, str) else body)
    return TableFile(path, f"given/{name}")


def put_parquet(folder: Path, columns: dict[str, Any], schema: dict[str, Any] | None = None) -> TableFile:
    path = folder / "boxes.parquet"
    pl.DataFrame(columns, schema=schema).write_parquet(path)
    return TableFile(path, "given/boxes.parquet")


def read(table: TableFile, *required: str, optional: list[str] | None = None) -> pl.DataFrame:
    with reading(table):
        return scan(table, required or ["ImageID", "LabelName"], optional).collect()


@pytest.mark.parametrize(
    ("body", "name"),
    [
        pytest.param(CLEAN.encode(), "boxes.csv", id="as-published"),
        pytest.param(CLEAN.rstrip("\n").encode(), "boxes.csv", id="no-line-end-at-the-end"),
        pytest.param(CLEAN.replace("\n", "\r\n").encode(), "boxes.csv", id="crlf"),
        pytest.param(CLEAN.encode("utf-8-sig"), "boxes.csv", id="byte-order-mark"),
        pytest.param(CLEAN.replace("\n", "\r\n").encode("utf-8-sig"), "boxes.csv", id="byte-order-mark-and-crlf"),
        pytest.param(QUOTED.encode(), "boxes.csv", id="quoted"),
        pytest.param(CLEAN.replace(HEADER, " ImageID,LabelName ,XMin ").encode(), "boxes.csv", id="spaces-in-header"),
        pytest.param(CLEAN.encode(), "boxes.CSV", id="upper-case-suffix"),
        pytest.param(CLEAN.encode(), "boxes.txt", id="other-suffix"),
        pytest.param(gzip.compress(CLEAN.encode()), "boxes.csv.gz", id="gzip"),
        pytest.param(gzip.compress(CLEAN.encode("utf-8-sig")), "boxes.csv.GZ", id="gzip-byte-order-mark"),
        pytest.param(TWO_GZIPS, "boxes.csv.gz", id="two-gzips"),
    ],
)
def test_every_form_of_a_table_reads_the_same(tmp_path: Path, body: bytes, name: str) -> None:
    """Line ends, marks, quotes, compression and spaces around headers change nothing in what is read."""
    table = put(tmp_path, body, name)
    assert columns_of(table) == HEADER.split(",")
    frame = read(table)
    assert frame.columns == HEADER.split(",")
    assert frame.rows() == ROWS
    assert set(frame.dtypes) == {pl.String}


def test_parquet_reads_as_text(tmp_path: Path) -> None:
    """A Parquet table reads as text in every column, numbers too."""
    columns = {"ImageID": IDS, "LabelName": ["/m/01g317"] * 3, "XMin": [0.5, 0.25, None]}
    table = put_parquet(tmp_path, columns)
    assert columns_of(table) == ["ImageID", "LabelName", "XMin"]
    frame = read(table)
    assert frame.rows() == [(IDS[0], "/m/01g317", "0.5"), (IDS[1], "/m/01g317", "0.25"), (IDS[2], "/m/01g317", None)]


@pytest.mark.parametrize("dtype", [pl.Categorical, pl.Enum(IDS)], ids=str)
def test_parquet_of_categories_reads_as_text(tmp_path: Path, dtype: Any) -> None:
    """Ids that a data frame library keeps as categories are text, not numbers."""
    table = put_parquet(tmp_path, {"ImageID": IDS, "LabelName": IDS}, {"ImageID": dtype, "LabelName": dtype})
    assert read(table).get_column("ImageID").to_list() == IDS


@pytest.mark.parametrize("ids", [[48549557964, 1, 2], [0.5, 1.5, 2.5]], ids=["integers", "floats"])
def test_parquet_with_ruined_ids_is_refused(tmp_path: Path, ids: list[Any]) -> None:
    """Ids that became numbers have lost their leading zeros: the table is refused, file and column named."""
    table = put_parquet(tmp_path, {"ImageID": ids, "LabelName": IDS})
    with pytest.raises(InputError, match=r"given/boxes\.parquet: column 'ImageID'"):
        read(table)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ('"Sunday, late"', "Sunday, late"),
        ('"The ""big"" one"', 'The "big" one'),
        ('"two\nlines"', "two\nlines"),
        ('"two\r\nlines"', "two\r\nlines"),
        ('""""', '"'),
        ("Žofie Nováková — 安藤 陽", "Žofie Nováková — 安藤 陽"),
        ("it's", "it's"),
        (" spaced ", " spaced "),
        ("0012e45", "0012e45"),
        ("1e400", "1e400"),
        ("007", "007"),
        ("null", "null"),
        ("#hash", "#hash"),
        ("a\u2028b", "a\u2028b"),
    ],
)
def test_value_reads_as_published(tmp_path: Path, field: str, value: str) -> None:
    """Quoted or not, a value is carried through as it stands; no type is inferred, no line is lost."""
    table = put(tmp_path, f"ImageID,Title,LabelName\n{IDS[0]},{field},/m/1\n{IDS[1]},x,/m/2\n")
    assert read(table).rows() == [(IDS[0], value, "/m/1"), (IDS[1], "x", "/m/2")]


def test_all_columns_are_carried_or_those_asked_for(tmp_path: Path) -> None:
    """Without a list of optional columns all come in their own order; with one, those of it that are there."""
    table = put(tmp_path, "Extra,LabelName,ImageID,XMin\n1,2,3,4\n")
    assert read(table).columns == ["Extra", "LabelName", "ImageID", "XMin"]
    assert read(table, optional=["XMin", "XMax"]).columns == ["LabelName", "ImageID", "XMin"]
    assert read(table, "ImageID", optional=[]).columns == ["ImageID"]


def test_quoted_line_break_in_the_header_is_one_column(tmp_path: Path) -> None:
    """A header field that holds a line break does not end the header."""
    table = put(tmp_path, f'"Long\nname",ImageID,LabelName\n1,{IDS[0]},/m/1\n')
    assert columns_of(table) == ["Long\nname", "ImageID", "LabelName"]
    assert read(table, "ImageID").rows() == [("1", IDS[0], "/m/1")]


@pytest.mark.parametrize("odd", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028"], ids=ascii)
def test_only_line_ends_end_the_header(tmp_path: Path, odd: str) -> None:
    """Characters that Unicode counts as line breaks stand inside a header field like any other."""
    table = put(tmp_path, f"La{odd}bel,ImageID,LabelName\n1,{IDS[0]},/m/1\n")
    assert columns_of(table) == [f"La{odd}bel", "ImageID", "LabelName"]
    assert read(table, "ImageID").height == 1


@pytest.mark.parametrize(
    ("header", "missing", "hint"),
    [
        ("ImageId,LabelName", "ImageID", "did you mean its 'ImageId'"),
        ("image_id,LabelName", "ImageID", "did you mean its 'image_id'"),
        ("imageid,LabelName", "ImageID", "did you mean its 'imageid'"),
        ("ImageID,Labelname", "LabelName", "did you mean its 'Labelname'"),
        ("ImageID,XMin", "LabelName", "it has 'ImageID', 'XMin'"),
        (";".join(("ImageID", "LabelName")), "ImageID", "it has 'ImageID;LabelName'"),
    ],
)
def test_missing_column_is_named_with_the_nearest(tmp_path: Path, header: str, missing: str, hint: str) -> None:
    """The refusal names the file, the column that is missing, and what is there instead."""
    table = put(tmp_path, f"{header}\na,b\n")
    with pytest.raises(InputError) as caught:
        scan(table, ["ImageID", "LabelName"])
    message = str(caught.value)
    assert message.startswith(f"given/boxes.csv: column '{missing}' is missing")
    assert hint in message
    assert "\n" not in message


def test_missing_column_of_a_parquet_is_named(tmp_path: Path) -> None:
    """A Parquet table is refused in the same words."""
    table = put_parquet(tmp_path, {"ImageId": IDS, "LabelName": IDS})
    with pytest.raises(InputError, match="column 'ImageID' is missing; did you mean its 'ImageId'"):
        scan(table, ["ImageID"])


@pytest.mark.parametrize(
    ("body", "name"),
    [
        pytest.param(b"", "boxes.csv", id="empty"),
        pytest.param(b" \n\r\n\n", "boxes.csv", id="blank"),
        pytest.param(b"\xef\xbb\xbf", "boxes.csv", id="byte-order-mark-alone"),
        pytest.param(b"", "boxes.csv.gz", id="empty-not-even-gzip"),
        pytest.param(gzip.compress(b""), "boxes.csv.gz", id="gzip-of-nothing"),
        pytest.param(CLEAN.encode(), "boxes.csv.gz", id="plain-text-called-gzip"),
        pytest.param(gzip.compress(os.urandom(9000).hex().encode())[:2000], "boxes.csv.gz", id="gzip-cut"),
        pytest.param(gzip.compress(CLEAN.encode()), "boxes.csv", id="gzip-called-csv"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + bytes(500), "boxes.csv", id="picture"),
        pytest.param(b"PK\x03\x04" + bytes(500), "boxes.csv", id="zip"),
        pytest.param(CLEAN.encode("utf-16"), "boxes.csv", id="utf-16"),
        pytest.param(bytes(range(128, 256)) * 9, "boxes.csv", id="not-utf-8"),
        pytest.param(b"", "boxes.parquet", id="empty-parquet"),
        pytest.param(CLEAN.encode(), "boxes.parquet", id="csv-called-parquet"),
        pytest.param(b"PAR1" + bytes(80) + b"PAR1", "boxes.parquet", id="broken-parquet"),
        pytest.param(f"ImageID,LabelName,ImageID\n{IDS[0]},/m/1,{IDS[1]}\n".encode(), "boxes.csv", id="column-twice"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, body: bytes, name: str) -> None:
    """Empty, binary or another format: one line that names the file, before anything is selected."""
    table = put(tmp_path, body, name)
    with pytest.raises(InputError) as caught:
        read(table)
    assert str(caught.value).startswith(f"given/{name}: ")
    assert "\n" not in str(caught.value)


def test_file_that_vanished_is_refused(tmp_path: Path) -> None:
    """A table that is not there any more is said so by name."""
    for name in ("gone.csv", "gone.csv.gz", "gone.parquet"):
        with pytest.raises(InputError, match=f"^{name}: "):
            columns_of(TableFile(tmp_path / name, name))


@pytest.mark.parametrize("body", [HEADER, f"{HEADER}\n", f"{HEADER}\r\n", f"\ufeff{HEADER}\n"], ids=ascii)
def test_headers_alone_are_a_table_without_rows(tmp_path: Path, body: str) -> None:
    """A table without rows selects nothing; it is no error."""
    table = put(tmp_path, body)
    assert read(table).is_empty()
    assert read(table).columns == HEADER.split(",")
    assert not looks_hexadecimal(table)


PAIRS = [("/m/014j1m", "Apple"), ("/m/018xm", "Ball")]
TWO = ("LabelName", "DisplayName")


@pytest.mark.parametrize(
    ("body", "name"),
    [
        pytest.param("LabelName,DisplayName\n/m/014j1m,Apple\n/m/018xm,Ball\n", "c.csv", id="header"),
        pytest.param("/m/014j1m,Apple\n/m/018xm,Ball\n", "c.csv", id="no-header"),
        pytest.param("LabelName,DisplayName \r\n/m/014j1m,Apple\r\n/m/018xm,Ball\r\n", "c.csv", id="v7"),
        pytest.param("LabelName,Name\n/m/014j1m,Apple\n/m/018xm,Ball\n", "c.csv", id="first-header-decides"),
        pytest.param('"LabelName","DisplayName"\n"/m/014j1m","Apple"\n"/m/018xm","Ball"', "c.csv", id="quoted-header"),
        pytest.param('"/m/014j1m","Apple"\n"/m/018xm","Ball"', "c.csv", id="quoted"),
        pytest.param("\ufeff/m/014j1m,Apple\n/m/018xm,Ball\n", "c.csv", id="byte-order-mark-no-header"),
        pytest.param("\ufeffLabelName,DisplayName\n/m/014j1m,Apple\n/m/018xm,Ball\n", "c.csv", id="byte-order-mark"),
        pytest.param("/m/014j1m,Apple,1,x\n/m/018xm,Ball,2,y\n", "c.csv", id="more-columns"),
        pytest.param(gzip.compress(b"/m/014j1m,Apple\n/m/018xm,Ball\n"), "c.csv.gz", id="gzip"),
    ],
)
def test_headless_table_reads_with_or_without_a_header(tmp_path: Path, body: bytes | str, name: str) -> None:
    """Row 1 is a header if it says so; the leading columns get their names either way."""
    table = put(tmp_path, body, name)
    frame, _, bad = read_headless(table, TWO, lambda first: range(2) if first[0].lower() == "labelname" else None)
    assert frame.columns == list(TWO)
    assert frame.rows() == PAIRS
    assert bad.is_empty()


def test_headless_table_may_start_with_a_class_named_like_its_label(tmp_path: Path) -> None:
    """Without a header, row 1 is data: two equal fields there are no column that stands twice."""
    table = put(tmp_path, "airplane,airplane\nball,Ball\n")
    assert read_classes(table)[0].names == {"airplane": "airplane", "ball": "Ball"}


def test_headless_parquet_goes_by_position(tmp_path: Path) -> None:
    """Of a Parquet table the leading columns count, whatever they are called."""
    table = put_parquet(tmp_path, {"mid": ["/m/014j1m", "/m/018xm"], "name": ["Apple", "Ball"], "n": [1, 2]})
    assert read_headless(table, TWO, lambda _: None)[0].rows() == PAIRS


def test_headless_table_of_one_column_is_refused(tmp_path: Path) -> None:
    """Too few columns are counted, and those needed named."""
    table = put(tmp_path, "/m/014j1m\n/m/018xm\n")
    with pytest.raises(InputError, match=r"1 column\(s\) where 2 are needed \(LabelName, DisplayName\)"):
        read_headless(table, TWO, lambda _: None)


@pytest.mark.parametrize(
    ("ids", "hexadecimal"),
    [
        (IDS, True),
        (["photo_1", IDS[0]], True),
        (["x"] * 2500 + [IDS[0]], True),
        (["photo_1", "photo_2"], False),
        (["0012E45111111111"], True),
        ([" 0012e45111111111.jpg"], True),
        (["0012e4511111111"], False),
        ([""], False),
    ],
    ids=["all", "one", "one-far-down", "own-names", "upper-case", "jpg", "too-short", "empty"],
)
def test_ids_look_hexadecimal_if_any_is(tmp_path: Path, ids: list[str], hexadecimal: bool) -> None:
    """One Open Images id makes a table one of Open Images ids; without any, its ids are a user's own."""
    table = put(tmp_path, "ImageID,X\n" + "".join(f"{image_id},1\n" for image_id in ids))
    assert looks_hexadecimal(table) is hexadecimal


CLASS_TABLE = (
    "LabelName,DisplayName\n"
    "/m/014j1m,Apple\n"
    "/m/018xm,Ball\n"
    "/m/0156sn,Ball\n"
    "/m/01226z,Football\n"
    '/m/0bt_c3,"Lemon, lime and bitters"\n'
    '/m/02wvth,"Fiat 500 ""topolino"""\n'
    "/m/0dzct,Human face\n"
    "/m/01g317,Person\n"
    "/m/0jly1,Ball (rubber) ball\n"
    "/m/0x,\n"
)


@pytest.fixture
def classes(tmp_path: Path) -> Classes:
    return read_classes(put(tmp_path, CLASS_TABLE))[0]


@pytest.mark.parametrize(
    ("word", "class_name", "labels"),
    [
        ("Football", "Football", ("/m/01226z",)),
        ("football", "Football", ("/m/01226z",)),
        ("FOOTBALL", "Football", ("/m/01226z",)),
        (" Football ", "Football", ("/m/01226z",)),
        ("Human face", "Human face", ("/m/0dzct",)),
        ("Human_face", "Human face", ("/m/0dzct",)),
        ("human  FACE", "Human face", ("/m/0dzct",)),
        ("/m/01226z", "Football", ("/m/01226z",)),
        (" /m/01226z ", "Football", ("/m/01226z",)),
        ("/m/018xm", "Ball", ("/m/018xm",)),
        ("Ball", "Ball", ("/m/018xm", "/m/0156sn")),
        ("lemon, lime and bitters", "Lemon, lime and bitters", ("/m/0bt_c3",)),
        ("Lemon,_lime_and_bitters", "Lemon, lime and bitters", ("/m/0bt_c3",)),
        ('fiat 500 "topolino"', 'Fiat 500 "topolino"', ("/m/02wvth",)),
        ("/m/0x", "/m/0x", ("/m/0x",)),
    ],
)
def test_category_resolves(classes: Classes, word: str, class_name: str, labels: tuple[str, ...]) -> None:
    """A display name in any case with _ for space, or a MID; a name that several MIDs share means all of them."""
    assert classes.resolve(word) == Category(class_name, labels)


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("Footbal", "Football"),
        ("aple", "Apple"),
        ("Persn", "Person"),
        ("face", "Human face"),
        ("Human fase", "Human face"),
    ],
)
def test_unknown_class_is_answered_with_the_nearest(classes: Classes, word: str, nearest: str) -> None:
    """A typing error is answered with the names that are nearest to it."""
    with pytest.raises(UsageError) as caught:
        classes.resolve(word)
    assert repr(word) in str(caught.value)
    assert nearest in str(caught.value).split("nearest: ")[1].split(", ")


@pytest.mark.parametrize("word", ["zzzzzz", "/m/nothing", "[A-Z]", "%"])
def test_class_unlike_any_is_unknown(classes: Classes, word: str) -> None:
    """A word that is like no name is an error all the same, and no pattern."""
    with pytest.raises(UsageError, match="unknown class"):
        classes.resolve(word)


def test_each_set_of_labels_is_taken_once(classes: Classes) -> None:
    """Asked for twice in two spellings, a class is one category, in the order first asked for."""
    found = distinct(map(classes.resolve, ["person", "/m/01226z", "PERSON", "Football", "/m/01g317"]))
    assert [category.class_name for category in found] == ["Person", "Football"]


def test_class_without_a_name_goes_by_its_label(classes: Classes) -> None:
    """A row without a display name is a class called by its MID, and blank rows are none."""
    assert classes.names["/m/0x"] == "/m/0x"
    assert len(classes.names) == 10


def test_class_table_may_end_in_a_blank_line(tmp_path: Path) -> None:
    """The official V5 form, CRLF with a bare LF at the very end and no header, reads without a stray class."""
    table = put(tmp_path, "/m/014j1m,Apple\r\n/m/018xm,Ball\r\n\n")
    assert read_classes(table)[0].names == dict(PAIRS)


def test_class_table_without_rows_knows_no_class(tmp_path: Path) -> None:
    """A class table of headers alone has no class, and says so when asked for one."""
    classes = read_classes(put(tmp_path, "LabelName,DisplayName\n"))[0]
    assert classes.names == {}
    with pytest.raises(UsageError, match="unknown class 'Apple'"):
        classes.resolve("Apple")


def test_real_class_tables_are_read() -> None:
    """The real class tables, V5 without and V6 with a header: every row is a class, odd names resolve."""
    if not REAL.is_dir():
        pytest.skip("the folder of real tables is not here")
    boxable = read_classes(TableFile(REAL / "official" / "v5" / "class-descriptions-boxable.csv", "v5"))[0]
    assert len(boxable.names) == 601
    assert not any("\r" in name or "\n" in name for pair in boxable.names.items() for name in pair)
    assert boxable.resolve("football").labels == ("/m/01226z",)
    path = REAL / "classes" / "oidv6-class-descriptions.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    full = read_classes(TableFile(path, "v6"))[0]
    assert full.names == {label: name.strip() for label, name in rows}
    assert len(full.resolve("Ball").labels) == 2
    assert full.resolve('fiat_500 "topolino"').labels == ("/m/02wvth",)
