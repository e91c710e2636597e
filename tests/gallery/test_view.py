"""The verb: a server from its start to its end, in the test's own process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from blockbuster import BlockBuster
from support.saved import SavedBox, SavedFolder, SavedImage, rectangle

from oid_async.errors import InputError, UsageError
from oid_async.events import Event, Note
from oid_async.gallery.listening import Place
from oid_async.jobs.stored_query import Given
from oid_async.jobs.view import View

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
