"""What a run measures of its hosts equals what the servers saw, within its resolution."""

import asyncio
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from support.fasttime import run_fast
from support.scripted import Answer, Scripted, http

import oid_async
from oid_async.events import ignore
from oid_async.http.client import Client
from oid_async.http.hosts import Hosts
from oid_async.http.retry import Limits
from oid_async.jobs.download import Run
from oid_async.options.query import Options
from oid_async.origin.lookalike import Lookalike, with_comment

JPEG = with_comment(Lookalike().scenes[8][0], "tests")
FIRST_BYTE_S = 0.05
WIDTH = 1 / 32  # of a bucket, relative
SLACK_MS = 150.0  # a machine with much to do


def in_train(image_id: str) -> str:
    return f"/open-images-dataset/train/{image_id}.jpg"


async def late(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(FIRST_BYTE_S)
    writer.write(http(200, JPEG, Connection="close"))
    await writer.drain()


async def slow_body(writer: asyncio.StreamWriter) -> None:
    answer = http(200, JPEG, Connection="close")
    writer.write(answer[:-1000])
    await writer.drain()
    await asyncio.sleep(0.4)
    writer.write(answer[-1000:])
    await writer.drain()


async def fetched(tmp_path: Path, url: str, ids: list[str], **options: Any) -> oid_async.Report:
    """Return the report of a run that fetches these images of train from the bucket of a mirror."""
    listed = [f"train/{image_id}" for image_id in ids]
    query = Options.of(image_ids=listed, kinds=["none"], mirror=url, savepath=tmp_path / "out", names="id", **options)
    return await Run(query, ignore, limits=Limits(backoff_s=0.02, retries=query.retries)).download()


async def test_numbers_of_a_host_are_the_servers_own(tmp_path: Path) -> None:
    """Requests, connections, bytes, retries and failures by kind; the times that the server has staged."""
    plain = [f"{number:016x}" for number in range(1, 41)]
    asked, busy, cut, gone, odd = (f"{number:016x}" for number in range(101, 106))
    scripts: dict[str, list[Answer]] = {in_train(image_id): [http(200, JPEG)] for image_id in plain}
    scripts |= {
        in_train(asked): [http(429, Retry_After="1"), http(200, JPEG)],
        in_train(busy): [http(503), http(503), http(200, JPEG)],
        in_train(cut): [http(200, JPEG[:-400], length=len(JPEG)), http(200, JPEG)],
        in_train(gone): [http(404)],
        in_train(odd): [http(200, b"<html>no image</html>")],
    }
    async with Scripted(scripts) as server:
        report = await fetched(tmp_path, server.url, [*plain, asked, busy, cut, gone, odd])
    [(name, host)] = report.hosts.items()
    assert name == f"127.0.0.1:{server.port}"
    assert host["requests"] == report.requests == sum(server.requests.values()) == 40 + 2 + 3 + 2 + 1 + 2
    assert (host["images"], report.downloaded) == (43, 43)
    assert host["connections"] == server.connections == host["connect_ms"]["count"]
    # What was sent with 200, whole or not.
    assert host["bytes"] == 44 * len(JPEG) - 400 + 2 * len(b"<html>no image</html>")
    assert host["retries"] == {"not_image": 1, "rate_limited": 1, "server_error": 2, "truncated": 1}
    assert host["failures"] == {"not_found": 1, "not_image": 2, "rate_limited": 1, "server_error": 2, "truncated": 1}
    assert host["first_byte_ms"]["count"] == host["requests"]
    assert host["total_ms"]["count"] == 43 + 2
    waits = host["waits"]
    assert waits["retry_after"]["count"] == 1
    assert waits["retry_after"]["seconds"] == pytest.approx(1.1, abs=0.2)
    assert waits["backoff"]["count"] == 4
    assert host["dns_ms"]["count"] == 0


def tables(folder: Path, urls: list[str]) -> dict[str, Any]:
    """Write tables of one image at each URL, and return the options that name them."""
    ids = [f"{number:016x}" for number in range(1, len(urls) + 1)]
    rows = {
        "label": ("/m/01226z,Football", []),
        "annotation": ("ImageID,LabelName", [f"{image_id},/m/01226z" for image_id in ids]),
        "image_url": (
            "ImageID,Subset,OriginalURL",
            [f"{image_id},train,{url}" for image_id, url in zip(ids, urls, strict=True)],
        ),
    }
    for name, (head, lines) in rows.items():
        (folder / f"{name}.csv").write_text("\n".join([head, *lines, ""]))
    return {name: folder / f"{name}.csv" for name in rows}


async def test_times_are_those_of_the_host_that_took_them(tmp_path: Path) -> None:
    """One host takes 50 ms to its first byte, one 400 ms more for the rest of a body; a hop counts where it was."""
    paths = [f"/{number}.jpg" for number in range(8)]
    async with (
        Scripted({path: [late] for path in paths}) as slow,
        Scripted({path: [slow_body] for path in paths}) as dripping,
        Scripted({path: [http(302, Location=f"{slow.url}{path}")] for path in paths}) as moved,
    ):
        urls = [f"{server.url}{path}" for server in (slow, dripping) for path in paths[:4]]
        urls += [f"{moved.url}{path}" for path in paths[4:]]
        servers = [slow, dripping, moved]
        report = await oid_async.download(
            source=["original"],
            savepath=tmp_path / "out",
            names="id",
            allow_hosts=[f"127.0.0.1:{server.port}" for server in servers],
            **tables(tmp_path, urls),
        )
    assert report.downloaded == 12
    hosts = [report.hosts[f"127.0.0.1:{server.port}"] for server in servers]
    assert [host["requests"] for host in hosts] == [server.requests.total() for server in servers] == [8, 4, 4]
    assert [host["images"] for host in hosts] == [8, 4, 0]
    assert [host["bytes"] for host in hosts] == [8 * len(JPEG), 4 * len(JPEG), 0]
    assert [host["connections"] for host in hosts] == [server.connections for server in servers]
    late_ms = hosts[0]["first_byte_ms"]
    assert 50 * (1 - WIDTH) <= late_ms["p50"] <= 50 * (1 + WIDTH) + SLACK_MS
    assert late_ms["p50"] <= late_ms["p90"] <= late_ms["p99"] <= late_ms["max"]
    assert hosts[1]["first_byte_ms"]["p50"] < 50 + SLACK_MS
    assert 400 * (1 - WIDTH) <= hosts[1]["total_ms"]["p50"] <= 400 * (1 + WIDTH) + SLACK_MS


async def test_a_look_up_and_a_connection_have_times_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How long a resolver takes is not the host's time to connect; what tables cost is told apart from images."""
    look_up = socket.getaddrinfo

    def slowly(host: str, *args: Any, **kwargs: Any) -> Any:
        time.sleep(0.3)
        return look_up("127.0.0.1" if host == "slow.test" else host, *args, **kwargs)

    monkeypatch.setattr("oid_async.http.resolver.socket.getaddrinfo", slowly)
    rows = tables(tmp_path, ["https://nowhere.invalid/a.jpg"])
    boxes = rows.pop("annotation").read_bytes()
    async with Scripted({in_train("0" * 15 + "1"): [http(200, JPEG)], "/boxes.csv": [http(200, boxes)]}) as server:
        url = f"http://slow.test:{server.port}"
        report = await oid_async.download(
            mirror=url, savepath=tmp_path / "out", names="id", annotation=f"{url}/boxes.csv", **rows
        )
    host = report.hosts[f"slow.test:{server.port}"]
    assert (host["requests"], host["bytes"], host["connections"]) == (1, len(JPEG), 1)
    assert host["other"] == {"requests": 1, "bytes": len(boxes), "connections": 1}
    assert host["dns_ms"]["count"] == host["connect_ms"]["count"] == 1
    assert 300 * (1 - WIDTH) <= host["dns_ms"]["max"] <= 300 + SLACK_MS
    assert host["connect_ms"]["max"] < 300


async def test_a_host_that_is_not_there_is_counted_by_its_failures(tmp_path: Path) -> None:
    """Without a connection there is no request, no time and no byte, but each attempt that failed and its retry."""
    async with Scripted() as server:
        port = server.port
    report = await fetched(tmp_path, f"http://127.0.0.1:{port}", ["0" * 16], retries=1)
    host = report.hosts[f"127.0.0.1:{port}"]
    assert (host["requests"], host["connections"], host["first_byte_ms"]["count"]) == (0, 0, 0)
    assert (host["failures"], host["retries"]) == ({"network": 2}, {"network": 1})


def test_waiting_for_a_cap_counts_as_the_time_of_the_run_that_it_took() -> None:
    """Many requests wait at once for a rate, or many bodies for a limit on bytes: their time is counted once."""

    async def wait() -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        hosts = Hosts(10.0, 1.0, clock=loop.time, sleep=asyncio.sleep)
        hosts.measures.clock = loop.time
        host = hosts.named("x.org:443")
        began = loop.time()
        await asyncio.gather(*(hosts.admit(host, ("x.org", 443)) for _ in range(40)))
        capped_s = loop.time() - began
        async with Client(hosts, Limits(rate_bytes_s=10_000), connections=4) as client:
            began = loop.time()
            await asyncio.gather(*(client.wait_for_rate(10_000, host) for _ in range(3)))
            limited_s = loop.time() - began
        host.pause(5.0, now=loop.time())
        host.pause(8.0, now=loop.time())
        await asyncio.sleep(6.0)
        found: dict[str, Any] = hosts.measures.hosts()["x.org:443"]["waits"]
        assert found["rate_cap"]["seconds"] == pytest.approx(capped_s, abs=0.1)
        assert found["limit_rate"]["seconds"] == pytest.approx(limited_s, abs=0.1)
        return found

    found = run_fast(wait())
    assert found["rate_cap"]["count"] == 39
    assert found["rate_cap"]["seconds"] == pytest.approx(4.0, abs=0.3)
    assert found["limit_rate"] == {"count": 3, "seconds": pytest.approx(3.0, abs=0.2)}
    assert found["paused"] == {"count": 2, "seconds": pytest.approx(6.0, abs=0.1)}
