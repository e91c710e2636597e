"""A finished place as a download past one machine leaves it, made by hand of a folder of files."""

import hashlib
import json
import shutil
from base64 import b64encode
from pathlib import Path
from typing import Any

import polars as pl

import oid_async
from oid_async.cluster.layout import FINISHED, MANIFEST, PLAN, SHARD_LIST, generation_key
from oid_async.cluster.published import Generation, Part, PublishedQuery
from oid_async.cluster.record import RECORD_SCHEMA, Record, ShardNote
from oid_async.dataset.image_store import OpenFile, members_of
from oid_async.dataset.packed_images import SHARD_SCHEMA
from oid_async.events import ignore
from oid_async.jobs.demo import look_alike_run
from oid_async.objects.store import Objects
from oid_async.openimages.ids import IdForm
from oid_async.openimages.kinds import KINDS
from oid_async.openimages.vocabulary import SPLITS
from oid_async.options.places import Bucket
from oid_async.options.query import Options
from oid_async.store.results import manifest_digest

_LISTS = ("ATTRIBUTION.csv", "failures.csv", "bad_rows.csv", "bbox/label_data.csv", "bbox/hierarchy.json")
_COPIED = (*_LISTS, *(kind.file for kind in KINDS.values()))
_NO_TABLE = (".oid_async", "shards")


async def look_alike_files(root: Path) -> Path:
    """Return a folder of some images of the demo, of every split, with all kinds of annotations, as files."""
    options = Options(savepath=root / "d", cache_dir=root / "cache", splits=SPLITS, kinds=("all",), limit=40)
    await look_alike_run(options, ignore).download()
    return root / "d"


async def make_place(
    source: Path, place: Path, format: str = "webdataset", shard_size: str = "100K", max_side: int | None = None
) -> Path:
    """Make a finished place of a folder of files: its tables, its images in shards, plan and records."""
    out = place.with_name(f"{place.name}-shards")
    await oid_async.export(savepath=source, format=format, out=out, shard_size=shard_size, max_side=max_side)
    (place / "shards").mkdir(parents=True)
    ending = "tar" if format == "webdataset" else "parquet"
    where, listed = [], []
    for path in sorted(out.glob(f"*.{ending}")):
        split, number = path.stem.rsplit("-", 1)
        part = f"{split}-{int(number):06}"
        target = place / "shards" / f"{part}.{ending}"
        shutil.copyfile(path, target)
        found = _offsets(target)
        where += [(name, f"shards/{target.name}", offset) for name, offset in found]
        body = target.read_bytes()
        md5 = hashlib.md5(body, usedforsecurity=False).hexdigest()
        listed.append({"part": part, "generation": 0, "shard": f"shards/{target.name}", "size": len(body), "md5": md5})
        listed[-1] |= {"etag": md5, "samples": len(found)}
    shutil.rmtree(out)
    digest = _write_tables(source, place, where)
    facts = {"digest": digest, "format": format} | ({} if max_side is None else {"max_side": max_side})
    (place / SHARD_LIST).write_text(json.dumps(facts | {"shards": listed}))
    _publish(place, digest, format, listed)
    note_files(place)
    return place


def note_files(place: Path) -> None:
    """Write what the end notes of the tables as they are now."""
    tables = [path for path in place.rglob("*") if path.is_file() and path.relative_to(place).parts[0] not in _NO_TABLE]
    note = {str(path.relative_to(place)): _facts(path) for path in tables}
    (place / FINISHED).write_text(json.dumps({"files": note}))


def _facts(path: Path) -> dict[str, Any]:
    body = path.read_bytes()
    return {"bytes": len(body), "md5": hashlib.md5(body, usedforsecurity=False).hexdigest(), "etag": None}


def _offsets(shard: Path) -> list[tuple[str, int | None]]:
    """Return the key of each sample and where its image begins; in a Parquet shard FileName and nothing."""
    if shard.suffix == ".parquet":
        return [(name, None) for name in pl.read_parquet(shard, columns=["file_name"]).to_series()]
    with shard.open("rb") as file:
        members = members_of(OpenFile(file).read, 0, shard)
        return [(name.removesuffix(".jpg"), at) for name, at, _ in members if name.endswith(".jpg")]


def _write_tables(source: Path, place: Path, where: list[tuple[str, str, int | None]]) -> str:
    for name in _COPIED:
        if (source / name).exists():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, place / name)
    query: dict[str, Any] = {"query": {}}
    if (source / "query.json").exists():
        query = json.loads((source / "query.json").read_text())
    (place / "query.json").write_text(json.dumps(query | {"shards": "shards"}))
    masks = len(list((source / "segmentation" / "masks").glob("*"))) if (source / "segmentation").exists() else 0
    (place / "report.json").write_text(json.dumps({"masks": {"selected": masks, "present": masks}} if masks else {}))
    digest = manifest_digest(source / MANIFEST) or "none"
    manifest = pl.read_parquet(source / MANIFEST)
    key = pl.col("ImageID") if where[0][2] is not None else pl.col("FileName")
    places = pl.DataFrame(where, schema={"__key": pl.String, **SHARD_SCHEMA}, orient="row")
    manifest = manifest.with_columns(__key=key).join(places, on="__key", how="left", maintain_order="left")
    manifest.drop("__key").write_parquet(
        place / MANIFEST, metadata={"oid_async.query_digest": digest}, row_group_size=64
    )
    return digest


def _publish(place: Path, digest: str, format: str, listed: list[dict[str, Any]]) -> None:
    """Write plan.json, the list of the generation, and the records; what failed is in the first part of its split."""
    manifest = pl.read_parquet(place / MANIFEST)
    query = PublishedQuery(digest, format, 512 << 20, ("cvdf",), json.loads((place / "query.json").read_text()))
    parts = []
    for each in listed:
        split, number = each["part"].rsplit("-", 1)
        is_first = int(number) == 0
        is_here = (pl.col("Shard") == each["shard"]).fill_null(False)
        is_failed = (pl.col("Subset") == split) & pl.col("Shard").is_null() & is_first
        rows = manifest.filter(is_here | is_failed).with_columns(IdForm(True).key(), Offset="ShardOffset")
        outcomes = rows.select(
            (pl.col(name) if name in rows.columns else pl.lit(None)).cast(dtype).alias(name)
            for name, dtype in RECORD_SCHEMA.items()
        )
        part = Part(0, split, int(number), len(rows), each["size"], "0" * 32)
        note = ShardNote(each["shard"], each["size"], each["md5"], each["etag"], each["samples"])
        record = Record(0, part.name, part.md5, note, len(rows), each["samples"])
        _put(place / part.record_key, record.to_parquet(outcomes))
        _put(place / part.plan_key, b"PAR1")
        parts.append(part)
    _put(place / generation_key(0), Generation(0, parts).to_json())
    _put(place / PLAN, query.to_json())


def _put(path: Path, body: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)


def replace_bytes(path: Path, offset: int, body: bytes) -> None:
    """Overwrite some bytes of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(body)


def md5_base64(body: bytes) -> str:
    """Return an MD5 as a manifest has it."""
    return b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


def upload(place: Path, bucket: Bucket) -> Objects:
    """Put all files of a place into a bucket."""
    objects = Objects(bucket)
    for path in sorted(path for path in place.rglob("*") if path.is_file()):
        objects.put(str(path.relative_to(place)), path.read_bytes())
    return objects
