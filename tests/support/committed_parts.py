"""Committing published parts by hand: records and shards as workers put them, of outcomes that a test chooses."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from oid_async.cluster.generations import put_generation, put_part
from oid_async.cluster.layout import shard_key
from oid_async.cluster.part_file import NEXT, SOURCES, nested
from oid_async.cluster.published import Generation, Part, PublishedQuery
from oid_async.cluster.record import RECORD_SCHEMA, Record, ShardNote
from oid_async.objects.store import Objects
from oid_async.openimages.ids import KEY, IdForm
from oid_async.select.plan import PLAN_COLUMNS
from oid_async.store.results import MANIFEST_SCHEMA, ROLE_SCHEMA

_BLOCK = 512
_HEX = IdForm()


def images_of(objects: Objects, part: Part, scratch: Path) -> pl.DataFrame:
    """Return the images of a part with all that its file has."""
    path = scratch / "part.parquet"
    objects.get_file(part.plan_key, path)
    return pl.read_parquet(path, glob=False)


def saved(images: pl.DataFrame, source: str = "cvdf") -> pl.DataFrame:
    """Return the outcome rows of images that are all saved, as a record has them."""
    return outcomes(
        images,
        Status=pl.lit("ok"),
        FileName=pl.col("FileName"),
        Source=pl.lit(source),
        URL=pl.concat_str(pl.lit("https://a.example/"), "ImageID"),
        Bytes=pl.lit(_BLOCK),
        MD5=pl.lit("1B2M2Y8AsgTpgAmY7PhCfg=="),
        Width=pl.lit(8),
        Height=pl.lit(8),
        Attempts=pl.lit(1),
    )


def failed(images: pl.DataFrame, kind: str = "not_found", columns: Mapping[str, pl.Expr] | None = None) -> pl.DataFrame:
    """Return the outcome rows of images that have all failed, but for these columns."""
    facts = {
        "Status": pl.lit("failed"),
        "FileName": pl.lit(None),
        "Reason": pl.lit(kind),
        "Source": pl.lit("cvdf"),
        "URL": pl.concat_str(pl.lit("https://a.example/"), "ImageID"),
        "Detail": pl.lit(f"cvdf:{kind}"),
        "Attempts": pl.lit(2),
    }
    return outcomes(images, **(facts | dict(columns or {})))


def outcomes(images: pl.DataFrame, **columns: pl.Expr) -> pl.DataFrame:
    """Return rows of RECORD_SCHEMA: of the images what a plan has of them, and these columns."""
    roles = [name for name in ROLE_SCHEMA if name in images.columns]
    nothing = dict.fromkeys(("Reason", "Offset", "Known", NEXT), pl.lit(None))
    frame = images.with_columns(**(nothing | columns))
    return frame.select(
        *(
            (pl.col(name) if name in frame.columns else pl.lit(None))
            .cast(dtype if name != KEY else frame.schema[KEY])
            .alias(name)
            for name, dtype in RECORD_SCHEMA.items()
        ),
        *roles,
    )


def commit(
    objects: Objects,
    query: PublishedQuery,
    part: Part,
    rows: pl.DataFrame,
    *,
    suffix: str = "",
    mark: str = "",
    **facts: Any,
) -> Record:
    """Put a shard of 512 bytes an image and the record of a part; `mark` makes other bytes of the shard."""
    ok = rows.get_column("Status") == "ok"
    body = b"".join(f"{image}{mark}".encode().ljust(_BLOCK, b".") for image in rows.filter(ok).get_column("ImageID"))
    note = None
    if body:
        key = shard_key(part.name, query.ending, suffix)
        info = objects.put_new(key, body)
        note = ShardNote(key, len(body), hashlib.md5(body).hexdigest(), info.etag, int(ok.sum()))
    if query.format == "webdataset":
        place = (ok.cast(pl.Int64).cum_sum() - 1) * _BLOCK
        rows = rows.with_columns(Offset=pl.when(pl.col("Status") == "ok").then(place))
    record = Record(
        part.generation,
        part.name,
        part.md5,
        note,
        len(rows),
        int(ok.sum()),
        pending=int((rows.get_column("Status") == "pending").sum()),
        requests=len(rows),
        **facts,
    )
    objects.put_new(part.record_key, record.to_parquet(rows))
    return record


def publish_next(
    objects: Objects, before: Sequence[Generation], parts: Mapping[str, pl.DataFrame], **facts: Any
) -> Generation:
    """Publish a generation of these images, by split, a part each; its numbers go on behind those before."""
    number = len(before)
    put = []
    for split, images in parts.items():
        taken = [part.number for each in before for part in each.parts if part.split == split]
        part = Part(number, split, max(taken, default=-1) + 1, len(images), 0, "")
        put.append(put_part(objects, part, images, {}))
    return put_generation(objects, Generation(number, put, **facts))


def like_manifest(images: pl.DataFrame, savepath: Path) -> pl.DataFrame:
    """Return the outcome rows of images as a run on one machine had them, by its manifest and failures.csv."""
    manifest = pl.read_parquet(savepath / "manifest.parquet")
    on = ["ImageID", "Subset"]
    names = [name for name in MANIFEST_SCHEMA if name not in on]
    rows = images.select(KEY, *on, *(name for name in ROLE_SCHEMA if name in images.columns)).join(
        manifest.select(*on, *names), on=on, how="left", maintain_order="left", nulls_equal=True
    )
    extra = pl.DataFrame(schema={"ImageID": pl.String, "Detail": pl.String, "Attempts": pl.Int64})
    if (savepath / "failures.csv").exists():
        extra = pl.read_csv(savepath / "failures.csv", schema_overrides={"ImageID": pl.String})
    rows = rows.join(extra.select("ImageID", "Detail", "Attempts"), on="ImageID", how="left", maintain_order="left")
    return outcomes(rows, Reason=pl.col("Reason"))


def planned(
    ids: Sequence[str],
    split: str | None = "train",
    *,
    boxes: Mapping[str, Sequence[str]] | None = None,
    form: IdForm = _HEX,
    roles: Mapping[str, pl.Expr] | None = None,
) -> pl.DataFrame:
    """Return the images of a part, with a box for each label that `boxes` have of an image."""
    frame = pl.DataFrame({"ImageID": ids}, schema={"ImageID": pl.String}).with_columns(Subset=pl.lit(split))
    frame = frame.with_columns(form.key(), FileName=pl.concat_str("ImageID", pl.lit(".jpg")), Action=pl.lit("fetch"))
    frame = frame.with_columns(OriginalURL=pl.concat_str(pl.lit("https://b.example/"), "FileName"), Author=pl.lit("A"))
    missing = [pl.lit(None, pl.String).alias(name) for name in PLAN_COLUMNS if name not in frame.columns]
    facts = {SOURCES: pl.lit("cvdf"), NEXT: pl.lit(None, pl.String)}
    frame = frame.with_columns(*missing, **facts).with_columns(**(roles or {})).sort(KEY)
    labels = boxes or {}
    rows = [(image, label, f"0.{number}") for image in ids for number, label in enumerate(labels.get(image, ()))]
    found = pl.DataFrame(rows, schema=dict.fromkeys(BOX_COLUMNS, pl.String), orient="row")
    found = found.join(frame.select("ImageID", KEY), on="ImageID", maintain_order="left").select(KEY, *BOX_COLUMNS)
    return nested(frame, "bbox", found.sort(KEY, maintain_order=True))


BOX_COLUMNS = ("ImageID", "LabelName", "XMin")
CLASS_NAMES = {"/m/a": "Apple", "/m/b": "Ball"}


def boxes_query(format: str = "webdataset", *, form: IdForm = _HEX) -> PublishedQuery:
    """Return a query whose boxes have BOX_COLUMNS, of CLASS_NAMES."""
    boxes = {"labels": list(CLASS_NAMES), "class_names": CLASS_NAMES, "columns": list(BOX_COLUMNS)}
    document = {"query": {"savepath": "x"}, "digest": "d", "unfinished": {}}
    return PublishedQuery("d", format, 1 << 20, ("cvdf",), document, {"bbox": boxes}, form.hexadecimal, form.by_split)


def bodies(objects: Objects) -> dict[str, bytes]:
    """Return every object of a place, also what is unfinished."""
    keys = [found.key for found in (*objects.list(""), *objects.leftovers())]
    return {key: objects.get(key) for key in keys}
