"""The gallery's server in the process of a test, and requests as a browser or an attacker sends them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from oid_async.dataset.saved import SavedDataset
from oid_async.gallery.answers import read_static
from oid_async.gallery.catalog import Catalog, NotFoundError, SavedImage
from oid_async.gallery.guard import Guard
from oid_async.gallery.listening import listen
from oid_async.gallery.pictures import Pictures
from oid_async.gallery.server import GalleryServer
from oid_async.gallery.state import State
from oid_async.gallery.thumbnails import ThumbnailCache


class PlainCatalog(Catalog):
    """Answers for a finished folder of a few images; `answers` replaces what a method returns, or raises."""

    def __init__(self, dataset: SavedDataset, answers: Mapping[str, Callable[[], Any]]) -> None:
        self._dataset = dataset
        self._answers = answers

    @property
    def dataset(self) -> SavedDataset:
        return self._dataset

    def folder(self) -> dict[str, Any]:
        return dict(self._answers.get("folder", lambda: {"name": self._dataset.savepath.name})())

    def images(self, state: State, offset: int = 0, limit: int = 120) -> dict[str, Any]:
        return {"state": repr(state), "offset": offset, "limit": limit}

    def image(self, split: str, image_id: str) -> dict[str, Any]:
        return {"image": {"ImageID": self.saved_image(split, image_id).image_id}}

    def saved_image(self, split: str, image_id: str) -> SavedImage:
        rows = self._dataset.images.filter(ImageID=image_id, Subset=split).collect().to_dicts()
        if not rows:
            raise NotFoundError(f"the manifest has no image {split}/{image_id}")
        row = rows[0]
        columns = ("ImageID", "Subset", "Status", "FileName", "Bytes", "MD5", "Width", "Height")
        return SavedImage(*(row[name] for name in columns))


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass(slots=True)
class Served:
    """A server under test. `said` are the faults that it has reported."""

    port: int
    guard: Guard
    server: GalleryServer
    said: list[str] = field(default_factory=list)
    cookie: str = ""

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def get(self, target: str, *, method: str = "GET", cookie: str | None = None, **headers: str) -> Answer:
        """Send a request as written, with the browser's cookie; `Host` and others by their names, `_` for `-`."""
        sent = {"Host": self.host, "Cookie": self.cookie if cookie is None else cookie}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items() if value)]
        return await self.send("\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1"))

    async def send(self, request: bytes) -> Answer:
        """Send bytes and read the answer up to the end of the connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            body = await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()
        first, *lines = head.strip().split("\r\n")
        fields = (line.split(": ", 1) for line in lines)
        return Answer(int(first.split()[1]), {name.lower(): value for name, value in fields}, body)

    async def until(self, connections: int) -> None:
        """Wait until the server has so many connections."""
        for _ in range(1_000_000):
            if len(self.server.web_server.connections) == connections:
                return
            await asyncio.sleep(0)
        raise AssertionError(f"not {connections} connections")

    async def enter(self) -> None:
        """Open the printed address, as a browser does."""
        answer = await self.get(f"/?token={self.guard.token}")
        self.cookie = answer.headers["set-cookie"].partition(";")[0]


@asynccontextmanager
async def served(
    dataset: SavedDataset, *, host: str = "127.0.0.1", answers: Mapping[str, Callable[[], Any]] | None = None
) -> AsyncIterator[Served]:
    """Serve a folder on a free port; the browser has entered."""
    catalog, guard, said = PlainCatalog(dataset, answers or {}), Guard(host), list[str]()
    pictures = Pictures(catalog, ThumbnailCache(dataset.folder.state / "gallery" / "thumbnails"))
    server = GalleryServer(catalog, pictures, guard, read_static(), said.append)
    runner = web.ServerRunner(server.web_server, shutdown_timeout=0.1)
    await runner.setup()
    try:
        listening = listen("127.0.0.1", 0)
        await web.SockSite(runner, listening).start()
        gallery = Served(listening.getsockname()[1], guard, server, said)
        await gallery.enter()
        yield gallery
    finally:
        await runner.cleanup()
        await server.close()
