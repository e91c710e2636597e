"""Answers that say that an image is not for AI: they end it, whatever way they come, and are remembered."""

import asyncio
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.scripted import Answer, Scripted, http

from oid_async.events import ignore
from oid_async.http.retry import Limits
from oid_async.jobs.download import Run
from oid_async.options.query import Options
from oid_async.origin.lookalike import Lookalike, with_comment
from oid_async.report import Report

IMAGE_ID = "00000000000000a1"
CVDF = f"/open-images-dataset/train/{IMAGE_ID}.jpg"
JPEG = with_comment(Lookalike().scenes[8][0], "tests")
NOAI, NOINDEX = http(200, JPEG, X_Robots_Tag="noai"), http(200, JPEG, X_Robots_Tag="noindex")
PLAIN = http(200, JPEG)


def query_of(folder: Path, server: Scripted, count: int = 1, **options: Any) -> dict[str, Any]:
    """Write tables of so many images; the original of the last one is /original.jpg, its thumbnail /thumb.jpg."""
    ids = [f"{int(IMAGE_ID, 16) - number:016x}" for number in reversed(range(count))]
    folder.mkdir(exist_ok=True)
    (folder / "images.csv").write_text(
        "ImageID,Subset,OriginalURL,OriginalSize,OriginalMD5,Thumbnail300KURL\n"
        + "".join(f"{image},train,{server.url}/original.jpg,,,{server.url}/thumb.jpg\n" for image in ids)
    )
    (folder / "ids.txt").write_text("".join(f"train/{image}\n" for image in ids))
    query = {"image_url": folder / "images.csv", "image_ids": folder / "ids.txt", "kinds": ["none"], "names": "id"}
    query |= {"mirror": server.url, "source": ["cvdf"], "savepath": folder / "out"}
    return query | options


async def run(query: dict[str, Any], limits: Limits | None = None) -> Report:
    options = Options.of(**query)
    return await Run(options, ignore, limits=limits or Limits.of(options)).download()


def failures(folder: Path) -> list[tuple[str, str]]:
    return pl.read_csv(folder / "out" / "failures.csv").select("Reason", "Detail").rows()


async def test_it_ends_the_image_and_no_other_source_is_asked(tmp_path: Path) -> None:
    """The kind, what was said, and the address are written down; the original is not asked for."""
    async with Scripted({CVDF: [NOAI], "/original.jpg": [PLAIN]}) as server:
        report = await run(query_of(tmp_path, server, source=["cvdf", "original"]))
    assert (report.failed, report.failures, report.requests) == (1, {"opted_out": 1}, 1)
    assert failures(tmp_path) == [("opted_out", "cvdf:opted_out (noai)")]
    row = pl.read_parquet(tmp_path / "out/manifest.parquet").row(0, named=True)
    assert (row["Status"], row["Reason"], row["Source"]) == ("failed", "opted_out", "cvdf")
    assert not (tmp_path / "out/images" / f"{IMAGE_ID}.jpg").exists()


@pytest.mark.parametrize("source", ["original", "thumbnail"])
async def test_it_ends_an_image_at_its_second_source(tmp_path: Path, source: str) -> None:
    """A 404 speaks of no image, whatever else it says; the answer of the next source counts."""
    path = "/original.jpg" if source == "original" else "/thumb.jpg"
    scripts: dict[str, list[Answer]] = {CVDF: [http(404, b"no", X_Robots_Tag="noai")]}
    async with Scripted({**scripts, path: [http(200, JPEG, tdm_reservation="1")]}) as server:
        report = await run(query_of(tmp_path, server, source=["cvdf", source], allow_hosts=[server.url[7:]]))
    assert report.failures == {"opted_out": 1}
    assert failures(tmp_path) == [("opted_out", f"cvdf:not_found; {source}:opted_out (tdm-reservation)")]


async def test_images_on_one_connection_end_one_by_one(tmp_path: Path) -> None:
    """Among images that follow each other on a connection those alone end, and small bodies cost no connection."""
    images = [f"/open-images-dataset/train/{number:016x}.jpg" for number in range(0x92, 0xA2)]
    scripts: dict[str, list[Answer]] = {
        path: [NOAI if number % 3 == 1 else http(200, JPEG, X_Robots_Tag="googlebot: noai") if number % 3 else PLAIN]
        for number, path in enumerate(images)
    }
    async with Scripted(scripts) as server:
        report = await run(query_of(tmp_path, server, len(images), concurrency=1))
    assert (report.downloaded, report.failures) == (11, {"opted_out": 5})
    assert server.requests == dict.fromkeys(images, 1)
    assert server.connections == 1


async def test_no_body_is_waited_for(tmp_path: Path) -> None:
    """An image of a megabyte that never comes ends with its head."""
    held = asyncio.Event()

    async def head_alone(writer: asyncio.StreamWriter) -> None:
        writer.write(http(200, b"", length=3 << 20, X_Robots_Tag="noimageai"))
        await held.wait()

    async with Scripted({CVDF: [head_alone]}) as server:
        async with asyncio.timeout(20):
            report = await run(query_of(tmp_path, server))
        held.set()
    assert report.failures == {"opted_out": 1}
    assert report.bytes == 0


@pytest.mark.parametrize("form", ["chunked", "gzip", "throttled", "capped"])
async def test_every_way_of_receiving_looks(tmp_path: Path, form: str) -> None:
    """Bodies of no known length, coded ones, those under --limit-rate and of a host with a cap."""
    answer = http(200, JPEG, X_Robots_Tag="noai")
    if form == "gzip":
        answer = http(200, JPEG, X_Robots_Tag="noai", Content_Encoding="gzip")
    elif form == "chunked":
        head = http(200, b"", length=None, X_Robots_Tag="noai")
        answer = head.replace(b"Connection: close", b"Transfer-Encoding: chunked")
        answer += b"%x\r\n%b\r\n0\r\n\r\n" % (len(JPEG), JPEG)
    options: dict[str, dict[str, Any]] = {"throttled": {"limit_rate": "100M"}, "capped": {"rate": 1000.0}}
    async with Scripted({CVDF: [answer]}) as server:
        report = await run(query_of(tmp_path, server, **options.get(form, {})))
    assert report.failures == {"opted_out": 1}


@pytest.mark.parametrize(("first", "last", "ended"), [("noai", "all", False), ("all", "noai", True)])
async def test_of_redirects_the_last_answer_counts(tmp_path: Path, first: str, last: str, ended: bool) -> None:
    """A redirect brings no image."""
    scripts: dict[str, list[Answer]] = {
        CVDF: [http(302, Location="/elsewhere.jpg", X_Robots_Tag=first)],
        "/elsewhere.jpg": [http(200, JPEG, X_Robots_Tag=last)],
    }
    async with Scripted(scripts) as server:
        report = await run(query_of(tmp_path, server))
    assert report.failures == ({"opted_out": 1} if ended else {})
    assert report.downloaded == (0 if ended else 1)


async def test_the_rest_of_a_body_may_say_so(tmp_path: Path) -> None:
    """A body that broke off and whose rest is not for AI leaves nothing behind."""
    body = JPEG + b"\0" * 4000
    first = http(200, body[:3000], length=len(body), ETag='"e"')
    of_rest = f"bytes 3000-{len(body) - 1}/{len(body)}"
    rest = http(206, body[3000:], ETag='"e"', Content_Range=of_rest, X_Robots_Tag="noai")

    async def cut(writer: asyncio.StreamWriter) -> None:
        writer.write(rest if server.requests[CVDF] > 1 else first)
        await writer.drain()
        writer.close()

    async with Scripted({CVDF: [cut]}) as server:
        report = await run(query_of(tmp_path, server), Limits(backoff_s=0.001, memory_bytes=1000, resume_bytes=2000))
        assert "range: bytes=3000-" in server.heads[CVDF].lower()
    assert report.failures == {"opted_out": 1}
    assert not list((tmp_path / "out").rglob("*.part"))


async def test_it_is_remembered_as_long_as_it_is_respected(tmp_path: Path) -> None:
    """No request while it holds; --retry-failed asks again, and so does a run that does not respect it."""
    async with Scripted({CVDF: [NOAI]}) as server:
        query = query_of(tmp_path, server, source=["cvdf", "original"])
        for options, asked in (
            ({}, 1),
            ({}, 1),
            ({"respect_opt_out": "noindex"}, 1),
            ({"retry_failed": True}, 2),
        ):
            report = await run(query | options)
            assert (report.failures, server.requests[CVDF]) == ({"opted_out": 1}, asked)
            assert failures(tmp_path) == [("opted_out", "cvdf:opted_out (noai)")]
        assert (await run(query | {"respect_opt_out": False})).downloaded == 1
        assert (await run(query)).present == 1
        assert (server.requests[CVDF], server.requests["/original.jpg"]) == (3, 0)


async def test_indexing_is_remembered_for_those_who_respect_it(tmp_path: Path) -> None:
    """What --respect-opt-out noindex refuses is asked for by the next usual run."""
    async with Scripted({CVDF: [NOINDEX]}) as server:
        query = query_of(tmp_path, server)
        for _ in range(2):
            report = await run(query | {"respect_opt_out": "noindex"})
            assert (report.failures, server.requests[CVDF]) == ({"opted_out": 1}, 1)
        assert failures(tmp_path) == [("opted_out", "cvdf:opted_out (noindex)")]
        assert (await run(query)).downloaded == 1


async def test_top_up_takes_the_next_image_in_its_place(tmp_path: Path) -> None:
    """--ndata N --top-up has N images, none of which is one of those."""
    last = CVDF.replace("a1", "a0")
    async with Scripted({CVDF: [PLAIN], last: [NOAI]}) as server:
        report = await run(query_of(tmp_path, server, 2, limit=1, top_up=True))
    assert (report.downloaded, report.failures, report.requests) == (1, {"opted_out": 1}, 2)


@pytest.mark.slow
async def test_worker_processes_obey(tmp_path: Path) -> None:
    """The option travels with the settings of worker processes."""
    images = [f"/open-images-dataset/train/{number:016x}.jpg" for number in range(0xA1 - 59, 0xA2)]
    async with Scripted({path: [NOINDEX] for path in images}) as server:
        query = query_of(tmp_path, server, len(images), processes=2)
        assert (await run(query | {"respect_opt_out": "noindex"})).failures == {"opted_out": 60}
        assert (await run(query)).downloaded == 60
