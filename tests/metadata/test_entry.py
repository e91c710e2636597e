"""What lies in the metadata cache: a converted table is the published one, cell by cell; what is torn is never read."""

import asyncio
import csv
import errno
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest
from aiohttp import web
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from support.published import write_bytes
from yarl import URL

import oid_async
from oid_async.errors import InputError, UnavailableError
from oid_async.events import ignore
from oid_async.http.address_guard import endpoint
from oid_async.http.client import Client
from oid_async.http.hosts import Hosts
from oid_async.http.retry import Limits
from oid_async.metadata import convert as convert_module
from oid_async.metadata import integrity
from oid_async.metadata.cache import Cache, MetadataCache
from oid_async.metadata.convert import convert
from oid_async.metadata.entry import CacheEntry, Identity
from oid_async.openimages.catalogue import published
from oid_async.openimages.catalogue_tables import BOX_COLUMNS, IMAGE_COLUMNS
from oid_async.openimages.ids import KEY, ROW
from oid_async.openimages.kinds import KINDS
from oid_async.origin.server import Origin, folder
from oid_async.tables.damage import bad_rows
from oid_async.tables.reading import TableFile, columns_of
from oid_async.tables.rows import count_labels, scan_pairs

REAL = Path(__file__).resolve().parents[3] / "shared" / "real"
CLASSES = published("classes", ())[0]
BOXES = published("boxes", ["validation"])[0]
IMAGES = published("images", ["validation"])[0]
HEX = re.compile(r"[0-9a-f]{16}")
COLUMNS = ("ImageID", "Title", "LabelName", "Note")


# The converted form ---------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A row of a CSV as Python reads it: the physical line it starts on, its place in the file, its fields."""

    line: int
    number: int
    fields: tuple[str, ...]


def read_plainly(body: bytes) -> tuple[list[str], list[Row]]:
    """Return the columns and rows of a CSV, read by Python's csv module."""
    # A CR alone ends no physical line, as it ends none for an editor.
    reader = csv.reader(io.StringIO(body.decode("utf-8-sig"), newline="\n"))
    columns = [name.strip() for name in next(reader)]
    rows, line = [], reader.line_num + 1
    for number, fields in enumerate(reader):
        rows.append(Row(line, number, tuple(fields)))
        line = reader.line_num + 1
    return columns, rows


def converted(body: bytes, entry: Path, *, by_label: bool, slice_rows: int | None) -> TableFile:
    """Convert a body; with `slice_rows` as a large table is, a slice of about so many rows at a time."""
    raw, made = entry / "raw.part", entry / "made"
    raw.write_bytes(body)
    made.mkdir()
    table = TableFile(raw, "boxes.csv" if by_label else "images.csv")
    with pytest.MonkeyPatch.context() as patch:
        if slice_rows is not None:
            patch.setattr(convert_module, "_SORTED_FROM_ROWS", 0)
            patch.setattr(convert_module, "_SLICE_ROWS", slice_rows)
        convert(
            table,
            made,
            kind=KINDS["bbox"] if by_label else None,
            progress=lambda done, total: None,
            stopped=lambda: False,
        )
    return TableFile(made, table.name, tuple(columns_of(table)))


def assert_is_the_table(table: TableFile, body: bytes, *, by_label: bool, in_order: bool) -> None:
    """Check a converted table against the CSV it was made from. An empty field may have become null."""
    columns, rows = read_plainly(body)
    assert table.columns == tuple(columns)
    at = columns.index("ImageID")
    good = [row for row in rows if HEX.fullmatch(row.fields[at])]
    parts = pl.concat([pl.read_parquet(part) for part in table.parts])
    assert set(parts.columns) == {KEY, ROW, *columns}
    assert parts.select(KEY, ROW).schema == {KEY: pl.UInt64, ROW: pl.UInt32}
    # Every cell, in published order.
    published_order = parts.sort(ROW)
    assert published_order.get_column(ROW).to_list() == list(range(len(good)))
    assert published_order.get_column(KEY).to_list() == [int(row.fields[at], 16) for row in good]
    assert published_order.select(columns).fill_null("").rows() == [row.fields for row in good]
    # The order of the parts.
    label = parts.get_column("LabelName") if by_label else pl.repeat("", len(parts), eager=True)
    order = [(name is not None, name or "", *rest) for name, *rest in zip(label, parts[KEY], parts[ROW], strict=True)]
    if in_order:
        assert order == sorted(order)
    # What is left out, and why.
    bad = [row for row in rows if not HEX.fullmatch(row.fields[at])]
    told = bad_rows(table).collect().rows()
    assert [line for line, _ in told] == [row.line for row in bad]
    assert all(repr(row.fields[at][:40]) in reason for row, (_, reason) in zip(bad, told, strict=True))
    assert table.damaged is not None
    assert table.damaged.exists() == bool(bad)
    if by_label:
        assert_counts_are_right(table, good, columns, in_order=in_order)
    known = {*table.parts, *table.path.glob("pairs-*.parquet"), table.damaged}
    assert set(table.path.iterdir()) <= known


def assert_counts_are_right(table: TableFile, good: list[Row], columns: list[str], *, in_order: bool) -> None:
    """Check what a box table says of each image and label, and of each label, against a plain count."""
    at, label_at = columns.index("ImageID"), columns.index("LabelName")
    boxes = Counter((row.fields[label_at], int(row.fields[at], 16)) for row in good)
    images = Counter(label for label, _ in boxes)
    rows = Counter(row.fields[label_at] for row in good)
    counts = {label: (images[label], rows[label]) for label in rows if label}
    assert {label: count for label, count in count_labels(table).items() if label} == counts
    frame = scan_pairs(table)
    assert (frame is not None) == in_order
    if frame is not None:
        pairs = frame.collect()
        assert pairs.schema == {"LabelName": pl.String, KEY: pl.UInt64, "boxes": pl.UInt32}
        found: Counter[tuple[str, int]] = Counter()
        for label, key, count in pairs.iter_rows():
            found[label or "", key] += count
        assert found == boxes
        order = [(label is not None, label or "", key) for label, key, _ in pairs.iter_rows()]
        assert order == sorted(set(order))


def written(rows: Sequence[tuple[str, ...]], *, columns: tuple[str, ...] = COLUMNS, quoted: bool = False) -> str:
    """Return a CSV, every field quoted or only those that must be."""

    def cell(text: str) -> str:
        return '"' + text.replace('"', '""') + '"' if quoted or re.search('[",\r\n]', text) else text

    return "".join(",".join(map(cell, row)) + "\n" for row in [columns, *rows])


_ID = st.sampled_from(
    [
        *(f"{number:016x}" for number in (0, 1, 2, 9, 10, 2**63, 2**64 - 1)),
        *("0000048549557964", "00e4060885034751", "0012e45111111111", "7fffffffffffffff"),
        *("", "ABC", "0012E45111111111", "0012e4511111111", "0012e451111111110", " 0012e45111111111", "0012e4\n5"),
    ]
)
_LABEL = st.sampled_from(["/m/1", "/m/1", "/m/1", "/m/2", "/m/é", "安藤", "a,b", 'the "big" one', "", "-1"])
_TEXT = st.text(st.sampled_from('ab,;"\n\r\t ŽéJ安🙂-1.0e'), max_size=8)
_ROWS = st.lists(st.tuples(_ID, _TEXT, _LABEL, _TEXT), max_size=30)


@given(_ROWS, st.booleans(), st.booleans(), st.booleans(), st.sampled_from([None, 1, 3, 7]))
@example([], False, False, False, None)
@example([], False, True, True, 7)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_a_converted_table_is_the_published_one(
    rows: list[tuple[str, ...]], quoted: bool, crlf: bool, bom: bool, slice_rows: int | None
) -> None:
    """Whatever stands in its fields, in whatever dialect, in however many slices: every cell, order and count."""
    # Of damaged rows for the most part speaks the next test.
    assume(2 * sum(HEX.fullmatch(image_id) is not None for image_id, *_ in rows) >= len(rows))
    text = written(rows, quoted=quoted)
    if crlf:
        text = "".join(",".join(line) + "\r\n" for line in _cells(text))
    body = text.encode("utf-8-sig" if bom else "utf-8")
    for by_label in (True, False):
        with tempfile.TemporaryDirectory() as name:
            table = converted(body, Path(name), by_label=by_label, slice_rows=slice_rows)
            assert_is_the_table(table, body, by_label=by_label, in_order=slice_rows is not None and bool(rows))


def _cells(text: str) -> Iterator[list[str]]:
    """Yield a CSV's rows, each cell as it is written, quotes and all: line breaks within them stay as they are."""
    row, cell, within = [], "", False
    for letter in text:
        within ^= letter == '"'
        if letter in ",\n" and not within:
            row.append(cell)
            cell = ""
            if letter == "\n":
                yield row
                row = []
        else:
            cell += letter


def test_a_table_of_damaged_rows_is_refused(tmp_path: Path) -> None:
    """Of which under half of the rows are usable is another table than is needed; half is enough."""
    good, bad = ("0" * 16, "x", "/m/1", ""), ("ABC", "x", "/m/1", "")
    for number, (rows, is_refused) in enumerate((([bad] * 3, True), ([good, bad, bad], True), ([good, bad], False))):
        entry = tmp_path / str(number)
        entry.mkdir()
        if is_refused:
            with pytest.raises(InputError, match=r"rows cannot be used, .* the first is line"):
                converted(written(rows).encode(), entry, by_label=True, slice_rows=None)
        else:
            table = converted(written(rows).encode(), entry, by_label=True, slice_rows=None)
            assert [line for line, _ in bad_rows(table).collect().iter_rows()] == [3]


@pytest.mark.parametrize("slice_rows", [None, 7, 50])
def test_a_large_label_is_cut_by_its_keys_and_stays_in_order(tmp_path: Path, slice_rows: int | None) -> None:
    """One label with nearly all rows, duplicates and rare labels on both sides of it: the same table."""
    chance = random.Random(4)
    ids = [f"{chance.getrandbits(64):016x}" for _ in range(120)]
    labels = ["/m/big"] * 30 + ["/m/a", "/m/b", "/m/z", "/m/zz"]
    rows = [(chance.choice(ids), "x", chance.choice(labels), str(chance.random())) for _ in range(700)]
    rows += chance.choices(rows, k=100)
    body = written(rows).encode()
    table = converted(body, tmp_path, by_label=True, slice_rows=slice_rows)
    assert_is_the_table(table, body, by_label=True, in_order=slice_rows is not None)
    assert len(table.parts) >= (1 if slice_rows is None else 800 // slice_rows)


def test_damaged_rows_are_named_by_their_physical_line(tmp_path: Path) -> None:
    """Line breaks within earlier fields count, also those of the header; the header starts on line 1."""
    body = (
        b'ImageID,"Ti\ntle",LabelName\n'  # 1, 2
        b'0000000000000001,"two\nlines",/m/1\n'  # 3, 4
        b'ABC,"three\r\nmore\nlines",/m/1\n'  # 5, 6, 7
        b"0000000000000002,x,/m/1\n"  # 8
        b",,/m/1\n"  # 9
        b'"0000000000000003",x,/m/1\n'  # 10
        b"0000000000000003x,x,/m/2"  # 11
    )
    for number, slice_rows in enumerate((None, 2)):
        entry = tmp_path / str(number)
        entry.mkdir()
        table = converted(body, entry, by_label=True, slice_rows=slice_rows)
        assert [line for line, _ in bad_rows(table).collect().iter_rows()] == [5, 9, 11]
        assert_is_the_table(table, body, by_label=True, in_order=slice_rows is not None)


def test_blank_lines_are_no_rows(tmp_path: Path) -> None:
    """They are neither kept nor called damaged, and the lines of damaged rows count them."""
    body = b"ImageID,LabelName\n\n0000000000000001,/m/1\n\n\nABC,/m/2\n0000000000000002,/m/1\n\n"
    for number, slice_rows in enumerate((None, 2)):
        entry = tmp_path / str(number)
        entry.mkdir()
        table = converted(body, entry, by_label=True, slice_rows=slice_rows)
        frame = pl.concat([pl.read_parquet(part) for part in table.parts]).sort(ROW)
        assert frame.select("ImageID", "LabelName").rows() == [
            ("0000000000000001", "/m/1"),
            ("0000000000000002", "/m/1"),
        ]
        assert [line for line, _ in bad_rows(table).collect().iter_rows()] == [6]


@pytest.mark.parametrize("slice_rows", [None, 700])
def test_real_box_tables_are_converted_cell_by_cell(tmp_path: Path, slice_rows: int | None) -> None:
    """Excerpts of real box tables, in their publishers' dialects; those without the columns are refused by name."""
    paths = sorted((REAL / "bbox").glob("*.csv"))
    if not paths:
        pytest.skip("no real files here")
    for path in paths:
        body = path.read_bytes()
        entry = tmp_path / path.stem
        entry.mkdir()
        columns, _ = read_plainly(body)
        if {"ImageID", "LabelName"} <= set(columns):
            table = converted(body, entry, by_label=True, slice_rows=slice_rows)
            assert_is_the_table(table, body, by_label=True, in_order=slice_rows is not None)
        else:
            with pytest.raises(InputError, match=r"^boxes\.csv: column '(ImageID|LabelName)' is missing"):
                converted(body, entry, by_label=True, slice_rows=slice_rows)


@pytest.mark.parametrize("slice_rows", [None, 300])
def test_a_real_image_table_is_converted_cell_by_cell(tmp_path: Path, slice_rows: int | None) -> None:
    """3,600 real images with their authors and titles."""
    path = REAL / "image_info" / "crossmodal3600-image-attributions.csv"
    if not path.exists():
        pytest.skip("no real files here")
    body = path.read_bytes()
    table = converted(body, tmp_path, by_label=False, slice_rows=slice_rows)
    assert_is_the_table(table, body, by_label=False, in_order=slice_rows is not None)
    assert (len(table.parts) > 1) == (slice_rows is not None)


# Killed and torn ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def answering(root: Path) -> AsyncIterator[tuple[str, list[tuple[str, web.StreamResponse]]]]:
    """Serve a folder; yield its address and every answer by key, whose status is known once it was sent."""
    answers: list[tuple[str, web.StreamResponse]] = []
    serve = folder(root)

    async def answer(request: web.Request) -> web.StreamResponse:
        response = await serve(request)
        answers.append((request.match_info["key"], response))
        return response

    async with Origin(answer) as origin:
        yield origin.url, answers


def bodies(answers: list[tuple[str, web.StreamResponse]]) -> Counter[str]:
    """Count the answers that brought a body from its start, by key."""
    return Counter(key for key, response in answers if response.status == 200)


def key_of(table: Any) -> str:
    return f"{table.bucket}/{table.key}"


def told(plan: Any) -> dict[str, Any]:
    """Return what a plan says of the selection, without what this run moved and the disk has."""
    plain = plan if isinstance(plan, dict) else asdict(plan)
    return {name: value for name, value in plain.items() if name not in ("metadata_bytes", "disk_free")}


async def plan(url: str, **query: Any) -> dict[str, Any]:
    """Plan a run on the validation split and return what it tells."""
    return told(await oid_async.plan(mirror=url, splits=["validation"], **query))


def versions(entry: CacheEntry) -> list[str]:
    """Return the versions of a table that lie in the cache, those in the making included."""
    return sorted(path.name for path in entry.folder.iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a mirror folder whose box table takes a moment to turn; quoted fields and line breaks stand in it."""
    root = tmp_path_factory.mktemp("large")
    chance = random.Random(3)
    ids = [f"{chance.getrandbits(64):016x}" for _ in range(3000)]
    labels = [f"/m/{number:04}" for number in range(40)]
    sources = ["xclick", "xclick", "activemil", '"two\nlines, and a comma"']
    tail = ",1,0.1,0.9,0.125,0.75,0,-1,0,1,0\n"
    fields = (chance.choice(ids) + "," + chance.choice(sources) + "," + chance.choice(labels) for _ in range(80_000))
    body = ",".join(BOX_COLUMNS) + "\n" + "".join(field + tail for field in fields)
    write_bytes(root / key_of(BOXES), body.encode())
    empty = "," * (len(IMAGE_COLUMNS) - 3)
    images = (f"{i},validation,https://farm1.staticflickr.com/1/{i}_o.jpg{empty}\n" for i in ids)
    write_bytes(root / key_of(IMAGES), f"{','.join(IMAGE_COLUMNS)}\n{''.join(images)}".encode())
    classes = (f"{label},Class {label[3:]}\n" for label in labels)
    write_bytes(root / key_of(CLASSES), f"LabelName,DisplayName\n{''.join(classes)}".encode())
    return root


# The program as it is, and one that takes any table for a large one, cut into some thirty slices.
AS_IT_IS = "from oid_async.cli.main import run_program; run_program()"
IN_SLICES = f"import oid_async.metadata.convert as c; c._SORTED_FROM_ROWS, c._SLICE_ROWS = 0, 2700; {AS_IT_IS}"


def start_plan(program: str, url: str, cache_dir: Path, out: Path) -> "subprocess.Popen[bytes]":
    """Start the program on a plan of the validation split; its answer goes to a file."""
    words = ["plan", "--mirror", url, "--split", "validation", "--category", "Class 0007", "--json"]
    with out.open("wb") as answer:
        return subprocess.Popen(
            [sys.executable, "-c", program, *words, "--cache-dir", str(cache_dir)],
            stdout=answer,
            stderr=subprocess.DEVNULL,
        )


async def finished_plan(program: str, url: str, cache_dir: Path, out: Path) -> dict[str, Any]:
    process = start_plan(program, url, cache_dir, out)
    assert await asyncio.wait_for(asyncio.to_thread(process.wait), 60) == 0
    with out.open() as answer:
        return told(json.load(answer))


async def kill_when_made(path: Path, process: "subprocess.Popen[bytes]", began: float) -> int:
    """Kill a process as soon as something is there that was not when it began; return how it ended."""

    def made() -> bool:
        try:
            return path.stat().st_ctime > began
        except FileNotFoundError:
            return False

    async with asyncio.timeout(30):
        while not made() and process.poll() is None:  # noqa: ASYNC110 - another process sets no event
            await asyncio.sleep(0.001)
    process.kill()
    return await asyncio.to_thread(process.wait)


@pytest.mark.programs
@pytest.mark.slow
async def test_a_conversion_that_is_killed_is_made_again_from_what_was_fetched(
    large: Path, cache_dir: Path, tmp_path: Path
) -> None:
    """However far it was when SIGKILL came, the next run fetches nothing again and says what a calm one does."""
    out = tmp_path / "answer"
    async with answering(large) as (url, answers):
        calm = await finished_plan(AS_IT_IS, url, tmp_path / "calm", out)
        assert calm["selected"] > 100
        answers.clear()
        entry = Cache(cache_dir, url).entry(BOXES)
        for name in ("", "rows-00000.csv", "part-00000.parquet", "pairs-00004.parquet"):
            # What the run before has left in `building` is for this one to remove.
            began = time.time()
            process = start_plan(IN_SLICES, url, cache_dir, out)
            assert await kill_when_made(entry.building / name, process, began) == -9
            assert entry.current_version() is None
            assert entry.raw.stat().st_size == (large / key_of(BOXES)).stat().st_size
        assert await finished_plan(IN_SLICES, url, cache_dir, out) == calm
        assert bodies(answers)[key_of(BOXES)] == 1
        assert len(versions(entry)) == 1
        assert not entry.raw.exists()
        assert not entry.raw_note.exists()
        kept = entry.current_version()
        assert kept is not None
        table = entry.table(kept)
        assert len(table.parts) > 20
        body = (large / key_of(BOXES)).read_bytes()
        frame = pl.concat([pl.read_parquet(part) for part in table.parts]).sort(ROW)
        assert frame.select(BOX_COLUMNS).rows() == [row.fields for row in read_plainly(body)[1]]
        # And once more from the cache, as another program reads it.
        assert await plan(url, categories=["Class 0007"], offline=True) == calm


class DiedError(Exception):
    """Stands for the end of the process at a moment that is too short to be met from outside."""


def dies_before_the_note(self: CacheEntry, identity: Identity, columns: Any) -> None:
    (self.building / "in_use").touch()
    self.building.replace(self.folder / "0123456789ab")
    raise DiedError


def dies_behind_the_note(self: CacheEntry) -> None:
    if (self.folder / "current.json").exists():
        raise DiedError
    for path in (self.raw_note, self.raw):
        path.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("step", "death"),
    [("publish", dies_before_the_note), ("forget_raw", dies_behind_the_note)],
    ids=["before", "behind"],
)
async def test_a_run_that_ends_as_it_makes_a_version_known_leaves_nothing_that_stays(
    lookalike: Path, cache_dir: Path, step: str, death: Any
) -> None:
    """A version that nothing points to or a raw file beside its version: gone after the next run, nothing refetched."""
    async with answering(lookalike) as (url, answers):
        entry = Cache(cache_dir, url).entry(BOXES)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(CacheEntry, step, death)
            with pytest.raises(DiedError):
                await rows_of(url, cache_dir)
        assert len(versions(entry)) == 1
        assert entry.raw.exists()
        assert (entry.current_version() is None) == (step == "publish")
        for _ in range(2):
            assert await rows_of(url, cache_dir) == read_rows(lookalike / key_of(BOXES))
            assert len(versions(entry)) == 1
            assert versions(entry) != ["0123456789ab"]
            assert not entry.raw.exists()
        assert bodies(answers) == {key_of(BOXES): 1}


async def rows_of(url: str | None, cache_dir: Path, *, site: str | None = None) -> list[tuple[str, ...]]:
    """Have the box table, offline without an address, and return its rows in published order."""
    allowed = [endpoint(URL(url))] if url else []
    async with (
        Client(Hosts(None, 1.0), Limits(backoff_s=0.001), connections=4, allowed=allowed) as client,
        MetadataCache(client if url else None, ignore, root=cache_dir, mirror=url, site=site or url) as cache,
    ):
        table, _ = await cache.published(BOXES)
        frame = pl.concat([pl.read_parquet(part) for part in table.parts]).sort(ROW)
        return frame.select(BOX_COLUMNS).fill_null("").rows()


def read_rows(path: Path) -> list[tuple[str, ...]]:
    return [row.fields for row in read_plainly(path.read_bytes())[1]]


def cut_short(version: Path) -> None:
    part = version / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-100])


def emptied(version: Path) -> None:
    (version / "part-00001.parquet").write_bytes(b"")


def lost(name: str) -> Callable[[Path], None]:
    return lambda version: (version / name).unlink()


def note(text: bytes) -> Callable[[Path], object]:
    return lambda version: (version.parent / "current.json").write_bytes(text)


def half_a_note(version: Path) -> None:
    path = version.parent / "current.json"
    path.write_bytes(path.read_bytes()[:50])


TORN: dict[str, Callable[[Path], object]] = {
    "a part cut short": cut_short,
    "a part empty": emptied,
    "a part lost": lost("part-00001.parquet"),
    "the counts lost": lost("pairs-00000.parquet"),
    "all lost": shutil.rmtree,
    "half a note": half_a_note,
    "an empty note": note(b""),
    "a note of zeros": note(bytes(200)),
    "a note of another kind": note(b"[1, 2]"),
    "a note of a number": note(b"7"),
    "a note of no version": note(b'{"version": null, "size": 0, "columns": null, "identity": {}}'),
}


@pytest.mark.parametrize("tear", TORN)
async def test_a_torn_version_is_never_read(
    lookalike: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch, tear: str
) -> None:
    """What a power cut may leave behind is as good as nothing: offline it is not there, online it is made anew."""
    monkeypatch.setattr(convert_module, "_SORTED_FROM_ROWS", 0)
    monkeypatch.setattr(convert_module, "_SLICE_ROWS", 30)
    async with answering(lookalike) as (url, answers):
        entry = Cache(cache_dir, url).entry(BOXES)
        published_rows = await rows_of(url, cache_dir)
        (version,) = versions(entry)
        TORN[tear](entry.folder / version)
        assert entry.current_version() is None
        with pytest.raises(UnavailableError, match=f"^{BOXES.name}: not in the cache.*--offline"):
            await rows_of(None, cache_dir, site=url)
        assert await rows_of(url, cache_dir) == published_rows == read_rows(lookalike / key_of(BOXES))
        assert await rows_of(None, cache_dir, site=url) == published_rows
        assert bodies(answers) == {key_of(BOXES): 2}
        assert len(versions(entry)) == 1
        assert versions(entry) != [version]


# Who has what ---------------------------------------------------------------------------------------------------------


IDENTITY = Identity("http://127.0.0.1/x", 3, '"e"', None, None)


def make(entry: CacheEntry, body: bytes = b"abc") -> None:
    """Make a version as a run does that has the lock."""
    (entry.build() / entry.name).write_bytes(body)
    entry.publish(IDENTITY, None)


@pytest.fixture
def entry(tmp_path: Path) -> CacheEntry:
    """Return a place with one version."""
    shelf = CacheEntry(tmp_path / "x.csv.table", "x.csv")
    shelf.folder.mkdir()
    make(shelf)
    return shelf


def test_only_one_has_the_lock_and_it_is_free_again_at_once(entry: CacheEntry) -> None:
    """A lock keeps everybody else out, of this process too, until it is given back, which may be done twice."""
    lock = entry.lock()
    assert lock is not None
    assert entry.lock() is None
    assert not entry.try_clear()
    lock.release()
    lock.release()
    again = entry.lock()
    assert again is not None
    again.release()


def test_without_locks_nothing_is_taken(entry: CacheEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system has no locks an entry cannot be locked: two runs would write to it at the same time."""
    make(entry)
    version = entry.current_version()
    assert version is not None

    def no_lock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", no_lock)
    with pytest.raises(OSError, match=os.strerror(errno.ENOLCK)):
        entry.lock()
    with pytest.raises(OSError, match=os.strerror(errno.ENOLCK)):
        entry.pin(version)
    with pytest.raises(OSError, match=os.strerror(errno.ENOLCK)):
        entry.sweep(None)
    assert entry.current_version() == version


def test_a_pinned_version_outlives_newer_ones_and_a_clear(entry: CacheEntry) -> None:
    """However many versions follow, what is pinned stays whole; once nobody reads it, it goes with the next sweep."""
    old = entry.current_version()
    assert old is not None
    pins = [entry.pin(old), entry.pin(old)]
    for body in (b"de", b"fghi"):
        make(entry, body)
        new = entry.current_version()
        assert new is not None
        assert entry.table(new).path.read_bytes() == body
        assert entry.table(old).path.read_bytes() == b"abc"
        assert versions(entry) == sorted([old.version, new.version])
    assert not entry.try_clear()
    assert entry.current_version() is None
    assert versions(entry) == [old.version]
    for pin in pins:
        assert not entry.try_clear()
        assert pin is not None
        pin.release()
    assert entry.try_clear()
    assert versions(entry) == []
    assert entry.pin(old) is None
    assert entry.size() == 0


def test_the_size_is_that_of_all_there_is(entry: CacheEntry) -> None:
    """Versions, a version in the making and what has arrived so far all take their room."""
    before = entry.size()
    entry.raw.write_bytes(b"x" * 1000)
    (entry.build() / "rows.parquet").write_bytes(b"y" * 500)
    assert entry.size() == before + 1500


def test_a_version_can_be_read_at_every_moment_while_others_make_new_ones(entry: CacheEntry) -> None:
    """Who asks, offline, while another run makes one version after the other, always has one, and it is whole."""
    stop = threading.Event()
    seen: Counter[str] = Counter()

    def replace() -> None:
        while not stop.is_set():
            make(entry)

    def offline_round() -> None:
        cache = MetadataCache(None, ignore, root=entry.folder, mirror=None, site=None)
        kept = cache._pinned(entry)
        seen["rounds"] += 1
        seen["said nothing is cached"] += kept is None
        seen["pinned what is gone"] += kept is not None and not entry.table(kept).path.exists()
        for pin in cache._pins:
            pin.release()
        try:
            entry.size()
        except FileNotFoundError:
            seen["size() failed"] += 1

    other = threading.Thread(target=replace)
    other.start()
    try:
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline or seen["rounds"] <= 10:
            offline_round()
    finally:
        stop.set()
        other.join()
    del seen["rounds"]
    assert +seen == {}


# Damage that leaves the size as it was --------------------------------------------------------------------------------


def flipped(name: str) -> Callable[[Path], None]:
    def flip(version: Path) -> None:
        path = version / name
        body = bytearray(path.read_bytes())
        body[len(body) // 2] ^= 1
        path.write_bytes(body)

    return flip


def zeroed(version: Path) -> None:
    path = version / "part-00000.parquet"
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("damage", [zeroed, flipped("part-00000.parquet"), flipped("pairs-00001.parquet")])
async def test_a_part_of_other_bytes_is_noticed_and_fetched_anew(
    lookalike: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]
) -> None:
    """Zeros and flipped bits in a cached part are found by its hash: said so offline, fetched anew online."""
    monkeypatch.setattr(convert_module, "_SORTED_FROM_ROWS", 0)
    monkeypatch.setattr(convert_module, "_SLICE_ROWS", 30)
    async with answering(lookalike) as (url, answers):
        published_rows = await rows_of(url, cache_dir)
        entry = Cache(cache_dir, url).entry(BOXES)
        damage(entry.folder / versions(entry)[0])
        with pytest.raises(UnavailableError, match=f"^{BOXES.name}: its copy in the cache is damaged .*--offline"):
            await rows_of(None, cache_dir, site=url)
        assert await rows_of(url, cache_dir) == published_rows
        assert await rows_of(None, cache_dir, site=url) == published_rows
        assert bodies(answers) == {key_of(BOXES): 2}


async def test_a_whole_version_is_hashed_once(
    lookalike: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files in the state in which they were found to be whole are not read again, unless asked for."""
    read: list[str] = []
    md5 = integrity._md5

    def noted(path: Path) -> str:
        read.append(path.name)
        return md5(path)

    monkeypatch.setattr(integrity, "_md5", noted)
    async with answering(lookalike) as (url, _):
        await rows_of(url, cache_dir)
        read.clear()
        await rows_of(url, cache_dir)
        assert not read
        entry = Cache(cache_dir, url).entry(BOXES)
        version = entry.current_version()
        assert version is not None
        assert entry.damaged_file(version, thorough=True) is None
        assert read == ["part-00000.parquet"]
        # A copied cache has other states: it is checked once.
        part = entry.folder / version.version / "part-00000.parquet"
        os.utime(part)
        read.clear()
        assert [entry.damaged_file(version) for _ in range(2)] == [None, None]
        assert len(read) == 1


async def test_a_version_of_0_1_0_is_read_and_gets_its_hashes(lookalike: Path, cache_dir: Path) -> None:
    """A note without hashes is believed as far as its parts have an end; from then on its parts are held to them."""
    async with answering(lookalike) as (url, answers):
        rows = await rows_of(url, cache_dir)
        entry = Cache(cache_dir, url).entry(BOXES)
        path = entry.folder / "current.json"
        old = {name: value for name, value in json.loads(path.read_text()).items() if name not in ("files", "seal")}
        path.write_text(json.dumps(old))
        (entry.folder / "verified.json").unlink()
        assert await rows_of(url, cache_dir) == rows
        assert "part-00000.parquet" in json.loads(path.read_text())["files"]
        assert bodies(answers) == {key_of(BOXES): 1}
        path.write_text(json.dumps(old))
        zeroed(entry.folder / old["version"])
        assert await rows_of(url, cache_dir) == rows
        assert bodies(answers) == {key_of(BOXES): 2}


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_flipped_bit_in_a_note_is_no_version(data: st.DataObject) -> None:
    """Whatever bit of current.json differs, no version is read by it, or it means the same."""
    with tempfile.TemporaryDirectory() as name:
        entry = CacheEntry(Path(name) / "x.csv.table", "x.csv")
        entry.folder.mkdir()
        make(entry)
        whole = entry.current_version()
        path = entry.folder / "current.json"
        body = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(body) - 1))
        body[at] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(body)
        found = entry.current_version()
        assert found is None or (whole is not None and (found.identity, found.files) == (whole.identity, whole.files))
