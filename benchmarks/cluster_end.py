"""Measure the end of a download past one machine: how long one manifest of all records takes, and how much memory.

Usage:
    python benchmarks/cluster_end.py [--images N] [--parts N] [--boxes N] [--work-dir DIR] [--keep]

Makes a place in a folder as if workers had filled it, without a byte of an image: plan, records, empty shards.  Ten in
eleven parts are of a first generation, in which a tenth of the images failed; the others ask for those again.  Then the
end is made twice, each time by a process of its own; the second finds nothing to do.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import Any

import polars as pl

from oid_async.cluster.generations import read_generations, read_query
from oid_async.cluster.layout import PLAN, generation_key, shard_key
from oid_async.cluster.part_file import nested, part_bytes
from oid_async.cluster.published import Generation, Part, PublishedQuery
from oid_async.cluster.record import RECORD_SCHEMA, Record, ShardNote
from oid_async.events import ignore
from oid_async.openimages.catalogue_tables import BOX_COLUMNS, CLICK_COLUMNS
from oid_async.openimages.ids import KEY, hexadecimal
from oid_async.select.plan import PLAN_COLUMNS

CLASSES = 600
LATER = 10
MD5 = "1B2M2Y8AsgTpgAmY7PhCfg=="
COLUMNS = (*BOX_COLUMNS, *CLICK_COLUMNS)
# The share of images in each split of the published table.
SHARES = {"train": 0.982, "validation": 0.0045, "test": 0.0135}


def query() -> PublishedQuery:
    labels = {f"/m/{number:05}": f"Class {number}" for number in range(CLASSES)}
    boxes = {"labels": None, "class_names": labels, "columns": COLUMNS}
    return PublishedQuery("0" * 32, "webdataset", 512 << 20, ("cvdf", "original"), {"query": {}}, {"bbox": boxes})


def keys_of(images: int) -> dict[str, pl.Series]:
    """So many keys, each once, sorted within each split."""
    keys = pl.int_range(images, eager=True, dtype=pl.UInt64).hash(1).unique().shuffle(1)
    found, start = {}, 0
    for split, share in SHARES.items():
        count = round(share * len(keys)) if split != "test" else len(keys) - start
        found[split] = keys.slice(start, count).sort().alias(KEY)
        start += count
    return found


def images_of(keys: pl.Series, split: str) -> pl.DataFrame:
    """The rows of a plan, with texts as long as published ones."""
    image, person = hexadecimal(), (pl.col(KEY) % 40_000).cast(pl.String)
    flickr = pl.lit("https://www.flickr.com/")
    columns = {
        "ImageID": image,
        "Subset": pl.lit(split),
        "FileName": pl.concat_str(image, pl.lit(".jpg")),
        "Action": pl.lit("fetch"),
        "OriginalURL": pl.concat_str(pl.lit("https://farm7.staticflickr.com/5769/"), image, pl.lit("_o.jpg")),
        "OriginalLandingURL": pl.concat_str(flickr, pl.lit("photos/"), person, pl.lit("/"), image),
        "License": pl.lit("https://creativecommons.org/licenses/by/2.0/"),
        "AuthorProfileURL": pl.concat_str(flickr, pl.lit("people/"), person, pl.lit("/")),
        "Author": pl.concat_str(pl.lit("Photographer No. "), person),
        "Title": pl.concat_str(pl.lit("Picture, "), (pl.col(KEY) % 9973).cast(pl.String), pl.lit(" of many")),
        "OriginalSize": (pl.col(KEY) % 3_000_000).cast(pl.String),
        "OriginalMD5": pl.concat_str(image, pl.lit("MpgAmY==")),
        "Thumbnail300KURL": pl.concat_str(pl.lit("https://c1.staticflickr.com/6/5769/"), image, pl.lit("_z.jpg")),
        "Rotation": pl.lit("0.0"),
        "Sources": pl.lit("cvdf,original"),
    }
    frame = keys.to_frame().with_columns(**columns)
    missing = [pl.lit(None, pl.String).alias(name) for name in PLAN_COLUMNS if name not in frame.columns]
    return frame.with_columns(*missing, Next=pl.lit(None, pl.String)).select(*PLAN_COLUMNS, "Sources", "Next")


def boxes_of(images: pl.DataFrame, mean: float) -> pl.DataFrame:
    """Box rows by KEY: of each image none to twice the mean."""
    count = (pl.col(KEY).hash(2) % 1000 * (2 * mean) / 1000).round().cast(pl.Int64)
    rows = images.select(KEY, "ImageID", nth=pl.int_ranges(0, count)).explode("nth").drop_nulls()
    number = (pl.struct(KEY, "nth").hash(3) % 1_000_000).cast(pl.String).str.zfill(6)
    columns: dict[str, pl.Expr] = dict.fromkeys(COLUMNS, pl.concat_str(pl.lit("0."), number))
    columns |= {"LabelName": pl.concat_str(pl.lit("/m/"), (pl.col(KEY) % CLASSES).cast(pl.String).str.zfill(5))}
    columns |= {"Source": pl.lit("xclick"), "Confidence": pl.lit("1"), "ImageID": pl.col("ImageID")}
    columns |= {name: pl.lit("0") for name in COLUMNS if name.startswith("Is")}
    return rows.select(KEY, **{name: columns[name] for name in COLUMNS})


def outcomes_of(images: pl.DataFrame, is_ok: pl.Expr) -> pl.DataFrame:
    """The rows of a record."""
    url = pl.concat_str(
        pl.lit("https://open-images-dataset.s3.amazonaws.com/"), "Subset", pl.lit("/"), "ImageID", pl.lit(".jpg")
    )
    ok = {
        "FileName": pl.col("FileName"),
        "Bytes": pl.col(KEY) % 600_000,
        "MD5": pl.concat_str("ImageID", pl.lit("AmY7Ph==")),
        "Width": pl.lit(1024),
        "Height": pl.lit(768),
        "Offset": (pl.int_range(pl.len()) * 300_000),
    }
    failed = {"Reason": pl.lit("not_found"), "Detail": pl.lit("cvdf:not_found"), "Known": pl.lit("cvdf:not_found")}
    frame = images.with_columns(is_ok=is_ok).with_columns(
        Status=pl.when("is_ok").then(pl.lit("ok")).otherwise(pl.lit("failed")),
        Source=pl.lit("cvdf"),
        URL=url,
        Attempts=pl.lit(1),
        **{name: pl.when("is_ok").then(value) for name, value in ok.items()},
        **{name: pl.when(~pl.col("is_ok")).then(value) for name, value in failed.items()},
    )
    there = frame.columns
    return frame.select(
        (pl.col(name) if name in there else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in RECORD_SCHEMA.items()
    )


class Place:
    """Writes parts and their records into a folder."""

    def __init__(self, folder: Path, mean: float) -> None:
        self.folder = folder
        self.query = query()
        self._mean = mean
        self._numbers = dict.fromkeys(SHARES, 0)

    def add(self, generation: int, split: str, keys: pl.Series, is_ok: pl.Expr) -> Part:
        images = images_of(keys, split)
        body = part_bytes(nested(images, "bbox", boxes_of(images, self._mean)), {})
        part = Part(generation, split, self._numbers[split], len(keys), 0, hashlib.md5(body).hexdigest())
        self._numbers[split] += 1
        rows = outcomes_of(images, is_ok)
        saved = int((rows.get_column("Status") == "ok").sum())
        note = ShardNote(shard_key(part.name, "tar"), 0, MD5, MD5, saved)
        record = Record(generation, part.name, part.md5, note if saved else None, len(rows), saved)
        self.put(part.plan_key, body)
        self.put(part.record_key, record.to_parquet(rows))
        if saved:
            self.put(note.key, b"")
        return part

    def put(self, key: str, body: bytes) -> None:
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)


def make(folder: Path, images: int, parts: int, boxes: int) -> int:
    """Make a place; return how many images it has."""
    place, keys = Place(folder, boxes / images), keys_of(images)
    total = sum(map(len, keys.values()))
    is_lost = pl.col(KEY).hash(4) % LATER == 0
    lost = {split: every.to_frame().filter(is_lost).to_series() for split, every in keys.items()}
    place.put(PLAN, place.query.to_json())
    for number, some in enumerate((keys, lost)):
        count = parts // (LATER + 1)
        size = -(-sum(map(len, some.values())) // (count if number else parts - count))
        made = [
            place.add(number, split, every.slice(start, size), ~is_lost if number == 0 else pl.lit(True))
            for split, every in some.items()
            for start in range(0, len(every), size)
        ]
        place.put(generation_key(number), Generation(number, made).to_json())
        print(f"generation {number}: {len(made)} parts of {size} images", file=sys.stderr, flush=True)
    return total


def finish_once(folder: Path, scratch: Path) -> dict[str, Any]:
    """Make the end in this process; return its totals and what it took."""
    from oid_async.cluster.finish import finish
    from oid_async.objects.store import Objects

    objects = Objects(folder)
    there = read_query(objects)
    assert there is not None
    start = monotonic()
    totals = finish(objects, there, read_generations(objects), scratch, ignore)
    seconds = monotonic() - start
    used = resource.getrusage(resource.RUSAGE_SELF)
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) / 1000 for line in status.splitlines() if line.startswith("VmHWM"))
    took = {"took_s": round(seconds, 1), "cpu_s": round(used.ru_utime + used.ru_stime, 1), "peak_mb": round(peak)}
    return took | {name: value for name, value in asdict(totals).items() if value}


def measure(folder: Path, scratch: Path) -> dict[str, Any]:
    """Make the end in a process of its own."""
    command = [sys.executable, __file__, "--finish", str(folder), "--work-dir", str(scratch)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    values: dict[str, Any] = json.loads(done.stdout)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=8_400_000, help="of the first generation")
    parser.add_argument("--parts", type=int, default=10_824)
    parser.add_argument("--boxes", type=int, default=16_000_000)
    parser.add_argument("--work-dir", type=Path, help="on a disk with 20 GB free (default: a temporary folder)")
    parser.add_argument("--keep", action="store_true", help="keep the place, and use it if it is there")
    parser.add_argument("--finish", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.finish is not None:
        print(json.dumps(finish_once(args.finish, args.work_dir)))
        return
    with tempfile.TemporaryDirectory(dir=args.work_dir) as temporary:
        folder = (args.work_dir or Path(temporary)) / "cluster-end" if args.keep else Path(temporary) / "place"
        if not (folder / generation_key(1)).exists():
            start = monotonic()
            images = make(folder, args.images, args.parts, args.boxes)
            print(f"{images} images in {monotonic() - start:.0f} s", file=sys.stderr)
        for name in ("first", "again"):
            scratch = Path(temporary) / "scratch"
            scratch.mkdir()
            print(name, json.dumps(measure(folder, scratch)), flush=True)
            shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
