"""Memory: flat whatever the server sends."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.hostile import JPEG, bomb, endless_body, endless_header, endless_headers, write_tables
from support.scripted import Answer, Scripted, http

HOSTILE: list[tuple[str, Answer]] = [
    ("endless", endless_body),
    ("bomb", http(200, bomb(), Content_Encoding="gzip")),
    ("header", endless_header),
    ("headers", endless_headers),
]


def peak_mb(command: list[str]) -> tuple[int, float]:
    """Run a command; return its exit code and its peak memory in MB."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss / 1024


@pytest.mark.parametrize(
    "bound",
    [pytest.param([], marks=pytest.mark.slow, id="64 MiB"), pytest.param(["--max-image-bytes", "3M"], id="3 MiB")],
)
async def test_whatever_a_server_sends_memory_stays_flat(tmp_path: Path, bound: list[str]) -> None:
    """Endless bodies, bombs and floods of headers peak within 50 MB of a run in which nothing happens."""
    peaks = {}
    each = 5 if bound == [] else 20
    async with Scripted() as server:
        for name in ("quiet", "hostile"):
            urls = []
            for number in range(4 * each):
                kind, answer = HOSTILE[number % 4] if name == "hostile" else ("", http(200, JPEG))
                path = f"/{name}-{kind}-{number}.jpg"
                server.scripts[path] = [answer]
                urls.append((f"{server.url}{path}", None, None))
            tables = write_tables(tmp_path / name, urls)
            command = [sys.executable, "-m", "oid_async", "download", "--source", "original", "--names", "id", *bound]
            command += ["--allow-host", f"127.0.0.1:{server.port}", "--savepath", str(tmp_path / f"out-{name}")]
            for option, flag in (("label", "--label"), ("annotation", "--annotation"), ("image_url", "--imageURL")):
                command += [flag, str(tables[option])]
            code, peaks[name] = await asyncio.to_thread(peak_mb, command)
            assert code == (0 if name == "quiet" else 1)
    assert peaks["hostile"] < peaks["quiet"] + 50
