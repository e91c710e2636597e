"""A good copy in the cache against servers that answer 200 with something worse: it stays, and the run uses it."""

import gzip
import re
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from support.notes import notes_into

from oid_async.errors import InputError, UnavailableError
from oid_async.http.retry import Limits
from oid_async.jobs.download import Run
from oid_async.jobs.listings import Listings
from oid_async.metadata.cache import every_entry
from oid_async.metadata.entry import CacheEntry
from oid_async.openimages.catalogue import published
from oid_async.openimages.catalogue_tables import PublishedTable
from oid_async.options.query import Options
from oid_async.origin.server import Origin, folder
from oid_async.report import Plan, Report

QUICK = Limits(backoff_s=0.001, retries=1)
HIERARCHY, CLASSES = published("hierarchy", ())[0], published("classes", ())[0]
IMAGES, BOXES = published("images", ["validation"])[0], published("boxes", ["validation"])[0]
LABELS, POINTS = published("human_labels", ["validation"])[0], published("points", ["validation"])[0]
MASKS, PAIRS = published("masks", ["validation"])[0], published("relationships", ["validation"])[0]
CAPTIONS = published("captions", ["validation"])[0]
READ = (CLASSES, IMAGES, BOXES, LABELS, POINTS, MASKS, PAIRS, CAPTIONS)
PAGE = (
    b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Your session, it seems, has ended</body></html>\n"
)


class Mirror:
    """Serves a folder, and in place of some objects an answer: body, status, headers."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = ""
        self.instead: dict[str, Callable[[web.Request], web.StreamResponse]] = {}
        self._folder = folder(root)

    def body(self, table: PublishedTable) -> bytes:
        """Return what is published."""
        return (self.root / table.bucket / table.key).read_bytes()

    def answer(self, table: PublishedTable, body: bytes, status: int = 200, **headers: str) -> None:
        """Answer with this body from now on, as a whole file with a length."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.instead[f"{table.bucket}/{table.key}"] = lambda _: web.Response(body=body, status=status, headers=named)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        make = self.instead.get(request.match_info["key"])
        return make(request) if make is not None else await self._folder(request)


@pytest.fixture
async def mirror(lookalike: Path) -> AsyncIterator[Mirror]:
    """A mirror of the look-alike."""
    found = Mirror(lookalike)
    async with Origin(found.serve) as origin:
        found.url = origin.url
        yield found


async def download(mirror: Mirror, savepath: Path, notes: list[str], **query: Any) -> Report:
    """Download the look-alike's validation images with annotations of each kind."""
    kinds = ["bbox", "segmentation", "relationship", "narrative", "label", "point"]
    asked = {"mirror": mirror.url, "splits": ["validation"], "kinds": kinds} | query
    return await Run(Options.of(savepath=savepath, **asked), notes_into(notes), limits=QUICK).download()


async def plan(mirror: Mirror, notes: list[str], **query: Any) -> Plan:
    """Plan a download of the look-alike's validation images with boxes."""
    options = Options.of(mirror=mirror.url, splits=["validation"], **query)
    return await Run(options, notes_into(notes), limits=QUICK).plan()


def answer(body: bytes, _: web.Request) -> web.Response:
    return web.Response(body=body)


def cached(root: Path) -> dict[str, bytes]:
    """Return every file of the versions in a cache, by its path."""
    files: dict[str, bytes] = {}
    for entry in every_entry(root):
        version = entry.current_version()
        assert version is not None
        if version.columns is None:
            # A table given by URL is kept under a digest, with its own name within.
            (name,) = {path.name for path in (entry.folder / version.version).iterdir()} - {"in_use"}
            entry = CacheEntry(entry.folder, name)
        assert entry.damaged_file(version, thorough=True) is None
        for path in (entry.folder / version.version).iterdir():
            files[str(path.relative_to(root))] = path.read_bytes()
        assert [path.name for path in entry.folder.iterdir() if path.is_dir()] == [version.version]
        assert not entry.raw.exists()
    return files


def half(body: bytes) -> bytes:
    """Return half a table, cut at the end of a line."""
    lines = body.splitlines(keepends=True)
    return b"".join(lines[: len(lines) // 2])


def without_column(body: bytes, at: int) -> bytes:
    return b"".join(b",".join(f for n, f in enumerate(line.split(b",")) if n != at) for line in body.splitlines(True))


def spoiled(body: bytes) -> bytes:
    """Return a table most of whose rows cannot be used."""
    header, *rows = body.splitlines(keepends=True)
    return header + b"".join(row[:6] + b"\n" if number % 5 else row for number, row in enumerate(rows))


HOSTILE: dict[str, Callable[[bytes], bytes]] = {
    "a login page": lambda body: PAGE,
    "a page behind a comment": lambda body: b"\n\n<!-- (c) -->\n<script>a, b</script>\n<HTML lang=en>, " + PAGE,
    "XHTML": lambda body: b'<?xml version="1.0"?>\n<html><body>a, b</body></html>\n' * 9,
    "a sentence": lambda body: b"Please sign in, your session has ended.\n",
    "an error in JSON": lambda body: b'{"error": {"code": 401, "message": "Login, please"}}',
    "JSON over lines": lambda body: b'{\n "error": {\n  "code": 401,\n  "message": "x"\n }\n}\n' * 20,
    "nothing": lambda body: b"",
    "blank lines": lambda body: b"\n\n\n",
    "NULs": lambda body: bytes(len(body)),
    "a header alone": lambda body: body.splitlines(keepends=True)[0],
    "half of it": half,
    "half of it, cut within a line": lambda body: body[: len(body) // 2 + 7],
    "all but its end": lambda body: b"".join(body.splitlines(keepends=True)[:-1]),
    "all but its last bytes": lambda body: body.rstrip(b"\n")[:-9],
    "gzip, cut": lambda body: gzip.compress(body)[:-20],
    "rows of which most are spoiled": spoiled,
}


@pytest.mark.parametrize("among", [0, *(pytest.param(each, marks=pytest.mark.slow) for each in range(1, 6))])
async def test_a_good_copy_stays_whatever_a_server_says_instead(
    mirror: Mirror, cache_dir: Path, tmp_path: Path, among: int
) -> None:
    """Every kind of table at once: not a byte of the copies changes, each is named in a line, the run is as before."""
    before = await download(mirror, tmp_path / "before", [])
    good = cached(cache_dir)
    for hostile, worse in list(HOSTILE.items())[among::6]:
        for table in READ:
            mirror.answer(table, worse(mirror.body(table)))
        notes: list[str] = []
        after = await download(mirror, tmp_path / "after", notes)
        assert cached(cache_dir) == good, hostile
        assert (after.selected, after.present + after.downloaded, after.failed) == (before.selected,) * 2 + (0,), (
            hostile
        )
        kept = [note for note in notes if note.endswith(f"; the copy of {time.strftime('%Y-%m-%d')} is used")]
        assert sorted(note.partition(":")[0] for note in kept) == sorted(table.name for table in READ), hostile
    # The real tables are taken again as soon as they are there.
    mirror.instead.clear()
    mirror.answer(CLASSES, mirror.body(CLASSES) + b"/m/0new1,A new class\n")
    notes = []
    await download(mirror, tmp_path / "after", notes)
    assert not [note for note in notes if "the copy of" in note]
    assert cached(cache_dir) != good


@pytest.mark.parametrize("table", [BOXES, pytest.param(CLASSES, marks=pytest.mark.slow)], ids=["boxes", "classes"])
async def test_without_a_good_copy_nothing_bad_is_kept(mirror: Mirror, cache_dir: Path, table: PublishedTable) -> None:
    """What cannot be the table is an error that names it; the next run has the real one, though both have one ETag."""
    like_a_smaller_table = {"a header alone", *(name for name in HOSTILE if name.startswith(("half", "all but")))}
    for number, hostile in enumerate(HOSTILE.keys() - like_a_smaller_table):
        root = cache_dir / str(number)
        mirror.instead.clear()
        mirror.answer(table, HOSTILE[hostile](mirror.body(table)), ETag='"1"')
        with pytest.raises((InputError, UnavailableError), match=f"^{re.escape(table.name)}: "):
            await plan(mirror, [], cache_dir=root)
        mirror.answer(table, mirror.body(table), ETag='"1"')
        assert (await plan(mirror, [], cache_dir=root)).selected == 40


async def test_another_published_table_is_told_by_its_columns(mirror: Mirror, cache_dir: Path, tmp_path: Path) -> None:
    """Boxes in place of labels and of images, labels in place of boxes: each is whole, and none is the one meant."""
    await download(mirror, tmp_path / "before", [])
    good, notes = cached(cache_dir), list[str]()
    others = {LABELS: BOXES, IMAGES: BOXES, BOXES: LABELS, MASKS: PAIRS, PAIRS: MASKS, POINTS: IMAGES, CLASSES: IMAGES}
    for table, other in others.items():
        mirror.answer(table, mirror.body(other))
    await download(mirror, tmp_path / "after", notes)
    assert cached(cache_dir) == good
    for table, other in others.items():
        (note,) = (note for note in notes if note.startswith(f"{table.name}: "))
        assert f"its columns are those of the published {other.kind.replace('_', ' ')}, not of the" in note


async def test_a_table_that_lost_a_column_replaces_none_that_has_it(
    mirror: Mirror, cache_dir: Path, tmp_path: Path
) -> None:
    """A column that is read later, such as a flag's, is missed at once; clearing the cache takes the new table."""
    await download(mirror, tmp_path / "before", [], kinds=["bbox"])
    good, notes = cached(cache_dir), list[str]()
    mirror.answer(BOXES, without_column(mirror.body(BOXES), 8))
    await download(mirror, tmp_path / "after", notes, kinds=["bbox"])
    assert cached(cache_dir) == good
    (note,) = (note for note in notes if note.startswith(BOXES.name))
    assert "it lacks the column 'IsOccluded', which the copy has" in note
    assert "oid-async metadata clear" in note
    await Listings(Options.of(mirror=mirror.url), lambda _: None).clear(everything=True)
    notes.clear()
    await download(mirror, tmp_path / "cleared", notes, kinds=["bbox"])
    assert not [note for note in notes if "the copy of" in note]


async def test_a_table_with_other_rows_is_taken(mirror: Mirror, cache_dir: Path, tmp_path: Path) -> None:
    """Some rows fewer, from within, is a change as any other: so are more rows, and the same in another order."""
    await download(mirror, tmp_path / "before", [], kinds=["bbox"])
    header, *rows = mirror.body(BOXES).splitlines(keepends=True)
    for changed in (rows[1:], rows[: len(rows) // 2] + rows[len(rows) // 2 + 9 :], [*rows, rows[0]], rows[::-1]):
        good, notes = cached(cache_dir), list[str]()
        mirror.answer(BOXES, header + b"".join(changed))
        await download(mirror, tmp_path / "after", notes, kinds=["bbox"])
        assert not [note for note in notes if "the copy of" in note]
        assert cached(cache_dir) != good


@pytest.mark.parametrize("status", [401, 403, 404, 500, 503, 511, 302])
async def test_an_answer_that_is_no_success_leaves_the_copy(
    mirror: Mirror, cache_dir: Path, tmp_path: Path, status: int
) -> None:
    """In passing trouble, or sent on to a login, the copy is used; 'not published any more' is an error, not a loss."""
    await download(mirror, tmp_path / "before", [], kinds=["bbox"])
    good, notes = cached(cache_dir), list[str]()
    mirror.answer(BOXES, PAGE, status, **({"Location": f"{mirror.url}/login"} if status == 302 else {}))
    mirror.instead["login"] = lambda _: web.Response(body=PAGE, content_type="text/html")
    if status in (401, 403, 404):
        with pytest.raises(UnavailableError, match=BOXES.name):
            await download(mirror, tmp_path / "after", [], kinds=["bbox"])
    else:
        await download(mirror, tmp_path / "after", notes, kinds=["bbox"])
        assert any(note.startswith(BOXES.name) and note.endswith(" is used") for note in notes)
    assert cached(cache_dir) == good


async def test_a_redirect_to_a_forbidden_place_leaves_the_copy_in_use(
    mirror: Mirror, cache_dir: Path, tmp_path: Path
) -> None:
    """A login on a private address is not asked, and the copy does."""
    await download(mirror, tmp_path / "before", [], kinds=["bbox"])
    good, notes = cached(cache_dir), list[str]()
    mirror.answer(BOXES, b"", 302, Location="http://10.255.255.1/login")
    await download(mirror, tmp_path / "after", notes, kinds=["bbox"])
    assert any(note.startswith(BOXES.name) and note.endswith(" is used") for note in notes)
    assert cached(cache_dir) == good


async def test_pull_keeps_the_good_copy_and_says_so(mirror: Mirror, cache_dir: Path) -> None:
    """`metadata pull` hashes every copy, and replaces none by something worse."""
    options = Options.of(mirror=mirror.url, splits=["validation"], kinds=["all"])
    notes: list[str] = []

    await Listings(options, notes_into(notes)).pull()
    good = cached(cache_dir)
    for name in ("classes", "all_classes", "attributes", "hierarchy", "boxes", "captions"):
        for table in published(name, ["validation"]):
            mirror.answer(table, PAGE)
    rows = await Listings(options, notes_into(notes)).pull()
    assert all(row.cached for row in rows)
    assert cached(cache_dir) == good
    assert sum(note.endswith(" is used") for note in notes) == 6
    for body in (mirror.body(HIERARCHY)[:-2], b'{"LabelName": "/m/0bl9f"}', b'{"error": "sign in"}', b"[]"):
        mirror.answer(HIERARCHY, body)
    await Listings(options, notes_into(notes)).pull()
    assert cached(cache_dir) == good


@pytest.mark.parametrize("form", ["csv", pytest.param("csv.gz", marks=pytest.mark.slow)])
async def test_a_table_given_by_url_is_replaced_by_none_that_the_run_refuses(
    mirror: Mirror, cache_dir: Path, form: str
) -> None:
    """The tables of one's own pass the checks of a given table before they take the copy's place."""
    pack = gzip.compress if form == "csv.gz" else bytes
    tables = {"label": CLASSES, "annotation": BOXES, "image_url": IMAGES}
    query = {option: f"{mirror.url}/mine/{option}.{form}" for option in tables}
    answers = {"as they are": bytes} | HOSTILE
    # A last field that was cut is as good as any other.
    del answers["all but its last bytes"]
    good: dict[str, bytes] = {}
    for hostile, worse in answers.items():
        for option, table in tables.items():
            body = mirror.body(table)
            body = worse(pack(body)) if "cut" in hostile else pack(worse(body))
            mirror.instead[f"mine/{option}.{form}"] = partial(answer, body)
        notes: list[str] = []
        assert (await plan(mirror, notes, source=["cvdf"], **query)).selected == 40, hostile
        good = good or cached(cache_dir)
        assert cached(cache_dir) == good, hostile
        assert sum(note.endswith(" is used") for note in notes) == (0 if worse is bytes else 3), hostile


async def test_a_table_of_ones_own_that_was_made_shorter_on_purpose(mirror: Mirror, cache_dir: Path) -> None:
    """Its line names a way that does not cost all the published tables in the cache."""
    url = f"{mirror.url}/mine/boxes.csv"
    lines = mirror.body(BOXES).splitlines(keepends=True)
    notes: list[str] = []
    for count in (len(lines), len(lines) // 2):
        mirror.instead["mine/boxes.csv"] = partial(answer, b"".join(lines[:count]))
        await plan(mirror, notes, source=["cvdf"], annotation=url)
    (note,) = (note for note in notes if note.endswith(" is used"))
    assert "give its path in place of its URL" in note
    assert "metadata clear" not in note
