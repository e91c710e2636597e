"""A long run against a host where two images in a hundred go wrong: all accounted for, by us as by the server."""

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from support.published import tiny_jpeg
from support.scripted import Answer, http

from oid_async.openimages.catalogue import IMAGE_BUCKET

PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 64
EVERY = 50
# What the server does to one image in fifty, in turn: its answers, the last for ever, and the kind it ends as.
FAULTS: list[tuple[list[str], str | None]] = [
    (["404"], "not_found"),
    (["500", "ok"], None),
    (["410"], "gone"),
    (["reset", "ok"], None),
    (["html"], "not_image"),
    (["empty", "ok"], None),
    (["png"], "placeholder"),
    (["short", "short", "ok"], None),
    (["403"], "forbidden"),
    (["hang up", "ok"], None),
    (["503", "500", "ok"], None),
    (["html", "ok"], None),
    (["500"], "server_error"),
    (["stall", "ok"], None),
    (["loop"], "redirect"),
    (["429", "ok"], None),
]


def fault_of(number: int) -> tuple[list[str], str | None]:
    return FAULTS[number // EVERY % len(FAULTS)] if number % EVERY == 7 else (["ok"], None)


class SoakServer:
    """Serves image `number` at .../<number as 16 hex digits>.jpg; counts what it did."""

    def __init__(self) -> None:
        self.requests = 0
        self.whole = 0
        self.whole_bytes = 0
        self.asked: Counter[int] = Counter()
        self.hung_up_without_answer = 0

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ", 2)[1].decode()
                number = int(path.rsplit("/", 1)[1].removesuffix(".jpg"), 16)
                steps, _ = fault_of(number)
                step = steps[min(self.asked[number], len(steps) - 1)]
                self.asked[number] += 1
                self.requests += 1
                if not await self.answer(step, path, number, writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, step: str, path: str, number: int, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether the connection lives on."""
        body = picture(number)
        answers: dict[str, Answer] = {
            "html": http(200, b"<!DOCTYPE html><title>Sign in</title>"),
            "png": http(200, PNG),
            "empty": http(200),
            "short": http(200, body[:-20], length=len(body)),
            "reset": http(200, body[:60], length=len(body)),
            "loop": http(302, Location=path),
            "429": http(429),
        }
        if step == "ok":
            self.whole += 1
            self.whole_bytes += len(body)
            writer.write(http(200, body))
            await writer.drain()
            return True
        if step == "hang up":
            writer.transport.abort()
            return False
        if step == "stall":
            writer.write(http(200, body[:60], length=len(body)))
            await writer.drain()
            await asyncio.sleep(5)
            return False
        answer = answers[step] if step in answers else http(int(step))
        assert isinstance(answer, bytes)
        writer.write(answer)
        await writer.drain()
        if step == "reset":
            await asyncio.sleep(0.01)
            writer.transport.abort()
        return step not in ("short", "reset")


def picture(number: int) -> bytes:
    return tiny_jpeg(f"{number:016x}", 8 + number % 40, 8)


def write_soak_tables(folder: Path, count: int) -> list[str]:
    """Write the tables of so many images and return the options that name them."""
    folder.mkdir()
    ids = [f"{number:016x}" for number in range(count)]
    pl.DataFrame({"mid": ["/m/01226z"], "name": ["Football"]}).write_csv(folder / "classes.csv", include_header=False)
    pl.DataFrame({"ImageID": ids, "LabelName": "/m/01226z"}).write_csv(folder / "boxes.csv")
    images = pl.DataFrame({"ImageID": ids, "Subset": "train", "OriginalURL": ""})
    images.write_csv(folder / "images.csv")
    names = {"--label": "classes.csv", "--annotation": "boxes.csv", "--imageURL": "images.csv"}
    return [word for flag, name in names.items() for word in (flag, str(folder / name))]


async def soak(folder: Path, count: int) -> tuple[SoakServer, dict[str, object], float]:
    """Run the program on so many images; return the server, the report and the peak memory in MB."""
    tables = await asyncio.to_thread(write_soak_tables, folder, count)
    served = SoakServer()
    server = await asyncio.start_server(served.talk, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    command = [sys.executable, "-m", "oid_async", "download", *tables, "--mirror", url, "--source", "cvdf", "--json"]
    command += ["--savepath", str(folder / "out"), "--names", "id", "--timeout", "1", "--quiet"]

    def run() -> tuple[int, float]:
        with (folder / "report.json").open("wb") as report:
            process = subprocess.Popen(command, stdout=report)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        return process.returncode, usage.ru_maxrss / 1024

    async with server:
        code, peak = await asyncio.to_thread(run)
    assert code == 1
    return served, json.loads((folder / "report.json").read_text()), peak


def check(folder: Path, count: int, served: SoakServer, report: dict[str, object]) -> None:
    """Hold the program's books against the server's and against what was to be expected."""
    kinds = Counter(kind for number in range(count) if (kind := fault_of(number)[1]) is not None)
    failed = sum(kinds.values())
    assert report["failures"] == dict(sorted(kinds.items()))
    assert (report["selected"], report["downloaded"], report["failed"]) == (count, count - failed, failed)
    assert (report["pending"], report["present"]) == (0, 0)
    assert report["requests"] == served.requests
    assert served.whole == count - failed
    assert report["bytes"] == served.whole_bytes
    rows = pl.read_parquet(folder / "out" / "manifest.parquet")
    assert rows.get_column("ImageID").to_list() == [f"{number:016x}" for number in range(count)]
    assert dict(rows.group_by("Status").len().rows()) == {"ok": count - failed, "failed": failed}
    reasons = rows.filter(Status="failed").get_column("Reason").to_list()
    assert Counter(reasons) == kinds
    assert len(os.listdir(folder / "out" / "images")) == count - failed
    for number in range(0, count, 97):
        path = folder / "out" / "images" / f"{number:016x}.jpg"
        assert not path.exists() if fault_of(number)[1] else path.read_bytes() == picture(number)
    assert not (folder / "out" / ".oid_async" / "tmp").exists()
    assert IMAGE_BUCKET in rows.get_column("URL")[0]


async def test_every_image_of_a_long_run_is_accounted_for(tmp_path: Path) -> None:
    """1,000 images, 2 % of them in trouble: outcomes, kinds, requests and bytes equal the server's own count."""
    served, report, _ = await soak(tmp_path / "run", 1_000)
    await asyncio.to_thread(check, tmp_path / "run", 1_000, served, report)


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_a_hundred_thousand_images_are_accounted_for_in_flat_memory(tmp_path: Path) -> None:
    """100,000 images: the same books, and at most 100 bytes of memory an image above a run of 5,000."""
    peaks = {}
    for count in (5_000, 100_000):
        folder = tmp_path / str(count)
        served, report, peaks[count] = await soak(folder, count)
        await asyncio.to_thread(check, folder, count, served, report)
        print(f"{count} images: {report['seconds']:.1f} s, {served.requests} requests, peak {peaks[count]:.0f} MB")
    assert peaks[100_000] < peaks[5_000] + 95_000 * 100 / 1e6 + 10
