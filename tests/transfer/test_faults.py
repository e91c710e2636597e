"""What goes wrong while an image is fetched: the outcome, its kind, and what the server saw of it."""

import asyncio
import base64
import errno
import gzip
import hashlib
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.scripted import Answer, Scripted, http

from oid_async.cli.result_text import summary_lines
from oid_async.errors import StorageError
from oid_async.events import ignore
from oid_async.http.retry import Limits
from oid_async.jobs.download import Run
from oid_async.options.keywords import QueryOptions
from oid_async.options.query import Options
from oid_async.origin.lookalike import Lookalike, with_comment
from oid_async.origin.server import Origin
from oid_async.report import Report
from oid_async.store import disk

JPEG = with_comment(Lookalike().scenes[8][0], "tests")
PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 64
HTML = b"<!DOCTYPE html><title>Sign in</title>"
IMAGE_ID = "00000000000000a1"
CVDF = f"/open-images-dataset/train/{IMAGE_ID}.jpg"
ETAG = f'"{hashlib.md5(JPEG).hexdigest()}"'
MD5 = base64.b64encode(hashlib.md5(JPEG).digest()).decode()


def tables(folder: Path, url: str, *, size: int | None = len(JPEG), md5: str | None = MD5) -> QueryOptions:
    """Write three one-image tables whose OriginalURL is /original.jpg on the scripted server."""
    (folder / "classes.csv").write_text("/m/01226z,Football\n")
    (folder / "boxes.csv").write_text(f"ImageID,LabelName\n{IMAGE_ID},/m/01226z\n")
    (folder / "images.csv").write_text(
        "ImageID,Subset,OriginalURL,OriginalSize,OriginalMD5,Thumbnail300KURL\n"
        f"{IMAGE_ID},train,{url}/original.jpg,{'' if size is None else size},{md5 or ''},{url}/thumb.jpg\n"
    )
    return {
        "label": folder / "classes.csv",
        "annotation": folder / "boxes.csv",
        "image_url": folder / "images.csv",
    }


async def fetch(
    tmp_path: Path,
    scripts: dict[str, list[Answer]],
    *,
    source: str = "cvdf",
    limits: Limits | None = None,
    **known: Any,
) -> tuple[Report, Scripted, str | None]:
    """Run a one-image download against a script; return the report, the server, and the Detail of a failure."""
    async with Scripted(scripts) as server:
        query = tables(tmp_path, server.url, **known)
        query |= {"mirror": server.url, "source": [source], "names": "id", "savepath": tmp_path / "out"}
        run = Run(Options.of(**query), ignore, limits=limits or Limits(backoff_s=0.001))
        report = await run.download()
    saved = tmp_path / "out" / "images" / f"{IMAGE_ID}.jpg"
    assert saved.exists() == (report.downloaded + report.present == 1)
    if saved.exists():
        assert saved.read_bytes() == JPEG
    assert not (tmp_path / "out" / ".oid_async" / "tmp").exists()
    failures = tmp_path / "out" / "failures.csv"
    detail = pl.read_csv(failures).get_column("Detail").item() if failures.exists() else None
    return report, server, detail


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


FAILURES: list[tuple[str, list[Answer], str, int]] = [
    ("404", [http(404)], "not_found", 1),
    ("410", [http(410)], "gone", 1),
    ("403", [http(403)], "forbidden", 1),
    ("500 for ever", [http(500)], "server_error", 5),
    ("429 for ever", [http(429)], "rate_limited", 5),
    ("no bytes", [http(200)], "empty", 2),
    ("html", [http(200, HTML)], "not_image", 2),
    ("a PNG", [http(200, PNG)], "placeholder", 1),
    ("called gzip, which it is not", [http(200, JPEG, Content_Encoding="gzip")], "not_image", 2),
    ("cut body", [http(200, JPEG[:-400], length=len(JPEG))], "truncated", 5),
    ("cut body without a length", [http(200, JPEG[:-400], length=None)], "truncated", 5),
    ("hang up", [hang_up], "network", 5),
    ("redirect loop", [http(302, Location="/open-images-dataset/train/00000000000000a1.jpg")], "redirect", 6),
    ("redirect to file", [http(302, Location="file:///etc/passwd")], "blocked", 1),
    ("photo unavailable", [http(302, Location="http://127.0.0.1:1/photo_unavailable_l.png")], "placeholder", 1),
    ("not HTTP", [b"SSH-2.0-OpenSSH_9.2\r\n\r\n"], "bad_response", 2),
]


@pytest.mark.parametrize(("answers", "kind", "requests"), [case[1:] for case in FAILURES], ids=[c[0] for c in FAILURES])
async def test_each_failure_has_its_kind_and_its_number_of_requests(
    tmp_path: Path, answers: list[Answer], kind: str, requests: int
) -> None:
    """A failure is reported by one stable kind, asked for no more often than it deserves, and counted truthfully."""
    report, server, detail = await fetch(tmp_path, {CVDF: answers})
    assert (report.failed, report.failures, detail) == (1, {kind: 1}, f"cvdf:{kind}")
    assert sum(server.requests.values()) == requests
    assert report.requests == requests


HICCUPS: list[tuple[str, list[Answer]]] = [
    ("500 twice", [http(500), http(503), http(200, JPEG)]),
    ("cut once", [http(200, JPEG[:900], length=len(JPEG)), http(200, JPEG)]),
    ("hang up once", [hang_up, http(200, JPEG)]),
    ("empty once", [http(200), http(200, JPEG)]),
    ("html once", [http(200, HTML), http(200, JPEG)]),
    ("redirect", [http(301, Location="/elsewhere.jpg")]),
    ("gzip that nobody asked for", [http(200, gzip.compress(JPEG), Content_Encoding="gzip")]),
    ("wrong type, right bytes", [http(200, JPEG, Content_Type="text/html")]),
    ("no length", [http(200, JPEG, length=None)]),
]


@pytest.mark.parametrize("answers", [case[1] for case in HICCUPS], ids=[case[0] for case in HICCUPS])
async def test_what_passes_is_asked_again_and_lands_whole(tmp_path: Path, answers: list[Answer]) -> None:
    """A passing fault costs a retry, never the image."""
    report, _, _ = await fetch(tmp_path, {CVDF: answers, "/elsewhere.jpg": [http(200, JPEG)]})
    assert (report.downloaded, report.failed, report.bytes) == (1, 0, len(JPEG))


async def test_retry_after_is_kept(tmp_path: Path) -> None:
    """A host that says 'in one second' is not asked earlier."""
    _, server, _ = await fetch(tmp_path, {CVDF: [http(429, Retry_After="1"), http(200, JPEG)]})
    assert server.times[1] - server.times[0] >= 1.0


async def test_a_wait_beyond_our_patience_fails_at_once(tmp_path: Path) -> None:
    """A Retry-After of hours ends as rate_limited without waiting for it."""
    report, server, _ = await fetch(tmp_path, {CVDF: [http(429, Retry_After="86400")]})
    assert (report.failures, server.requests[CVDF]) == ({"rate_limited": 1}, 1)


async def test_only_what_is_final_moves_on_to_the_next_source(tmp_path: Path) -> None:
    """A missing copy falls back to the original; a host in trouble does not."""
    original: list[Answer] = [http(200, JPEG)]
    gone, _, _ = await fetch(tmp_path, {CVDF: [http(404)], "/original.jpg": original}, source="cvdf,original")
    assert (gone.downloaded, gone.sources) == (1, {"original": 1})
    (tmp_path / "busy").mkdir()
    scripts: dict[str, list[Answer]] = {CVDF: [http(500)], "/original.jpg": original}
    busy, server, detail = await fetch(tmp_path / "busy", scripts, source="cvdf,original")
    assert (busy.failures, detail, server.requests["/original.jpg"]) == ({"server_error": 1}, "cvdf:server_error", 0)


async def test_every_source_is_named_in_the_detail_and_the_last_is_the_reason(tmp_path: Path) -> None:
    """Reason is the last source's kind, Detail names all of them."""
    scripts: dict[str, list[Answer]] = {"/original.jpg": [http(410)], "/thumb.jpg": [http(200, PNG)]}
    report, _, detail = await fetch(tmp_path, scripts, source="cvdf,original,thumbnail")
    assert report.failures == {"placeholder": 1}
    assert detail == "cvdf:not_found; original:gone; thumbnail:placeholder"


async def test_final_failures_are_remembered_per_source(tmp_path: Path) -> None:
    """The next run asks nothing that is known to be gone, and a new source is asked all the same."""
    async with Scripted({"/original.jpg": [http(200, JPEG)]}) as server:
        given = tables(tmp_path, server.url)
        given |= {"mirror": server.url, "source": ["cvdf"], "names": "id", "savepath": tmp_path / "out"}
        for _ in range(2):
            report = await Run(Options.of(**given), ignore).download()
            assert report.failures == {"not_found": 1}
        assert server.requests[CVDF] == 1
        assert report.requests == 0
        given["source"] = ["cvdf", "original"]
        report = await Run(Options.of(**given), ignore).download()
        assert (report.downloaded, server.requests[CVDF]) == (1, 1)


@pytest.mark.parametrize(
    ("known", "answers", "kind"),
    [
        ({}, [http(200, JPEG + b"x" * 10)], "too_large"),
        ({"size": len(JPEG) + 5}, [http(200, JPEG)], "checksum"),
        ({"md5": "AAAAAAAAAAAAAAAAAAAAAA=="}, [http(200, JPEG)], "checksum"),
        ({}, [http(200, PNG)], "placeholder"),
        ({}, [http(200, HTML)], "not_image"),
    ],
)
async def test_an_original_must_have_the_published_size_and_md5(
    tmp_path: Path, known: dict[str, Any], answers: list[Answer], kind: str
) -> None:
    """OriginalSize and OriginalMD5 decide about the original, the most specific kind first."""
    report, _, detail = await fetch(tmp_path, {"/original.jpg": answers}, source="original", **known)
    assert (report.failures, detail) == ({kind: 1}, f"original:{kind}")


async def test_a_mismatched_etag_counts_only_after_a_match(tmp_path: Path) -> None:
    """Whether ETags are MD5s must have been seen before one of them may refuse an image."""
    report, _, _ = await fetch(tmp_path, {CVDF: [http(200, JPEG, ETag='"0123456789abcdef0123456789abcdef"')]})
    assert report.downloaded == 1


async def test_a_large_body_is_streamed_and_bounded(tmp_path: Path) -> None:
    """Above the memory limit a body goes through a temporary file; above --max-image-bytes it is refused."""
    small = Limits(backoff_s=0.001, memory_bytes=1000)
    report, _, _ = await fetch(tmp_path, {CVDF: [http(200, JPEG)]}, limits=small)
    assert report.downloaded == 1
    (tmp_path / "bounded").mkdir()
    tiny = Limits(backoff_s=0.001, memory_bytes=1000, max_image_bytes=2000)
    report, _, _ = await fetch(tmp_path / "bounded", {CVDF: [http(200, JPEG, length=None)]}, limits=tiny)
    assert report.failures == {"too_large": 1}


async def test_what_was_too_large_is_asked_for_once_more_is_allowed(tmp_path: Path) -> None:
    """A remembered `too_large` ends when --max-image-bytes is raised; else it is kept, and lowering forgets nothing."""
    async with Scripted({CVDF: [http(200, JPEG)]}) as server:
        query = tables(tmp_path, server.url)
        query |= {"mirror": server.url, "source": ["cvdf"], "names": "id", "savepath": tmp_path / "out"}

        async def run(largest: int) -> Report:
            return await Run(Options.of(**query | {"max_image_bytes": largest}), ignore).download()

        assert (await run(1000)).failures == {"too_large": 1}
        for largest in (1000, 900):
            assert (await run(largest)).requests == 0
        assert (await run(len(JPEG))).downloaded == 1
        assert server.requests[CVDF] == 2


async def test_requests_say_who_asks_and_want_the_bytes_as_they_are(tmp_path: Path) -> None:
    """Every request names the program and asks for no compression; no cookie, no credentials."""
    _, server, _ = await fetch(tmp_path, {CVDF: [http(200, JPEG, Set_Cookie="a=b")]})
    head = server.heads[CVDF]
    assert "User-Agent: oid-async/" in head
    assert "Accept-Encoding: identity" in head
    assert "Cookie" not in head
    assert "Authorization" not in head


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1/a.jpg", "file:///etc/passwd", "", "not a url", "http://", "http://[::1"]
)
async def test_unusable_urls_cost_no_request(tmp_path: Path, url: str) -> None:
    """A URL of another scheme is blocked, one that is none is a bad_url; nothing is sent for either."""
    async with Scripted() as server:
        given = tables(tmp_path, server.url)
        text = (tmp_path / "images.csv").read_text()
        (tmp_path / "images.csv").write_text(text.replace(f"{server.url}/original.jpg", url))
        given |= {"source": ["original"], "names": "id", "savepath": tmp_path / "out"}
        report = await Run(Options.of(**given), ignore).download()
    kind = "blocked" if url.startswith(("ftp", "file")) else "bad_url"
    assert (report.failures, report.requests) == ({kind: 1}, 0)


async def test_a_mended_table_is_asked_again(tmp_path: Path) -> None:
    """A remembered failure speaks of its URL: when the table names another one, that one is asked."""
    async with Scripted({"/alive.jpg": [http(200, JPEG)]}) as server:
        query = tables(tmp_path, server.url)
        query |= {"source": ["original"], "names": "id", "savepath": tmp_path / "out"}
        query |= {"allow_hosts": [server.url.removeprefix("http://")]}
        assert (await Run(Options.of(**query), ignore).download()).failures == {"not_found": 1}
        assert (await Run(Options.of(**query), ignore).download()).requests == 0
        table = tmp_path / "images.csv"
        table.write_text(table.read_text().replace("/original.jpg", "/alive.jpg"))
        assert (await Run(Options.of(**query), ignore).download()).downloaded == 1


async def test_a_full_disk_stops_the_run_and_it_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENOSPC while an image is written is a StorageError: no half file, no temporary, and the next run completes."""
    objects = Lookalike(staged=False)
    write, written = disk.write_all, []

    def write_until_full(file: int, body: bytes) -> None:
        written.append(file)
        if len(written) > 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, body)

    async with Origin(objects.serve) as origin:
        options = Options.of(mirror=origin.url, splits=["validation"], names="id", savepath=tmp_path / "out")
        monkeypatch.setattr("oid_async.store.image_writer.write_all", write_until_full)
        with pytest.raises(StorageError, match="disk is full"):
            await Run(options, ignore).download()
        assert len(list((tmp_path / "out" / "images").iterdir())) == 20
        assert not (tmp_path / "out" / ".oid_async" / "tmp").exists()
        monkeypatch.undo()
        report = await Run(options, ignore).download()
    assert (report.present, report.downloaded) == (20, 20)


async def test_tables_with_columns_in_another_order_are_saved_alike(tmp_path: Path) -> None:
    """Two splits whose box tables order their columns differently make one bbox.csv with every value in its column."""
    objects = Lookalike(staged=False)
    key = "v5/validation-annotations-bbox.csv"
    rows = pl.read_csv(objects.tables[key], infer_schema=False)
    objects.tables[key] = rows.select(reversed(rows.columns)).write_csv().encode()
    async with Origin(objects.serve) as origin:
        query = Options.of(mirror=origin.url, splits=["train", "validation"], names="id", savepath=tmp_path / "out")
        await Run(query, ignore).download()
    saved = pl.read_csv(tmp_path / "out" / "bbox" / "bbox.csv", infer_schema=False)
    train = pl.read_csv(objects.tables["v6/oidv6-train-annotations-bbox.csv"], infer_schema=False)
    both = pl.concat([train, rows], how="diagonal")
    assert saved.select(both.columns).sort(saved.columns[:13]).equals(both.sort(saved.columns[:13]))


async def test_a_file_of_other_bytes_is_not_taken_for_the_original(tmp_path: Path) -> None:
    """Without a journal a JPEG whose MD5 is not the original's may be the next source's; where it came from is open."""
    async with Scripted({"/original.jpg": [http(200, JPEG)]}) as server:
        query = tables(tmp_path, server.url) | {"mirror": server.url, "source": ["original"], "names": "id"}
        query |= {"allow_hosts": [server.url.removeprefix("http://")], "savepath": tmp_path / "out"}
        (tmp_path / "out" / "images").mkdir(parents=True)
        mine = tmp_path / "out" / "images" / f"{IMAGE_ID}.jpg"
        mine.write_bytes(with_comment(JPEG, "mine"))
        report = await Run(Options.of(**query), ignore).download()
        assert (report.present, report.downloaded) == (0, 1)
        assert mine.read_bytes() == with_comment(JPEG, "mine")
        query |= {"source": ["original", "cvdf"], "savepath": tmp_path / "both"}
        (tmp_path / "both" / "images").mkdir(parents=True)
        (tmp_path / "both" / "images" / f"{IMAGE_ID}.jpg").write_bytes(with_comment(JPEG, "mine"))
        report = await Run(Options.of(**query), ignore).download()
    assert (report.present, report.downloaded) == (1, 0)
    assert pl.read_parquet(tmp_path / "both" / "manifest.parquet").get_column("Source").to_list() == [None]


async def test_a_size_with_a_point_is_a_size(tmp_path: Path) -> None:
    """OriginalSize as a pandas round trip leaves it still bounds and checks the original."""
    async with Scripted({"/original.jpg": [http(200, JPEG + b"x")]}) as server:
        query = tables(tmp_path, server.url, md5=None) | {"source": ["original"], "names": "id"}
        table = tmp_path / "images.csv"
        table.write_text(table.read_text().replace(f",{len(JPEG)},", f",{len(JPEG)}.0,"))
        query |= {"allow_hosts": [server.url.removeprefix("http://")], "savepath": tmp_path / "out"}
        assert (await Run(Options.of(**query), ignore).download()).failures == {"too_large": 1}


@pytest.mark.parametrize(("body", "failures"), [(JPEG, {}), (JPEG[:-2] + b"\0\xff\xd9", {"checksum": 1})])
async def test_an_md5_in_hex_is_an_md5(tmp_path: Path, body: bytes, failures: dict[str, int]) -> None:
    """A table of a user's own may give OriginalMD5 in hex: it is checked as base64 is."""
    in_hex = hashlib.md5(JPEG).hexdigest()
    async with Scripted({"/original.jpg": [http(200, body)]}) as server:
        query = tables(tmp_path, server.url, size=None, md5=in_hex) | {"source": ["original"], "names": "id"}
        query |= {"allow_hosts": [server.url.removeprefix("http://")], "savepath": tmp_path / "out"}
        assert (await Run(Options.of(**query), ignore).download()).failures == failures


async def test_too_little_room_is_said_in_fitting_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is needed and what is free are told as bytes, kB, MB: whatever they come to."""
    monkeypatch.setattr("oid_async.jobs.planning.plan.free_bytes", lambda path: 512)
    query = tables(tmp_path, "https://farm1.staticflickr.com", size=81_200)
    query |= {"source": ["original"], "savepath": tmp_path / "out"}
    with pytest.raises(StorageError, match=r"^81\.2 kB are to be fetched and 512 bytes are free"):
        await Run(Options.of(**query), ignore).download()


async def test_a_redirect_that_leads_nowhere_is_called_so(tmp_path: Path) -> None:
    """The words for `redirect` hold for one without a Location as for a loop."""
    report, _, _ = await fetch(tmp_path, {CVDF: [http(302)]})
    assert report.failures == {"redirect": 1}
    assert "redirect 1 (redirects that lead nowhere, in circles or too far)" in "\n".join(summary_lines(report))
