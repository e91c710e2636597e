"""Whole runs through both doors, held against what a separate engine (DuckDB) finds in the same tables."""

import base64
import csv
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from support.notes import notes_into
from support.published import (
    Box,
    Dataset,
    Image,
    columns_of,
    counted_origin,
    image_names,
    read_csv,
    read_manifest,
    run_cli,
    tiny_jpeg,
    tree,
    typed,
    write_table,
)
from yarl import URL

import oid_async
from oid_async.http.host import FLICKR
from oid_async.http.hosts import host_name
from oid_async.openimages.catalogue import IMAGE_BUCKET, published
from oid_async.openimages.catalogue_tables import BOX_COLUMNS, CLICK_COLUMNS
from oid_async.openimages.vocabulary import SPLITS, Split
from oid_async.options.keywords import QueryOptions
from oid_async.origin.lookalike import STAGED_FAILURES, Lookalike

JOINED = ["Category", "FileName", "OriginalURL", "Width", "Height"]
MANIFEST = [
    *("ImageID", "Subset", "FileName", "Status", "Reason", "Source", "URL", "Bytes", "MD5", "Width", "Height"),
    *("Rotation", "License", "Author", "AuthorProfileURL", "Title", "OriginalURL", "OriginalLandingURL"),
]
ATTRIBUTION = [
    *("ImageID", "FileName", "Author", "AuthorProfileURL", "License", "Title", "OriginalLandingURL", "Changes"),
]
REPORT = {
    *("selected", "present", "downloaded", "failed", "pending", "unselected", "bad_rows", "bytes", "requests"),
    *("seconds", "failures", "sources", "savepath", "interrupted", "unknown_ids", "shard"),
}
BALL, PERSON, FACE = "/m/018xm", "/m/01g317", "/m/0dzct"
CLASSES = ((BALL, "Ball"), (PERSON, "Person"), (FACE, "Human face"))
LOW, MIDDLE, HIGH = "0000048549557964", "00e4060885034751", "ffb0c12e45111111"


class Truth:
    """What DuckDB finds in a mirror's tables for some splits; every column is read as text."""

    def __init__(self, mirror: Path, splits: Sequence[Split]) -> None:
        self._db = duckdb.connect()
        for kind, keys in (
            ("classes", [table.key for table in published("classes", splits)]),
            ("images", [table.key for table in published("images", splits)]),
            ("boxes", [table.key for table in published("boxes", splits)]),
        ):
            parts = [
                f"SELECT *, {number * 10**9} + row_number() OVER () AS place "
                f"FROM read_csv('{mirror / 'openimages' / key}', all_varchar=true, header=true, delim=',', quote='\"')"
                for number, key in enumerate(keys)
            ]
            self._db.execute(f"CREATE TABLE {kind} AS {' UNION ALL BY NAME '.join(parts)}")
        self._db.execute("CREATE TABLE selected (ImageID VARCHAR)")

    def select(self, categories: Sequence[str], match: str, limit: int | None) -> list[tuple[str, str]]:
        """Keep the images that a query selects and return (ImageID, file name) of each, in order."""
        self._db.execute(
            "INSERT INTO selected SELECT ImageID FROM boxes LEFT JOIN classes USING (LabelName) "
            "WHERE ImageID IN (SELECT ImageID FROM images) AND (len(?) = 0 OR list_contains(?, DisplayName)) "
            "GROUP BY ImageID HAVING count(DISTINCT DisplayName) >= ? ORDER BY ImageID LIMIT ?",
            [list(categories), list(categories), len(categories) if match == "all" else 0, limit or 10**9],
        )
        rows = self._rows(
            "SELECT ImageID, regexp_extract(OriginalURL, '[^/]+$') FROM images SEMI JOIN selected USING (ImageID) "
            "ORDER BY ImageID"
        )
        return [(image_id, name) for image_id, name in rows]

    def boxes(self, categories: Sequence[str]) -> list[tuple[str, ...]]:
        """Return the box rows of the kept images: the published columns, Category, FileName, OriginalURL."""
        return self._rows(
            "SELECT boxes.* EXCLUDE (place), DisplayName, regexp_extract(OriginalURL, '[^/]+$'), OriginalURL "
            "FROM boxes JOIN selected USING (ImageID) JOIN images USING (ImageID) LEFT JOIN classes USING (LabelName) "
            "WHERE len(?) = 0 OR list_contains(?, DisplayName) ORDER BY ImageID, boxes.place",
            [list(categories), list(categories)],
        )

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[str, ...]]:
        return [tuple("" if cell is None else str(cell) for cell in row) for row in self._fetch(query, values)]

    def _fetch(self, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = self._db.execute(query, list(values)).fetchall()
        return found


def assert_is(
    savepath: Path, mirror: Path, categories: Sequence[str], match: str, limit: int | None, splits: Any
) -> None:
    """Compare a finished SAVEPATH with what DuckDB finds: the files, their bytes, the box rows, the manifest's ids."""
    truth = Truth(mirror, splits)
    selected = truth.select(categories, match, limit)
    assert selected
    assert image_names(savepath) == sorted(name for _, name in selected)
    assert [(row["ImageID"], row["FileName"]) for row in read_manifest(savepath)] == selected
    photos = {photo.image_id: (key, photo) for key, photo in Lookalike(staged=False).photos.items()}
    for image_id, name in selected:
        original = mirror / IMAGE_BUCKET / photos[image_id][0]
        assert (savepath / "images" / name).read_bytes() == original.read_bytes()
    with (savepath / "bbox" / "bbox.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == [*BOX_COLUMNS, *(CLICK_COLUMNS if "train" in splits else ()), *JOINED]
    assert [tuple(row[:-2]) for row in rows] == truth.boxes(categories)
    scenes = json.loads((files("oid_async.origin") / "scenes" / "scenes.json").read_text(encoding="utf-8"))
    for row in rows:
        scene = scenes[photos[row[0]][1].scene]
        assert row[-2:] == [str(scene["width"]), str(scene["height"])]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Return a mirror of three train images: a ball in the first two, a person in the last two; boxes interleaved."""
    boxes = [Box(HIGH, PERSON, "0.3"), Box(LOW, BALL), Box(MIDDLE, PERSON, "0.1"), Box(MIDDLE, BALL, "0.9")]
    images = [Image(HIGH), Image(LOW), Image(MIDDLE)]
    return Dataset(CLASSES, images, boxes).publish(tmp_path / "mirror")


def test_documented_call_saves_what_sql_finds(lookalike: Path, tmp_path: Path) -> None:
    """The documented call saves exactly the images and boxes that SQL finds, named by their URLs, and exits 0."""
    call = ["--category", "Football", "--category", "Person", "--type", "inter", "--savepath", "Football_data"]
    done = run_cli("download", *call, "--mirror", lookalike, cwd=tmp_path)
    assert (done.code, done.stdout) == (0, "")
    assert "Traceback" not in done.stderr
    assert_is(tmp_path / "Football_data", lookalike, ["Football", "Person"], "all", None, ["train"])
    assert read_csv(tmp_path / "Football_data" / "bbox" / "label_data.csv") == [
        {"LabelName": "/m/01226z", "Category": "Football"},
        {"LabelName": "/m/01g317", "Category": "Person"},
    ]


@pytest.mark.parametrize(
    ("categories", "match", "limit", "splits"),
    [
        pytest.param(["Football", "Person"], "any", None, ["train"], id="sum"),
        pytest.param(["Football", "Person"], "any", 7, ["train"], id="sum-ndata", marks=pytest.mark.slow),
        pytest.param(["Football", "Person"], "all", None, ["validation"], id="inter-validation"),
        pytest.param(["Window", "Umbrella"], "any", None, ["test"], id="sum-test", marks=pytest.mark.slow),
        pytest.param(["Football", "Person", "Tree"], "all", 5, ["all"], id="inter-ndata-all"),
        pytest.param([], "any", 20, ["validation", "test"], id="every-class-two-splits", marks=pytest.mark.slow),
        pytest.param([], "any", None, ["all"], id="every-class-all-splits"),
    ],
)
async def test_query_saves_what_sql_finds(
    lookalike: Path, tmp_path: Path, categories: list[str], match: str, limit: int | None, splits: list[str]
) -> None:
    """Union, intersection, no category, a limit and each split save the images and boxes that SQL finds."""
    query: QueryOptions = {"match": match, "limit": limit, "splits": splits, "mirror": lookalike}
    query["savepath"] = tmp_path / "d"
    if categories:
        query["categories"] = categories
    report = await oid_async.download(**query)
    names = list(SPLITS) if splits == ["all"] else splits
    assert_is(tmp_path / "d", lookalike, categories, match, limit, names)
    assert report.selected == report.downloaded == report.requests == len(image_names(tmp_path / "d"))
    assert report.failures == {}


async def test_limit_of_minus_one_means_all(small: Path, tmp_path: Path) -> None:
    """--ndata -1 selects everything, 0 nothing, 1 the lowest id."""
    for limit, wanted in ((-1, 3), (0, 0), (1, 1)):
        found = await oid_async.plan(limit=limit, savepath=tmp_path / "d", mirror=small)
        assert found.selected == wanted
    await oid_async.download(limit=1, savepath=tmp_path / "d", mirror=small)
    assert [row["ImageID"] for row in read_manifest(tmp_path / "d")] == [LOW]


async def test_original_aliases_and_new_names_agree(small: Path, tmp_path: Path) -> None:
    """`--match all --limit` and `--type inter --ndata` are one and the same query."""
    one = run_cli(
        "plan", "--category=Ball", "--category=Person", "--type=inter", "--ndata=2", "--mirror", small, "--json"
    )
    two = run_cli(
        "plan", "--category=Ball", "--category=Person", "--match=all", "--limit=2", "--mirror", small, "--json"
    )
    first, second = json.loads(one.stdout), json.loads(two.stdout)
    del first["disk_free"], second["disk_free"], first["metadata_bytes"], second["metadata_bytes"]
    assert first == second
    assert first["selected"] == 1


async def test_names_by_id(small: Path, tmp_path: Path) -> None:
    """--names id calls every file <ImageID>.jpg, in the folder and in the tables."""
    await oid_async.download(names="id", savepath=tmp_path / "d", mirror=small)
    assert image_names(tmp_path / "d") == [f"{LOW}.jpg", f"{MIDDLE}.jpg", f"{HIGH}.jpg"]
    assert {row["FileName"] for row in read_csv(tmp_path / "d/bbox/bbox.csv")} == set(image_names(tmp_path / "d"))


async def test_names_come_from_any_url_and_stay_in_the_folder(tmp_path: Path) -> None:
    """Names lose the query, are percent-decoded, get `.jpg`, and never leave the folder."""
    urls = {"a%20b.jpg?zz=1": "a b.jpg", "%C5%BDofie": "Žofie.jpg", "B_o.JPG": "B_o.JPG", "..%2F..%2Fup.jpg": None}
    images = [Image(f"{number:016x}", name) for number, name in enumerate(urls)]
    mirror = Dataset(CLASSES, images, [Box(image.image_id, BALL) for image in images]).publish(tmp_path / "mirror")
    await oid_async.download(savepath=tmp_path / "out/d", mirror=mirror)
    names = image_names(tmp_path / "out/d")
    assert len(names) == 4
    assert {name for name in urls.values() if name} < set(names)
    assert os.listdir(tmp_path / "out") == ["d"]
    assert set(os.listdir(tmp_path)) == {"mirror", "out", "metadata-cache"}


async def test_ids_survive_as_text(small: Path, tmp_path: Path) -> None:
    """Ids that look like numbers stay the 16 digits they are, in every table."""
    await oid_async.download(categories=["Ball"], savepath=tmp_path / "d", mirror=small)
    ids = ["0000048549557964", "00e4060885034751"]
    assert [row["ImageID"] for row in read_manifest(tmp_path / "d")] == ids
    for table in ("bbox/bbox.csv", "ATTRIBUTION.csv"):
        assert [row["ImageID"] for row in read_csv(tmp_path / "d" / table)] == ids


async def test_box_rows_keep_published_order_and_spelling(small: Path, tmp_path: Path) -> None:
    """bbox.csv stands by ImageID, then published order; values read as published; the size is the picture's."""
    await oid_async.download(savepath=tmp_path / "d", mirror=small)
    rows = read_csv(tmp_path / "d/bbox/bbox.csv")
    assert [(row["ImageID"], row["XMin"], row["Category"]) for row in rows] == [
        (LOW, "0.125", "Ball"),
        (MIDDLE, "0.1", "Person"),
        (MIDDLE, "0.9", "Ball"),
        (HIGH, "0.3", "Person"),
    ]
    assert {(row["XMax"], row["YMax"], row["IsOccluded"], row["IsInside"]) for row in rows} == {
        ("0.950000", "1e-05", "-1", "")
    }
    for row in rows:
        assert (int(row["Width"]), int(row["Height"])) == Image(row["ImageID"]).size


async def test_manifest_has_one_row_per_selected_image(small: Path, tmp_path: Path) -> None:
    """manifest.parquet has the promised columns and types and says of each image where it came from and what it is."""
    await oid_async.download(savepath=tmp_path / "d", mirror=small)
    schema = pl.read_parquet_schema(tmp_path / "d/manifest.parquet")
    assert list(schema) == MANIFEST
    assert all(schema[name].is_integer() for name in ("Bytes", "Width", "Height"))
    assert schema["Rotation"] == pl.Float64
    rows = read_manifest(tmp_path / "d")
    assert [row["ImageID"] for row in rows] == [LOW, MIDDLE, HIGH]
    for row in rows:
        image = Image(row["ImageID"])
        digest = base64.b64encode(hashlib.md5(image.body, usedforsecurity=False).digest()).decode()
        assert (row["Status"], row["Reason"], row["Source"], row["Subset"]) == ("ok", None, "cvdf", "train")
        assert (row["FileName"], row["OriginalURL"], row["Rotation"]) == (image.file_name, image.url, 90.0)
        assert (row["Bytes"], row["MD5"]) == (len(image.body), digest)
        assert (row["Width"], row["Height"]) == image.size
        assert row["URL"].endswith(f"/open-images-dataset/train/{image.image_id}.jpg")


async def test_failed_image_is_a_row_not_an_end(tmp_path: Path) -> None:
    """An image that is not there fails alone: in the report, the manifest and failures.csv; the others are saved."""
    images = [Image(LOW), Image(MIDDLE, stored=False), Image(HIGH)]
    mirror = Dataset(CLASSES, images, [Box(image.image_id, BALL) for image in images]).publish(tmp_path / "mirror")
    done = run_cli("download", "--mirror", mirror, "--savepath", tmp_path / "d", "--json")
    report = json.loads(done.stdout)
    assert done.code == 1
    assert (report["selected"], report["downloaded"], report["failed"]) == (3, 2, 1)
    assert report["failures"] == {"not_found": 1}
    (failure,) = read_csv(tmp_path / "d/failures.csv")
    assert list(failure) == ["ImageID", "URL", "Reason", "Detail", "Attempts"]
    assert failure["ImageID"] == MIDDLE
    assert failure["URL"].endswith(f"/open-images-dataset/train/{MIDDLE}.jpg")
    assert (failure["Reason"], failure["Detail"], failure["Attempts"]) == ("not_found", "cvdf:not_found", "1")
    row = read_manifest(tmp_path / "d")[1]
    assert (row["Status"], row["Reason"], row["FileName"], row["Bytes"]) == ("failed", "not_found", None, None)
    assert {row["ImageID"] for row in read_csv(tmp_path / "d/bbox/bbox.csv")} == {LOW, HIGH}
    assert [row["ImageID"] for row in read_csv(tmp_path / "d/ATTRIBUTION.csv")] == [LOW, HIGH]


async def test_final_failures_are_remembered_until_the_query_leaves_them(tmp_path: Path) -> None:
    """A final failure is not asked for again; failures.csv goes when a query without failures is done."""
    images = [Image(LOW), Image(MIDDLE, stored=False)]
    boxes = [Box(LOW, BALL), Box(MIDDLE, PERSON)]
    mirror = Dataset(CLASSES, images, boxes).publish(tmp_path / "mirror")
    await oid_async.download(savepath=tmp_path / "d", mirror=mirror)
    before = tree(tmp_path / "d")
    again = await oid_async.download(savepath=tmp_path / "d", mirror=mirror)
    assert (again.requests, again.present, again.failed) == (0, 1, 1)
    assert tree(tmp_path / "d") == before
    await oid_async.download(categories=["Ball"], savepath=tmp_path / "d", mirror=mirror)
    assert not (tmp_path / "d/failures.csv").exists()


async def test_a_run_without_failures_leaves_no_failure_table(small: Path, tmp_path: Path) -> None:
    """failures.csv and bad_rows.csv are absent when there is nothing to say, and the rest is all there."""
    await oid_async.download(savepath=tmp_path / "d", mirror=small)
    there = {path.name for path in (tmp_path / "d").iterdir()}
    assert there == {"images", "bbox", "manifest.parquet", "ATTRIBUTION.csv", "query.json", ".oid_async"}
    assert not list((tmp_path / "d/.oid_async").rglob("*.part"))


async def test_attribution_has_what_cc_by_asks_for(small: Path, tmp_path: Path) -> None:
    """ATTRIBUTION.csv names author, licence, title and page of each saved image, odd characters included."""
    await oid_async.download(categories=["Person"], savepath=tmp_path / "d", mirror=small)
    assert columns_of(tmp_path / "d/ATTRIBUTION.csv") == ATTRIBUTION
    assert read_csv(tmp_path / "d/ATTRIBUTION.csv") == [
        {
            "ImageID": image_id,
            "FileName": Image(image_id).file_name,
            "Author": 'Lima, Ana "the lens"',
            "AuthorProfileURL": "https://www.flickr.com/people/7/",
            "License": "https://creativecommons.org/licenses/by/2.0/",
            "Title": f"Žofie, {image_id[-2:]}",
            "OriginalLandingURL": f"https://www.flickr.com/photos/7/{image_id}",
            "Changes": "copy of at most 1024 px",
        }
        for image_id in (MIDDLE, HIGH)
    ]


async def test_label_table_holds_the_chosen_classes(small: Path, tmp_path: Path) -> None:
    """label_data.csv holds the chosen classes, however they were called, or every class when none was chosen."""
    await oid_async.download(categories=["human_FACE", BALL], savepath=tmp_path / "d", mirror=small)
    rows = read_csv(tmp_path / "d/bbox/label_data.csv")
    assert [(row["LabelName"], row["Category"]) for row in rows] == [(FACE, "Human face"), (BALL, "Ball")]
    await oid_async.download(savepath=tmp_path / "d", mirror=small)
    rows = read_csv(tmp_path / "d/bbox/label_data.csv")
    assert [(row["LabelName"], row["Category"]) for row in rows] == list(CLASSES)


async def test_query_file_is_enough_to_repeat_the_run(small: Path, tmp_path: Path) -> None:
    """query.json holds the query, each table's size and ETag or MD5, and the program's version."""
    await oid_async.download(categories=["Ball"], limit=1, savepath=tmp_path / "d", mirror=small)
    text = (tmp_path / "d/query.json").read_text(encoding="utf-8")
    query = json.loads(text)
    assert oid_async.__version__ in query["program"]
    assert query["query"]["categories"] == ["Ball"]
    assert query["query"]["limit"] == 1
    assert len(query["tables"]) == 3
    for table in query["tables"]:
        path = next((small / "openimages").rglob(table["name"]))
        assert table["bytes"] == path.stat().st_size
        assert table.get("etag") or table.get("md5")
    words = {name: value for name, value in query["query"].items() if value != []}
    await oid_async.download(**words | {"savepath": tmp_path / "again"})
    assert tree(tmp_path / "again").keys() == tree(tmp_path / "d").keys()
    assert read_manifest(tmp_path / "again") == read_manifest(tmp_path / "d")


async def test_second_run_asks_for_no_image(small: Path, tmp_path: Path) -> None:
    """The same query again makes no image request and leaves the same files."""
    async with counted_origin(small) as (mirror, asked):
        first = await oid_async.download(savepath=tmp_path / "d", mirror=mirror)
        before = tree(tmp_path / "d")
        asked.clear()
        second = await oid_async.download(savepath=tmp_path / "d", mirror=mirror)
    assert (first.downloaded, first.requests) == (3, 3)
    assert first.bytes == sum(len(Image(image_id).body) for image_id in (LOW, MIDDLE, HIGH))
    assert (second.selected, second.present, second.downloaded, second.requests, second.bytes) == (3, 3, 0, 0, 0)
    assert not [key for key in asked if key.startswith(IMAGE_BUCKET)]
    assert tree(tmp_path / "d") == before


async def test_a_deleted_image_comes_back_under_its_name(small: Path, tmp_path: Path) -> None:
    """An image that was deleted is fetched again, it alone, and the folder is as before."""
    await oid_async.download(savepath=tmp_path / "d", mirror=small)
    before = tree(tmp_path / "d")
    (tmp_path / "d/images" / Image(MIDDLE).file_name).unlink()
    report = await oid_async.download(savepath=tmp_path / "d", mirror=small)
    assert (report.present, report.downloaded, report.requests) == (2, 1, 1)
    assert tree(tmp_path / "d") == before


async def test_another_query_reuses_what_is_there(small: Path, tmp_path: Path) -> None:
    """Another query fetches only what is missing, counts the rest as unselected, and alone fills the tables."""
    await oid_async.download(categories=["Ball"], savepath=tmp_path / "d", mirror=small)
    report = await oid_async.download(categories=["Person"], savepath=tmp_path / "d", mirror=small)
    assert (report.selected, report.present, report.downloaded, report.unselected) == (2, 1, 1, 1)
    assert report.requests == 1
    assert image_names(tmp_path / "d") == sorted(Image(image_id).file_name for image_id in (LOW, MIDDLE, HIGH))
    assert [row["ImageID"] for row in read_manifest(tmp_path / "d")] == [MIDDLE, HIGH]
    assert [row["Category"] for row in read_csv(tmp_path / "d/bbox/bbox.csv")] == ["Person", "Person"]
    assert [row["ImageID"] for row in read_csv(tmp_path / "d/ATTRIBUTION.csv")] == [MIDDLE, HIGH]
    await oid_async.download(categories=["Person"], savepath=tmp_path / "fresh", mirror=small)
    for table in ("bbox/bbox.csv", "bbox/label_data.csv", "ATTRIBUTION.csv"):
        assert (tmp_path / "d" / table).read_bytes() == (tmp_path / "fresh" / table).read_bytes()
    assert read_manifest(tmp_path / "d") == read_manifest(tmp_path / "fresh")


async def test_both_doors_give_the_same_report_and_files(small: Path, tmp_path: Path) -> None:
    """The command line and the Python call report the same and leave the same folder."""
    words = ["--category", "Ball", "--category", "Person", "--split", "all", "--mirror", small, "--json"]
    done = run_cli("download", *words, "--savepath", tmp_path / "cli")
    assert done.code == 0
    told = json.loads(done.stdout)
    report = await oid_async.download(
        categories=["Ball", "Person"], splits=["all"], mirror=small, savepath=tmp_path / "python"
    )
    given = report.as_json()
    assert set(told) == set(given) == REPORT
    assert told.pop("seconds") > 0
    assert given.pop("seconds") > 0
    assert told.pop("savepath") == str(tmp_path / "cli")
    assert given.pop("savepath") == str(tmp_path / "python")
    assert told == given
    trees = [tree(tmp_path / name) for name in ("cli", "python")]
    queries = [json.loads(found.pop("query.json")) for found in trees]
    for query in queries:
        del query["query"]["savepath"]
    assert trees[0] == trees[1]
    assert queries[0] == queries[1]


async def test_stream_gives_each_image_once(small: Path, tmp_path: Path) -> None:
    """The stream yields each image's outcome with its saved file, downloaded first and present the next time."""
    for status in ("downloaded", "present"):
        async with oid_async.stream(savepath=tmp_path / "d", mirror=small) as outcomes:
            seen = [outcome async for outcome in outcomes]
        assert sorted(outcome.image_id for outcome in seen) == [LOW, MIDDLE, HIGH]
        assert {outcome.status for outcome in seen} == {status}
        assert all(outcome.path and outcome.path.is_file() for outcome in seen)


async def test_plan_says_what_a_download_would_do(small: Path, tmp_path: Path) -> None:
    """A plan counts what a download would do, by split, category and source, and writes nothing to the folder."""
    plan = await oid_async.plan(categories=["Ball", "Person"], savepath=tmp_path / "d", mirror=small)
    assert (plan.selected, plan.present, plan.to_download, plan.requests) == (3, 0, 3, 3)
    assert (plan.splits, plan.candidates, plan.sources) == ({"train": 3}, {"Ball": 2, "Person": 2}, {"cvdf": 3})
    assert plan.annotations == {"bbox": 4}
    assert not (tmp_path / "d").exists()
    await oid_async.download(categories=["Ball"], savepath=tmp_path / "d", mirror=small)
    before = sorted(tmp_path.joinpath("d").rglob("*"))
    plan = await oid_async.plan(categories=["Ball", "Person"], savepath=tmp_path / "d", mirror=small)
    assert (plan.selected, plan.present, plan.to_download) == (3, 2, 1)
    assert sorted(tmp_path.joinpath("d").rglob("*")) == before


async def test_plan_counts_as_capped_what_is_asked_of_a_capped_host(tmp_path: Path) -> None:
    """Without --rate the seconds are those of images on Flickr's hosts, and of the first source's URL alone."""
    elsewhere = [
        "https://example.org/a.jpg",
        "https://notstaticflickr.com/a.jpg",
        "https://staticflickr.com@example.org/a.jpg",
        "https://staticflickr.com.example.org/a.jpg",
        "https://example.org/?at=https://farm1.staticflickr.com/a.jpg",
        "",
    ]
    on_flickr = [
        "https://farm1.staticflickr.com/1/a.jpg",
        "http://LIVE.StaticFlickr.com./1/a.jpg",
        "https://staticflickr.com:443",
        " https://c1.staticflickr.com/a.jpg",
    ]
    assert [host_name(URL(url.strip())) == FLICKR for url in (*elsewhere, *on_flickr)] == [False] * 6 + [True] * 4

    async def seconds(urls: list[str], **query: Any) -> float | None:
        rows = [
            {"ImageID": f"{at:016x}", "OriginalURL": url, "Thumbnail300KURL": on_flickr[0]}
            for at, url in enumerate(urls)
        ]
        table = write_table(tmp_path / "images.csv", ("ImageID", "OriginalURL", "Thumbnail300KURL"), rows)
        plan = await oid_async.plan(image_url=table, kinds=["none"], savepath=tmp_path / "d", **query)
        assert plan.to_download == len(urls)
        return plan.seconds

    assert await seconds(elsewhere) is None
    assert await seconds(elsewhere + on_flickr) == 0.4
    assert await seconds(elsewhere, source=["thumbnail", "original"]) == 0.6
    assert await seconds(elsewhere, rate=2.0) == 3.0
    assert await seconds(on_flickr, rate=0.0) is None


@pytest.mark.parametrize("lost", [[".oid_async"], [".oid_async", "manifest.parquet"]], ids=["notes", "notes-manifest"])
async def test_lost_notes_cost_no_request(small: Path, tmp_path: Path, lost: list[str]) -> None:
    """With .oid_async deleted, even with the manifest gone too, the images are taken back without a request.

    Without either nothing says where their bytes came from, and nothing is claimed.
    """
    async with counted_origin(small) as (mirror, asked):
        await oid_async.download(savepath=tmp_path / "d", mirror=mirror)
        before = tree(tmp_path / "d")
        for name in lost:
            path = tmp_path / "d" / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        asked.clear()
        report = await oid_async.download(savepath=tmp_path / "d", mirror=mirror)
    assert (report.present, report.downloaded, report.requests) == (3, 0, 0)
    assert not [key for key in asked if key.startswith(IMAGE_BUCKET)]
    after = tree(tmp_path / "d")
    if "manifest.parquet" in lost:
        at = [MANIFEST.index(name) for name in ("Source", "URL")]
        rows = before["manifest.parquet"]
        before["manifest.parquet"] = [
            tuple(None if number in at else value for number, value in enumerate(row)) for row in rows
        ]
        before["ATTRIBUTION.csv"] = before["ATTRIBUTION.csv"].replace(b"copy of at most 1024 px", b"not known")
    assert after == before


async def test_a_damaged_file_is_not_taken_back(small: Path, tmp_path: Path) -> None:
    """Without notes a file that is not whole is somebody else's: left alone, the image gets a name of its own."""
    await oid_async.download(savepath=tmp_path / "d", mirror=small)
    shutil.rmtree(tmp_path / "d/.oid_async")
    cut = tmp_path / "d/images" / Image(MIDDLE).file_name
    cut.write_bytes(cut.read_bytes()[:-20])
    damaged = cut.read_bytes()
    report = await oid_async.download(savepath=tmp_path / "d", mirror=small)
    assert (report.present, report.downloaded) == (2, 1)
    assert cut.read_bytes() == damaged
    own = tmp_path / "d/images" / f"{cut.stem}_{MIDDLE}.jpg"
    assert own.read_bytes() == Image(MIDDLE).body
    assert read_manifest(tmp_path / "d")[1]["FileName"] == own.name


def _put_text(path: Path) -> None:
    path.write_text("mine")


def _put_folder(path: Path) -> None:
    path.mkdir()


def _put_link(path: Path) -> None:
    target = path.parent.parent / "elsewhere.jpg"
    target.write_bytes(tiny_jpeg("elsewhere"))
    path.symlink_to(target)


def _put_dangling_link(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere.jpg")


def _identity(path: Path) -> tuple[int, int, int]:
    """What changes when a file is replaced or written to; reading it may change its access time."""
    stat = path.lstat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


@pytest.mark.parametrize(
    "spelling", [str.lower, pytest.param(str.upper, marks=pytest.mark.slow)], ids=["same-case", "other-case"]
)
@pytest.mark.parametrize("put", [_put_text, _put_folder, _put_link, _put_dangling_link])
async def test_a_foreign_file_is_left_alone(
    small: Path, tmp_path: Path, put: Callable[[Path], None], spelling: Callable[[str], str]
) -> None:
    """Whatever else has an image's name, in any case, stays as it is; the image gets <stem>_<ImageID>.jpg, for good."""
    image = Image(LOW)
    foreign = tmp_path / "d/images" / spelling(image.file_name)
    foreign.parent.mkdir(parents=True)
    put(foreign)
    before = _identity(foreign)
    report = await oid_async.download(savepath=tmp_path / "d", mirror=small)
    assert report.downloaded == 3
    assert _identity(foreign) == before
    own = tmp_path / "d/images" / f"{image.file_name[:-4]}_{LOW}.jpg"
    assert own.read_bytes() == image.body
    assert read_manifest(tmp_path / "d")[0]["FileName"] == own.name
    assert read_csv(tmp_path / "d/bbox/bbox.csv")[0]["FileName"] == own.name
    again = await oid_async.download(savepath=tmp_path / "d", mirror=small)
    assert (again.present, again.requests) == (3, 0)


@pytest.mark.parametrize("span_rows", [1, 4096])
async def test_clashing_names_go_to_the_lower_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, span_rows: int
) -> None:
    """Of images whose URLs end alike, in any case or composition, the lowest id keeps the name; files are right.

    Also when the two are not in hand at the same time.
    """
    monkeypatch.setattr("oid_async.select.plan._SPAN_ROWS", span_rows)
    images = [Image(HIGH, "A_o.jpg"), Image(MIDDLE, "a_O.jpg"), Image(LOW, "a_o.jpg")]
    images += [Image("1" * 16, "%C3%A9_o.jpg"), Image("2" * 16, "e%CC%81_o.jpg")]
    images += [Image("3" * 16, "%C3%89_o.jpg")]
    mirror = Dataset(CLASSES, images, [Box(image.image_id, BALL) for image in images]).publish(tmp_path / "mirror")
    await oid_async.download(savepath=tmp_path / "d", mirror=mirror)
    names = {row["ImageID"]: row["FileName"] for row in read_manifest(tmp_path / "d")}
    assert names == {
        LOW: "a_o.jpg",
        MIDDLE: f"a_O_{MIDDLE}.jpg",
        HIGH: f"A_o_{HIGH}.jpg",
        "1" * 16: "é_o.jpg",
        "2" * 16: f"é_o_{'2' * 16}.jpg",
        "3" * 16: f"É_o_{'3' * 16}.jpg",
    }
    for image in images:
        assert (tmp_path / "d/images" / names[image.image_id]).read_bytes() == image.body
    before = tree(tmp_path / "d")
    shutil.rmtree(tmp_path / "d/.oid_async")
    report = await oid_async.download(savepath=tmp_path / "d", mirror=mirror)
    assert (report.present, report.requests) == (6, 0)
    assert tree(tmp_path / "d") == before


async def test_a_name_once_given_never_changes(tmp_path: Path) -> None:
    """An image keeps its name against a lower id that a later query brings, also when the notes are lost."""
    boxes = [Box(LOW, BALL), Box(HIGH, PERSON)]
    mirror = Dataset(CLASSES, [Image(LOW, "a_o.jpg"), Image(HIGH, "a_o.jpg")], boxes).publish(tmp_path / "mirror")
    await oid_async.download(categories=["Person"], savepath=tmp_path / "d", mirror=mirror)
    await oid_async.download(savepath=tmp_path / "d", mirror=mirror)
    names = {row["ImageID"]: row["FileName"] for row in read_manifest(tmp_path / "d")}
    assert names == {LOW: f"a_o_{LOW}.jpg", HIGH: "a_o.jpg"}
    shutil.rmtree(tmp_path / "d/.oid_async")
    report = await oid_async.download(savepath=tmp_path / "d", mirror=mirror)
    assert (report.present, report.requests) == (2, 0)
    assert {row["ImageID"]: row["FileName"] for row in read_manifest(tmp_path / "d")} == names
    for image_id, name in names.items():
        assert (tmp_path / "d/images" / name).read_bytes() == Image(image_id).body


async def test_annotated_images_without_a_row_are_said_once(tmp_path: Path) -> None:
    """Annotated images that the image table does not hold are not selected, and their number is said once."""
    boxes = [Box(LOW, BALL), Box(MIDDLE, BALL), Box(MIDDLE, BALL), Box(HIGH, PERSON)]
    mirror = Dataset(CLASSES, [Image(LOW)], boxes).publish(tmp_path / "mirror")
    notes: list[str] = []
    report = await oid_async.download(savepath=tmp_path / "d", mirror=mirror, on_event=notes_into(notes))
    assert report.selected == 1
    assert len([text for text in notes if text.startswith("2 annotated images")]) == 1


async def test_a_name_of_several_classes_takes_them_all(tmp_path: Path) -> None:
    """A display name that two MIDs bear takes both and says so; a MID takes that one alone."""
    classes = [*CLASSES, ("/m/0twin", "Ball")]
    boxes = [Box(LOW, BALL), Box(HIGH, "/m/0twin")]
    mirror = Dataset(classes, [Image(LOW), Image(HIGH)], boxes).publish(tmp_path / "mirror")
    notes: list[str] = []
    both = await oid_async.plan(categories=["ball"], mirror=mirror, on_event=notes_into(notes))
    assert both.selected == 2
    assert [text for text in notes if BALL in text and "/m/0twin" in text]
    one = await oid_async.plan(categories=["/m/0twin"], mirror=mirror)
    assert one.selected == 1


async def test_classes_of_one_name_are_counted_apart(tmp_path: Path) -> None:
    """Two categories that bear one display name are both counted: no count takes the other's place."""
    boxes = [Box(LOW, BALL), Box(MIDDLE, BALL), Box(HIGH, "/m/0twin")]
    images = [Image(LOW), Image(MIDDLE), Image(HIGH)]
    mirror = Dataset([*CLASSES, ("/m/0twin", "Ball")], images, boxes).publish(tmp_path / "mirror")
    plan = await oid_async.plan(categories=[BALL, "/m/0twin"], match="all", mirror=mirror)
    assert plan.selected == 0
    assert sorted(plan.candidates.values()) == [1, 2]


async def test_nothing_selected_is_no_error(lookalike: Path, tmp_path: Path) -> None:
    """A query that selects nothing exits 0, says each category's count, and writes tables without rows."""
    words = ["--category", "Kite", "--category", "Common sunflower", "--type", "inter", "--mirror", lookalike]
    done = run_cli("download", *words, "--savepath", tmp_path / "d")
    assert done.code == 0
    (line,) = [line for line in done.stderr.splitlines() if "nothing selected" in line]
    assert "Kite 1" in line
    assert "Common sunflower 0" in line
    assert read_manifest(tmp_path / "d") == []
    assert read_csv(tmp_path / "d/bbox/bbox.csv") == []
    assert columns_of(tmp_path / "d/bbox/bbox.csv") == [*BOX_COLUMNS, *CLICK_COLUMNS, *JOINED]


async def test_mirror_from_the_environment(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OID_ASYNC_MIRROR and a file: URL are as good as --mirror with a folder."""
    monkeypatch.setenv("OID_ASYNC_MIRROR", small.as_uri())
    report = await oid_async.download(savepath=tmp_path / "d")
    assert (report.downloaded, report.sources) == (3, {"cvdf": 3})


GIVEN = {"path.csv": "csv", "path.csv.gz": "csv.gz", "path.parquet": "parquet", "file-url": "csv", "http-url": "csv.gz"}


@pytest.mark.parametrize("form", GIVEN)
async def test_given_tables_in_every_form(tmp_path: Path, form: str) -> None:
    """Given tables of any form and place take the published ones' place; without Subset the originals are fetched."""
    root, ending = tmp_path / "web", GIVEN[form]
    async with counted_origin(root) as (origin, asked):
        rows = [{"ImageID": image_id, "OriginalURL": f"{origin}/photos/{image_id[:6]}.jpg"} for image_id in (HIGH, LOW)]
        for row, size in zip(rows, (11, 12), strict=True):
            path = root / "photos" / f"{row['ImageID'][:6]}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tiny_jpeg(row["ImageID"], size, size))
        boxes = [
            {"ImageID": HIGH, "LabelName": BALL, "Note": "x, y"},
            {"ImageID": LOW, "LabelName": BALL, "Note": '"'},
            {"ImageID": LOW, "LabelName": PERSON, "Note": ""},
        ]
        tables = {
            "label": write_table(
                root / f"classes.{ending}",
                ["LabelName", "DisplayName"],
                [{"LabelName": label, "DisplayName": name} for label, name in CLASSES],
            ),
            "annotation": write_table(root / f"boxes.{ending}", ["ImageID", "LabelName", "Note"], boxes),
            "image_url": write_table(root / f"images.{ending}", ["ImageID", "OriginalURL"], rows),
        }
        given = {name: _spelled(path, form, origin) for name, path in tables.items()}
        notes: list[str] = []
        report = await oid_async.download(
            categories=["Ball"],
            savepath=tmp_path / "d",
            allow_hosts=[origin.removeprefix("http://")],
            on_event=notes_into(notes),
            **given,  # type: ignore[arg-type]
        )
    assert (report.selected, report.downloaded, report.sources) == (2, 2, {"original": 2})
    assert [text for text in notes if "original" in text]
    assert image_names(tmp_path / "d") == sorted(f"{image_id[:6]}.jpg" for image_id in (LOW, HIGH))
    assert columns_of(tmp_path / "d/bbox/bbox.csv") == ["ImageID", "LabelName", "Note", *JOINED]
    found = read_csv(tmp_path / "d/bbox/bbox.csv")
    assert [(row["ImageID"], row["Note"], row["Width"]) for row in found] == [(LOW, '"', "12"), (HIGH, "x, y", "11")]
    assert sum(asked.values()) == (5 if form == "http-url" else 2)


async def test_given_class_table_needs_no_header(small: Path, tmp_path: Path) -> None:
    """A class table of two columns is read with or without a header, whatever further columns it has."""
    table = tmp_path / "classes.csv"
    table.write_bytes(b"/m/018xm,Orb,1\r\n/m/01g317,Person,2\r\n")
    report = await oid_async.download(categories=["orb"], label=table, savepath=tmp_path / "d", mirror=small)
    assert report.selected == 2
    assert {row["Category"] for row in read_csv(tmp_path / "d/bbox/bbox.csv")} == {"Orb"}


async def test_given_tables_say_which_splits(tmp_path: Path) -> None:
    """With given tables every split they hold is selected, unless --split says otherwise."""
    images = [Image(LOW, split="train"), Image(MIDDLE, split="validation"), Image(HIGH, split="test")]
    boxes = [Box(image.image_id, BALL, split=image.split) for image in images]
    mirror = Dataset(CLASSES, images, boxes).publish(tmp_path / "mirror")
    columns = ["ImageID", "Subset", "OriginalURL"]
    rows = [{"ImageID": image.image_id, "Subset": image.split, "OriginalURL": image.url} for image in images[:2]]
    given = write_table(tmp_path / "images.csv", columns, rows)
    report = await oid_async.download(image_url=given, savepath=tmp_path / "d", mirror=mirror)
    assert (report.selected, report.sources) == (2, {"cvdf": 2})
    one = await oid_async.plan(image_url=given, splits=["validation"], mirror=mirror)
    assert (one.selected, one.splits) == (1, {"validation": 1})


async def test_ids_of_a_users_own(tmp_path: Path) -> None:
    """A given table may name its images as it likes; its originals are fetched and its ids stand in every table."""
    root = tmp_path / "web"
    (root / "photos").mkdir(parents=True)
    (root / "photos/1.jpg").write_bytes(tiny_jpeg("one"))
    (root / "photos/2.jpg").write_bytes(tiny_jpeg("two"))
    async with counted_origin(root) as (origin, _):
        ids = ["001", "dog/2 ß"]
        rows = [{"ImageID": own, "OriginalURL": f"{origin}/photos/{n}.jpg"} for n, own in enumerate(ids, 1)]
        images = write_table(root / "images.csv", ["ImageID", "OriginalURL"], rows)
        boxes = write_table(
            root / "boxes.csv", ["ImageID", "LabelName"], [{"ImageID": own, "LabelName": BALL} for own in ids]
        )
        classes = root / "classes.csv"
        classes.write_text(f"{BALL},Ball\n")
        report = await oid_async.download(
            label=classes,
            annotation=boxes,
            image_url=images,
            savepath=tmp_path / "d",
            allow_hosts=[origin.removeprefix("http://")],
        )
    assert (report.downloaded, report.sources) == (2, {"original": 2})
    assert [row["ImageID"] for row in read_csv(tmp_path / "d/bbox/bbox.csv")] == ids
    assert image_names(tmp_path / "d") == ["1.jpg", "2.jpg"]


async def test_an_image_without_url_fails_with_none(small: Path, tmp_path: Path) -> None:
    """An image that no source can be asked for fails as bad_url, and failures.csv makes no URL up for it."""
    given = tmp_path / "images.csv"
    given.write_text(f"ImageID,Subset,OriginalURL\n{LOW},train,https://x.org/a.jpg\n{MIDDLE},,https://x.org/b.jpg\n")
    report = await oid_async.download(image_url=given, savepath=tmp_path / "d", mirror=small)
    assert (report.downloaded, report.failures, report.requests) == (1, {"bad_url": 1}, 1)
    (failure,) = read_csv(tmp_path / "d/failures.csv")
    assert (failure["ImageID"], failure["Reason"], failure["URL"]) == (MIDDLE, "bad_url", "")


async def test_a_damaged_id_costs_its_row_alone(small: Path, tmp_path: Path) -> None:
    """A row whose ImageID is none is left out and named with its physical line; the others are saved."""
    boxes = tmp_path / "boxes.csv"
    good = f'{LOW},{BALL},"two\nlines"'
    boxes.write_text(f"ImageID,LabelName,Note\n{good}\nnot-an-id,{BALL},\n{MIDDLE[1:]},{BALL},\n{HIGH},{BALL},\n")
    report = await oid_async.download(annotation=boxes, splits=["train"], savepath=tmp_path / "d", mirror=small)
    assert (report.selected, report.downloaded, report.bad_rows) == (2, 2, 2)
    rows = read_csv(tmp_path / "d/bad_rows.csv")
    assert [(row["File"], row["Line"]) for row in rows] == [(str(boxes), "4"), (str(boxes), "5")]
    assert all(row["Reason"] for row in rows)


def test_demo_twice(tmp_path: Path) -> None:
    """The demo exits 0 with exactly the staged failures; a second one downloads and asks for nothing."""
    first = run_cli("demo", "there", cwd=tmp_path)
    assert (first.code, first.stdout) == (0, "")
    assert "there/images" in first.stderr
    assert "oid-async download" in first.stderr
    before = tree(tmp_path / "there")
    assert len(read_csv(tmp_path / "there/failures.csv")) == len(STAGED_FAILURES)
    second = run_cli("demo", "there", "--json", cwd=tmp_path)
    report = json.loads(second.stdout)
    assert second.code == 0
    assert (report["downloaded"], report["requests"], report["failed"]) == (0, 0, len(STAGED_FAILURES))
    assert report["selected"] == report["present"] + report["failed"]
    assert tree(tmp_path / "there") == before


def test_demo_default_folder(lookalike: Path, tmp_path: Path) -> None:
    """Without a folder the demo writes to demo_data, and its pictures are those of the look-alike."""
    done = run_cli("demo", "--quiet", cwd=tmp_path)
    assert (done.code, done.stdout, done.stderr) == (0, "", "")
    for row in read_manifest(tmp_path / "demo_data"):
        if row["Status"] == "ok":
            original = lookalike / IMAGE_BUCKET / row["Subset"] / f"{row['ImageID']}.jpg"
            assert (tmp_path / "demo_data/images" / row["FileName"]).read_bytes() == original.read_bytes()


@pytest.mark.parametrize(("given", "said"), [("", "--savepath is empty"), ("s3://b/x", "'b' is no name of a bucket")])
def test_a_demo_takes_only_a_folder(given: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is typed is read as it stands, and not as no folder or as another one."""
    monkeypatch.chdir(tmp_path)
    done = typed("demo", given)
    assert (done.code, list(tmp_path.glob("*_data"))) == (2, [])
    assert said in done.stderr


def test_a_mirror_of_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written whole into a new folder, from which a download reads; images that are missing there fail."""
    made = run_cli("demo", "--write-mirror", "mirrors/demo", "--json", cwd=tmp_path)
    assert (made.code, made.stderr) == (0, "")
    said = json.loads(made.stdout)
    mirror = tmp_path / "mirrors/demo"
    assert (Path(said["mirror"]), said["objects"]) == (
        mirror,
        len([path for path in mirror.rglob("*") if path.is_file()]),
    )
    assert [path.name for path in mirror.parent.iterdir()] == ["demo"]
    missing = [kind for kind in STAGED_FAILURES if kind in ("not_found", "gone", "forbidden")]
    for name, value in said["environment"].items():
        monkeypatch.setenv(name, value)
    done = run_cli("download", "--split", "all", "--savepath", "all", "--json", cwd=tmp_path)
    report = json.loads(done.stdout)
    assert (report["selected"], report["failures"]) == (320, {"not_found": len(missing)})
    before = tree(mirror)
    again = run_cli("demo", "--write-mirror", "mirrors/demo", cwd=tmp_path)
    assert (again.code, tree(mirror)) == (2, before)
    assert "mirrors/demo: there is something of this name" in again.stderr
    both = run_cli("demo", "there", "--write-mirror", "other", cwd=tmp_path)
    assert both.code == 2
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(("there", "other"))) == []


def _spelled(path: Path, form: str, origin: str) -> str:
    if form == "file-url":
        return path.as_uri()
    return f"{origin}/{path.name}" if form == "http-url" else str(path)
