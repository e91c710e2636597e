"""Images whose next source waits for a generation of its own end as on one machine, where nothing waits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from aiohttp import web
from support.part_workers import settings_of, worker
from support.published import read_csv, tiny_jpeg
from support.published_plans import publish_plan
from support.slow_origin import origin_in_a_thread

import oid_async
from oid_async.cluster.asking import Asking
from oid_async.cluster.finish import finish
from oid_async.cluster.merged_tables import last_rows
from oid_async.cluster.next_generation import Next
from oid_async.cluster.published import Part
from oid_async.cluster.work import WorkSettings
from oid_async.concurrency import in_thread
from oid_async.events import ignore
from oid_async.objects.store import Objects
from oid_async.openimages.ids import KEY

pytestmark = pytest.mark.cluster
IDS = [f"{number:016x}" for number in range(1, 13)]


class BothSources:
    """The bucket has the images with an even number, their own host those that three divides; others are gone."""

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer a request for an image."""
        number = int(request.path.rpartition("/")[2].removesuffix(".jpg"), 16)
        divisor, status = (3, 410) if request.path.startswith("/own/") else (2, 404)
        if number % divisor:
            return web.Response(status=status)
        return web.Response(body=tiny_jpeg(f"{request.path}"))


def tables(folder: Path, url: str) -> dict[str, Any]:
    """Write class, box and image tables; return the options that name them."""
    (folder / "classes.csv").write_text("/m/01226z,Football\n")
    rows = "".join(f"{each},/m/01226z,0.{number},0.9,0.1,0.5\n" for each in IDS for number in (1, 2))
    (folder / "boxes.csv").write_text(f"ImageID,LabelName,XMin,XMax,YMin,YMax\n{rows}")
    images = "".join(f"{each},train,{url}/own/{each}.jpg\n" for each in IDS)
    (folder / "images.csv").write_text(f"ImageID,Subset,OriginalURL\n{images}")
    return {
        name: folder / f"{file}.csv"
        for name, file in {"label": "classes", "annotation": "boxes", "image_url": "images"}.items()
    }


def carry_out_all(settings: WorkSettings, parts: Sequence[Part]) -> None:
    """Carry parts out, one after the other."""
    with worker(settings) as made:
        for part in parts:
            made.run(part, attempt=1, progress=lambda _: None)


async def test_sources_that_wait_end_as_on_one_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables, outcomes, attempts and what is said of each failure are those of a run that asked all sources at once."""
    monkeypatch.setattr(Asking, "_is_capped", lambda self, source: pl.lit(source == "original" and not self.capped))
    one, objects = tmp_path / "one", Objects(tmp_path / "place")
    with origin_in_a_thread(BothSources()) as url:
        query: dict[str, Any] = {
            "source": ["cvdf", "original"],
            "allow_hosts": [url.removeprefix("http://")],
            "cache_dir": tmp_path / "cache",
            **tables(tmp_path, url),
        }
        report = await oid_async.download(savepath=one, mirror=url, max_failures="90%", **query)
        published = await publish_plan(objects, url, part_size=1_500_000, **query)
        settings = settings_of(objects, published.query, url, source=("cvdf", "original"))
        await in_thread(carry_out_all, settings, published.first.parts)
        second = await in_thread(Next(objects, published.query, [published.first]).publish)
        assert second is not None
        await in_thread(carry_out_all, settings, second.parts)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    totals = finish(objects, published.query, [published.first, second], scratch, ignore)
    assert (totals.ok, totals.failed, totals.pending) == (report.downloaded, report.failed, 0) == (8, 4, 0)
    place = tmp_path / "place"
    assert read_csv(place / "failures.csv") == read_csv(one / "failures.csv")
    for name in ("bbox/bbox.csv", "bbox/label_data.csv", "ATTRIBUTION.csv"):
        assert (place / name).read_bytes() == (one / name).read_bytes()
    manifest = pl.read_parquet(place / "manifest.parquet").drop("Shard", "ShardOffset")
    assert manifest.equals(pl.read_parquet(one / "manifest.parquet"))


@pytest.mark.parametrize(
    ("rows", "attempts"),
    [
        (["failed 1"], 1),
        (["pending 1", "failed 2"], 3),
        (["pending 1", "pending 2", "failed 4"], 7),
        (["pending 1", "failed 2", "failed 3"], 3),
        (["failed 5", "pending 1", "ok 2"], 3),
    ],
)
def test_attempts_are_those_of_all_sources_since_the_last_outcome(rows: list[str], attempts: int) -> None:
    """An image that waits has no outcome yet: what was sent for it before belongs to the next one."""
    words = [row.split() for row in rows]
    frame = pl.DataFrame(
        {
            KEY: [7] * len(rows) + [9],
            "__generation": [*range(len(rows)), 0],
            "Status": [status for status, _ in words] + ["ok"],
            "Attempts": [int(number) for _, number in words] + [1],
        }
    )
    latest = last_rows(frame.sample(fraction=1, shuffle=True, seed=1))
    assert latest.select(KEY, "Status", "Attempts").rows() == [(7, words[-1][0], attempts), (9, "ok", 1)]
