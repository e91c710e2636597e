"""`oid_async.open`: the frames are what the files hold, images are bytes wherever they are, damage is one line."""

import ast
import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from support.published import Box, Dataset, Image, read_csv, read_manifest, tree, write_table
from support.saved import SavedBox, SavedFolder, SavedImage
from support.shards import members

import oid_async
from oid_async.dataset.image_store import ImageShards, key_of
from oid_async.dataset.saved import SavedDataset
from oid_async.errors import InputError, UsageError
from oid_async.events import ignore
from oid_async.formats.shards import Shards
from oid_async.jobs.demo import look_alike_run
from oid_async.openimages.kinds import KINDS
from oid_async.openimages.vocabulary import SPLITS
from oid_async.options.query import Options
from oid_async.store.folder import Folder
from oid_async.store.folder_lock import FolderLock

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "real"
FRAMES = {
    "boxes": "bbox",
    "masks": "segmentation",
    "relationships": "relationship",
    "narratives": "narrative",
    "labels": "label",
    "points": "point",
}
ONE, TWO, THREE = "0000048549557964", "1234567890abcdef", "ffffffffffffffff"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first images of the demo, of every split, with all kinds of annotations and full narratives."""
    root = tmp_path_factory.mktemp("reader")
    options = Options(
        savepath=root / "d", cache_dir=root / "cache", splits=SPLITS, kinds=("all",), limit=100, traces=True
    )
    asyncio.run(look_alike_run(options, ignore).download())
    return root / "d"


def documented(name: str) -> dict[str, str]:
    """Return the columns of a frame and their dtypes as the docstring of SavedDataset lists them."""
    text = re.sub(r"\s+", " ", SavedDataset.__doc__ or "")
    names = "|".join(["images", *FRAMES])
    found = re.search(rf" {name} ((?:(?! (?:{names}) \w+[:,]).)*?): ([A-Z]\w+)(?= (?:{names}|`images`) )", text)
    assert found is not None, name
    listed = re.sub(r"\(\w+(?:\([\w, ]*\)|\(\w+\([\w, ]*\)\))?\)", "", f"{found[1]}: {found[2]}")
    columns: dict[str, str] = {}
    waiting: list[str] = []
    for word in listed.split(", "):
        column, _, dtype = word.partition(": ")
        waiting.append(column)
        if dtype:
            columns |= dict.fromkeys(waiting, dtype)
            waiting = []
    assert not waiting
    return columns


def dtypes(frame: pl.LazyFrame) -> dict[str, str]:
    return {column: str(dtype).partition("(")[0] for column, dtype in frame.collect_schema().items()}


@pytest.mark.parametrize("name", ["images", *FRAMES])
def test_columns_and_dtypes_are_the_documented_ones(name: str, demo: Path, tmp_path: Path) -> None:
    """Every frame has the columns of the docstring in their order and dtypes, of a full folder and of an empty kind."""
    full = getattr(oid_async.open(demo), name)
    assert isinstance(full, pl.LazyFrame)
    assert dtypes(full) == documented(name) == dtypes(full.collect().lazy())
    assert list(dtypes(full)) == list(documented(name))
    assert len(full.collect()) > 0
    bare = getattr(oid_async.open(SavedFolder([]).write(tmp_path / "d")), name)
    assert dtypes(bare) == documented(name)
    assert len(bare.collect()) == 0


@pytest.mark.parametrize("name", ["boxes", "masks", "relationships", "labels", "points"])
def test_rows_are_those_that_duckdb_reads(name: str, demo: Path) -> None:
    """Each value is what duckdb reads from the same file when it is given the same types; the header is the file's."""
    frame = getattr(oid_async.open(demo), name).collect()
    path = demo / KINDS[FRAMES[name]].file  # type: ignore[index]
    types = {"String": "VARCHAR", "Float64": "DOUBLE", "Int8": "TINYINT", "Int32": "INTEGER", "Int64": "BIGINT"}
    header = path.read_text().splitlines()[0].replace("ImageId", "ImageID").split(",")
    assert [column for column in frame.columns if column in header] == header
    absent = set(frame.columns) - set(header)
    columns = {column: types[dtype] for column, dtype in documented(name).items() if column not in absent}
    rows = duckdb.connect().execute(f"select * from read_csv('{path}', header=true, columns={columns})").fetchall()
    assert frame.select(header).rows() == rows
    assert len(rows) > 20


def test_images_are_the_manifest(demo: Path) -> None:
    """`images` has every row of manifest.parquet as duckdb reads it, failed images too."""
    frame = oid_async.open(demo).images.collect()
    assert frame.rows() == duckdb.connect().execute(f"select * from '{demo / 'manifest.parquet'}'").fetchall()


def test_narratives_are_the_json_lines(demo: Path) -> None:
    """Captions, timed words and traces are what Python's own reader finds in each line."""
    frame = oid_async.open(demo).narratives.collect()
    lines = [json.loads(line) for line in (demo / "narrative" / "narratives.jsonl").read_text().splitlines()]
    assert frame.to_dicts() == [{column: line.get(column) for column in frame.columns} for line in lines]
    assert all(frame.get_column("traces").list.len())


def test_an_image_is_the_bytes_of_its_file(demo: Path) -> None:
    """Each saved image is read by its ImageID, byte for byte."""
    saved = oid_async.open(demo)
    for image_id, name in saved.images.filter(Status="ok").select("ImageID", "FileName").collect().iter_rows():
        assert saved.image(image_id) == (demo / "images" / name).read_bytes()


async def test_a_folder_of_shards_reads_as_one_of_files(lookalike: Path, tmp_path: Path) -> None:
    """Frames and image bytes are the same whether images are files or packed, wherever the folder is moved."""
    query: dict[str, Any] = {"mirror": lookalike, "splits": ["validation", "test"], "format": "webdataset"}
    await oid_async.download(**query, shard_size="200K", no_files=True, savepath=tmp_path / "packed")
    await oid_async.download(**query, savepath=tmp_path / "files")
    (tmp_path / "packed").rename(tmp_path / "moved")
    packed, files = oid_async.open(tmp_path / "moved"), oid_async.open(tmp_path / "files")
    assert not list((tmp_path / "moved" / "images").iterdir())
    assert len(list((tmp_path / "moved" / "export" / "webdataset").glob("*.tar"))) > 2
    for name in ("images", *FRAMES):
        one, other = getattr(packed, name).collect(), getattr(files, name).collect()
        assert one.drop("URL", strict=False).equals(other.drop("URL", strict=False))
    ids = packed.images.filter(Status="ok").collect().get_column("ImageID").to_list()
    assert len(ids) > 50
    for image_id in ids:
        assert packed.image(image_id) == files.image(image_id)
    assert packed.report.present == files.report.present == len(ids)


def test_shards_hold_any_id(tmp_path: Path) -> None:
    """Ids of a user's own, with dots, slashes and of 200 letters, are found in whichever shard has them; so is none."""
    ids = ["my.photo/1", "ž" * 99, "0" * 200, *(f"{number:016x}" for number in range(40))]
    shards = Shards(tmp_path, 20_000, tmp_path / "progress.json")
    for image_id in ids:
        shards.add("train", key_of(image_id), [("jpg", image_id.encode() * 50), ("json", b"{}")])
    shards.release()
    assert len(list(tmp_path.glob("*.tar"))) > 1
    assert len(list(tmp_path.glob("*.part"))) == 1
    store = ImageShards(tmp_path)
    for image_id in ids:
        assert store.read(image_id, "") == image_id.encode() * 50
    assert sum(len(members(path)) for path in tmp_path.glob("*.tar*")) == len(ids)
    with pytest.raises(InputError, match="no shard holds image 99"):
        store.read("99", "")
    (tmp_path / "train-000000.tar").write_bytes(b"no tar at all".ljust(1024))
    with pytest.raises(InputError, match=r"train-000000\.tar: no tar shard"):
        ImageShards(tmp_path).read("99", "")


def test_an_image_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    """An id that was not selected, an image that failed, a file that is gone, a name that leads outside."""
    path = SavedFolder([SavedImage(each) for each in (ONE, TWO, THREE)]).write(tmp_path / "d")
    frame = pl.read_parquet(path / "manifest.parquet")
    status = pl.when(pl.col("ImageID") == TWO).then(pl.lit("failed")).otherwise("Status")
    name = pl.when(pl.col("ImageID") == THREE).then(pl.lit("../manifest.parquet")).otherwise("FileName")
    frame.with_columns(Status=status, FileName=name, Reason=pl.lit("gone")).write_parquet(path / "manifest.parquet")
    (path / "images" / SavedImage(ONE).file_name).unlink()
    saved = oid_async.open(path)
    for image_id, words in {
        "00000000000000aa": "is not in its manifest",
        TWO: r"was not saved \(gone\)",
        ONE: "verify SAVEPATH --repair",
        THREE: "names no file of images/",
    }.items():
        with pytest.raises(InputError, match=words) as caught:
            saved.image(image_id)
        assert "\n" not in str(caught.value)


async def test_tables_of_a_users_own_are_filled_up(tmp_path: Path) -> None:
    """Columns that a given table has not are null, flags -1 (true and false are 1 and 0); its own columns follow."""
    images = [Image(ONE), Image(TWO)]
    mirror = Dataset([("/m/1", "Cat")], images, [Box(each.image_id, "/m/1") for each in images]).publish(tmp_path / "m")
    rows = [
        {"ImageID": ONE, "LabelName": "/m/1", "IsOccluded": "True", "Weight": "3", "XMin": "0.5"},
        {"ImageID": TWO, "LabelName": "/m/1", "IsOccluded": "false", "Weight": "", "XMin": "0.25"},
    ]
    write_table(tmp_path / "boxes.csv", list(rows[0]), rows)
    savepath = tmp_path / "d"
    await oid_async.download(mirror=mirror, annotation=tmp_path / "boxes.csv", savepath=savepath)
    boxes = oid_async.open(savepath).boxes
    assert dtypes(boxes) == documented("boxes") | {"Weight": "String"}
    one, two = boxes.collect().to_dicts()
    assert (one["IsOccluded"], two["IsOccluded"], one["IsInside"]) == (1, 0, -1)
    assert (one["XMin"], two["XMin"], one["XMax"], one["Source"]) == (0.5, 0.25, None, None)
    assert (one["Weight"], two["Weight"], one["Category"]) == ("3", None, "Cat")


async def test_query_and_report_are_what_the_run_left(tmp_path: Path) -> None:
    """`query` is query.json; `report` counts as the run did: present and failed images, kinds, sources, bytes."""
    images = [Image(ONE), Image(TWO, stored=False), Image(THREE)]
    boxes = [Box(each.image_id, "/m/1") for each in images]
    mirror = Dataset([("/m/1", "Cat")], images, boxes).publish(tmp_path / "m")
    run = await oid_async.download(mirror=mirror, savepath=tmp_path / "d", categories=["Cat"])
    saved = oid_async.open(str(tmp_path / "d"))
    assert saved.query == json.loads((tmp_path / "d" / "query.json").read_text())
    assert saved.query["query"]["categories"] == ["Cat"]
    report = saved.report
    assert isinstance(report, oid_async.Report)
    assert (report.selected, report.present, report.failed, report.pending) == (3, 2, 1, 0)
    assert (report.failures, report.sources) == (run.failures, run.sources) == ({"not_found": 1}, {"cvdf": 2})
    assert (report.bytes, report.savepath) == (run.bytes, str(tmp_path / "d"))
    (tmp_path / "d" / "query.json").unlink()
    with pytest.raises(InputError, match=r"query\.json: it is not there"):
        _ = oid_async.open(tmp_path / "d").query


def test_report_counts_masks(demo: Path) -> None:
    """Masks are counted by name: those in the table, and those of them whose picture is there."""
    masks = demo / "segmentation" / "masks"
    names = {row["MaskPath"] for row in read_csv(demo / "segmentation" / "segmentation.csv")}
    found = oid_async.open(demo).report.masks
    assert (found["selected"], found["present"], found["failed"]) == (len(names), len(names), 0)
    assert found["bytes"] == sum(path.stat().st_size for path in masks.iterdir())


@pytest.mark.parametrize("name", ["plain", "failures", "exported"])
def test_folders_of_version_0_1_0_are_read(name: str) -> None:
    """Old folders have the same frames; their images and failures are counted and read."""
    folder = ROOT / "tests" / "old_folders" / "0.1.0" / name
    saved = oid_async.open(folder)
    rows = read_manifest(folder)
    assert saved.images.collect().to_dicts() == rows
    ok = [row for row in rows if row["Status"] == "ok"]
    assert (saved.report.present, saved.report.failed) == (len(ok), len(rows) - len(ok))
    assert all(saved.image(row["ImageID"]) == (folder / "images" / row["FileName"]).read_bytes() for row in ok)
    assert len(saved.boxes.collect()) == len(read_csv(folder / "bbox" / "bbox.csv")) > 0
    assert {frame: dtypes(getattr(saved, frame)) for frame in FRAMES} == {frame: documented(frame) for frame in FRAMES}


def test_reading_writes_nothing_and_takes_no_lock(demo: Path) -> None:
    """A folder can be read while a run is on in it, and stays as it was."""
    before = tree(demo)
    lock = FolderLock.take(Folder(demo))
    try:
        saved = oid_async.open(demo)
        assert repr(saved) == f"SavedDataset({str(demo)!r})"
        assert len(saved.boxes.collect()) > 0
        assert saved.report.present == len(list((demo / "images").iterdir()))
    finally:
        lock.release()
    assert tree(demo) == before


def test_what_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    """No folder, an empty one, a torn manifest, one without a column, an empty path: each is named in one line."""
    path = SavedFolder([SavedImage(ONE)]).write(tmp_path / "d")
    manifest = path / "manifest.parquet"
    (tmp_path / "empty").mkdir()
    for place, wrong in (
        ("none", r"/none: there is no such folder$"),
        ("d/manifest.parquet", r"/d/manifest\.parquet: it is no folder$"),
        ("empty", r"there is no manifest to read; let a download run to its end first$"),
    ):
        with pytest.raises(InputError, match=wrong):
            oid_async.open(tmp_path / place)
    whole = manifest.read_bytes()
    pl.read_parquet(manifest).drop("Reason").write_parquet(manifest)
    with pytest.raises(InputError, match=r"manifest\.parquet: column 'Reason' is missing") as caught:
        oid_async.open(path)
    assert "\n" not in str(caught.value)
    manifest.write_bytes(whole[:-20])
    with pytest.raises(InputError, match=r"manifest\.parquet: cannot be read as a table") as caught:
        oid_async.open(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="savepath"):
        oid_async.open("")


def test_paths_with_pattern_characters_are_plain_names(tmp_path: Path) -> None:
    """Brackets, stars and question marks in a path mean themselves."""
    saved = oid_async.open(SavedFolder([SavedImage(ONE)], [SavedBox(ONE)]).write(tmp_path / "a[b]*?"))
    assert len(saved.boxes.collect()) == len(saved.images.collect()) == 1


def test_opening_loads_no_network_library(demo: Path) -> None:
    """Reading needs Polars and no aiohttp: a training process imports little."""
    code = f"import sys, oid_async; oid_async.open({str(demo)!r}).boxes.collect(); print('aiohttp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"


def test_export_and_verify_read_through_it_alone() -> None:
    """Their code names neither the manifest nor a table, takes no images/ of a folder, and imports no schema."""
    package = ROOT / "oid_async"
    for file in (*(package / "formats").glob("*.py"), package / "jobs" / "verify.py", package / "jobs" / "export.py"):
        module = ast.parse(file.read_text(encoding="utf-8"))
        docstrings = {id(node.value) for node in ast.walk(module) if isinstance(node, ast.Expr)}
        for node in ast.walk(module):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                assert not re.search(r"manifest\.parquet|bbox\.csv|label_data|narratives\.jsonl", node.value), file
            if isinstance(node, ast.Attribute) and node.attr in ("manifest", "images", "file"):
                assert not ast.unparse(node.value).endswith(("folder", "kind")), f"{file}: {ast.unparse(node)}"
            if isinstance(node, ast.ImportFrom):
                assert node.module != "oid_async.store.results", file
                assert "packed_in" not in [alias.name for alias in node.names], file


@pytest.mark.skipif(not REAL.is_dir(), reason="the real Open Images files are not beside the project (../shared/real)")
async def test_real_rows_read_as_they_were_given(tmp_path: Path) -> None:
    """Real box rows: the numbers of the file, and every other field as text."""
    given = REAL / "bbox" / "sysaster-train-annotations-bbox.csv"
    rows = read_csv(given)
    ids = sorted({row["ImageID"] for row in rows})[:50]
    images = [Image(image_id) for image_id in ids]
    mirror = Dataset([("/m/1", "Cat")], images, [Box(ONE, "/m/1")]).publish(tmp_path / "m")
    (tmp_path / "ids.txt").write_text("\n".join(ids))
    await oid_async.download(
        mirror=mirror, annotation=given, image_ids=tmp_path / "ids.txt", savepath=tmp_path / "d", max_failures="100%"
    )
    wanted = [row for image_id in ids for row in rows if row["ImageID"] == image_id]
    found = oid_async.open(tmp_path / "d").boxes.collect().to_dicts()
    assert len(found) == len(wanted) > 50
    for row, box in zip(wanted, found, strict=True):
        assert [box[side] for side in ("XMin", "XMax", "YMin", "YMax")] == [
            float(row[side]) for side in ("XMin", "XMax", "YMin", "YMax")
        ]
        assert [str(box[name]) for name in ("ImageID", "LabelName", "IsOccluded", "IsInside")] == [
            row[name] for name in ("ImageID", "LabelName", "IsOccluded", "IsInside")
        ]
