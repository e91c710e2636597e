"""A forked child works or is told at once that it cannot; it never hangs."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.programs

PROGRAM = """
import asyncio, os, sys, oid_async
saved, used = sys.argv[1], sys.argv[2] == "used"
if used:
    asyncio.run(oid_async.verify(savepath=saved))
    dataset = oid_async.open(saved)
child = os.fork()
if not child:
    try:
        if used:
            dataset.images.collect()
        print(asyncio.run(oid_async.verify(savepath=saved)).clean, flush=True)
    except oid_async.errors.UsageError as error:
        print(error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


def said(*words: object) -> str:
    """Return what the child of a program prints."""
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_a_forked_child_never_hangs(tmp_path: Path) -> None:
    """Forked before Polars was used it works; forked later it raises, with what to do."""
    demo = [sys.executable, "-m", "oid_async", "demo", str(tmp_path / "d"), "--quiet"]
    subprocess.run(demo, check=True, timeout=100, env={"OID_ASYNC_CACHE": str(tmp_path / "c")})
    assert said(tmp_path / "d", "fresh") == "True\n"
    assert "start it with spawn" in said(tmp_path / "d", "used")
