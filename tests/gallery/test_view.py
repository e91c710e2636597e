"""The verb: a server from its start to its end, in the test's own process."""

import asyncio
import io
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from blockbuster import BlockBuster
from PIL import Image
from support.published import typed
from support.saved import SavedBox, SavedFolder, SavedImage, rectangle

from oid_async import export
from oid_async.errors import InputError, UsageError
from oid_async.events import Event, Note
from oid_async.gallery.listening import Place
from oid_async.gallery.pictures import Pictures
from oid_async.jobs.stored_query import Given
from oid_async.jobs.view import View
from oid_async.store.folder import Folder
from oid_async.store.folder_lock import FolderLock

ID = "0000000000000001"
HERE = Place("127.0.0.1", 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of an image with a box and its mask."""
    box = SavedBox(ID)
    return SavedFolder([SavedImage(ID)], [box], [(box, rectangle(64, 48, (16, 12, 48, 36)))]).write(tmp_path / "d")


class Seen:
    """What a view has said: its address, notes, faults."""

    def __init__(self) -> None:
        self.address = ""
        self.notes: list[str] = []
        self.faults: list[str] = []
        self.is_ready = asyncio.Event()

    def on_address(self, url: str) -> None:
        self.address = url
        self.is_ready.set()

    def on_event(self, event: Event) -> None:
        assert isinstance(event, Note)
        self.notes.append(event.text)


@asynccontextmanager
async def viewed(savepath: Path, place: Place = HERE) -> AsyncIterator[tuple[Seen, aiohttp.ClientSession]]:
    """Run a view of a folder; the browser has opened its address."""
    seen = Seen()
    view = View(Given.of(savepath, {}), place)
    running = asyncio.create_task(view.run(seen.on_address, seen.on_event, seen.faults.append, opens=False))
    ready = asyncio.create_task(seen.is_ready.wait())
    await asyncio.wait([running, ready], return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    if running.done():
        await running
    try:
        base = seen.address.partition("?")[0]
        async with aiohttp.ClientSession(base, cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
            async with browser.get(seen.address) as answer:
                assert (answer.status, answer.url.query_string) == (200, "")
            yield seen, browser
    finally:
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_the_loop_is_never_blocked(folder: Path) -> None:
    """blockbuster finds no blocking call on the loop from the start to the end."""
    guard = BlockBuster(scanned_modules=["oid_async"])
    guard.activate()
    try:
        async with viewed(folder) as (seen, browser):
            async with browser.get(f"/api/image/train/{ID}") as answer:
                mask = (await answer.json())["masks"][0]["url"]
            for path in (
                "",
                "static/app.js",
                "api/folder",
                "api/images",
                mask,
                *(f"{what}/train/{ID}" for what in ("image", "thumbnail")),
            ):
                async with browser.get(f"/{path}") as answer:
                    assert (answer.status, len(await answer.read()) > 0) == (200, True), path
    finally:
        guard.deactivate()
    assert (seen.notes, seen.faults) == ([], [])


async def test_it_ends_at_once_whatever_is_under_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that hangs in a thread, and one that waits for its turn, do not hold up the end."""
    began, goes_on = threading.Event(), threading.Event()

    def hang(pictures: object, split: str, image_id: str) -> bytes:
        began.set()
        goes_on.wait()
        return b""

    monkeypatch.setattr(Pictures, "thumbnail", hang)
    try:
        async with viewed(folder) as (_, browser):
            asked = [asyncio.create_task(browser.get(f"/thumbnail/train/{ID}")) for _ in range(6)]
            await asyncio.to_thread(began.wait)
            started = time.monotonic()
        assert time.monotonic() - started < 5
        for each in asked:
            with pytest.raises(aiohttp.ClientError):
                await each
    finally:
        goes_on.set()


async def test_a_place_that_cannot_be_had_is_named(folder: Path) -> None:
    """A port that is taken, an address of another machine, a name that nobody knows."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for place, named in (
            (Place("127.0.0.1", port), f"--port {port}"),
            (Place("192.0.2.1", 0), "--host 192.0.2.1"),
            (Place("no-such-host.invalid", 0), "--host no-such-host.invalid"),
        ):
            with pytest.raises(UsageError, match=named):
                async with viewed(folder, place):
                    pass


@pytest.mark.parametrize(
    ("host", "port", "named"),
    [("", 0, "--host"), ("a/b", 0, "--host"), ("127.0.0.1", 65536, "--port"), ("::1", -1, "--port")],
)
def test_what_is_no_place_is_refused(host: str, port: int, named: str) -> None:
    """Before anything is opened."""
    with pytest.raises(UsageError, match=named):
        Place.read(host, port)


def knows_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


async def test_the_address_can_be_opened_on_this_machine(folder: Path) -> None:
    """An IPv6 address stands in brackets; 0.0.0.0 is every address, of which loopback is one, and that is said."""
    async with viewed(folder, Place("0.0.0.0", 0)) as (seen, _):
        assert seen.address.startswith("http://127.0.0.1:")
        assert any("other machines" in line for line in seen.notes)
    async with viewed(folder, Place.read("localhost", 0)) as (seen, _):
        assert seen.address.startswith("http://localhost:")
        assert seen.notes == []
    if knows_ipv6():
        async with viewed(folder, Place.read("[::1]", 0)) as (seen, _):
            assert seen.address.startswith("http://[::1]:")


async def test_a_folder_without_a_download_is_refused(tmp_path: Path) -> None:
    """No manifest, no folder at all, and a folder whose parts are links."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "linked" / ".oid_async").mkdir(parents=True)
    (tmp_path / "linked" / ".oid_async" / "gallery").symlink_to(tmp_path / "empty")
    for name, error in (("empty", InputError), ("nothing", InputError), ("linked", UsageError)):
        with pytest.raises(error, match=name):
            async with viewed(tmp_path / name):
                pass
    assert list((tmp_path / "empty").iterdir()) == []


async def test_a_run_may_begin_and_end_beside_it(folder: Path) -> None:
    """No lock is taken: neither for writing nor as a reader."""
    async with viewed(folder):
        FolderLock.take(Folder(folder)).release()


async def indexed(browser: aiohttp.ClientSession) -> None:
    is_ready = False
    while not is_ready:
        await asyncio.sleep(0.05)
        async with browser.get("/api/folder") as answer:
            is_ready = (await answer.json())["index"]["ready"]


async def test_a_folder_that_goes_away_gets_plain_answers(folder: Path) -> None:
    """What was asked for is not there, in a line; the server goes on and reports no fault."""
    async with viewed(folder) as (seen, browser):
        # Nothing is to be written into it while it is removed.
        await indexed(browser)
        shutil.rmtree(folder)
        for path in ("api/folder", "api/images", f"api/image/train/{ID}", f"image/train/{ID}", f"thumbnail/train/{ID}"):
            async with browser.get(f"/{path}") as answer:
                assert answer.status in (200, 404, 503), path
                assert "fault" not in await answer.text()
    assert (seen.faults, await asyncio.to_thread(folder.exists)) == ([], False)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_the_command_prints_its_address_and_ends_by_a_signal(folder: Path, number: int, code: int) -> None:
    """One line on stderr, with --quiet, too; with --json the address on stdout; nothing else; it ends at once."""
    words = [sys.executable, "-m", "oid_async", "view", str(folder), "--no-open", "--quiet", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        url = process.stderr.readline().removeprefix("view: ").strip()
        started = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, json.loads(out), err) == (code, {"url": url}, "")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "view: http://h/\n"),
        (["--no-open"], "view: http://h/  (Ctrl-C ends it)\n"),
        (["--no-open", "--quiet"], "view: http://h/\n"),
    ],
)
def test_without_a_browser_the_line_says_how_it_ends(
    words: list[str], said: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else shows that the program waits there; behind the address, which stands alone with --quiet."""

    async def run(self: View, on_address: Callable[[str], None], *others: object, opens: bool) -> None:
        on_address("http://h/")

    monkeypatch.setattr(View, "run", run)
    done = typed("view", folder, *words)
    assert (done.stdout, done.stderr) == ("", said)


async def test_masks_of_a_folder_without_files_come_from_its_shards(folder: Path) -> None:
    """Images and masks that were packed into tar files: the mask has the pixels of its box."""
    await export(savepath=folder, format="webdataset")
    note = {"shards": str(folder / "export" / "webdataset")}
    await asyncio.to_thread(pack_away, folder, note)
    async with viewed(folder) as (_, browser):
        async with browser.get(f"/api/image/train/{ID}") as answer:
            mask = (await answer.json())["masks"][0]["url"]
        async with browser.get(f"/{mask}") as answer, browser.get(f"/image/train/{ID}") as image:
            assert (answer.status, image.status) == (200, 200)
            with Image.open(io.BytesIO(await answer.read())) as picture:
                assert picture.convert("L").getbbox() == (16, 12, 48, 36)


def pack_away(folder: Path, note: dict[str, str]) -> None:
    """Leave the images and masks to the shards alone, as a download with --no-files does."""
    shutil.rmtree(folder / "images")
    shutil.rmtree(folder / "segmentation" / "masks")
    (folder / ".oid_async").mkdir(exist_ok=True)
    (folder / ".oid_async" / "shards.json").write_text(json.dumps(note))
