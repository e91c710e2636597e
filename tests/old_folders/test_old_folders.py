"""Folders of version 0.1.0 (see support/make_old_folders.py) are still good, each sort of them."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from aiohttp import web
from support.hostile_jpegs import HEADLESS
from support.make_old_folders import BLOCK_BYTES, CUT_TABLE, SPAN_ROWS, run_of
from support.published import read_manifest

import oid_async
from oid_async.errors import UsageError
from oid_async.openimages.catalogue import IMAGE_BUCKET
from oid_async.options.export import FORMATS
from oid_async.origin.lookalike import Lookalike
from oid_async.report import Report
from oid_async.store.image_check import md5_base64

KEPT = Path(__file__).parent / "0.1.0"
ALWAYS = ("manifest.parquet", "query.json")


class Origin:
    """The look-alike, and what is requested of it: images by key, tables by key with the status of the response."""

    def __init__(self) -> None:
        self.lookalike = Lookalike()
        self.images: Counter[str] = Counter()
        self.tables: list[tuple[str, int, str | None]] = []

    async def serve(self, request: web.Request) -> web.StreamResponse:
        bucket, _, key = request.match_info["key"].partition("/")
        if bucket == IMAGE_BUCKET:
            self.images[key] += 1
            return await self.lookalike.serve(request)
        response = await self.lookalike.serve(request)
        self.tables.append((key, response.status, request.headers.get("Range")))
        return response


@pytest.fixture
def origin() -> Origin:
    return Origin()


@pytest.fixture
def folders(tmp_path: Path, cache_dir: Path) -> Path:
    """Copy the old folders, and their metadata cache to where this test has its own."""
    shutil.copytree(KEPT, tmp_path / "old")
    (tmp_path / "old" / "cache").rename(cache_dir)
    return tmp_path / "old"


def files(folder: Path, *, without: tuple[str, ...] = ()) -> dict[str, bytes]:
    """Return the files of a SAVEPATH that a user sees, by name."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: body for name, body in found.items() if ".oid_async/" not in name and name not in without}


def found_below(folder: Path, name: str) -> list[Path]:
    return list(folder.rglob(name))


async def resume(name: str, folder: Path, origin: Origin, **options: Any) -> Report:
    report: Report = await run_of(name, folder, origin.serve, **options).download()
    return report


@pytest.mark.parametrize("name", ["plain", "failures", "exported"])
async def test_a_finished_folder_is_resumed(name: str, folders: Path, origin: Origin) -> None:
    """No image is requested again, those that failed for good included; every file is what it was."""
    folder = folders / name
    before, rows = files(folder, without=ALWAYS), read_manifest(folder)
    report = await resume(name, folder, origin)
    assert not origin.images
    assert (report.downloaded, report.requests) == (0, 0)
    failed = Counter(row["Reason"] for row in rows if row["Status"] == "failed")
    assert report.failures == dict(failed)
    assert report.present == len(rows) - failed.total() > 0
    assert read_manifest(folder) == rows
    after = files(folder, without=ALWAYS)
    # Since then its last column says what was done to each image.
    attribution = pl.read_csv(after.pop("ATTRIBUTION.csv"), infer_schema=False)
    assert attribution.columns[-1] == "Changes"
    assert attribution.drop("Changes").equals(pl.read_csv(before.pop("ATTRIBUTION.csv"), infer_schema=False))
    # Of boxes the hierarchy of their classes is saved since then.
    assert (after.pop("bbox/hierarchy.json", None) is not None) == any(key.startswith("bbox/") for key in after)
    assert after == before


@pytest.mark.parametrize("name", ["plain", "failures", "exported"])
async def test_a_query_json_reads_as_before(name: str, folders: Path, cache_dir: Path, origin: Origin) -> None:
    """A run of the same query writes the same query: no key of it got another meaning."""
    folder = folders / name
    old = json.loads((folder / "query.json").read_text())
    await resume(name, folder, origin)
    new = json.loads((folder / "query.json").read_text())
    here = {"savepath": str(folder), "cache_dir": str(cache_dir)}
    assert {key: new["query"][key] for key in old["query"]} == old["query"] | here
    assert new.keys() >= old.keys()
    assert new["tables"] == old["tables"]


@pytest.mark.parametrize("name", ["plain", "failures", "exported"])
async def test_a_folder_is_verified(name: str, folders: Path) -> None:
    """What is whole is clean; what was changed, cut, removed or added is found."""
    folder = folders / name
    found = await oid_async.verify(savepath=folder)
    assert {finding.kind for finding in found.findings()} == {"unchecked"}, "that version kept no record of files"
    images = sorted((folder / "images").iterdir())
    images[0].write_bytes(images[0].read_bytes()[:-9])
    images[1].write_bytes(images[1].read_bytes()[:-9] + b"123456789")
    images[2].unlink()
    (folder / "images" / "mine.jpg").write_bytes(b"")
    found = await oid_async.verify(savepath=folder)
    counts = {"truncated": 1, "altered": 1, "missing": 1, "extra": 1}
    assert {kind: count for kind, count in found.counts.items() if kind != "unchecked"} == counts


async def test_an_export_is_repeated(folders: Path) -> None:
    """The export of today is the old one but for the version, byte by byte, and takes its place."""
    folder = folders / "exported"
    old = files(folder / "export" / "coco")
    report = await oid_async.export(savepath=folder, format="coco")
    new = files(folder / "export" / "coco")
    assert {name for name in new if not name.startswith(".")} == {name for name in old if not name.startswith(".")}
    name = "annotations/instances_validation.json"
    assert new[name] == old[name].replace(b"oid-async 0.1.0", f"oid-async {oid_async.__version__}".encode())
    assert (report.images, report.annotations) == (6, {"bbox": 7, "segmentation": 4})
    again = await oid_async.export(savepath=folder, format="coco", out=folder.parent / "other")
    assert again.annotations == report.annotations


@pytest.mark.parametrize("boot", [pytest.param("kept", marks=pytest.mark.slow), "this"])
async def test_half_packed_shards_are_finished(
    boot: str, folders: Path, origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They end as a fresh run's do. What is packed or landed is not requested again, in this boot or after another."""
    monkeypatch.setattr("oid_async.select.plan._SPAN_ROWS", SPAN_ROWS)
    folder = folders / "half_packed"
    if boot == "this":
        from oid_async.system.boots import boot_id

        lock = folder / ".oid_async" / "lock"
        lock.write_text(f"{lock.read_text().splitlines()[0]}\nboot {boot_id()}\n")
    journal = (folder / ".oid_async" / "journal.tsv").read_text().splitlines()
    landed = {line.split("\t")[0] for line in journal}
    assert landed
    report = await resume("half_packed", folder, origin)
    assert not landed & {key.removesuffix(".jpg").rpartition("/")[2] for key in origin.images}
    assert origin.images.total() == report.downloaded > 0
    fresh = await resume("half_packed", tmp_path / "fresh", Origin())
    assert (report.present, report.selected) == (len(landed), fresh.selected)
    # 0.1.0 did not count the objects of each class: the card of what it had begun has no table of them.
    without = ("README.md", ".oid_async-export.list")
    exports = [each / "export" / "webdataset" for each in (folder, tmp_path / "fresh")]
    old, new = (files(each, without=without) for each in exports)
    assert old == new
    assert any(name.endswith(".tar") for name in new)
    assert read_manifest(folder) == read_manifest(tmp_path / "fresh")
    assert not list((folder / "images").iterdir())


async def test_shards_of_another_query_are_refused(folders: Path, origin: Origin) -> None:
    """An option of today makes another query of it, also one that 0.1.0 knew."""
    with pytest.raises(UsageError, match="holds the shards of another query"):
        await resume("half_packed", folders / "half_packed", origin, max_side=50)


async def test_a_journal_in_columns_is_read(
    folders: Path, origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its old blocks are taken or made anew: what it says is what it says without them."""
    monkeypatch.setattr("oid_async.store.journal_index._BLOCK_BYTES", BLOCK_BYTES)
    folder = folders / "failures"
    assert list((folder / ".oid_async" / "lines").iterdir())
    rows = read_manifest(folder)
    await resume("failures", folder, origin)
    assert not origin.images
    assert read_manifest(folder) == rows


async def test_cached_tables_are_used(folders: Path, origin: Origin, tmp_path: Path) -> None:
    """A converted table that has not changed is not sent again."""
    await resume("plain", tmp_path / "fresh", origin)
    assert {status for key, status, _ in origin.tables if not key.endswith(".zip")} == {304}


async def test_a_table_that_was_cut_is_resumed(folders: Path, cache_dir: Path, origin: Origin, tmp_path: Path) -> None:
    """What had arrived of a table is kept: the rest alone is requested."""
    (note,) = found_below(cache_dir, "raw.json")
    published = json.loads(note.read_text())

    async def serve(request: web.Request) -> web.StreamResponse:
        # The embedded origin has another port each time, and a part is resumed from its own address alone.
        if not origin.tables:
            note.write_text(json.dumps(published | {"url": f"http://{request.host}/openimages/{CUT_TABLE}"}))
        return await origin.serve(request)

    await run_of("cut", tmp_path / "fresh", serve).download()
    assert (CUT_TABLE, 206, "bytes=9419-") in origin.tables


# What 0.1.0 has saved as images, with the size in the manifest that it found in them.
NO_PICTURES = {
    "start and end": (HEADLESS["start and end"], None, None),
    "0 x 0": (HEADLESS["0 x 0"], 0, 0),
    "no scan": (HEADLESS["no scan"], 64, 48),
}


@pytest.mark.parametrize(
    "format", ["coco", *(pytest.param(each, marks=pytest.mark.slow) for each in FORMATS if each != "coco")]
)
async def test_what_is_no_picture_is_left_out_of_exports(format: str, folders: Path, tmp_path: Path) -> None:
    """JPEGs without size or scan, which 0.1.0 took for images: the others are exported, with --max-side and without."""
    folder = folders / "plain"
    manifest = pl.read_parquet(folder / "manifest.parquet")
    names = manifest.filter(Status="ok").get_column("FileName").head(len(NO_PICTURES))
    for name, (body, width, height) in zip(names, NO_PICTURES.values(), strict=True):
        (folder / "images" / name).write_bytes(body)
        facts = {"Bytes": len(body), "MD5": md5_base64(body), "Width": width, "Height": height}
        manifest = manifest.with_columns(
            pl.when(FileName=pl.lit(name))
            .then(pl.lit(value))
            .otherwise(column)
            .cast(manifest.schema[column])
            .alias(column)
            for column, value in facts.items()
        )
    manifest.write_parquet(folder / "manifest.parquet")
    sound = len(manifest.filter(Status="ok")) - len(NO_PICTURES)
    asked: tuple[dict[str, Any], ...] = ({}, {"max_side": 100}, {"splits": "50/25/25"})
    for number, options in enumerate(asked):
        report = await oid_async.export(savepath=folder, format=format, out=tmp_path / str(number), **options)
        assert report.images == sound
        assert report.left_out["image: no width and height"] == 2
        assert report.left_out["image: no size or no scan in it"] == 1
