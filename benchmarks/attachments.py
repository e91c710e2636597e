"""Masks out of a remote archive and narratives out of gigabytes of traces, from nginx on loopback.

Usage:
    python benchmarks/attachments.py [masks|traces ...] [--entries 168000] [--gigabytes 2] [--work-dir FOLDER]

Prints bytes, requests, seconds and peak memory.  Exit status 2 if no measurement was possible.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import shutil
import sys
import time
import zipfile
import zlib
from pathlib import Path

import harness
import polars as pl
from harness import BenchError
from server import serve

from oid_async.events import ignore
from oid_async.http.client import Client
from oid_async.http.hosts import Hosts
from oid_async.http.retry import Limits
from oid_async.masks.fetch import MaskFetcher
from oid_async.narratives.traces import fetch_traces
from oid_async.openimages.catalogue import mask_archive, trace_keys
from oid_async.openimages.catalogue_tables import NARRATIVES_BUCKET
from oid_async.openimages.ids import KEY
from oid_async.store.attached_files import AttachedFiles

WANTED = 100
TRACE_BYTES = 33_000  # the mean of a published narrative: 16.7 GB of 507,444


def make_archive(path: Path, entries: int) -> list[str]:
    """Make an archive as large as a published one of train; return its members' names, in their order."""
    path.parent.mkdir(parents=True)
    chance = random.Random(1)
    names = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number in range(entries):
            names.append(f"0{chance.getrandbits(60):015x}_m01g317_{zlib.crc32(str(number).encode()):08x}.png")
            archive.writestr(zipfile.ZipInfo(names[-1]), chance.randbytes(1500 + number % 200))
    return names


def client_for(url: str) -> Client:
    allowed = [("127.0.0.1", int(url.rpartition(":")[2]))]
    return Client(Hosts(None, 1.0), Limits(), connections=16, allowed=allowed)


async def measure_masks(work: Path, url: str, names: list[str], archive_bytes: int) -> None:
    spread = names[:: len(names) // (WANTED - 1)][:WANTED]
    runs = {"side by side, no directory yet": names[1000 : 1000 + WANTED], "spread, directory kept": spread}
    runs["every one"] = names
    (work / "tmp").mkdir()
    print(f"an archive of {len(names)} masks, {archive_bytes / 1e6:.1f} MB")
    for what, wanted in runs.items():
        shutil.rmtree(work / "masks", ignore_errors=True)
        frame = pl.LazyFrame({"MaskPath": wanted, "Subset": ["train"] * len(wanted), "Width": 0, "Height": 0})
        async with client_for(url) as client:
            began = time.perf_counter()
            masks = MaskFetcher(
                client,
                ignore,
                mirror=url,
                cache=work / "cache",
                files=AttachedFiles(work / "masks"),
                scratch=work / "tmp",
            )
            report = await masks.fetch(frame)
            seconds = time.perf_counter() - began
            if report.downloaded != len(wanted):
                raise BenchError(f"{what}: {report.downloaded} of {len(wanted)} masks came")
            parts = f"{report.directory_bytes / 1e6:.1f} MB of directory, {report.bytes / 1e6:.2f} MB of masks"
            print(f"{what:32} {len(wanted):7} masks  {client.requests:4} requests  {parts}  {seconds:6.2f} s")


def make_traces(path: Path, size: int) -> list[str]:
    """Make a shard of narratives with traces; return the ImageIDs in it."""
    path.parent.mkdir(parents=True)
    chance = random.Random(2)
    points = json.dumps([{"x": 0.1234, "y": 0.5678, "t": 0.123}] * (TRACE_BYTES // 38))
    ids, written = [], 0
    with path.open("w", encoding="utf-8") as file:
        while written < size:
            ids.append(f"{chance.getrandbits(64):016x}")
            head = f'"dataset_id": "open_images_validation", "image_id": "{ids[-1]}", "annotator_id": 7, "caption": "x"'
            written += file.write(f'{{{head}, "traces": [{points}], "voice_recording": "a/b.ogg"}}\n')
    return ids


async def measure_traces(work: Path, url: str, ids: list[str], size: int) -> None:
    wanted = sorted(ids)[::10]
    keys = pl.Series(KEY, [int(image_id, 16) for image_id in wanted], dtype=pl.UInt64)
    async with client_for(url) as client:
        began = time.perf_counter()
        report = await fetch_traces(
            client, ignore, keys, ["validation"], mirror=url, scratch=work, target=work / "narratives.jsonl"
        )
        seconds = time.perf_counter() - began
    if report.found != len(wanted) or report.lost:
        raise BenchError(f"{report.found} of {len(wanted)} narratives were found")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"traces: {size / 1e9:.2f} GB, every tenth of {len(ids)} kept: {seconds:.1f} s, "
        f"{size / 1e6 / seconds:.0f} MB/s, peak {peak:.0f} MB of memory"
    )


def run(args: argparse.Namespace) -> None:
    nginx = harness.find_tool("nginx")
    size = int(args.gigabytes * 1e9)
    with harness.work_folder(args.work_dir, 3 * size) as work:
        served = work / "served"
        for part in args.parts:
            own = work / part
            own.mkdir()
            if part == "masks":
                path = served / "openimages" / mask_archive("train", "0")
                names = make_archive(path, args.entries)
                with serve(nginx, served) as url:
                    asyncio.run(measure_masks(own, url, names, path.stat().st_size))
            else:
                path = served / NARRATIVES_BUCKET / trace_keys("validation")[0][0]
                ids = make_traces(path, size)
                with serve(nginx, served) as url:
                    asyncio.run(measure_traces(own, url, ids, path.stat().st_size))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["masks", "traces"], choices=["masks", "traces"])
    parser.add_argument("--entries", type=int, default=168_000)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--work-dir", type=Path)
    args = parser.parse_args()
    try:
        run(args)
    except (BenchError, OSError) as error:
        print(f"{os.path.basename(sys.argv[0])}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
