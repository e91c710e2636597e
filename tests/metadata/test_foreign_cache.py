"""A cache folder of somebody else's: a run ends well or with a line, and writes nothing elsewhere."""

import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from aiohttp import web
from support.notes import notes_into
from yarl import URL

from oid_async.errors import OidError
from oid_async.events import ignore
from oid_async.http.address_guard import endpoint
from oid_async.http.client import Client
from oid_async.http.hosts import Hosts
from oid_async.http.retry import Limits
from oid_async.jobs.download import Run
from oid_async.masks.archive import ArchiveState, cached_directory
from oid_async.masks.zip_archive import SCHEMA
from oid_async.metadata.cache import MetadataCache, every_entry
from oid_async.metadata.entry import CacheEntry
from oid_async.metadata.integrity import sealed
from oid_async.metadata.sizes import SIZES_SCHEMA, Sizes
from oid_async.openimages.catalogue import published
from oid_async.options.query import Options
from oid_async.origin.server import Origin, folder

BOXES = published("boxes", ["validation"])[0]
SECRET = b"what the owner of this file wrote\n"


@pytest.fixture
async def mirror(lookalike: Path) -> AsyncIterator[str]:
    """A mirror of the look-alike."""

    async def serve(request: web.Request) -> web.StreamResponse:
        return await folder(lookalike)(request)

    async with Origin(serve) as origin:
        yield origin.url


async def plan(url: str, root: Path, notes: list[str], **query: Any) -> int:
    """Plan a download of boxes with masks; return how many images are selected."""
    options = Options.of(mirror=url, splits=["validation"], kinds=["bbox", "segmentation"], cache_dir=root, **query)
    return (await Run(options, notes_into(notes), limits=Limits(retries=1, backoff_s=0.001)).plan()).selected


async def outcome(url: str, root: Path, *, offline: bool = False) -> int | str:
    """Have the box table as a run does; return how many rows it has, or whether an error was a line."""
    allowed = [endpoint(URL(url))]
    async with (
        Client(Hosts(None, 1.0), Limits(retries=0), connections=1, allowed=allowed) as client,
        MetadataCache(None if offline else client, ignore, root=root, mirror=url, site=url) as cache,
    ):
        try:
            table, _ = await cache.published(BOXES)
        except OidError as error:
            return "a line" if "\n" not in str(error) else str(error)
        return len(pl.read_parquet(table.parts))


def link_to(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "secret")


def link_to_nothing(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "new")


def link_to_folder(path: Path, outside: Path) -> None:
    path.symlink_to(outside)


def pipe(path: Path, outside: Path) -> None:
    os.mkfifo(path)


def a_folder(path: Path, outside: Path) -> None:
    path.mkdir()


def brackets(path: Path, outside: Path) -> None:
    path.write_text("[" * 100_000)


def number(path: Path, outside: Path) -> None:
    path.write_text("9" * 10_000)


ODD = (link_to, link_to_nothing, link_to_folder, pipe, a_folder, brackets, number)


def places(root: Path) -> list[str]:
    """Return what there may be in the entry of the box table, by its path: what is there, and what a run makes."""
    (entry,) = (entry for entry in every_entry(root) if entry.name == BOXES.name)
    found = [*entry.folder.rglob("*"), *(entry.folder / name for name in MADE)]
    return sorted(str(path.relative_to(root)) for path in found)


MADE = ("raw.part", "raw.json", "raw.json.part", "building", "current.json.part", "verified.json", "0123456789ab")


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd.__name__)
async def test_whatever_stands_in_the_place_of_a_file_is_no_harm(
    mirror: str, tmp_path: Path, odd: Callable[[Path, Path], None]
) -> None:
    """Each file and folder of an entry in turn: the right rows or one error line, and nothing written outside."""
    clean, outside = tmp_path / "clean", tmp_path / "outside"
    outside.mkdir()
    rows = await outcome(mirror, clean)
    (outside / "secret").write_bytes(SECRET)
    for number, name in enumerate(places(clean)):
        root = tmp_path / f"cache-{number}"
        shutil.copytree(clean, root)
        path = root / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        odd(path, outside)
        may_fail = odd is a_folder or path.name in ("lock", "raw.part", "raw.json", "raw.json.part")
        assert await outcome(mirror, root) in (rows, "a line" if may_fail else rows), name
        assert await outcome(mirror, root, offline=True) in (rows, "a line"), name
        assert (outside / "secret").read_bytes() == SECRET, name
        assert [each.name for each in outside.iterdir()] == ["secret"], name
        shutil.rmtree(root)


NOTES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda note: [note],
    "no version": lambda note: note | {"version": None},
    "a version elsewhere": lambda note: note | {"version": "../../../../outside"},
    "no files": lambda note: note | {"files": {}},
    "files of no form": lambda note: note | {"files": ["part-00000.parquet"]},
    "files elsewhere": lambda note: note | {"files": note["files"] | {"../../../../../../outside/secret": [1, "x"]}},
    "a huge size": lambda note: note | {"size": 10**400},
    "an infinite size": lambda note: note | {"size": float("inf")},
    "other columns": lambda note: note | {"columns": ["ImageID", "LabelName", "Nonsense"]},
    "columns of no form": lambda note: note | {"columns": [1, None, {}]},
    "a kind of its own": lambda note: note | {"columns": None if note["columns"] else ["ImageID", "LabelName"]},
    "an ETag of two lines": lambda note: _with(note, etag='"a"\r\nHost: elsewhere\r\n\r\nGET /x'),
    "an ETag of other letters": lambda note: _with(note, etag='"€\ud800"'),
    "an ETag that is a number": lambda note: _with(note, etag=7, bytes="x"),
    "a date of two lines": lambda note: _with(note, etag=None, last_modified="Mon\r\nHost: elsewhere"),
    "an identity of more": lambda note: _with(note, secret="x"),
}


def _with(note: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return note | {"identity": note["identity"] | changes}


@pytest.mark.parametrize(
    "change", [pytest.param(each, marks=[pytest.mark.slow] if at % 3 else []) for at, each in enumerate(NOTES)]
)
async def test_a_note_of_nonsense_is_no_version(mirror: str, cache_dir: Path, tmp_path: Path, change: str) -> None:
    """Sealed as ours are, and nonsense all the same: the table is fetched anew, and nothing else happens."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(SECRET)
    assert await plan(mirror, cache_dir, []) == 40
    for entry in every_entry(cache_dir):
        path = entry.folder / "current.json"
        note = json.loads(path.read_bytes())
        del note["seal"]
        changed = NOTES[change](note)
        path.write_text(json.dumps(sealed(changed) if isinstance(changed, dict) else changed))
        (entry.folder / "verified.json").unlink()
    assert await plan(mirror, cache_dir, []) == 40
    assert await plan(mirror, cache_dir, [], offline=True) == 40
    assert (tmp_path / "outside" / "secret").read_bytes() == SECRET


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd.__name__)
def test_a_listing_and_a_directory_are_read_as_plain_files(tmp_path: Path, odd: Callable[[Path, Path], None]) -> None:
    """Sizes of images and members of archives: anything odd in the place of either is damaged, and not waited for."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(SECRET)
    listing = Sizes(tmp_path, "train")
    directory = tmp_path / "masks.directory"
    frames = {listing.path: SIZES_SCHEMA, directory / f"{ArchiveState(7, None).name}.parquet": SCHEMA}
    for path, schema in frames.items():
        path.parent.mkdir(parents=True)
        pl.DataFrame(schema=schema).write_parquet(path)
    (directory / "state.json").write_text('{"bytes": 7, "etag": null}')
    assert not listing.is_damaged()
    assert cached_directory(directory) is not None
    for path in (*frames, directory / "state.json"):
        kept = path.read_bytes()
        path.unlink()
        odd(path, outside)
        if path == listing.path:
            assert listing.is_damaged()
        else:
            assert cached_directory(directory) is None
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
            path.write_bytes(kept)
    for number in ("1e999", "-7", '"x"', "null", "9" * 9999):
        (directory / "state.json").write_text(f'{{"bytes": {number}, "etag": null}}')
        assert cached_directory(directory) is None


def test_versions_that_are_links_are_removed_and_not_what_they_lead_to(tmp_path: Path) -> None:
    """A sweep takes the link, leaves no lock in the folder behind it, and goes on."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(SECRET)
    entry = CacheEntry(tmp_path / "x.csv.table", "x.csv")
    lock = entry.lock()
    assert lock is not None
    (entry.folder / "a").symlink_to(outside)
    (entry.folder / "b").mkdir()
    (entry.folder / "b" / "in_use").symlink_to(outside / "secret")
    with lock:
        assert entry.sweep(None) == 0
    assert [path.name for path in entry.folder.iterdir()] == ["lock"]
    assert [path.name for path in outside.iterdir()] == ["secret"]
