"""Publishing the plan of a query of a mirror into a place, without any worker, engine or end."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from oid_async.cluster.asking import Asking
from oid_async.cluster.cutting import PartCutter
from oid_async.cluster.generations import get_part, put_begun, put_generation, put_part, read_generations
from oid_async.cluster.layout import PLAN
from oid_async.cluster.next_generation import Next
from oid_async.cluster.part_file import nested
from oid_async.cluster.published import Begun, Generation, Part, PublishedQuery
from oid_async.cluster.record import RECORD_SCHEMA, Record
from oid_async.events import Sink, ignore
from oid_async.http.retry import Limits
from oid_async.jobs.context import open_run
from oid_async.jobs.distributing.publish import Published, publish
from oid_async.objects.store import Objects
from oid_async.openimages.catalogue import MEAN_IMAGE_BYTES
from oid_async.openimages.ids import KEY
from oid_async.openimages.vocabulary import Source
from oid_async.options.query import Options
from oid_async.report import Report, kind_of
from oid_async.select.plan import PLAN_COLUMNS

PART_SIZE = 512 << 20


async def publish_plan(
    objects: Objects,
    mirror: Path | str,
    *,
    part_size: int = PART_SIZE,
    job: str | None = None,
    sink: Sink = ignore,
    **query: Any,
) -> Published:
    """Publish the plan of a query of this mirror at a place; `query` are keywords of `oid_async.download`.

    Mean sizes count where no size is known: a part of 3 MB has ten images. Every published image is as in
    `support.published.publish_lookalike`, `Dataset.publish`, ...
    """
    keywords: dict[str, Any] = {"format": "webdataset", "no_files": True, "mirror": str(mirror)} | query
    options = Options(savepath=objects.place, **keywords)
    async with open_run(
        options, sink, Report(), limits=Limits.of(options), serve=None, site_name=None, dry_run=True
    ) as context:
        return await publish(context, objects, part_size=part_size, job=job)


class MadePlan:
    """A plan that is made by hand: images by their numbers, with the URLs of their originals, a few to a part.

    `commit` says what became of them: `ok`; a Detail such as `cvdf:timeout` for failed; with `|original` behind it
    for waiting.
    """

    def __init__(
        self,
        objects: Objects,
        images: Mapping[int, str],
        *,
        per_part: int = 2,
        split_of: Callable[[int], str] = lambda number: "train",
        sources: tuple[Source, ...] = ("cvdf", "original"),
        begun: Begun | None = None,
        job: str | None = None,
    ) -> None:
        self.objects = objects
        size = per_part * MEAN_IMAGE_BYTES
        kinds = {"bbox": {"labels": None, "class_names": {"/m/1": "One"}, "columns": ["ImageID", "LabelName"]}}
        self.query = PublishedQuery("d", "webdataset", size, sources, {"digest": "d"}, kinds, samples="s")
        objects.put_new(PLAN, self.query.to_json())
        begun = put_begun(objects, 0, begun or Begun("query", None, capped=False))
        asking = Asking(sources, begun.rate, begun.capped)
        cutter = PartCutter(0, asking, size, {})
        rows = asking.divide(_plan_rows(images, split_of))
        made = [*cutter.add(rows), *cutter.rest()]
        parts = sorted((put_part(objects, part, frame, {}) for part, frame in made), key=lambda part: part.name)
        put_generation(objects, Generation(0, parts, begun.capped, job))

    @property
    def generations(self) -> list[Generation]:
        """All that is published."""
        return read_generations(self.objects)

    def images(self, part: Part) -> pl.DataFrame:
        """Return the rows of a part's file."""
        return get_part(self.objects, part)[0]

    def commit(self, generation: int, outcomes: Mapping[int, str]) -> None:
        """Put the records of a generation."""
        for part in self.generations[generation].parts:
            images = self.images(part)
            ends = [outcomes[int(image_id, 16)] for image_id in images.get_column("ImageID")]
            rows = [_record_row(key, end) for key, end in zip(images.get_column(KEY), ends, strict=True)]
            record = Record(generation, part.name, part.md5, None, len(ends), ends.count("ok"))
            outcome = pl.DataFrame(rows, schema=RECORD_SCHEMA)
            self.objects.put_new(part.record_key, record.to_parquet(outcome))

    def next(self, **options: Any) -> Next:
        """Return what makes the next generation."""
        return Next(self.objects, self.query, self.generations, **options)


def _plan_rows(images: Mapping[int, str], split_of: Callable[[int], str]) -> pl.DataFrame:
    schema = dict.fromkeys(PLAN_COLUMNS, pl.String) | {KEY: pl.UInt64, "CopyBytes": pl.Int64}
    rows = [
        {
            KEY: number,
            "ImageID": f"{number:016x}",
            "FileName": f"{number}.jpg",
            "Subset": split_of(number),
            "OriginalURL": url,
        }
        for number, url in sorted(images.items())
    ]
    plan = pl.DataFrame(rows, schema=schema)
    boxes = plan.select(KEY, "ImageID", LabelName=pl.lit("/m/1"))
    return nested(plan, "bbox", boxes)


def _record_row(key: int, end: str) -> dict[str, Any]:
    detail, _, waits = end.partition("|")
    row: dict[str, Any] = {KEY: key, "ImageID": f"{key:016x}", "Status": "pending" if waits else "failed"}
    if detail == "ok":
        return row | {"Status": "ok"}
    reason = kind_of(detail.rpartition(":")[2]) or None
    return row | {"Reason": reason, "Detail": detail or None, "Known": detail or None, "Next": waits or None}
