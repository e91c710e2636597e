"""Tables of a user's own: spellings that are tolerated, numbers that make no sense, tables that are others."""

import gzip
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.notes import notes_into
from support.published import Box, Dataset, Image, read_csv, tree

import oid_async
from oid_async.errors import InputError
from oid_async.openimages.catalogue import published
from oid_async.openimages.catalogue_tables import BOX_COLUMNS, CLICK_COLUMNS, IMAGE_COLUMNS
from oid_async.openimages.ids import IdForm
from oid_async.openimages.kinds import KINDS, KindName
from oid_async.tables.class_tables import read_classes
from oid_async.tables.damage import bad_rows, require_usable, without_damage
from oid_async.tables.headless import HeadlessKind, with_positions
from oid_async.tables.reading import TableFile, columns_of, scan
from oid_async.tables.row_rules import RowRules

ONE, TWO = "0000000000000001", "00e4060885034751"
SIDES = "XMin,XMax,YMin,YMax"


def given(
    folder: Path, header: str, rows: list[str], kind: KindName | None = "bbox", *, form: str = "csv", own: bool = False
) -> tuple[list[tuple[str | None, ...]], list[tuple[int, str]]]:
    """Return what is read of a given table: its rows without blanks for nothing, and its damaged rows."""
    folder.mkdir(exist_ok=True)
    path = folder / f"t.{form}"
    if form == "csv":
        path.write_text("\n".join([header, *rows]) + "\n", newline="")
    else:
        cells = [row.split(",") for row in rows]
        pl.DataFrame(cells, schema=dict.fromkeys(header.split(","), pl.String), orient="row").write_parquet(path)
    table = TableFile(path, path.name)
    columns, ids = columns_of(table), IdForm(not own)
    if kind is None:
        rules = RowRules.of_images(columns, ids, is_given=True)
    else:
        rules = RowRules.of_kind(KINDS[kind], columns, ids, ("IsOccluded",), is_given=True)
    found = without_damage(table, rules, folder)
    return scan(found, []).collect().fill_null("").rows(), bad_rows(found).collect().rows()


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_what_people_write_is_read_as_it_is_meant(tmp_path: Path, form: str) -> None:
    """A suffix, upper case and blanks do not hide an id; nan and its like are no damage; a split has other names."""
    header = f"ImageID,LabelName,{SIDES},IsOccluded"
    rows = [
        f"{TWO.upper()}.jpg, /m/1 , 0.1,0.2 ,.3,1,nan",
        f" {TWO}.JPEG,/m/1,1e-3,1.0e-1,0,5.0e-01,None",
        f"{ONE}.png,/m/1,0,0,0,0,<NA>",
        f"{ONE},/m/1,0,0.5,0,1.01,-1",
    ]
    found, bad = given(tmp_path / "boxes", header, rows, form=form)
    assert bad == []
    assert [row[:3] for row in found] == [
        (TWO, "/m/1", "0.1"),
        (TWO, "/m/1", "1e-3"),
        (ONE, "/m/1", "0"),
        (ONE, "/m/1", "0"),
    ]
    assert [row[-1] for row in found] == ["", "", "", "-1"]
    header = "OriginalMD5,ImageID,Subset,OriginalURL,OriginalSize,Rotation"
    rows = [f"nan,{TWO.upper()}.jpg,val, http://x/1 ,NULL,nan", f"null,{ONE},Valid,http://x/2,NA,90"]
    found, bad = given(tmp_path / "images", header, rows, None, form=form)
    assert bad == []
    assert found == [("", TWO, "validation", "http://x/1", "", ""), ("", ONE, "validation", "http://x/2", "", "90")]


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("kind", "columns", "values", "said"),
    [
        ("bbox", SIDES, "0.5,0.4,0,1", "XMin 0.5 is larger than XMax 0.4"),
        ("bbox", SIDES, "0.1,0.4,0.6,.2", "YMin 0.6 is larger than YMax .2"),
        ("bbox", SIDES, "0,1.02,0,1", "XMax 1.02 is outside the image"),
        ("bbox", SIDES, "-0.02,1,0,1", "XMin -0.02 is outside the image"),
        ("bbox", SIDES, "0,1,0,300", "YMax 300 is outside the image"),
        ("bbox", SIDES, "0,1,0,inf", "YMax 'inf' is not a number"),
        ("bbox", "IsOccluded", "2", "IsOccluded '2' is none of 1, 0, -1, true and false"),
        ("segmentation", "BoxXMin,BoxXMax", "0.9,0.1", "BoxXMin 0.9 is larger than BoxXMax 0.1"),
        ("relationship", "XMin2,XMax2", "0.9,1.1", "XMax2 1.1 is outside the image"),
        ("point", "X,Y", "0.5,1.2", "Y 1.2 is outside the image"),
        ("point", "EstimatedYesNo", "maybe", "EstimatedYesNo 'maybe' is none of yes, no and unsure"),
        ("label", "Confidence", "87", "Confidence 87 is not within 0 and 1"),
        (None, "Subset", "training", "Subset 'training' is none of train, validation, test"),
        (None, "OriginalSize", "-5", "OriginalSize '-5' is not a whole number"),
    ],
)
def test_a_number_that_makes_no_sense_costs_its_row(
    tmp_path: Path, form: str, kind: KindName | None, columns: str, values: str, said: str
) -> None:
    """Boxes outside their image or turned round, odd answers and splits are named by line; the rest stays."""
    good = {"EstimatedYesNo": "yes", "Subset": "train", "IsOccluded": "0"}
    fine = ",".join(good.get(name, "1") for name in columns.split(","))
    found, bad = given(tmp_path, f"ImageID,{columns}", [f"{ONE},{fine}", f"{TWO},{values}"], kind, form=form)
    assert [row[0] for row in found] == [ONE]
    ((line, reason),) = bad
    assert (line, reason.startswith(said)) == (3, True), reason


@pytest.mark.parametrize("number", ["-0.01", "-0.0100", "-.009", "-0", "-1e-3", "1.01", "1.010", "1.0099", "1e0", "0."])
def test_a_hair_outside_is_no_damage(tmp_path: Path, number: str) -> None:
    """Published sides reach up to 0.01 over the edge, in any spelling; a hair more is outside."""
    low, high = (number, "1.01") if float(number) < 0.5 else ("-0.01", number)
    assert given(tmp_path, f"ImageID,{SIDES}", [f"{ONE},{low},{high},{low},{high}"])[1] == []
    for outside in ("-0.0101", "-0.011", "-1e-1", "1.0101", "1.011", "1.1", "2", "1e1", "-1"):
        low, high = (outside, "1") if float(outside) < 0.5 else ("0", outside)
        assert len(given(tmp_path, f"ImageID,{SIDES}", [f"{ONE},{low},{high},0,1"])[1]) == 1, outside


@pytest.mark.parametrize("sign", ["\t", "\x1b", "\x7f", "\x85", "\u2028", "\r", "\x00"], ids=ascii)
def test_an_id_with_control_characters_is_no_id(tmp_path: Path, sign: str) -> None:
    """They would not survive a journal line, a file name or a terminal: the row is named, the others are read."""
    for form in ("csv", "parquet"):
        found, bad = given(
            tmp_path,
            "ImageID,X",
            [f'"cam{sign}1",1' if form == "csv" else f"cam{sign}1,1", "ä b,1"],
            own=True,
            form=form,
        )
        assert (found, [line for line, _ in bad]) == ([("ä b", "1")], [2])


@pytest.mark.parametrize(
    ("rows", "hint"),
    [
        ([f"{ONE},10,20,10,20"] * 2 + [f"{ONE},0,1,0,1"], "are these pixels?"),
        ([f"{ONE},.5,.2,.5,.2"] * 2 + [f"{ONE},0,1,0,1"], "are these x, y, width and height?"),
        (["7,0,1,0,1"] * 3, "ImageIDs of Open Images are like"),
    ],
)
def test_a_table_of_damaged_rows_is_the_wrong_one(tmp_path: Path, rows: list[str], hint: str) -> None:
    """Of which under half is usable is refused with the first reason and what it may be; half is enough."""
    path = tmp_path / "boxes.csv"
    for body, is_refused in ((rows, True), ([*rows, *[f"{ONE},0,1,0,1"] * 3], False)):
        path.write_text("\n".join([f"ImageID,{SIDES}", *body]))
        table = TableFile(path, "boxes.csv")
        found = without_damage(table, RowRules.of_kind(KINDS["bbox"], columns_of(table), IdForm()), tmp_path)
        if is_refused:
            with pytest.raises(InputError, match=r"boxes\.csv: . of 3 rows cannot be used.* line 2: ") as caught:
                require_usable(found)
            assert hint in str(caught.value)
        else:
            require_usable(found)


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("t.csv", b"PK\x03\x04" + bytes(99), "Excel"),
        ("t.csv", b"PAR1" + bytes(99), r"\.parquet"),
        ("t.csv", b"\x1f\x8b\x08" + bytes(99), r"\.csv\.gz"),
        ("t.csv", "ImageID,LabelName\n".encode("utf-16"), "UTF-16"),
        ("t.csv", "ImageID,LabelName\n".encode("utf-16-le"), "UTF-16"),
        ("t.csv", b"\xef\xbb\xbf <!doctype html><p>Sign in", "HTML"),
        ("t.csv", b'[{"ImageID": "1"}]', "JSON"),
        ("t.csv", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("t.csv", b"ImageID\tLabelName\n1\t2\n", "separated by tabs"),
        ("t.csv", b"ImageID;LabelName\n1;2\n", "separated by semicolons"),
        (
            "t.csv",
            b"image_name,image_url\na.jpg,http://x/a.jpg\n",
            "'ImageID' is missing; did you mean its 'image_name'",
        ),
        ("t.csv", b"file,mid\na.jpg,/m/1\n", "'ImageID' is missing; did you mean its 'file'"),
        ("t.parquet", b"ImageID,LabelName\n", "not a Parquet file"),
        ("t.parquet", b"", "empty"),
    ],
)
def test_what_a_file_is_instead_is_said(tmp_path: Path, name: str, body: bytes, said: str) -> None:
    """Another format, another separator or other names of the columns: one line says which."""
    (tmp_path / name).write_bytes(body)
    with pytest.raises(InputError, match=said) as caught:
        scan(TableFile(tmp_path / name, name), ["ImageID", "LabelName"])
    assert str(caught.value).startswith(f"{name}: ")
    assert "\n" not in str(caught.value)


def test_texts_of_a_parquet_that_are_bytes_are_named(tmp_path: Path) -> None:
    """As BigQuery and Impala write them."""
    pl.DataFrame({"ImageID": [b"0001234567890123"], "LabelName": [b"/m/1"]}).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(InputError, match="column 'ImageID' holds bytes, not text"):
        columns_of(TableFile(tmp_path / "b.parquet", "b.parquet"))


CLASSES = {"/m/1": "Apple", "/m/2": "Ball, red"}


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ("DisplayName,LabelName", ["Apple,/m/1", '"Ball, red",/m/2']),
        (",LabelName,DisplayName", ["0,/m/1,Apple", '1,/m/2,"Ball, red"']),
        ("Unnamed: 0,name,count,mid", ["0,Apple,7,/m/1", '1,"Ball, red",8,/m/2']),
        ("id,label", ["/m/1,Apple", '/m/2,"Ball, red"']),
        ("class_name,label", ["Apple,/m/1", '"Ball, red",/m/2']),
        ("Label Name,Display Name", ["/m/1,Apple", '/m/2,"Ball, red"']),
        ("mid,what", [" /m/1 , Apple ", '/m/2,"Ball, red"']),
        ("count,mid,class", ["1,/m/1,Apple", '2,/m/2,"Ball, red"']),
        ("/m/1,Apple", ['/m/2,"Ball, red"']),
    ],
)
def test_a_class_table_goes_by_its_header(tmp_path: Path, header: str, rows: list[str]) -> None:
    """Its columns may stand anywhere, under the words that people use; without a header the first two count."""
    path = tmp_path / "classes.csv"
    path.write_text("\n".join([header, *rows]))
    names, bad = read_classes(TableFile(path, "classes.csv"))
    assert (names.names, len(bad)) == (CLASSES, 0)
    if not header.startswith("/m/"):
        cells = pl.read_csv(path, infer_schema=False)
        cells.write_parquet(tmp_path / "classes.parquet")
        assert read_classes(TableFile(tmp_path / "classes.parquet", "classes.parquet"))[0].names == CLASSES


def test_a_class_with_two_names_is_named(tmp_path: Path) -> None:
    """The first name of a MID holds, a second one is a damaged row; one name may be that of two MIDs."""
    path = tmp_path / "classes.csv"
    path.write_text("/m/1,Apple\n/m/2,Apple\n/m/1,Pear\n/m/2,Apple\n")
    names, bad = read_classes(TableFile(path, "classes.csv"))
    assert names.names == {"/m/1": "Apple", "/m/2": "Apple"}
    assert bad.rows() == [(3, "/m/1 is called 'Pear' here and 'Apple' before")]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("LabelName\tDisplayName\n/m/1\tBall, red\n/m/2\tApple, green\n", "separated by tabs"),
        ("/m/1\tApple\n/m/2\tPear\n", "separated by tabs"),
        ("/m/1;Apple\n/m/2;Pear\n", "separated by semicolons"),
        ("<html><body>,</body>", "HTML"),
        (",x\n,y\n/m/1,Apple\n", "line 1: LabelName is empty"),
        ("Apple,/m/1\nPear,/m/2\n", "turn them round"),
    ],
)
def test_what_is_no_class_table_is_refused(tmp_path: Path, body: str, said: str) -> None:
    """One line says why."""
    path = tmp_path / "classes.csv"
    path.write_text(body)
    with pytest.raises(InputError, match=said):
        read_classes(TableFile(path, "classes.csv"))


BOX, PICTURE = "xclick,/m/1,1,0.1,0.2,0.3,0.4,0,0,0,0,-1", "https://x.org/a.jpg"
MD5 = "osI6nGN3PiNLtZL1G/5mzg=="
ALL_OF_IMAGE = f"train,{PICTURE},https://x.org/p,https://x.org/by,,Ann,A title,12,{MD5},,90.0"


@pytest.mark.parametrize(
    ("kind", "row", "columns"),
    [
        ("boxes", BOX, BOX_COLUMNS),
        ("boxes", f"{BOX},{'0.1,' * 7}-1", (*BOX_COLUMNS, *CLICK_COLUMNS)),
        ("boxes", BOX.removesuffix(",0,0,0,0,-1"), BOX_COLUMNS[:8]),
        ("boxes", "/m/1", ("ImageID", "LabelName")),
        ("boxes", "elephant", ("ImageID", "LabelName")),
        ("images", ALL_OF_IMAGE, IMAGE_COLUMNS),
        ("images", ALL_OF_IMAGE.removeprefix("train,"), ("ImageID", *IMAGE_COLUMNS[2:])),
        ("images", f"val,{PICTURE}", IMAGE_COLUMNS[:3]),
        ("images", PICTURE, ("ImageID", "OriginalURL")),
    ],
)
def test_without_a_header_columns_go_by_position(
    tmp_path: Path, kind: HeadlessKind, row: str, columns: tuple[str, ...]
) -> None:
    """Those published, in their order, or the needed ones; ids as they are tolerated, a mark, row numbers, gzip."""
    for number, first in enumerate((ONE, f" {TWO.upper()}.JPG", f"\ufeff{ONE}", f"0,{ONE}")):
        path = tmp_path / f"{kind}{number}.csv.gz"
        path.write_bytes(gzip.compress(f"{first},{row}\n{'1,' * (number == 3)}{TWO},{row}\n".encode()))
        table = with_positions(TableFile(path, path.name), kind)
        assert table.header == (("",) * (number == 3) + columns)
        found = scan(table, ["ImageID"], []).collect().to_series().to_list()
        assert (len(found), found[1]) == (2, TWO)
    text = ",".join([*columns, "More"])
    path.with_suffix("").write_text(f"{text}\n{ONE},{row},1\n")
    table = TableFile(path.with_suffix(""), "with a header")
    assert with_positions(table, kind) == table


@pytest.mark.parametrize(
    ("kind", "row", "said"),
    [
        ("boxes", ALL_OF_IMAGE, "its rows look like images; give it with --imageURL"),
        ("boxes", PICTURE, "its rows look like images; give it with --imageURL"),
        ("images", BOX, "its rows look like boxes; give it with --annotation"),
        ("images", "/m/1", "its rows look like boxes; give it with --annotation"),
        ("boxes", "/m/1,0.1,0.2,0.3,0.4", "put the names of its columns on top, as ImageID,LabelName,XMin,XMax"),
        ("boxes", "/m/1,/m/2,0.1,0.2,0.3,0.4,0.1,0.2,0.3,0.4,at", "is none of ImageID, Source, LabelName"),
        ("boxes", "0.1,0.2,/m/1,yes,a,1,0,0,x", "put the names of its columns on top"),
        ("images", f"12,{PICTURE}", "put the names of its columns on top, as ImageID,OriginalURL"),
    ],
)
def test_positions_that_the_rows_contradict_are_refused(
    tmp_path: Path, kind: HeadlessKind, row: str, said: str
) -> None:
    """Which table it looks like is said, or which line to put on top."""
    path = tmp_path / "t.csv"
    path.write_text(f"{ONE},{row}\n{TWO},{row}\n")
    with pytest.raises(InputError, match=re.escape(said)):
        with_positions(TableFile(path, "t.csv"), kind)
    path.write_text("/m/1,Apple\n/m/2,Ball\n")
    with pytest.raises(InputError, match="its rows look like classes; give it with --label"):
        with_positions(TableFile(path, "t.csv"), kind)


async def test_a_run_of_tables_without_headers(tmp_path: Path) -> None:
    """The same files as with headers; damaged rows have their physical line, of which the first is 1."""
    images = [Image(f"{number:016x}") for number in range(1, 6)]
    mirror = Dataset([("/m/1", "Apple")], images, [Box(image.image_id, "/m/1") for image in images]).publish(
        tmp_path / "m"
    )
    trees: list[Any] = []
    notes: list[str] = []
    for name in ("with", "without"):
        query: dict[str, Any] = {"mirror": mirror, "savepath": tmp_path / name, "categories": ["Apple"]}
        tables: tuple[tuple[str, HeadlessKind], ...] = (("annotation", "boxes"), ("image_url", "images"))
        for option, table in tables:
            (published_table,) = published(table, ["train"])
            lines = (mirror / published_table.bucket / published_table.key).read_text().splitlines(keepends=True)
            lines[3] = lines[3].replace(",", ",,", 1)
            query[option] = tmp_path / f"{name}-{table}.csv"
            query[option].write_text("".join(lines if name == "with" else lines[1:]))

        report = await oid_async.download(**query, on_event=notes_into(notes))
        assert (report.downloaded, report.bad_rows) == (4, 2)
        bad = read_csv(tmp_path / name / "bad_rows.csv")
        assert [row["Line"] for row in bad] == (["4", "4"] if name == "with" else ["3", "3"])
        assert all(("the header has" if name == "with" else "other rows have") in row["Reason"] for row in bad)
        trees.append(
            {path: body for path, body in tree(tmp_path / name).items() if path not in ("query.json", "bad_rows.csv")}
        )
    assert trees[0] == trees[1]
    assert sum("has no header; its columns are taken for ImageID, " in note for note in notes) == 2


@pytest.mark.parametrize("has_header", [True, False])
@pytest.mark.parametrize(
    ("columns", "row"),
    [(BOX_COLUMNS, BOX), (IMAGE_COLUMNS, ALL_OF_IMAGE), (("ImageID", "OriginalURL"), PICTURE)],
)
def test_boxes_and_images_are_no_class_tables(
    tmp_path: Path, columns: tuple[str, ...], row: str, has_header: bool
) -> None:
    """Any table has two columns; one of boxes or images is refused, and the option that takes it is named."""
    path = tmp_path / "t.csv"
    header = ",".join(columns) if has_header else f"{ONE},{row}"
    path.write_text(f"{header}\n{TWO},{row}\n{ONE[:-1]}3,{row}\n")
    with pytest.raises(InputError, match="--annotation" if row == BOX else "--imageURL"):
        read_classes(TableFile(path, "t.csv"))
