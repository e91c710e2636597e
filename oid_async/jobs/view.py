"""`oid-async view`: the gallery of a folder in a browser, until it is interrupted."""

import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from aiohttp import web

from oid_async.concurrency import acquired, in_thread
from oid_async.dataset.saved import SavedDataset
from oid_async.events import Note, Sink
from oid_async.gallery.answers import read_static
from oid_async.gallery.browser import open_browser
from oid_async.gallery.catalog import Catalog
from oid_async.gallery.guard import Guard
from oid_async.gallery.listening import Place, base_url, is_open_to_others, listen
from oid_async.gallery.pictures import Pictures
from oid_async.gallery.server import GalleryServer
from oid_async.gallery.thumbnails import ThumbnailCache
from oid_async.jobs.opening import open_folder
from oid_async.jobs.stored_query import Given
from oid_async.jobs.unfinished import state_of
from oid_async.store.folder import Folder

# What is under way when the gallery ends is cut off.
_SHUTDOWN_S = 0.1
_OPEN_TO_OTHERS = (
    "view: other machines reach this port, too, by this machine's own address: everyone who has the address with its "
    "token can look, and it is not encrypted"
)


class View:
    """Shows one folder. `out` is where its shards are, if a download with --no-files has put them elsewhere."""

    def __init__(self, given: Given, place: Place, *, out: Path | None = None) -> None:
        self._given = given
        self._place = place
        self._out = out
        self._folder = Folder(given.options.folder_for("view"))

    async def run(
        self, on_address: Callable[[str], None], sink: Sink, on_fault: Callable[[str], None], *, opens: bool
    ) -> None:
        """Answer browsers until cancelled.

        `on_address` is told the address, with its token, once it answers; `on_fault` of a fault of the program, in a
        line. Raises InputError for a folder that no download has filled, UsageError for what the call must name and for
        a port or address that cannot be had.
        """
        async with AsyncExitStack() as stack:
            listening = await acquired(listen, self._place.host, self._place.port, release=socket.socket.close)
            stack.callback(listening.close)
            catalog = await acquired(Catalog, self._open, self._look, release=Catalog.close)
            stack.push_async_callback(in_thread, catalog.close)
            guard = Guard(self._place.host)
            pictures = Pictures(catalog, ThumbnailCache(self._folder.state / "gallery" / "thumbnails"))
            server = GalleryServer(catalog, pictures, guard, await in_thread(read_static), on_fault)
            stack.push_async_callback(server.close)
            runner = web.ServerRunner(server.web_server, shutdown_timeout=_SHUTDOWN_S)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.SockSite(runner, listening).start()
            url = base_url(listening, self._place.host)
            on_address(f"{url}?token={guard.token}")
            if is_open_to_others(listening):
                sink(Note(_OPEN_TO_OTHERS))
            if opens:
                open_browser(f"{url}?token={guard.one_time_token()}")
            await server.keep_up_to_date()

    def _open(self) -> SavedDataset:
        return open_folder(self._folder, "read", self._given, self._out)

    def _look(self) -> object:
        """Return what differs once a run has begun here, saved images, or come to its end."""
        try:
            saved = self._folder.journal.lstat().st_size
        except OSError:
            saved = None
        return [*state_of(self._folder), saved]
