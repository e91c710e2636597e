"""The tables at the end of a download past one machine next to those of a run on one machine, byte for byte."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from aiohttp import web
from support.committed_parts import commit, images_of, like_manifest
from support.part_workers import settings_of, worker
from support.published import Box, Dataset, Image, Label, publish_lookalike
from support.published_plans import publish_plan
from support.slow_origin import origin_in_a_thread

import oid_async
from oid_async.cluster.finish import finish
from oid_async.cluster.published import Part
from oid_async.cluster.record import Record
from oid_async.cluster.work import WorkSettings
from oid_async.concurrency import in_thread
from oid_async.events import ignore
from oid_async.objects.store import Objects
from oid_async.openimages.catalogue import IMAGE_BUCKET
from oid_async.openimages.vocabulary import SPLITS
from oid_async.origin.lookalike import Lookalike
from oid_async.origin.server import folder

pytestmark = pytest.mark.cluster


class Files:
    """A mirror folder to serve."""

    def __init__(self, root: Path) -> None:
        self._serve = folder(root)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer with a file of the folder."""
        return await self._serve(request)


OWN = (".oid_async/", "export/", "manifest.parquet", "query.json")


def tables(folder: Path) -> dict[str, bytes]:
    """Return the files of a download but its state, its shards and what names the folder."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith(OWN)}


async def compare(mirror: Path, folder: Path, cache: Path, part_size: int, **query: Any) -> pl.DataFrame:
    """Download on one machine, commit the same outcomes part by part, make the end; return its manifest."""
    one, place = folder / "one", folder / "place"
    keywords = {"mirror": str(mirror), "cache_dir": cache, "format": "webdataset", "no_files": True, **query}
    await oid_async.download(savepath=one, **keywords)
    objects = Objects(place)
    published = await publish_plan(objects, mirror, part_size=part_size, cache_dir=cache, **query)
    for part in published.first.parts:
        commit(objects, published.query, part, like_manifest(images_of(objects, part, folder), one))
    scratch = folder / "scratch"
    scratch.mkdir()
    finish(objects, published.query, [published.first], scratch, ignore)
    found = {name: body for name, body in tables(place).items() if not name.startswith("shards")}
    found.pop("report.json")
    assert found == tables(one)
    manifest = pl.read_parquet(place / "manifest.parquet", glob=False)
    assert manifest.drop("Shard", "ShardOffset").equals(pl.read_parquet(one / "manifest.parquet", glob=False))
    documents = [json.loads((path / "query.json").read_text()) for path in (one, place)]
    for document in documents:
        document["query"].pop("savepath")
    assert documents[0] == documents[1] | {"shards": str(one / "export" / "webdataset")}
    return manifest


async def test_all_kinds_of_all_splits_are_as_of_one_machine(tmp_path: Path) -> None:
    """Every table of every kind, attribution, failures: of parts that overlap in ids; some images failed."""
    mirror = publish_lookalike(tmp_path / "mirror")
    for number, key in enumerate(sorted(Lookalike(staged=False).photos)):
        if number % 9 == 0:
            (mirror / IMAGE_BUCKET / key).unlink()
    manifest = await compare(mirror, tmp_path, tmp_path / "cache", 10_000_000, splits=SPLITS, kinds=("all",))
    assert set(manifest.get_column("Status")) == {"ok", "failed"}
    assert manifest.get_column("Shard").n_unique() > 5


@pytest.mark.parametrize("shape", ["webdataset", "parquet"])
async def test_what_workers_commit_ends_as_on_one_machine(tmp_path: Path, shape: str) -> None:
    """Fetched part by part by a worker, masks too: every table, outcome, hash and image is that of one machine."""
    one, place = tmp_path / "one", tmp_path / "place"
    query: dict[str, Any] = {"splits": SPLITS, "kinds": ("all",), "limit": 120, "format": shape}
    mirror = publish_lookalike(tmp_path / "mirror")
    for number, key in enumerate(sorted(Lookalike(staged=False).photos)):
        if number % 9 == 0:
            (mirror / IMAGE_BUCKET / key).unlink()
    with origin_in_a_thread(Files(mirror)) as url:
        common: dict[str, Any] = {"mirror": url, "cache_dir": tmp_path / "cache", "max_failures": "50%"}
        report = await oid_async.download(savepath=one, no_files=shape == "webdataset", **common, **query)
        objects = Objects(place)
        published = await publish_plan(objects, url, part_size=10_000_000, cache_dir=tmp_path / "cache", **query)
        settings = settings_of(objects, published.query, url)
        records = await in_thread(carry_out_all, settings, published.first.parts)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    totals = finish(objects, published.query, [published.first], scratch, ignore)
    found = {name: body for name, body in tables(place).items() if not name.startswith(("shards", "report"))}
    expected = {
        name: body for name, body in tables(one).items() if not name.startswith(("images", "segmentation/masks"))
    }
    assert found == expected
    manifest = pl.read_parquet(place / "manifest.parquet", glob=False)
    assert manifest.drop("Shard", "ShardOffset").equals(pl.read_parquet(one / "manifest.parquet", glob=False))
    assert (totals.ok, totals.failed, totals.failures) == (report.downloaded, report.failed, report.failures)
    # On one machine the directories of the archives count, too.
    assert {**totals.masks, "bytes": 0} == {**report.masks, "bytes": 0}
    # What shards hold and what was left out of them is what the tables have.
    for kind, count in totals.rows.items():
        left_out = {why: number for why, number in totals.left_out.items() if why.startswith(f"{kind}: ")}
        assert count == sum(record.rows.get(kind, 0) for record in records) + sum(left_out.values())
    with oid_async.open(place) as dataset:
        for name, split, size in manifest.filter(Status="ok").select("ImageID", "Subset", "Bytes").iter_rows():
            body = dataset.image(f"{split}/{name}")
            assert (len(body), body) == (size, (mirror / IMAGE_BUCKET / split / f"{name}.jpg").read_bytes())


def carry_out_all(settings: WorkSettings, parts: Sequence[Part]) -> list[Record]:
    """Carry parts out, one after the other, and return their records."""
    with worker(settings) as made:
        results = [made.run(part, attempt=1, progress=lambda _: None) for part in parts]
    return [result.record for result in results if result.record is not None]


async def test_negatives_and_ids_of_two_splits_are_as_of_one_machine(tmp_path: Path) -> None:
    """Roles stand in the manifest; one id in two splits has two rows."""
    ids = [f"{number:016x}" for number in range(1, 7)]
    dataset = Dataset(
        [("/m/p", "Person"), ("/m/c", "Cat")],
        [Image(each, f"{place}_o.jpg") for place, each in enumerate(ids, 1)] + [Image(ids[0], split="test")],
        [Box(ids[0], "/m/p"), Box(ids[1], "/m/p"), Box(ids[1], "/m/c"), Box(ids[0], "/m/c", split="test")],
        below={"/m/p": ("/m/c",)},
        labels=[Label(ids[2], "/m/c"), Label(ids[3], "/m/p")],
    )
    query = {"categories": ["Person", "Cat"], "negatives": "50%", "splits": SPLITS, "kinds": ("bbox", "label")}
    manifest = await compare(dataset.publish(tmp_path / "mirror"), tmp_path, tmp_path / "cache", 1_000_000, **query)
    assert manifest.get_column("Role").to_list().count("negative") == 2
    assert manifest.get_column("ImageID").to_list().count(ids[0]) == 2


async def test_a_table_of_a_users_own_is_as_of_one_machine(lookalike: Path, tmp_path: Path) -> None:
    """Columns that have our names are marked apart; damaged rows are listed; shuffled rows keep their order."""
    boxes = next((lookalike / "openimages" / "v5").glob("validation-annotations-bbox.csv"))
    own = tmp_path / "boxes.csv"
    frame = pl.read_csv(boxes, infer_schema=False).with_columns(FileName=pl.lit("a"), Category=pl.lit("b"))
    frame.write_csv(own)
    with own.open("a") as file:
        file.write("damaged\n")
    await compare(lookalike, tmp_path, tmp_path / "cache", 5_000_000, annotation=own, splits=["validation"])
    assert (tmp_path / "place" / "bad_rows.csv").exists()
