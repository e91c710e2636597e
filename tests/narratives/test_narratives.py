"""Full narratives and their recordings: filtered as they come, whole or told."""

import io
import json
import os
import random
import shutil
from array import array
from pathlib import Path

import polars as pl
import pytest
from aiohttp import web
from support.published import typed

from oid_async.events import ignore
from oid_async.http.client import Client
from oid_async.http.hosts import Hosts
from oid_async.http.retry import Limits
from oid_async.narratives.recordings import RecordingFetcher
from oid_async.narratives.traces import NarrativeFilter, TraceReport, fetch_traces
from oid_async.openimages.catalogue import trace_keys
from oid_async.openimages.ids import KEY
from oid_async.origin.server import Origin, published_object
from oid_async.store.attached_files import AttachedFiles

SHARD = f"localized-narratives/{trace_keys('validation')[0][0]}"


def story(image_id: str, annotator: int, words: int = 5) -> bytes:
    said = {"dataset_id": "open_images_validation", "image_id": image_id, "annotator_id": annotator}
    caption = 'an "image_id": "ffffffffffffffff" — in a caption' + " x" * words
    path = f"open_images_validation/open_images_validation_{image_id}_{annotator}.ogg"
    return json.dumps({**said, "caption": caption, "voice_recording": path}, ensure_ascii=False).encode()


def stories(count: int) -> list[bytes]:
    chance = random.Random(count)
    ids = [f"{chance.getrandbits(64):016x}" for _ in range(count)]
    return [story(image_id, number, chance.randrange(300)) for number, image_id in enumerate([*ids, *ids[::4]])]


def wanted_of(lines: list[bytes], every: int) -> tuple[pl.Series, list[bytes]]:
    """Return the keys of every n-th image, and its lines by ImageID and published order."""
    ids = sorted({json.loads(line)["image_id"] for line in lines})[::every]
    kept = [line for line in lines if json.loads(line)["image_id"] in ids]
    keys = pl.Series(KEY, [int(image_id, 16) for image_id in ids], dtype=pl.UInt64)
    return keys, sorted(kept, key=lambda line: json.loads(line)["image_id"])


def client_for(origin: Origin) -> Client:
    allowed = [("127.0.0.1", int(origin.url.rpartition(":")[2]))]
    return Client(Hosts(None, 1.0), Limits(retries=2, backoff_s=0.001), connections=8, allowed=allowed)


@pytest.mark.parametrize("block", [1, 7, 1000, 1 << 20])
def test_lines_are_found_wherever_blocks_end(block: int) -> None:
    """Cut anywhere, a wanted line comes out byte by byte; a last one without its end too; junk is told by line."""
    lines = stories(30)
    body = b"\n".join([*lines[:10], b"", b"{not json", b'{"image_id": "XYZ"}', *lines[10:]])
    keys, kept = wanted_of(lines, 3)
    spool, report = io.BytesIO(), TraceReport()
    found = NarrativeFilter(array("Q", keys.to_list()), spool, report)
    found.start_shard("shard")
    for at in range(0, len(body), block):
        found.feed(body[at : at + block])
    found.end()
    index = found.index()
    text = spool.getvalue()
    assert [text[at : at + size] for at, size in index.select("at", "size").iter_rows()] == [
        line + b"\n" for line in kept
    ]
    assert report.damaged == [("shard", 12), ("shard", 13)]
    assert found.complete_bytes == len(body)


class Cut:
    """Serves a shard and hangs up in its middle, so many times."""

    def __init__(self, body: bytes, times: int) -> None:
        self.body, self.times = body, times
        self.ranges: list[str] = []

    async def serve(self, request: web.Request) -> web.StreamResponse:
        if request.match_info["key"] != SHARD:
            raise web.HTTPNotFound
        self.ranges.append(request.headers.get("Range", ""))
        whole = published_object(request, self.body, "application/octet-stream")
        if not self.times:
            return whole
        self.times -= 1
        assert isinstance(whole.body, bytes)
        response = web.StreamResponse(status=whole.status, headers=whole.headers)
        response.content_length = len(whole.body)
        await response.prepare(request)
        await response.write(whole.body[: len(whole.body) // 2])
        assert request.transport is not None
        request.transport.close()
        return response


async def test_a_broken_connection_is_gone_on_with(tmp_path: Path) -> None:
    """Nothing is read twice but the line that was cut, and the result is that of one reading."""
    lines = stories(200)
    keys, kept = wanted_of(lines, 2)
    cut = Cut(b"".join(line + b"\n" for line in lines), 2)
    async with Origin(cut.serve) as origin, client_for(origin) as client:
        report = await fetch_traces(
            client, ignore, keys, ["validation"], mirror=origin.url, scratch=tmp_path, target=tmp_path / "found.jsonl"
        )
    assert not report.lost
    assert (tmp_path / "found.jsonl").read_bytes().splitlines() == kept
    assert len(cut.ranges) == 3
    assert all(said.startswith("bytes=") and said != "bytes=0-" for said in cut.ranges[1:])
    assert report.bytes < 1.2 * len(cut.body)


async def test_a_shard_that_cannot_be_had_is_told_and_leaves_no_file(tmp_path: Path) -> None:
    """What is not whole is not written."""
    keys, _ = wanted_of(stories(3), 1)
    cut = Cut(b"", 0)
    async with Origin(cut.serve) as origin, client_for(origin) as client:
        report = await fetch_traces(
            client, ignore, keys, ["test"], mirror=origin.url, scratch=tmp_path, target=tmp_path / "found.jsonl"
        )
    assert len(report.lost) == 1
    assert "not_found" in report.lost[0]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("worse", ["a page", "an error", "half", "nothing"])
async def test_traces_of_a_wrong_file_replace_no_captions(tmp_path: Path, worse: str) -> None:
    """A login page, an error in JSON, less than half the narratives: what is there stays, and one line says why."""
    lines = stories(40)
    keys, _ = wanted_of(lines, 1)
    target = tmp_path / "found.jsonl"
    captions = b'{"image_id": "x", "caption": "y"}\n' * 40
    target.write_bytes(captions)
    page = b"<!DOCTYPE html>\n<html>\n<body>sign in</body></html>\n"
    bodies = {"a page": page, "an error": b'{"error": "sign in"}', "half": b"\n".join(lines[:19]), "nothing": b""}

    async def serve(request: web.Request) -> web.Response:
        return web.Response(body=bodies[worse])

    async with Origin(serve) as origin, client_for(origin) as client:
        report = await fetch_traces(client, ignore, keys, ["test"], mirror=origin.url, scratch=tmp_path, target=target)
    assert len(report.lost) == 1
    assert target.read_bytes() == captions


BAD_LINES = {
    "cut within": b'{"image_id": "%s", "caption": "x, "traces": []}',
    "a thousand brackets": b'{"image_id": "%s", "traces": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "brackets before the id": b"[" * 20_000 + b'"image_id": "%s"}',
    "two ids": b'{"image_id": "%s", "image_id": "0000000000000001"}',
    "a number without end": b'{"image_id": "%s", "t": ' + b"9" * 9_000 + b"}",
    "no object": b'["image_id": "%s"}',
}


@pytest.mark.parametrize("bad", BAD_LINES)
async def test_a_line_that_cannot_be_read_costs_itself_alone(tmp_path: Path, bad: str) -> None:
    """A wanted line that begins as a narrative and is none is left out and told; its recording is not sought."""
    lines = stories(5)
    keys, kept = wanted_of(lines, 1)
    broken = BAD_LINES[bad] % json.loads(lines[0])["image_id"].encode()
    cut = Cut(b"".join(line + b"\n" for line in [*lines[:3], broken, *lines[3:]]), 0)
    target = tmp_path / "found.jsonl"
    async with Origin(cut.serve) as origin, client_for(origin) as client:
        report = await fetch_traces(
            client, ignore, keys, ["validation"], mirror=origin.url, scratch=tmp_path, target=target
        )
        assert [line for _, line in report.damaged] == [4]
        assert target.read_bytes().splitlines() == kept
        # A file of somebody else's may have such a line all the same.
        target.write_bytes(target.read_bytes() + broken + b"\n")
        voices = RecordingFetcher(client, mirror=origin.url, files=AttachedFiles(tmp_path / "voice"), scratch=tmp_path)
        found = await voices.fetch(target)
    assert (found.selected, found.unnamed) == (len(kept), 1)


async def test_a_recording_that_is_named_often_is_saved(tmp_path: Path) -> None:
    """Fetched several times at once, it does not get in its own way."""
    narratives = tmp_path / "narratives.jsonl"
    narratives.write_bytes((story("0" * 16, 1) + b"\n") * 40)

    async def serve(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"OggS" + bytes(1 << 20))

    async with Origin(serve) as origin, client_for(origin) as client:
        voices = RecordingFetcher(client, mirror=origin.url, files=AttachedFiles(tmp_path / "voice"), scratch=tmp_path)
        report = await voices.fetch(narratives)
    assert report.failures == []
    assert sorted(os.listdir(tmp_path)) == ["narratives.jsonl", "voice"]
    assert len(os.listdir(tmp_path / "voice")) == 1


def test_traces_that_cannot_be_had_hold_up_nothing_else(lookalike: Path, tmp_path: Path) -> None:
    """The run ends in an error that names them; masks are there and recorded, recordings were asked for."""
    mirror = shutil.copytree(lookalike, tmp_path / "mirror")
    (mirror / SHARD).unlink()
    folder = tmp_path / "d"
    words = ("download", "--mirror", mirror, "--split", "validation", "--savepath", folder, "--ndata", 30)
    done = typed(*words, "--kind", "narrative", "--kind", "segmentation", "--traces", "--voice")
    assert done.code == 2, done.stderr
    assert "traces: " in done.stderr
    assert "name no recording" in done.stderr
    assert list((folder / "segmentation" / "masks").iterdir())
    assert typed("verify", folder).code == 0


async def test_recordings_land_whole_or_are_told(tmp_path: Path) -> None:
    """Those that are there are not asked for; what is no OGG file, or leads elsewhere, fails alone."""
    lines = [story(f"{number:016x}", number) for number in range(6)]
    lines.append(json.dumps({"image_id": "f" * 16, "caption": "", "voice_recording": "../../evil.ogg"}).encode())
    lines.append(json.dumps({"image_id": "e" * 16, "caption": ""}).encode())
    narratives = tmp_path / "narratives.jsonl"
    narratives.write_bytes(b"".join(line + b"\n" for line in lines))
    asked: list[str] = []

    async def serve(request: web.Request) -> web.StreamResponse:
        asked.append(request.match_info["key"])
        if asked[-1].endswith("_2.ogg"):
            return web.Response(body=b"<html>")
        if asked[-1].endswith("_3.ogg"):
            raise web.HTTPNotFound
        return web.Response(body=b"OggS" + asked[-1].encode())

    for expected in (6, 2):
        asked.clear()
        async with Origin(serve) as origin, client_for(origin) as client:
            voices = RecordingFetcher(
                client, mirror=origin.url, files=AttachedFiles(tmp_path / "voice"), scratch=tmp_path
            )
            report = await voices.fetch(narratives)
        assert len(set(asked)) == expected
    assert (report.selected, report.present, report.downloaded, report.unnamed) == (7, 4, 0, 1)
    assert sorted(reason for _, _, reason, _ in report.failures) == ["bad_url", "checksum", "not_found"]
    assert len(list((tmp_path / "voice").iterdir())) == 4
    assert not (tmp_path.parent / "evil.ogg").exists()


def test_a_download_has_traces_and_recordings(lookalike: Path, tmp_path: Path) -> None:
    """The full objects of the saved images as published, in order, and a recording of each; a second run asks none."""
    folder = tmp_path / "d"
    words = ("download", "--mirror", lookalike, "--split", "validation", "--savepath", folder)
    for _ in range(2):
        done = typed(*words, "--kind", "narrative", "--traces", "--voice", "--json")
        assert done.code == 0, done.stderr
    shard = lookalike / SHARD
    wanted = sorted(shard.read_bytes().splitlines(), key=lambda line: json.loads(line)["image_id"])
    assert (folder / "narrative" / "narratives.jsonl").read_bytes().splitlines() == wanted
    recordings = json.loads(done.stdout)["recordings"]
    assert recordings == {"selected": len(wanted), "present": len(wanted), "downloaded": 0, "failed": 0, "bytes": 0}
    assert all(path.read_bytes().startswith(b"OggS") for path in (folder / "narrative" / "voice").iterdir())
