"""The program against rows and photos that really are Open Images: quirks nobody would think of inventing.

The files lie beside the project and are not part of it; without them this module is skipped. Nothing here leaves the
machine: tables are given as files or published by a mirror on loopback.
"""

import asyncio
import base64
import csv
import gzip
import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Unpack

import duckdb
import polars as pl
import pytest
from aiohttp import web

import oid_async
from oid_async.errors import InputError, OidError, UsageError
from oid_async.openimages.catalogue import published
from oid_async.openimages.catalogue_tables import BOX_COLUMNS, CLICK_COLUMNS, IMAGE_COLUMNS
from oid_async.options.keywords import QueryOptions
from oid_async.origin.server import Origin
from oid_async.tables.class_tables import read_classes, read_headless
from oid_async.tables.reading import TableFile, columns_of, scan

REAL = Path(__file__).resolve().parents[3] / "shared" / "real"

if not (REAL / "images.csv").is_file():
    pytest.skip("the real Open Images files are not beside the project (../shared/real)", allow_module_level=True)

OFFICIAL_CLASSES = REAL / "official/v5/class-descriptions-boxable.csv"
V6_CLASSES = REAL / "classes/oidv6-class-descriptions.csv"
IMAGE_INFO = REAL / "image_info/crossmodal3600-image-attributions.csv"
QUOTED_INFO = REAL / "image_info/quoted-rows.csv"
CARDS = REAL / "bbox/cards-url-and-bbox.csv"
QUOTED_BOXES = REAL / "bbox/oidv6-train-annotations-bbox.quoted-rows.csv"
MPEG_BOXES = REAL / "bbox/mpeg-vcm-detection-bbox.csv"
REMO_BOXES = REAL / "bbox/remo-open_sample.csv"
TEST_BOXES = REAL / "bbox/sysaster-test-annotations-bbox.csv"
TRAIN_BOXES = REAL / "bbox/sysaster-train-annotations-bbox.csv"

ALL_DIGITS = "0000048549557964"
CARD_ID = "000002c707c9895e"

# Files without a header row, with their number of columns.
HEADLESS = {
    "classes/challenge-2019-classes-vrd.csv": 2,
    "classes/dict.csv": 2,
    "image_info/crossmodal3600-image-shapes.csv": 3,
    "official/2019_01/challenge-2018-attributes-description.csv": 2,
    "official/2019_01/challenge-2018-relationships-description.csv": 2,
    "official/v5/class-descriptions-boxable.csv": 2,
}
EVERY_CSV = sorted(str(path.relative_to(REAL)) for path in REAL.rglob("*.csv"))
WITH_HEADER = [name for name in EVERY_CSV if name not in HEADLESS]

Row = dict[str, str]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the caller's mirror and cache out of it."""
    monkeypatch.delenv("OID_ASYNC_MIRROR", raising=False)
    monkeypatch.setenv("OID_ASYNC_CACHE", str(tmp_path / "cache"))


def table(path: Path) -> TableFile:
    return TableFile(path, str(path))


def read(path: Path) -> list[Row]:
    """Read a CSV with Python's own module, which is what the program is measured against."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, header: Sequence[str], rows: Iterable[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, header, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def sql(path: Path, *, header: bool = True) -> str:
    """Return what DuckDB reads a CSV with: every column as text, nothing guessed, CRLF and LF mixed as it comes."""
    how = "all_varchar = true, auto_detect = false, strict_mode = false, delim = ',', quote = '\"', escape = '\"'"
    first = _first_line(path)
    names = first if header else [f"column{number}" for number in range(len(first))]
    columns = ", ".join(f"'{name}': 'VARCHAR'" for name in names)
    return f"read_csv('{path}', {how}, header = {header}, columns = {{{columns}}})"


def _first_line(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        return next(csv.reader(file))


def ask(query: str) -> Any:
    """Return the one value that DuckDB answers."""
    with duckdb.connect() as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


def but(query: QueryOptions, **changes: Unpack[QueryOptions]) -> QueryOptions:
    return {**query, **changes}


def counting_plan(**query: Unpack[QueryOptions]) -> tuple[oid_async.Plan | OidError, list[str]]:
    """Plan against a mirror that has nothing; return the plan or the error, and every path that was asked for."""

    async def go() -> tuple[oid_async.Plan | OidError, list[str]]:
        asked: list[str] = []

        async def serve(request: web.Request) -> web.StreamResponse:
            asked.append(request.path)
            raise web.HTTPNotFound

        async with Origin(serve) as origin:
            try:
                return await oid_async.plan(**but(query, mirror=origin.url)), asked
            except OidError as error:
                return error, asked

    return asyncio.run(go())


def planned(**query: Unpack[QueryOptions]) -> oid_async.Plan:
    """Plan with given tables alone: nothing may be asked for."""
    plan, asked = counting_plan(**query)
    assert isinstance(plan, oid_async.Plan), plan
    assert asked == []
    return plan


def download(**query: Unpack[QueryOptions]) -> oid_async.Report:
    return asyncio.run(oid_async.download(**query))


def jpegs() -> list[Row]:
    return read(REAL / "images.csv")


def small_jpeg() -> Path:
    return REAL / min(jpegs(), key=lambda row: int(row["bytes"]))["path"]


def publish_image(mirror: Path, split: str, image_id: str, jpeg: Path) -> None:
    path = mirror / "open-images-dataset" / split / f"{image_id}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(jpeg, path)


def made_image(image_id: str, subset: str = "train") -> Row:
    return {
        "ImageID": image_id,
        "Subset": subset,
        "OriginalURL": f"https://photos.example/{subset}/{image_id}_o.jpg",
        "OriginalLandingURL": f"https://photos.example/{image_id}",
        "License": "https://creativecommons.org/licenses/by/2.0/",
        "Author": "Ann Example",
        "Title": f"Photo, {image_id}",
    }


def made_box(image_id: str, label: str = "/m/011k07") -> Row:
    values = ("xclick", label, "1", "0.012500", "0.195312", "0.148438", "0.587500", "0", "1", "0", "0", "0")
    return dict(zip(BOX_COLUMNS, (image_id, *values), strict=True))


def jpeg_rows() -> list[Row]:
    """Return an image row for each real JPEG; the card photo's URLs are the real ones."""
    rows = [made_image(jpeg["image_id"]) for jpeg in jpegs()]
    card = next(row for row in read(CARDS) if row["ImageID"] == CARD_ID)
    for row in rows:
        if row["ImageID"] == CARD_ID:
            row["OriginalURL"], row["OriginalLandingURL"] = card["OriginalURL"], card["OriginalLandingURL"]
    return rows


def jpeg_boxes() -> list[Row]:
    """Return two made boxes for each real JPEG, in the spelling of the real rows; the card's box is the real one."""
    boxes = [made_box(jpeg["image_id"], label) for jpeg in jpegs() for label in ("/m/011k07", "/m/0zvk5")]
    card = next(row for row in read(CARDS) if row["ImageID"] == CARD_ID)
    for box in boxes:
        if box["ImageID"] == CARD_ID:
            box.update({name: card[name] for name in ("XMin", "XMax", "YMin", "YMax")})
    return boxes


class TestClassTables:
    def test_official_boxable_table_has_601_clean_classes(self) -> None:
        """The official V5 table has CRLF line ends and one bare LF: no name may keep a CR."""
        names = read_classes(table(OFFICIAL_CLASSES))[0].names
        assert len(names) == 601
        assert not [pair for pair in names.items() if any(text != text.strip() or "\r" in text for text in pair)]
        known = {"/m/011k07": "Tortoise", "/m/0zvk5": "Helmet", "/m/031n1": "Human foot", "/m/01g317": "Person"}
        assert {label: names[label] for label in known} == known
        assert next(iter(names)) == "/m/011k07"

    def test_full_v6_table_equals_the_csv_module(self) -> None:
        """The full V6 table has a header, doubled quotes, commas in quotes and names beyond ASCII."""
        names = read_classes(table(V6_CLASSES))[0].names
        assert len(names) == 19_994
        assert names == {row["LabelName"]: row["DisplayName"] for row in read(V6_CLASSES)}
        assert names["/m/02wvth"] == 'Fiat 500 "topolino"'
        assert names["/m/064093q"] == "Toyota concept vehicles, 2000–09"

    def test_a_shared_name_takes_every_class(self) -> None:
        """Ball names two classes of the V6 table; both are meant, in any spelling of case."""
        classes = read_classes(table(V6_CLASSES))[0]
        assert classes.resolve("Ball").labels == ("/m/0156sn", "/m/018xm")
        assert classes.resolve("WAVE").labels == ("/m/02p0sll", "/m/0wf0kbf")
        assert classes.resolve("/m/018xm").labels == ("/m/018xm",)

    @pytest.mark.parametrize(
        ("word", "label"),
        [
            ('fiat 500 "topolino"', "/m/02wvth"),
            ("Ducks,_geese_and_swans", "/m/01c_0l"),
            ("toyota concept vehicles, 2000–09", "/m/064093q"),
        ],
    )
    def test_odd_names_are_found(self, word: str, label: str) -> None:
        """A name with quotes, commas or a dash is asked for as it is displayed."""
        assert read_classes(table(V6_CLASSES))[0].resolve(word).labels == (label,)

    def test_a_name_resolves_to_its_own_class(self) -> None:
        """Every display name of the official table leads back to its class, with underscores for spaces too."""
        classes = read_classes(table(OFFICIAL_CLASSES))[0]
        for label, name in classes.names.items():
            assert label in classes.resolve(name.upper()).labels
            assert label in classes.resolve(name.replace(" ", "_")).labels

    def test_quoted_table_of_the_first_releases(self) -> None:
        """The V1 table quotes every field, has /g/ ids and no header: its first row is a class."""
        names = read_classes(table(REAL / "classes/dict.csv"))[0].names
        with (REAL / "classes/dict.csv").open(encoding="utf-8", newline="") as file:
            expected = {label: name.strip() for label, name in csv.reader(file)}
        assert names == expected
        assert len(names) == 7_881
        assert names["/g/1172hxxrk"] == "traditional sport"

    def test_challenge_table(self) -> None:
        """The challenge's table has 57 classes and no header."""
        names = read_classes(table(REAL / "classes/challenge-2019-classes-vrd.csv"))[0].names
        assert len(names) == 57
        assert list(names.items())[:2] == [("/m/05r5c", "Piano"), ("/m/01599", "Beer")]

    def test_an_unknown_name_is_told_the_nearest(self) -> None:
        """A typing error among the real names is answered with the name that was meant."""
        with pytest.raises(UsageError, match="Tortoise"):
            read_classes(table(OFFICIAL_CLASSES))[0].resolve("Tortose")


class TestDownload:
    """The whole job: 15 real photos in the mirror, 1,775 real image rows without a photo there."""

    @pytest.fixture
    def job(self, tmp_path: Path) -> QueryOptions:
        listed = [*jpeg_rows(), *read(IMAGE_INFO), *read(QUOTED_INFO)]
        images = write(tmp_path / "images.csv", IMAGE_COLUMNS, listed)
        header = columns_of(table(QUOTED_BOXES))
        real = read(QUOTED_BOXES)
        made = [made_box(row["ImageID"]) for row in listed[len(jpegs()) :]]
        boxes = write(tmp_path / "boxes.csv", header, [*real, *jpeg_boxes(), *made])
        for jpeg in jpegs():
            publish_image(tmp_path / "mirror", "train", jpeg["image_id"], REAL / jpeg["path"])
        return {
            "label": OFFICIAL_CLASSES,
            "annotation": boxes,
            "image_url": images,
            "mirror": tmp_path / "mirror",
            "savepath": tmp_path / "data",
        }

    def test_all_of_it_is_accounted_for(self, job: QueryOptions, tmp_path: Path) -> None:
        """Photos that are there land byte for byte, those that are not fail as not_found, and a second run rests."""
        report = download(**job)
        assert report.selected == 15 + 1_773 + 2
        assert (report.present, report.downloaded, report.pending) == (0, 15, 0)
        assert (report.failed, report.failures, report.bad_rows) == (1_775, {"not_found": 1_775}, 0)
        assert report.sources == {"cvdf": 15}
        assert report.bytes == sum(int(jpeg["bytes"]) for jpeg in jpegs())
        assert report.requests == report.selected
        self._check_photos(tmp_path / "data")
        self._check_failures(tmp_path / "data")
        self._check_boxes(tmp_path / "data")

        again = download(**job)
        assert (again.present, again.downloaded, again.failures) == (15, 0, {"not_found": 1_775})
        assert (again.requests, again.bytes) == (0, 0)

    def _check_photos(self, data: Path) -> None:
        saved: dict[str, dict[str, Any]] = {
            row["ImageID"]: row for row in pl.read_parquet(data / "manifest.parquet").to_dicts()
        }
        assert sorted(path.name for path in (data / "images").iterdir()) == sorted(
            row["FileName"] for row in saved.values() if row["Status"] == "ok"
        )
        for jpeg in jpegs():
            row = saved[jpeg["image_id"]]
            body = (data / "images" / row["FileName"]).read_bytes()
            digest = hashlib.md5(body, usedforsecurity=False).digest()
            assert base64.b64encode(digest).decode() == jpeg["md5_base64"]
            assert body == (REAL / jpeg["path"]).read_bytes()
            assert row["Status"] == "ok"
            assert row["Source"] == "cvdf"
            assert row["MD5"] == jpeg["md5_base64"]
            assert (row["Bytes"], row["Width"], row["Height"]) == (
                int(jpeg["bytes"]),
                int(jpeg["width"]),
                int(jpeg["height"]),
            )
        assert saved[CARD_ID]["FileName"] == "17048042861_97168daff8_o.jpg"
        assert saved[CARD_ID]["OriginalLandingURL"] == "https://www.flickr.com/photos/eltb/17048042861"
        assert saved[ALL_DIGITS]["FileName"] == f"{ALL_DIGITS}_o.jpg"

    def _check_failures(self, data: Path) -> None:
        listed = {row["ImageID"] for path in (IMAGE_INFO, QUOTED_INFO) for row in read(path)}
        failures = read(data / "failures.csv")
        assert [row["ImageID"] for row in failures] == sorted(listed)
        assert {(row["Reason"], row["Detail"], row["Attempts"]) for row in failures} == {
            ("not_found", "cvdf:not_found", "1")
        }
        manifest = pl.read_parquet(data / "manifest.parquet")
        assert manifest.get_column("ImageID").to_list() == sorted({*listed, *(jpeg["image_id"] for jpeg in jpegs())})
        failed = manifest.filter(Status="failed")
        assert set(failed.get_column("ImageID")) == listed
        assert failed.get_column("FileName").null_count() == len(failed)
        assert not (data / "bad_rows.csv").exists()

    def _check_boxes(self, data: Path) -> None:
        boxes = read(data / "bbox/bbox.csv")
        joined = ["Category", "FileName", "OriginalURL", "Width", "Height"]
        assert list(boxes[0]) == [*BOX_COLUMNS, *CLICK_COLUMNS, *joined]
        assert Counter(row["ImageID"] for row in boxes) == {jpeg["image_id"]: 2 for jpeg in jpegs()}
        digits = [row for row in boxes if row["ImageID"] == ALL_DIGITS]
        assert [row["Category"] for row in digits] == ["Tortoise", "Helmet"]
        attributed = read(data / "ATTRIBUTION.csv")
        assert [row["ImageID"] for row in attributed] == sorted(jpeg["image_id"] for jpeg in jpegs())
        assert {row["Title"] for row in attributed if row["ImageID"] == ALL_DIGITS} == {f"Photo, {ALL_DIGITS}"}

    def test_one_photo_by_id_named_by_id(self, job: QueryOptions, tmp_path: Path) -> None:
        """An id of decimal digits alone stays text with its zeros: in its URL, its file name and every table."""
        (tmp_path / "one.csv").write_text(f"ImageID,LabelName\n{ALL_DIGITS},/m/011k07\n", encoding="utf-8")
        report = download(**but(job, annotation=tmp_path / "one.csv", names="id", categories=["tortoise"]))
        assert (report.selected, report.downloaded) == (1, 1)
        data = tmp_path / "data"
        assert [path.name for path in (data / "images").iterdir()] == [f"{ALL_DIGITS}.jpg"]
        manifest = pl.read_parquet(data / "manifest.parquet")
        assert manifest.schema["ImageID"] == pl.String
        assert manifest.get_column("ImageID").to_list() == [ALL_DIGITS]
        assert manifest.get_column("URL").item().endswith(f"/open-images-dataset/train/{ALL_DIGITS}.jpg")
        assert [row["ImageID"] for row in read(data / "ATTRIBUTION.csv")] == [ALL_DIGITS]
        assert [row["ImageID"] for row in read(data / "bbox/bbox.csv")] == [ALL_DIGITS]

    def test_numbers_in_disguise(self, job: QueryOptions, tmp_path: Path) -> None:
        """Ids that read like integers or like floats in exponent form stay text, whether the image is there or not."""
        tables = (IMAGE_INFO, CARDS, MPEG_BOXES, TEST_BOXES, TRAIN_BOXES)
        ids = {row["ImageID"] for path in tables for row in read(path)}
        odd = sorted(image_id for image_id in ids if re.fullmatch(r"[0-9]+(e[0-9]+)?", image_id))
        assert any(image_id.isdecimal() and image_id.startswith("0") for image_id in odd)
        assert any("e" in image_id for image_id in odd)
        for image_id in odd[::2]:
            publish_image(tmp_path / "mirror", "train", image_id, small_jpeg())
        boxes = write(tmp_path / "odd-boxes.csv", BOX_COLUMNS, map(made_box, odd))
        images = write(tmp_path / "odd-images.csv", IMAGE_COLUMNS, map(made_image, odd))
        report = download(**but(job, annotation=boxes, image_url=images, names="id"))
        assert (report.downloaded, report.failures) == (len(odd[::2]), {"not_found": len(odd[1::2])})
        data = tmp_path / "data"
        assert sorted(path.name for path in (data / "images").iterdir()) == [f"{name}.jpg" for name in odd[::2]]
        assert pl.read_parquet(data / "manifest.parquet").get_column("ImageID").to_list() == odd
        assert [row["ImageID"] for row in read(data / "failures.csv")] == odd[1::2]
        for name in ("bbox/bbox.csv", "ATTRIBUTION.csv"):
            assert [row["ImageID"] for row in read(data / name)] == odd[::2]


class TestPublishedLayout:
    """The same, but published as Open Images does: a table a split, V6 train boxes with clicks, the others without."""

    def test_three_splits_from_a_mirror(self, tmp_path: Path) -> None:
        """Tables of 21 and of 13 columns become one box table, each row as published, each photo from its split."""
        mirror = tmp_path / "mirror"
        self._publish_tables(mirror)
        remo, crossmodal = self._ids(REMO_BOXES), {row["ImageID"]: row for row in read(IMAGE_INFO)}
        tests = {row for row in self._ids(TEST_BOXES) if row in crossmodal and crossmodal[row]["Subset"] == "test"}
        for jpeg in jpegs():
            publish_image(mirror, "train", jpeg["image_id"], REAL / jpeg["path"])
        for split, ids in (("validation", remo), ("test", tests)):
            for image_id in ids:
                publish_image(mirror, split, image_id, small_jpeg())

        report = download(mirror=mirror, splits=["all"], savepath=tmp_path / "data")
        assert len(remo) == 9
        assert len(tests) > 5
        assert report.selected == report.downloaded == 15 + len(remo) + len(tests)

        manifest = pl.read_parquet(tmp_path / "data/manifest.parquet")
        assert dict(manifest.group_by("Subset").len().iter_rows()) == {
            "train": 15,
            "validation": len(remo),
            "test": len(tests),
        }
        boxes = read(tmp_path / "data/bbox/bbox.csv")
        assert list(boxes[0])[:21] == [*BOX_COLUMNS, *CLICK_COLUMNS]
        expected = [*jpeg_boxes(), *read(REMO_BOXES), *(row for row in read(TEST_BOXES) if row["ImageID"] in tests)]
        expected.sort(key=lambda row: row["ImageID"])
        assert [tuple(row[name] for name in BOX_COLUMNS) for row in boxes] == [
            tuple(row[name] for name in BOX_COLUMNS) for row in expected
        ]
        query = json.loads((tmp_path / "data/query.json").read_text(encoding="utf-8"))
        assert len(query["tables"]) == 7

    def _ids(self, path: Path) -> set[str]:
        return {row["ImageID"] for row in read(path)}

    def _publish_tables(self, mirror: Path) -> None:
        files = {
            ("classes", None): b"LabelName,DisplayName\r\n" + OFFICIAL_CLASSES.read_bytes(),
            ("boxes", "validation"): REMO_BOXES.read_bytes(),
            ("boxes", "test"): TEST_BOXES.read_bytes(),
        }
        for (kind, split), body in files.items():
            (entry,) = [
                entry
                for entry in published(kind, ["train", "validation", "test"])  # type: ignore[arg-type]
                if entry.split == split
            ]
            path = mirror / entry.bucket / entry.key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
        (train,) = published("boxes", ["train"])
        write(mirror / train.bucket / train.key, train.columns, [*read(QUOTED_BOXES), *jpeg_boxes()])
        info = read(IMAGE_INFO)
        of_split = {split: [row for row in info if row["Subset"] == split] for split in ("train", "validation", "test")}
        of_split["train"] += jpeg_rows()
        of_split["validation"] += [made_image(image_id, "validation") for image_id in self._ids(REMO_BOXES)]
        for images in published("images", ["train", "validation", "test"]):
            assert images.split is not None
            write(mirror / images.bucket / images.key, IMAGE_COLUMNS, of_split[images.split])


class TestSelection:
    """What is selected, against DuckDB's answer from the same files."""

    @pytest.fixture
    def names_as_labels(self, tmp_path: Path) -> Path:
        """Return a class table for tables that hold names where labels belong."""
        names = sorted({row["LabelName"] for row in read(MPEG_BOXES)})
        path = tmp_path / "names.csv"
        path.write_text("".join(f"{name},{name}\n" for name in names), encoding="utf-8")
        return path

    @pytest.mark.parametrize("boxes", [MPEG_BOXES, REMO_BOXES, TEST_BOXES, TRAIN_BOXES], ids=lambda path: path.stem)
    def test_count_equals_the_join(self, boxes: Path, names_as_labels: Path) -> None:
        """The selected images and their rows are the join of the box table with the image table, no more."""
        label = names_as_labels if boxes == MPEG_BOXES else OFFICIAL_CLASSES
        joined = f"{sql(boxes)} where ImageID in (select ImageID from {sql(IMAGE_INFO)})"
        if not ask(f"select count(*) from {joined}"):
            error, _ = counting_plan(label=label, annotation=boxes, image_url=IMAGE_INFO)
            assert "no image of it has a row in the image table" in str(error)
            return
        plan = planned(label=label, annotation=boxes, image_url=IMAGE_INFO)
        assert plan.selected == ask(f"select count(distinct ImageID) from {joined}")
        assert plan.annotations == {"bbox": ask(f"select count(*) from {joined}")}
        assert plan.selected == plan.to_download == sum(plan.splits.values())

    def test_one_category_by_name(self, names_as_labels: Path) -> None:
        """A category of a table with names for labels counts what DuckDB counts."""
        plan = planned(label=names_as_labels, annotation=MPEG_BOXES, image_url=IMAGE_INFO, categories=["Person"])
        joined = f"{sql(MPEG_BOXES)} where LabelName = 'person' and ImageID in (select ImageID from {sql(IMAGE_INFO)})"
        assert plan.selected > 0
        assert plan.candidates == {"person": ask(f"select count(distinct ImageID) from {joined}")}
        assert plan.selected == plan.candidates["person"]

    @pytest.mark.parametrize(("match", "having"), [("any", 1), ("all", 2), ("sum", 1), ("inter", 2)])
    def test_union_and_intersection(self, match: str, having: int, tmp_path: Path) -> None:
        """Union and intersection of two classes over 13,114 real boxes are DuckDB's, limit and classes included."""
        ids = sorted({row["ImageID"] for row in read(TRAIN_BOXES)})
        images = write(tmp_path / "images.csv", IMAGE_COLUMNS, map(made_image, ids))
        first, second = "/m/031n1", "/m/0k65p"
        query: QueryOptions = {
            "label": OFFICIAL_CLASSES,
            "annotation": TRAIN_BOXES,
            "image_url": images,
            "categories": ["human_FOOT", second],
            "match": match,
        }
        names = read_classes(table(OFFICIAL_CLASSES))[0].names
        wanted = f"{sql(TRAIN_BOXES)} where LabelName in ('{first}', '{second}')"
        expected = ask(
            f"select count(*) from (select ImageID from {wanted} group by ImageID"
            f" having count(distinct LabelName) >= {having})"
        )
        plan = planned(**query)
        assert plan.selected == expected > 0
        assert plan.splits == {"train": expected}
        assert plan.candidates == {
            names[label]: ask(f"select count(distinct ImageID) from {sql(TRAIN_BOXES)} where LabelName = '{label}'")
            for label in (first, second)
        }
        assert planned(**but(query, limit=3)).selected == min(3, expected)

    def test_splits_of_a_mixed_table(self) -> None:
        """A table of all three splits gives all of them unless told otherwise, and then the ones asked for."""
        query: QueryOptions = {"label": OFFICIAL_CLASSES, "annotation": TEST_BOXES, "image_url": IMAGE_INFO}
        of_boxes = f"{sql(IMAGE_INFO)} where ImageID in (select ImageID from {sql(TEST_BOXES)})"
        of_test = ask(f"select count(*) from {of_boxes} and Subset = 'test'")
        assert planned(**query).splits["test"] == of_test > 0
        assert planned(**but(query, splits=["test"])).selected == of_test
        assert planned(**but(query, splits=["train"])).selected == ask(
            f"select count(*) from {of_boxes} and Subset = 'train'"
        )

    def test_gzip_and_parquet_say_the_same(self, names_as_labels: Path, tmp_path: Path) -> None:
        """The same real tables gzipped, or as Parquet with numbers in their columns, select the same."""
        packed = tmp_path / "boxes.csv.gz"
        packed.write_bytes(gzip.compress(MPEG_BOXES.read_bytes()))
        parquet = tmp_path / "images.parquet"
        with duckdb.connect() as connection:
            cast = "* replace (OriginalSize::bigint as OriginalSize, Rotation::double as Rotation)"
            connection.execute(f"copy (select {cast} from {sql(IMAGE_INFO)}) to '{parquet}' (format parquet)")
        counts = [
            (plan.selected, plan.splits, plan.annotations)
            for plan in (
                planned(label=names_as_labels, annotation=MPEG_BOXES, image_url=IMAGE_INFO),
                planned(label=names_as_labels, annotation=packed, image_url=IMAGE_INFO),
                planned(label=names_as_labels, annotation=MPEG_BOXES, image_url=parquet),
            )
        ]
        assert counts[0][0] > 0
        assert counts[1:] == counts[:1] * 2

    def test_table_of_cards(self, tmp_path: Path) -> None:
        """A table with URL and box in one, no Subset, many rows an image: original is the source, images count once."""
        ids = [row["ImageID"] for row in read(CARDS)]
        boxes = write(tmp_path / "boxes.csv", BOX_COLUMNS, map(made_box, ids))
        plan = planned(label=OFFICIAL_CLASSES, annotation=boxes, image_url=CARDS)
        distinct = ask(f"select count(distinct ImageID) from {sql(CARDS)}")
        assert distinct < len(ids)
        assert plan.selected == plan.to_download == plan.requests == distinct
        assert plan.annotations == {"bbox": len(ids)}
        assert plan.sources == {"original": distinct}
        assert plan.splits == {}
        assert plan.seconds == pytest.approx(distinct / 10)
        assert not plan.bytes_exact

    def test_cvdf_needs_a_split(self, tmp_path: Path) -> None:
        """The bucket's copies cannot be had by a table without Subset: it is said, naming the table and the column."""
        boxes = write(tmp_path / "boxes.csv", BOX_COLUMNS, [made_box(CARD_ID)])
        error, asked = counting_plan(label=OFFICIAL_CLASSES, annotation=boxes, image_url=CARDS, source=["cvdf"])
        assert isinstance(error, InputError)
        assert str(CARDS) in str(error)
        assert "Subset" in str(error)
        assert asked == []


class TestImageInfo:
    def test_rows_arrive_as_they_were(self, tmp_path: Path) -> None:
        """Commas, non-ASCII letters, HTML entities, NaN rotations and empty thumbnails of 1,773 real rows survive."""
        info = {row["ImageID"]: row for row in read(IMAGE_INFO)}
        chosen = {
            image_id
            for image_id, row in info.items()
            if "," in row["Title"] + row["Author"]
            or not (row["Title"] + row["Author"]).isascii()
            or "&" in row["Title"]
            or not row["Thumbnail300KURL"]
        }
        assert len(chosen) > 130
        boxes = write(tmp_path / "boxes.csv", BOX_COLUMNS, map(made_box, info))
        for image_id in chosen:
            publish_image(tmp_path / "mirror", info[image_id]["Subset"], image_id, small_jpeg())
        data = tmp_path / "data"
        report = download(
            label=OFFICIAL_CLASSES,
            annotation=boxes,
            image_url=IMAGE_INFO,
            mirror=tmp_path / "mirror",
            savepath=data,
        )
        assert (report.selected, report.downloaded) == (len(info), len(chosen))

        published_text = set(IMAGE_COLUMNS) - {"ImageID", "OriginalSize", "OriginalMD5", "Thumbnail300KURL", "Rotation"}
        manifest = pl.read_parquet(data / "manifest.parquet").to_dicts()
        assert [row["ImageID"] for row in manifest] == sorted(info)
        for row in manifest:
            real = info[row["ImageID"]]
            assert {name: row[name] or "" for name in published_text} == {name: real[name] for name in published_text}
            assert row["Rotation"] == (None if real["Rotation"] == "NaN" else float(real["Rotation"]))

        attributed = read(data / "ATTRIBUTION.csv")
        assert {row["ImageID"] for row in attributed} == chosen
        names = {row["ImageID"]: row["FileName"] for row in manifest}
        for row in attributed:
            image_id = row["ImageID"]
            own = {"FileName": names[image_id], "Changes": "copy of at most 1024 px"}
            assert row == {name: own.get(name) or info[image_id][name] for name in row}
            assert row["FileName"] == info[image_id]["OriginalURL"].rsplit("/", 1)[-1]
            assert (data / "images" / row["FileName"]).is_file()

    def test_no_thumbnail_is_a_failure_of_that_image(self, tmp_path: Path) -> None:
        """An empty Thumbnail300KURL is no URL: asked for thumbnails alone, those images fail as bad_url, unasked."""
        without = [row["ImageID"] for row in read(IMAGE_INFO) if not row["Thumbnail300KURL"]]
        assert len(without) == 4
        boxes = write(tmp_path / "boxes.csv", BOX_COLUMNS, map(made_box, without))
        report = download(
            label=OFFICIAL_CLASSES,
            annotation=boxes,
            image_url=IMAGE_INFO,
            source=["thumbnail"],
            savepath=tmp_path / "data",
        )
        assert (report.selected, report.failures, report.requests) == (4, {"bad_url": 4}, 0)

    def test_official_rotation_spelling(self, tmp_path: Path) -> None:
        """Official rows say 0.0, or nothing at the end of the line: 0.0 and null in the manifest."""
        ids = [row["ImageID"] for row in read(QUOTED_INFO)]
        boxes = write(tmp_path / "boxes.csv", BOX_COLUMNS, map(made_box, ids))
        (tmp_path / "mirror").mkdir()
        download(
            label=OFFICIAL_CLASSES,
            annotation=boxes,
            image_url=QUOTED_INFO,
            mirror=tmp_path / "mirror",
            savepath=tmp_path / "data",
        )
        manifest = pl.read_parquet(tmp_path / "data/manifest.parquet")
        assert dict(manifest.select("ImageID", "Rotation").iter_rows()) == {
            "4fa8054781a4c382": 0.0,
            "fe600639ac5f36c1": None,
        }


class TestEveryTable:
    @pytest.mark.parametrize("name", WITH_HEADER)
    def test_header_and_rows(self, name: str) -> None:
        """Every real table with a header is read whole: same columns, same cells as Python's csv module and DuckDB."""
        path = REAL / name
        rows = read(path)
        assert columns_of(table(path)) == list(rows[0])
        frame = scan(table(path), []).collect()
        assert set(frame.dtypes) == {pl.String}
        assert frame.height == len(rows) == ask(f"select count(*) from {sql(path)}")
        assert frame.fill_null("").rows() == [tuple(row.values()) for row in rows]

    @pytest.mark.parametrize("name", sorted(HEADLESS))
    def test_no_header(self, name: str) -> None:
        """Every real table without a header keeps its first row, and no last column keeps a CR."""
        path = REAL / name
        with path.open(encoding="utf-8", newline="") as file:
            rows = [tuple(row) for row in csv.reader(file)]
        columns = [f"c{number}" for number in range(HEADLESS[name])]
        frame, _, bad = read_headless(table(path), columns, lambda _: None)
        assert bad.is_empty()
        assert frame.height == len(rows) == ask(f"select count(*) from {sql(path, header=False)}")
        assert frame.fill_null("").rows() == rows

    @pytest.mark.parametrize(
        "name",
        [
            "segmentation/mpeg-vcm-segmentation-bbox.csv",
        ],
    )
    def test_any_table_with_id_and_label_selects(self, name: str, tmp_path: Path) -> None:
        """ImageID and LabelName are all an annotation table needs."""
        path = REAL / name
        ids = sorted({row["ImageID"] for row in read(path)})
        images = write(tmp_path / "images.csv", IMAGE_COLUMNS, (made_image(name, "validation") for name in ids))
        plan = planned(label=V6_CLASSES, annotation=path, image_url=images)
        assert plan.selected == len(ids)
        assert plan.annotations == {"bbox": ask(f"select count(*) from {sql(path)}")}

    def test_crlf_table_keeps_no_carriage_return(self, tmp_path: Path) -> None:
        """Real boxes with CRLF line ends: the last column ends where the line does, when selecting and when saved."""
        source = (REAL / "bbox/2.5vrd-within-image-objects.csv").read_bytes()
        head, _, body = source.partition(b"\r\n")
        assert head == b"image_id,object_id,entity,xmin,xmax,ymin,ymax"
        boxes = tmp_path / "boxes.csv"
        boxes.write_bytes(b"ImageID,ObjectID,LabelName,XMin,XMax,YMin,YMax\r\n" + body)
        rows = read(boxes)
        ids = sorted({row["ImageID"] for row in rows})
        images = write(tmp_path / "images.csv", IMAGE_COLUMNS, (made_image(name, "validation") for name in ids))
        publish_image(tmp_path / "mirror", "validation", ids[0], small_jpeg())
        report = download(
            label=V6_CLASSES,
            annotation=boxes,
            image_url=images,
            mirror=tmp_path / "mirror",
            savepath=tmp_path / "data",
            limit=1,
        )
        assert (report.selected, report.downloaded) == (1, 1)
        assert b"\r" not in (tmp_path / "data/bbox/bbox.csv").read_bytes()
        saved = read(tmp_path / "data/bbox/bbox.csv")
        expected = [row for row in rows if row["ImageID"] == ids[0]]
        assert [{name: row[name] for name in expected[0]} for row in saved] == expected
        plan = planned(label=V6_CLASSES, annotation=boxes, image_url=images)
        assert (plan.selected, plan.annotations["bbox"]) == (len(ids), 4_063)


WRONG_TABLES = [
    # role, file, what the message must name besides the file
    pytest.param("annotation", "bbox/2.5vrd-within-image-objects.csv", ["ImageID", "image_id"], id="boxes-image_id"),
    pytest.param("annotation", "official/official-files.csv", ["ImageID", "url"], id="boxes-list-of-files"),
    pytest.param("annotation", "labels/bigquery-links.csv", ["ImageID"], id="boxes-bigquery"),
    pytest.param("annotation", "bbox/cards-url-and-bbox.csv", ["LabelName"], id="boxes-without-label"),
    pytest.param("annotation", "vrd/validation-annotations-vrd.csv", ["LabelName"], id="boxes-vrd"),
    pytest.param("annotation", "image_info/quoted-rows.csv", ["LabelName"], id="boxes-image-table"),
    pytest.param("annotation", "classes/oidv6-class-descriptions.csv", ["ImageID"], id="boxes-class-table"),
    pytest.param("annotation", "hierarchy/bbox_labels_600_hierarchy.json", ["JSON"], id="boxes-json"),
    pytest.param("annotation", "narratives/LocNar_Eval.jsonl", ["JSON"], id="boxes-jsonl"),
    pytest.param("annotation", "labels/mpeg-vcm-detection-labels.csv", ["--kind label"], id="boxes-labels"),
    pytest.param(
        "annotation",
        "labels/oidv7-val-annotations-human-imagelabels.quoted-rows.csv",
        ["Confidence", "--kind label"],
        id="boxes-v7-labels",
    ),
    pytest.param(
        "annotation",
        "segmentation/train-annotations-object-segmentation.quoted-rows.csv",
        ["MaskPath", "--kind segmentation"],
        id="boxes-masks",
    ),
    pytest.param("annotation", "images/0000048549557964.jpg", [], id="boxes-photo"),
    pytest.param("image_url", "image_info/crossmodal3600-image-shapes.csv", ["ImageID"], id="images-shapes"),
    pytest.param("image_url", "official/official-files.csv", ["ImageID"], id="images-list-of-files"),
    pytest.param("image_url", "labels/mpeg-vcm-detection-labels.csv", ["OriginalURL"], id="images-without-url"),
    pytest.param("image_url", "bbox/remo-open_sample.csv", ["OriginalURL"], id="images-box-table"),
    pytest.param("image_url", "images/0000048549557964.jpg", [], id="images-photo"),
    pytest.param("label", "id_lists/mpeg-vcm-detection-input.lst", ["LabelName"], id="classes-one-column"),
    pytest.param("label", "images/0000048549557964.jpg", [], id="classes-photo"),
]


class TestWrongTables:
    @pytest.mark.parametrize(("role", "name", "named"), WRONG_TABLES)
    def test_refused_with_good_tables_beside_it(self, role: str, name: str, named: list[str], tmp_path: Path) -> None:
        """A real table in the wrong place is refused in one line that names the file and the column."""
        good = {
            "label": OFFICIAL_CLASSES,
            "annotation": write(tmp_path / "boxes.csv", BOX_COLUMNS, jpeg_boxes()),
            "image_url": write(tmp_path / "images.csv", IMAGE_COLUMNS, jpeg_rows()),
        }
        self._check(good | {role: REAL / name}, REAL / name, named)

    @pytest.mark.parametrize(("role", "name", "named"), WRONG_TABLES)
    def test_refused_before_the_published_tables_are_fetched(self, role: str, name: str, named: list[str]) -> None:
        """A wrong table costs no request: the other two, published and large, are not fetched first."""
        self._check({role: REAL / name}, REAL / name, named)

    def _check(self, tables: dict[str, Path], wrong: Path, named: list[str]) -> None:
        error, asked = counting_plan(**tables)  # type: ignore[arg-type]
        assert asked == []
        assert isinstance(error, InputError), error
        assert all(text in str(error) for text in (str(wrong), *named)), error
        assert "\n" not in str(error)

    @pytest.mark.parametrize("path", [IMAGE_INFO, QUOTED_INFO, CARDS, MPEG_BOXES], ids=lambda path: path.stem)
    def test_another_table_as_class_table(self, path: Path, tmp_path: Path) -> None:
        """Anything with two columns may be a class table; a class asked for is then unknown, said without a crash."""
        boxes = write(tmp_path / "boxes.csv", BOX_COLUMNS, jpeg_boxes())
        images = write(tmp_path / "images.csv", IMAGE_COLUMNS, jpeg_rows())
        plan, _ = counting_plan(label=path, annotation=boxes, image_url=images)
        assert isinstance(plan, InputError) or (isinstance(plan, oid_async.Plan) and plan.selected == 15)
        error, asked = counting_plan(label=path, annotation=boxes, image_url=images, categories=["Tortoise"])
        assert isinstance(error, UsageError | InputError)
        assert asked == []


class TestBoxesToTheLetter:
    def _job(
        self, boxes: Path, split: str, keep: Callable[[str], bool], tmp_path: Path
    ) -> tuple[QueryOptions, list[str]]:
        """Return a download of the images with a row that `keep` likes, and those images' lines as published."""
        header, *lines = boxes.read_text(encoding="utf-8").splitlines()
        ids = {line[:16] for line in lines if keep(line)}
        images = write(tmp_path / "images.csv", IMAGE_COLUMNS, (made_image(name, split) for name in sorted(ids)))
        for image_id in ids:
            publish_image(tmp_path / "mirror", split, image_id, small_jpeg())
        expected = [header, *sorted((line for line in lines if line[:16] in ids), key=lambda line: line[:16])]
        query: QueryOptions = {
            "label": OFFICIAL_CLASSES,
            "annotation": boxes,
            "image_url": images,
            "mirror": tmp_path / "mirror",
            "savepath": tmp_path / "data",
        }
        return query, expected

    @pytest.mark.parametrize(
        ("boxes", "split", "number"),
        [
            (TEST_BOXES, "test", ",5.600000000000001e-05,"),
            (TEST_BOXES, "test", ",0.23454899999999998,"),
            (TEST_BOXES, "test", "e-05,"),
            (TRAIN_BOXES, "train", ",0.4345020000000001,"),
            (REMO_BOXES, "validation", ",0.0,"),
            (QUOTED_BOXES, "train", ",0.012500,"),
        ],
    )
    def test_saved_as_published(self, boxes: Path, split: str, number: str, tmp_path: Path) -> None:
        """A saved box row starts with the published line, digit for digit: 5.600000000000001e-05 stays that."""
        query, expected = self._job(boxes, split, lambda line: number in line, tmp_path)
        report = download(**query)
        assert report.selected == report.downloaded > 0
        saved = (tmp_path / "data/bbox/bbox.csv").read_text(encoding="utf-8").splitlines()
        assert any(number in line for line in saved)
        assert len(saved) == len(expected)
        assert [line for line, start in zip(saved, expected, strict=True) if not line.startswith(f"{start},")] == []

        jpeg = next(row for row in jpegs() if REAL / row["path"] == small_jpeg())
        names = read_classes(table(OFFICIAL_CLASSES))[0].names
        for row in read(tmp_path / "data/bbox/bbox.csv"):
            assert row["Category"] == names[row["LabelName"]]
            assert row["FileName"] == f"{row['ImageID']}_o.jpg"
            assert (row["Width"], row["Height"]) == (jpeg["width"], jpeg["height"])

    def test_only_the_category_is_saved(self, tmp_path: Path) -> None:
        """With a category its rows alone are saved, in published order, and label_data.csv names it alone."""
        query, expected = self._job(REMO_BOXES, "validation", lambda line: "/m/0dzf4" in line, tmp_path)
        report = download(**but(query, categories=["/m/0dzf4"]))
        assert report.selected == report.downloaded > 0
        saved = (tmp_path / "data/bbox/bbox.csv").read_text(encoding="utf-8").splitlines()
        wanted = [line for line in expected if line.startswith("ImageID,") or "/m/0dzf4" in line]
        assert len(saved) == len(wanted) == 8
        assert all(line.startswith(f"{start},") for line, start in zip(saved, wanted, strict=True))
        assert read(tmp_path / "data/bbox/label_data.csv") == [{"LabelName": "/m/0dzf4", "Category": "Human arm"}]
