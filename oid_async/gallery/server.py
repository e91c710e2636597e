"""The server of the gallery: one page, its data as JSON, pictures. Read-only, on aiohttp's low-level server.

    GET /                            the page; with ?token=... it sets the cookie and leads on without the token
    GET /static/NAME                 what the page is made of, read once at the start
    GET /api/folder, /api/images     JSON: what there is, and a part of the images of a state
    GET /api/place/SPLIT/ID          JSON: the place of an image among those of a state
    GET /api/image/SPLIT/ID          JSON: one image with all that is known of it
    GET /image/SPLIT/ID              its saved bytes, /thumbnail/SPLIT/ID a small JPEG of it
    GET /mask/MASKPATH               the PNG of a mask

No address has a path of the disk in it. Every request passes `gallery.guard` first. What blocks is done in threads of
three pools, so that a slow filter does not hold up pictures, nor thumbnails the filters; what a browser no longer waits
for is not begun. Nothing is logged but faults, a line each.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, unquote

from aiohttp import web
from polars.exceptions import PanicException

from oid_async.dataset.image_store import StoredImage
from oid_async.errors import UsageError
from oid_async.gallery import answers
from oid_async.gallery.answers import Content
from oid_async.gallery.catalog import Catalog
from oid_async.gallery.connections import BoundedServer
from oid_async.gallery.guard import HEADERS, Entry, Guard, Head, Refusal
from oid_async.gallery.pictures import Pictures
from oid_async.gallery.state import State, read_number
from oid_async.gallery.threads import Threads
from oid_async.redaction import redacted_text
from oid_async.system.processes import available_processors

_MOST_AT_ONCE = 64
# How long a client may take to receive one block.
_SEND_S, _BLOCK_BYTES = 30.0, 1 << 20
_MOST_PARAMETERS = 500
_A_PAGE, _MOST_OF_A_PAGE, _MOST_IMAGES = 120, 500, (1 << 32) - 1
# Work in threads that has not come to its end by then is left alone: the process ends.
_STOP_S = 0.5


class GalleryServer:
    """Answers the requests of browsers. Make it on the running loop; `close` it in the end.

    `static` are the files of the page. `on_fault` is told of a fault of the program in one line; the request gets
    status 500, the server goes on.
    """

    def __init__(
        self,
        catalog: Catalog,
        pictures: Pictures,
        guard: Guard,
        static: Mapping[str, Content],
        on_fault: Callable[[str], None],
    ) -> None:
        self._catalog = catalog
        self._pictures = pictures
        self._guard = guard
        self._on_fault = on_fault
        self._static = static
        self._under_way = asyncio.Semaphore(_MOST_AT_ONCE)
        self._data, self._files = Threads("data", 4), Threads("files", 4)
        self._thumbnails = Threads("thumbnails", max(2, min(4, available_processors())))
        self._updates = Threads("updates", 1)
        self._is_stopped = threading.Event()
        self.web_server = BoundedServer(self._handle, on_fault)

    async def keep_up_to_date(self) -> None:
        """Let the catalog do what is due, again and again, until cancelled. A fault in it is reported and ends that."""
        try:
            while True:
                pause_s = await self._updates.run(partial(self._catalog.update, self._is_stopped.is_set))
                await asyncio.sleep(pause_s)
        except (Exception, PanicException) as error:
            self._report(error, "what the gallery does in the background has failed")
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Begin nothing more, and wait a moment for what runs in threads."""
        self._is_stopped.set()
        kinds = (self._data, self._files, self._thumbnails, self._updates)
        for threads in kinds:
            threads.close()
        await asyncio.gather(*(threads.wait(_STOP_S) for threads in kinds))

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request, whatever it is."""
        head = _head_of(request)
        decision = self._guard.decide(head)
        if isinstance(decision, Refusal):
            return answers.refusal(decision, head.path)
        if isinstance(decision, Entry):
            return answers.entry(decision)
        try:
            async with self._under_way:
                return await self._answer(request, head.path)
        except (asyncio.CancelledError, ConnectionError):
            raise
        except (Exception, PanicException) as error:
            status, text = answers.explained(error)
            if status == 500:
                self._report(error, "a request has failed")
            return answers.line(text, status, head.path).response()

    async def _answer(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        """Answer a request that may be answered. Raises OidError, OSError, and what a fault raises."""
        match _segments(path):
            case [""]:
                return self._static["index.html"].response(request)
            case ["static", name] if name in self._static:
                return self._static[name].response(request)
            case ["api", "folder"]:
                return await self._json(request, self._catalog.folder)
            case ["api", "images"]:
                return await self._json(request, partial(self._images, request.raw_path))
            case ["api", "place", split, image_id]:
                return await self._json(request, partial(self._place, request.raw_path, split, image_id))
            case ["api", "image", split, image_id]:
                return await self._json(request, partial(self._catalog.image, split, image_id))
            case ["thumbnail", split, image_id]:
                body = await self._thumbnails.run(partial(self._pictures.thumbnail, split, image_id))
                return answers.thumbnail(body).response(request)
            case ["image", split, image_id]:
                return await self._send(request, partial(self._pictures.image, split, image_id), "image/jpeg")
            case ["mask", name]:
                return await self._send(request, partial(self._pictures.mask, name), "image/png")
        return answers.line("There is nothing here.", 404, path).response()

    def _images(self, target: str) -> dict[str, Any]:
        given = _parameters(target)
        offset = read_number(given, "offset", 0, _MOST_IMAGES)
        limit = read_number(given, "limit", _A_PAGE, _MOST_OF_A_PAGE)
        return self._catalog.images(State.read(given), offset, limit)

    def _place(self, target: str, split: str, image_id: str) -> dict[str, Any]:
        return self._catalog.place(State.read(_parameters(target)), split, image_id)

    async def _json(self, request: web.BaseRequest, ask: Callable[[], dict[str, Any]]) -> web.Response:
        packs = "gzip" in request.headers.get("Accept-Encoding", "")

        def made() -> Content:
            return answers.json_of(ask(), packs=packs)

        return (await self._data.run(made)).response()

    async def _send(
        self, request: web.BaseRequest, open_it: Callable[[], StoredImage | bytes], media_type: str
    ) -> web.StreamResponse:
        """Send a file block by block: at no time is more than a block of it in memory. What is made is sent whole."""
        opened, etag = await self._opened(open_it)
        if isinstance(opened, bytes):
            return Content(opened, media_type, cache=answers.ASKED_AGAIN, etag=etag).response(request)
        try:
            if answers.is_kept(request, etag):
                return Content(b"", media_type, cache=answers.ASKED_AGAIN, etag=etag).response(request)
            headers = {**HEADERS, "Cache-Control": answers.ASKED_AGAIN, "Content-Type": media_type, "ETag": etag}
            response = web.StreamResponse(headers=headers)
            response.content_length = opened.size
            await response.prepare(request)
            if request.method != "HEAD":
                await self._send_blocks(request, response, opened)
            return response
        finally:
            opened.close()

    async def _send_blocks(self, request: web.BaseRequest, response: web.StreamResponse, opened: StoredImage) -> None:
        """Send all of a file. Raises ConnectionError once it cannot go on: the browser sees that it was cut."""
        at = 0
        try:
            while at < opened.size:
                block = await self._files.run(partial(opened.read, at, _BLOCK_BYTES))
                if not block:
                    raise OSError("the file was cut while it was sent")
                async with asyncio.timeout(_SEND_S):
                    await response.write(block)
                at += len(block)
        except OSError as error:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError(str(error)) from error

    async def _opened(self, open_it: Callable[[], StoredImage | bytes]) -> tuple[StoredImage | bytes, str]:
        """Open a file in a thread and return its ETag, too. What is opened for a browser that has gone is closed."""
        opening = self._files.start(partial(_with_etag, open_it))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_opened)
            raise

    def _report(self, error: BaseException, what: str) -> None:
        said = redacted_text(" ".join(f"{type(error).__name__}: {error}".split()))[:300]
        self._on_fault(f"view: {what} by a fault of oid-async ({said}); the gallery goes on")


def _head_of(request: web.BaseRequest) -> Head:
    headers = request.headers
    return Head(
        method=request.method,
        target=request.raw_path,
        hosts=tuple(headers.getall("Host", [])),
        cookie="; ".join(headers.getall("Cookie", [])),
        origin=headers.get("Origin"),
        fetch_site=headers.get("Sec-Fetch-Site"),
        fetch_mode=headers.get("Sec-Fetch-Mode"),
        fetch_dest=headers.get("Sec-Fetch-Dest"),
    )


def _segments(path: str) -> list[str]:
    """Return the parts of a path, decoded, [""] for the page itself, [] for what is no text.

    >>> _segments("/image/train/a%2Fb"), _segments("/"), _segments("/image/%ff"), _segments("//x")
    (['image', 'train', 'a/b'], [''], [], ['', 'x'])
    """
    try:
        return [unquote(part, errors="strict") for part in path.removeprefix("/").split("/")]
    except UnicodeDecodeError:
        return []


def _parameters(target: str) -> Sequence[tuple[str, str]]:
    """Return the query of an address as decoded pairs. Raises UsageError."""
    try:
        return parse_qsl(target.partition("?")[2], keep_blank_values=True, max_num_fields=_MOST_PARAMETERS)
    except ValueError as error:
        raise UsageError(f"the address has more than {_MOST_PARAMETERS} parameters") from error


def _with_etag(open_it: Callable[[], StoredImage | bytes]) -> tuple[StoredImage | bytes, str]:
    opened = open_it()
    if isinstance(opened, bytes):
        return opened, answers.etag_of(opened)
    try:
        return opened, f'"{opened.size:x}-{opened.changed_ns:x}"'
    except OSError:
        opened.close()
        raise


def _close_opened(opening: "asyncio.Future[tuple[StoredImage | bytes, str]]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        opened, _ = opening.result()
        if not isinstance(opened, bytes):
            opened.close()
