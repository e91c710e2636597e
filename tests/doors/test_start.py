"""What a small run does besides fetching its images: it is over before anybody notices, and these keep it so."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from oid_async.origin.server import Origin, folder

pytestmark = pytest.mark.programs

# A run prints which modules it has loaded, and how often it has synced a file, made TLS contexts and started programs.
COUNTING = """
import json, os, ssl, subprocess, sys
counts = {"fsync": 0, "tls": 0, "programs": 0}
def counted(name, owner, function):
    def call(*args, _real=getattr(owner, function), **named):
        counts[name] += 1
        return _real(*args, **named)
    setattr(owner, function, call)
counted("fsync", os, "fsync")
counted("tls", ssl, "create_default_context")
counted("programs", subprocess.Popen, "__init__")
from oid_async.cli.main import main
assert main(sys.argv[1:]) == 0
print(json.dumps(counts | {"modules": sorted(sys.modules)}))
"""
# Of other commands, of other kinds of places, of what a terminal or a secret address alone needs.
UNUSED = (
    "aiohttp",
    "aiolimiter",
    "difflib",
    "oid_async.cluster.",
    "oid_async.dataset.saved",
    "oid_async.formats.",
    "oid_async.gallery.",
    "oid_async.masks.",
    "oid_async.narratives.",
    "oid_async.objects.",
    "oid_async.origin.",
    "oid_async.pages.charts",
    "oid_async.select.image_where",
    "oid_async.statistics.",
    "oid_async.tables.headless",
    "oid_async.torch.",
    "oid_async.workers.process",
    "rich",
    "tarfile",
    "urllib.request",
    "xml",
)
USED_ALL_THE_SAME = {"oid_async.cluster", "oid_async.cluster.layout"}  # names in a folder


@pytest.fixture
def ids(lookalike: Path, tmp_path: Path) -> Path:
    images = sorted((lookalike / "open-images-dataset" / "train").glob("*.jpg"))[:3]
    listed = tmp_path / "ids.txt"
    listed.write_text("".join(f"train/{image.stem}\n" for image in images))
    return listed


async def run_of(lookalike: Path, tmp_path: Path, *words: str) -> dict[str, object]:
    """Run a download from the look-alike in a process of its own and return what it has counted."""
    async with Origin(folder(lookalike)) as origin:
        places = ["--mirror", origin.url, "--cache-dir", str(tmp_path / "cache"), "--savepath", str(tmp_path / "out")]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", COUNTING, "download", *places, *words),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, said = await process.communicate()
    assert process.returncode == 0, said.decode()
    counted: dict[str, object] = json.loads(out)
    return counted


def unused(modules: object) -> list[str]:
    """Return which of the modules that were loaded nobody needs."""
    assert isinstance(modules, list)
    loaded = {str(name) for name in modules} - USED_ALL_THE_SAME
    return [name for name in loaded if f"{name}.".startswith(tuple(f"{each.rstrip('.')}." for each in UNUSED))]


async def test_images_by_a_list_load_and_sync_little(lookalike: Path, ids: Path, tmp_path: Path) -> None:
    """A short list of ids from an address starts no worker, reads no certificates and loads what it uses alone."""
    counted = await run_of(lookalike, tmp_path, "--image-ids", str(ids), "--kind", "none")
    assert unused(counted["modules"]) == []
    assert (counted["tls"], counted["programs"]) == (0, 0)
    # Of them the run waits for the disk: each is a promise of store/ that a power cut does not break.
    assert counted["fsync"] == 14


async def test_images_of_a_class_load_little(lookalike: Path, tmp_path: Path) -> None:
    """With tables to fetch, too, nothing is loaded that another command needs."""
    counted = await run_of(lookalike, tmp_path, "--category", "Dog", "--limit", "3")
    assert unused(counted["modules"]) == []
    assert (counted["tls"], counted["programs"]) == (0, 0)
