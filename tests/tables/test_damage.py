"""A damaged table costs its damaged rows, which are named by line, and nothing else."""

import csv
import gzip
import io
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.damaged_tables import HEADER, TITLES, check_damaged, whole
from support.notes import notes_into
from support.published import Box, Dataset, Image, counted_origin, image_names, read_csv, run_cli, tree, write_bytes

import oid_async
from oid_async.errors import InputError
from oid_async.openimages.catalogue import published
from oid_async.openimages.ids import IdForm
from oid_async.openimages.kinds import KINDS
from oid_async.tables import class_tables, csv_records, damage
from oid_async.tables.class_tables import read_classes
from oid_async.tables.damage import StoppedError, bad_rows, looks_hexadecimal, without_damage
from oid_async.tables.reading import TableFile, columns_of, scan
from oid_async.tables.row_rules import RowRules

BALL = "/m/018xm"
ONE, TWO, THREE, FOUR = "0000000000000001", "0000000000000002", "00e4060885034751", "ffffffffffffffff"
FIRST, LAST = f"{ONE},/m/1,0.25,first\n", f'{THREE},/m/1,1e-05,"last, not least"\n'
BAD = f"{TWO},/m/2,0.5,bad"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        pytest.param(f"{TWO},/m/2", "2 fields where the header has 4", id="too-short"),
        pytest.param(f"{TWO}", "1 field where the header has 4", id="one-field"),
        pytest.param(f"{TWO},/m/2,0.5,", None, id="empty-at-the-end-is-fine"),
        pytest.param(f"{TWO},/m/2,0.5", "3 fields where the header has 4", id="one-short"),
        pytest.param(f"{BAD},more", "5 fields where the header has 4", id="too-long"),
        pytest.param(f"{BAD},", "5 fields where the header has 4", id="one-comma-more"),
        pytest.param(" ", "1 field where the header has 4", id="a-space"),
        pytest.param(BAD.replace("/m/2", "\0"), "a NUL byte stands in it", id="nul"),
        pytest.param(b"0000000000000002,/m/2,0.5,Z\xfcrich", "byte 0xfc is not UTF-8", id="latin-1"),
        pytest.param(b"\xff" + BAD.encode(), "byte 0xff is not UTF-8", id="not-utf-8-in-the-id"),
        pytest.param(f'{TWO},/m/2,0.5,"bad', "a quote is left open", id="open-quote"),
        pytest.param(f'"{BAD}', "a quote is left open", id="open-quote-at-the-start"),
        pytest.param(f'{TWO},"/m/2,0.5,"bad"', "2 fields where the header has 4", id="quote-closed-by-the-next"),
        pytest.param(BAD[1:], "ImageID '000000000000002' is not 16 lower-case hex digits", id="id-cut"),
        pytest.param(BAD[16:], "ImageID '' is not 16 lower-case hex digits", id="id-empty"),
        pytest.param("A" + BAD[1:], "ImageID 'A000000000000002' is not 16 lower-case hex digits", id="id-upper-case"),
        pytest.param("٠" + BAD[1:], "ImageID '٠000000000000002' is not 16 lower-case hex digits", id="other-digits"),
        pytest.param(BAD.replace("0.5", "half"), "XMin 'half' is not a number", id="word-for-number"),
        pytest.param(BAD.replace("0.5", ""), "XMin '' is not a number", id="no-number"),
        pytest.param(BAD.replace("0.5", "nan"), "XMin 'nan' is not a number", id="nan"),
        pytest.param(BAD.replace("0.5", "-inf"), "XMin '-inf' is not a number", id="infinite"),
        pytest.param(BAD.replace("0.5", "1e999"), "XMin '1e999' is not a number", id="too-large"),
        pytest.param(BAD.replace("0.5", " 0.5"), "XMin ' 0.5' is not a number", id="space-before-number"),
        pytest.param(BAD.replace("0.5", "0,5"), "5 fields where the header has 4", id="comma-for-point"),
    ],
)
@pytest.mark.parametrize("form", ["csv", "crlf", "gzip"])
def test_a_damaged_row_costs_itself(tmp_path: Path, bad: str | bytes, reason: str | None, form: str) -> None:
    """It is named by its line with the reason; the rows before and behind it are there, cell by cell."""
    line = bad if isinstance(bad, bytes) else bad.encode()
    body = (HEADER + FIRST).encode() + line + b"\n" + LAST.encode()
    if form == "crlf":
        body = body.replace(b"\n", b"\r\n")
    packed = gzip.compress(body) if form == "gzip" else body
    rows, bad_lines, _ = whole(tmp_path, packed, "boxes.csv.gz" if form == "gzip" else "boxes.csv")
    good = [(ONE, "/m/1", "0.25", "first"), (THREE, "/m/1", "1e-05", "last, not least")]
    if reason is None:
        assert ([rows[0], rows[2]], bad_lines) == (good, [])
    else:
        assert (rows, bad_lines) == (good, [(3, reason)])


def test_a_last_line_that_is_cut_is_bad(tmp_path: Path) -> None:
    """A row without a line end is a row if it is whole, and is named if it is not."""
    cut = HEADER + FIRST + LAST
    for length in range(1, len(LAST) + 1):
        rows, bad_lines, _ = whole(tmp_path, cut[:-length])
        left = LAST[:-length]
        # A row that ends in a comma has an empty last field.
        is_whole = length == 1 or (left.endswith(",") and left.count(",") == 3)
        assert (len(rows), [line for line, _ in bad_lines]) == ((1 + is_whole), [] if is_whole or not left else [3])


@pytest.mark.parametrize(
    ("rows", "lines"),
    [
        pytest.param(f'{TWO},/m/2,0.5,"a\nb\n\nc"\n', [], id="quoted-lines"),
        pytest.param(f'{TWO},/m/2,0.5,"a, b\r\nc ""d"" e"\n', [], id="quoted-crlf-and-quotes"),
        pytest.param(f'{TWO},/m/2,0.5,5" pipe\n', [], id="quote-in-a-plain-field"),
        pytest.param(f'{TWO},/m/2,0.5,"5"" pipe"s\n', [], id="text-behind-a-quote"),
        pytest.param(f'{TWO[1:]},/m/2,0.5,"a\nb"\n', [3], id="bad-row-of-two-lines"),
        pytest.param(f'{TWO},/m/2,0.5,"a\nb\0"\n', [3], id="nul-in-its-second-line"),
        pytest.param(f'{TWO},/m/2,0.5,"a\nb"\n\nx\n', [6], id="lines-count-blank-ones-too"),
        pytest.param(f'{TWO},/m/2,0.5,"a\nb",c\n', [3, 4], id="quoted-lines-of-too-many-fields"),
        pytest.param(f'{TWO},/m/2,0.5,"a\n{FOUR},/m/2,0.5,"b\n', [3, 4], id="two-open-quotes"),
        pytest.param(f'{TWO},/m/2,0.5,"a\n{FOUR},/m/2,0.5,"\n', [3, 4], id="open-quotes-that-meet"),
        pytest.param(f'{TWO},/m/2,0.5,"a\n{FOUR},/m/2,half,b"\n', [3, 4], id="open-before-a-damaged-row"),
    ],
)
def test_quotes_reach_as_far_as_they_are_meant(tmp_path: Path, rows: str, lines: list[int]) -> None:
    """A quoted field may hold line breaks; an open quote swallows no row behind it."""
    found, bad_lines, _ = whole(tmp_path, HEADER + FIRST + rows + LAST)
    assert [line for line, _ in bad_lines] == lines
    assert (found[0][0], found[-1][0]) == (ONE, THREE)
    if not lines:
        (expected,) = csv.reader(io.StringIO(rows, newline=""))
        assert found[1] == tuple(expected)


def test_a_quote_is_looked_for_so_far_and_no_further(tmp_path: Path) -> None:
    """However much stands behind an open quote, only so many lines are read ahead for its end."""
    text = "no row\n" * (csv_records.MOST_LINES + 1)
    rows, bad_lines, _ = whole(tmp_path, f'{HEADER}{TWO},/m/2,0.5,"a\n{text}b"\n{LAST}')
    assert [row[0] for row in rows] == [THREE]
    assert [line for line, _ in bad_lines] == list(range(2, csv_records.MOST_LINES + 5))


def test_a_line_without_end_is_one_bad_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is longer than any row is one, and is not held in memory."""
    monkeypatch.setattr(csv_records, "MOST_BYTES", 1000)
    for length in (1000, 1001, 2000, 2500):
        rows, bad_lines, _ = whole(tmp_path, f"{HEADER}{FIRST}{'x' * (length - 1)}\n{LAST}")
        assert [row[0] for row in rows] == [ONE, THREE]
        assert [line for line, _ in bad_lines] == [3]


def test_a_whole_table_is_read_where_it_lies(tmp_path: Path) -> None:
    """Without damage there is no copy, whatever the dialect; legal line breaks in fields are none."""
    plain = HEADER + FIRST + LAST
    for body in (
        plain,
        plain.replace("\n", "\r\n"),
        "\ufeff" + plain,
        plain[:-1],
        plain + f'{TWO},a,1,"x\ny"\n',
        HEADER,
    ):
        _, bad_lines, table = whole(tmp_path, body)
        assert (bad_lines, table.path) == ([], tmp_path / "boxes.csv")
        assert not (tmp_path / "whole.csv").exists()


def test_a_large_table_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That it is whole is remembered until it changes, or until more is asked of it; not of a small or new one."""
    path, notes = tmp_path / "boxes.csv", tmp_path / "cache/whole"
    looks: list[str] = []
    look = damage._all_lines_are_valid

    def count(table: TableFile, form: RowRules) -> bool:
        looks.append(table.name)
        return look(table, form)

    monkeypatch.setattr(damage, "_all_lines_are_valid", count)

    def looked(body: str, age_s: float, flags: tuple[str, ...] = ()) -> bool:
        before = len(looks)
        if not path.exists() or path.read_text() != body:
            path.write_text(body)
            os.utime(path, (time.time() - age_s, time.time() - age_s))
        table = TableFile(path, "boxes.csv")
        form = RowRules.of_kind(KINDS["bbox"], columns_of(table), IdForm(), flags)
        assert (without_damage(table, form, tmp_path, notes=notes) is table) == ("bad" not in body)
        return len(looks) > before

    text = "ImageID,IsInside,XMin\n" + f"{ONE},1,0.5\n" * 9
    assert [looked(text, 60), looked(text, 60)] == [True, True]
    monkeypatch.setattr(damage, "_NOTED_BYTES", 1)
    assert [looked(text, 60), looked(text, 60)] == [True, False]
    assert [looked(text, 60, ("IsInside",)), looked(text, 60, ("IsInside",))] == [True, False]
    changed = text.replace("0.5", "0.7")
    assert [looked(changed, 0), looked(changed, 0)] == [True, True]
    assert [looked(text.replace("0.5", "bad"), 60), looked(text.replace("0.5", "bad"), 60)] == [True, True]


def test_flags_must_be_flags(tmp_path: Path) -> None:
    """Those that are asked for are numbers, true or false; empty is unknown, and others may hold anything."""
    values = ["1", "0", "-1", "1.0", "true", "False", "", "yes", "x"]
    text = "ImageID,IsInside,IsOccluded\n" + "".join(f"{ONE},{value},?\n" for value in values)
    rows, bad_lines, _ = whole(tmp_path, text, flags=("IsInside", "IsTruncated"))
    assert [row[1] for row in rows] == values[:7]
    assert bad_lines == [
        (line, f"IsInside {word!r} is none of 1, 0, -1, true and false") for line, word in ((9, "yes"), (10, "x"))
    ]


def test_image_rows_have_sizes_and_rotations(tmp_path: Path) -> None:
    """OriginalSize is a whole number and Rotation a number, where they say anything; NaN is a number nobody knows."""
    fine = [("", ""), ("0", "0.0"), ("12", "90"), ("12.0", "NaN"), ("7", "-90")]
    bad = [("-1", ""), ("1.5", ""), ("1e3", ""), ("", "left"), ("", "inf")]
    lines = [f"{ONE},{size},{turn}\n" for size, turn in (*fine, *bad)]
    table = TableFile(tmp_path / "i.csv", "i.csv")
    table.path.write_text("ImageID,OriginalSize,Rotation\n" + "".join(lines))
    found = without_damage(table, RowRules.of_images(columns_of(table), IdForm()), tmp_path)
    assert scan(found, [], ["OriginalSize", "Rotation"]).collect().fill_null("").rows() == fine
    assert bad_rows(found).collect().get_column("Line").to_list() == [7, 8, 9, 10, 11]


def test_an_md5_is_whole_or_a_bad_row(tmp_path: Path) -> None:
    """OriginalMD5 is empty, base64 of 16 bytes or 32 hex digits; a last line that is cut within it is named."""
    fine = ["", "1B2M2Y8AsgTpgAmY7PhCfg==", "d41d8cd98f00b204e9800998ecf8427e", "D41D8CD98F00B204E9800998ECF8427E"]
    bad = ["1B2M2Y8AsgTpgAmY7PhCfg=", "1B2M2Y8AsgTpgAmY7PhCfg", "1B2M2Y8A-gTpgAmY7PhCfg==", "d41d8cd98f00b204", "?"]
    table = TableFile(tmp_path / "i.csv", "i.csv")
    form = RowRules.of_images(["ImageID", "OriginalMD5"], IdForm())
    table.path.write_text("ImageID,OriginalMD5\n" + "".join(f"{ONE},{md5}\n" for md5 in (*fine, *bad)))
    found = without_damage(table, form, tmp_path)
    assert scan(found, ["OriginalMD5"], []).collect().fill_null("").to_series().to_list() == fine
    assert bad_rows(found).collect().get_column("Line").to_list() == [6, 7, 8, 9, 10]
    for length in range(1, 24):
        table.path.write_text(f"ImageID,OriginalMD5\n{ONE},{fine[1]}\n{TWO},{fine[1][:length]}")
        (bad_row,) = bad_rows(without_damage(table, form, tmp_path)).collect().rows()
        assert bad_row[0] == 3
        assert "OriginalMD5" in bad_row[1]


def test_ids_of_a_users_own_are_any_text(tmp_path: Path) -> None:
    """Where ids are not Open Images' the hex rule does not hold; empty and endless ones are bad all the same."""
    ids = ["photo 1", "ä" * 50, "x" * 200, '"a,b"', "x" * 201, "", "ä" * 101]
    rows, bad_lines, _ = whole(tmp_path, "ImageID,X\n" + "".join(f"{name},1\n" for name in ids), own_ids=True)
    assert [row[0] for row in rows] == [name.strip('"') for name in ids[:4]]
    assert [line for line, _ in bad_lines] == [6, 7, 8]


def test_a_damaged_table_still_tells_its_ids(tmp_path: Path) -> None:
    """Bad bytes, NULs and open quotes do not keep a table from saying whose ids it has."""
    for image_id, is_hex in ((ONE, True), ("photo", False)):
        for junk in (b"\xff,1\n", b'"x,1\n', b"\0\n", b"x,1,2,3\n"):
            path = tmp_path / "ids.csv"
            path.write_bytes(b"ImageID,X\n" + junk + image_id.encode() + b",1\n")
            assert looks_hexadecimal(TableFile(path, "ids.csv")) is is_hex


def test_damaged_rows_of_a_parquet(tmp_path: Path) -> None:
    """Ids and numbers count there too; rows are counted as if each stood on a line below a header."""
    path = tmp_path / "boxes.parquet"
    columns = {"ImageID": [ONE, "x", TWO, None, THREE], "XMin": [0.5, 0.5, None, 0.5, 1e-7]}
    pl.DataFrame(columns).write_parquet(path)
    table = TableFile(path, "boxes.parquet")
    found = without_damage(table, RowRules.of_kind(KINDS["bbox"], columns_of(table), IdForm()), tmp_path)
    assert scan(found, ["ImageID"]).collect().get_column("ImageID").to_list() == [ONE, THREE]
    reasons = ("ImageID 'x' is not 16 lower-case hex digits", "XMin '' is not a number")
    assert bad_rows(found).collect().rows() == [
        (3, reasons[0]),
        (4, reasons[1]),
        (5, "ImageID '' is not 16 lower-case hex digits"),
    ]
    pl.DataFrame({"ImageID": [ONE], "XMin": [0.5]}).write_parquet(path)
    assert without_damage(table, RowRules.of_kind(KINDS["bbox"], columns_of(table), IdForm()), tmp_path) is table


def test_damaged_rows_of_a_class_table(tmp_path: Path) -> None:
    """With or without a header: too few fields, bad bytes or no MID cost the row, not the table."""
    lines = [
        b"/m/1,Apple",
        b"/m/2",
        b"/m/3,Z\xfc",
        b"/m/4,\0",
        b",Nothing",
        b"",
        b"/m/5,Lemon, lime",
        b'/m/6,"Open',
        b"/m/7,Pear",
        *(b"/m/1%d,More" % number for number in range(4)),
    ]
    for header in (b"", b"LabelName,DisplayName\n", b"\xef\xbb\xbfMID,Name\r\n"):
        path = tmp_path / "classes.csv"
        path.write_bytes(header + b"\n".join(lines))
        classes, bad = read_classes(TableFile(path, "classes.csv"))
        more = {f"/m/1{number}": "More" for number in range(4)}
        assert classes.names == {"/m/1": "Apple", "/m/7": "Pear", **more}
        first = 2 if header else 1
        assert bad.get_column("Line").to_list() == [first + at for at in (1, 2, 3, 4, 6, 7)]


def test_a_class_table_of_nothing_usable_is_refused(tmp_path: Path) -> None:
    """What has no row of two fields is no class table, and says which line is what."""
    path = tmp_path / "classes.csv"
    for body, said in (
        (b",a\n,b\n", r"line 1: LabelName is empty"),
        (b"\xff\xfe\0a\n\xff\n", "not a CSV"),
        (b"\n", "empty"),
    ):
        path.write_bytes(body)
        with pytest.raises(InputError, match=said):
            read_classes(TableFile(path, "classes.csv"))[0]


def test_a_box_table_is_no_class_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has far more rows than there are classes is refused before it fills the memory."""
    monkeypatch.setattr(class_tables, "_MOST_ROWS", 3)
    path = tmp_path / "classes.csv"
    for rows in (3, 4):
        path.write_text("".join(f"/m/{row},Name\n" for row in range(rows)))
        if rows == 3:
            assert len(read_classes(TableFile(path, "classes.csv"))[0].names) == 3
        else:
            with pytest.raises(InputError, match="more than 3 rows; that is no table of LabelName and DisplayName"):
                read_classes(TableFile(path, "classes.csv"))[0]


def test_the_slow_look_stops_when_asked(tmp_path: Path) -> None:
    """A run that is called off does not wait for the end of a large damaged table."""
    path = tmp_path / "boxes.csv"
    path.write_text(HEADER + "x\n" + FIRST * 5000)
    table = TableFile(path, "boxes.csv")
    with pytest.raises(StoppedError):
        without_damage(
            table, RowRules.of_kind(KINDS["bbox"], columns_of(table), IdForm()), tmp_path, stopped=lambda: True
        )


# Whole runs -----------------------------------------------------------------------------------------------------------

IMAGES = [Image(image_id) for image_id in (ONE, TWO, THREE, FOUR)]
DATASET = Dataset([(BALL, "Ball"), ("/m/01g317", "Person")], IMAGES, [Box(image.image_id, BALL) for image in IMAGES])


def places(root: Path) -> dict[str, Path]:
    return {
        kind: root / table.bucket / table.key
        for kind in ("classes", "boxes", "images")
        for table in published(kind, ["train"])
    }


def ruin(path: Path, line: int, how: Callable[[bytes], bytes]) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line - 1] = how(lines[line - 1])
    write_bytes(path, b"".join(lines))


@pytest.mark.parametrize("given", [False, True], ids=["published", "given"])
async def test_damage_of_every_kind_in_one_run(tmp_path: Path, given: bool) -> None:
    """Boxes, images and classes damaged at once: the rest is saved, the report counts, bad_rows.csv names them all.

    The same folder comes of the tables without these rows, but for bad_rows.csv and query.json.
    """
    trees: list[Any] = []
    notes: list[str] = []
    for name in ("damaged", "mended"):
        tables = places(DATASET.publish(tmp_path / "mirror"))
        ruins: list[tuple[str, int, Callable[[bytes], bytes]]] = [
            ("classes", 3, lambda line: line.replace(b"Person", b"\xff")),
            ("boxes", 2, lambda line: line.replace(b",", b"", 1)),
            ("boxes", 4, lambda line: line.replace(b"0.125", b"a")),
            ("images", 5, lambda line: line[:60] + b"\0" + line[60:]),
        ]
        for kind, line, how in reversed(ruins):
            ruin(tables[kind], line, how if name == "damaged" else lambda line: b"")
        query: dict[str, Any] = {
            "categories": ["Ball"],
            "mirror": tmp_path / "mirror",
            "savepath": tmp_path / f"{name}-d",
        }
        query |= {"cache_dir": tmp_path / f"{name}-cache", "splits": ["train"]}
        if given:
            query |= {"label": tables["classes"], "annotation": tables["boxes"], "image_url": tables["images"]}

        report = await oid_async.download(**query, on_event=notes_into(notes))
        assert (report.selected, report.downloaded, report.failed) == (1, 1, 0)
        assert report.bad_rows == (4 if name == "damaged" else 0)
        trees.append(tree(tmp_path / f"{name}-d"))
        if name == "damaged":
            found = [(row["File"], int(row["Line"])) for row in read_csv(tmp_path / "damaged-d/bad_rows.csv")]
            files = {kind: str(path) if given else path.name for kind, path in tables.items()}
            assert found == [(files[kind], line) for kind, line, _ in ruins]
    assert sum("4 damaged table rows are left out" in note for note in notes) == 1
    for name in ("bad_rows.csv", "query.json"):
        for files_of in trees:
            files_of.pop(name, None)
    assert trees[0] == trees[1]


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
@pytest.mark.parametrize("has_header", [True, False])
@pytest.mark.parametrize("bad", [b"\xff", b'"', b"\0", b",", b"\r\n", b'"\xff\0,\n'], ids=ascii)
async def test_damage_in_the_first_row_of_given_tables(
    tmp_path: Path, bad: bytes, suffix: str, has_header: bool
) -> None:
    """Right behind the header, or without one, where a reader looks first, damage costs its row alone too."""
    pack = gzip.compress if suffix == ".csv.gz" else bytes
    files = {"annotation": b"ImageID,Source,LabelName\n", "image_url": b"ImageID,Subset,OriginalURL\n"}
    behind = {"annotation": f"drawn,{BALL}\n", "image_url": "train,https://x.org/a.jpg\n"}
    query: dict[str, Any] = {"mirror": DATASET.publish(tmp_path / "mirror"), "savepath": tmp_path / "d"}
    for name, header in files.items():
        first = f"{ONE},".encode() + bad + behind[name].encode()
        rest = "".join(f"{image.image_id},{behind[name]}" for image in IMAGES[1:]).encode()
        query[name] = tmp_path / f"{name}{suffix}"
        write_bytes(query[name], pack((header if has_header else b"") + first + rest))
    plan = await oid_async.plan(**query)
    assert (plan.selected, plan.annotations) == (3, {"bbox": 3})


async def test_more_damage_than_allowed_stops_the_run(tmp_path: Path) -> None:
    """One row more than --max-bad-rows, of all tables together: exit 2, one line, no image asked for."""
    root = DATASET.publish(tmp_path / "mirror")
    tables = places(root)
    ruin(tables["boxes"], 3, lambda line: b"x\n")
    ruin(tables["images"], 2, lambda line: b"y\n")
    async with counted_origin(root) as (url, asked):
        query: dict[str, Any] = {"mirror": url, "savepath": tmp_path / "d", "splits": ["train"]}
        with pytest.raises(InputError) as caught:
            await oid_async.download(**query, max_bad_rows=1)
        assert not [key for key in asked if key.endswith(".jpg")]
        said = str(caught.value)
        for part in (tables["boxes"].name, "2 table rows", "--max-bad-rows 1", "line 3: 1 field where"):
            assert part in said
        assert "\n" not in said
        report = await oid_async.download(**query, max_bad_rows=2)
        assert (report.downloaded, report.bad_rows) == (2, 2)
        with pytest.raises(InputError, match="more than --max-bad-rows 0 allows"):
            await oid_async.plan(**query, max_bad_rows=0)


def test_the_command_line_says_what_is_damaged(tmp_path: Path) -> None:
    """plan tells it on stderr and leaves stdout to JSON."""
    root = DATASET.publish(tmp_path / "mirror")
    boxes = tmp_path / "boxes.csv"
    boxes.write_text(f"ImageID,LabelName\n{ONE},{BALL}\nx,{BALL}\n")
    command = (
        "plan",
        "--mirror",
        root,
        "--annotation",
        boxes,
        "--split",
        "train",
        "--json",
        "--savepath",
        tmp_path / "d",
    )
    done = run_cli(*command)
    assert (done.code, json.loads(done.stdout)["selected"]) == (0, 1)
    assert f"1 damaged table row is left out: {boxes} line 3: ImageID 'x' is not" in done.stderr


async def test_damage_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    """A table that was mended leaves no bad_rows.csv of the run before."""
    root = DATASET.publish(tmp_path / "mirror")
    boxes = tmp_path / "boxes.csv"
    for row, bad in (("x", 1), (TWO, 0)):
        boxes.write_text(f"ImageID,LabelName\n{ONE},{BALL}\n{row},{BALL}\n")
        report = await oid_async.download(annotation=boxes, mirror=root, savepath=tmp_path / "d", splits=["train"])
        assert (report.bad_rows, (tmp_path / "d/bad_rows.csv").exists()) == (bad, bool(bad))
    assert len(image_names(tmp_path / "d")) == 2


# Damage at random -----------------------------------------------------------------------------------------------------


@st.composite
def damaged(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """Draw a clean table with something done to it, and its clean rows that stand on a line each."""
    titles = draw(st.lists(st.sampled_from(TITLES), min_size=1, max_size=8))
    rows = [f"{number:016x},/m/{number},0.{number},{title}\n".encode() for number, title in enumerate(titles, 1)]
    if draw(st.booleans()):
        rows = [row.replace(b"\n", b"\r\n") for row in rows]
    body = bytearray(b"".join(rows))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(body)))
        how = draw(st.sampled_from(("insert", "delete", "set", "cut")))
        junk = draw(
            st.sampled_from([b"\0", b'"', b",", b"\n", b"\r\n", b"\xff", b"\xc5", b"x", b'",', b',"', b"\n\n", b"0"])
        )
        if how == "insert":
            body[at:at] = junk
        elif how == "delete":
            del body[at : at + draw(st.integers(1, 30))]
        elif how == "set":
            body[at : at + len(junk)] = junk
        else:
            del body[max(at, len(body) - 20) :]
    return bytes(body), [row for row in rows if row.count(b"\n") == 1]


@given(damaged())
@settings(max_examples=80, deadline=None, derandomize=True)
def test_damage_at_random_costs_what_it_touches(case: tuple[bytes, list[bytes]]) -> None:
    """No error at all; every untouched row is there; without the lines that are named the same rows are read."""
    body, rows = case
    with tempfile.TemporaryDirectory() as name:
        check_damaged(Path(name), body, rows)
