"""The server of the gallery: one page, its data as JSON, pictures. Read-only, on aiohttp's low-level server.

    GET /                            the page; with ?token=... it sets the cookie and leads on without the token
    GET /static/NAME                 what the page is made of, read once at the start
    GET /api/folder, /api/images     JSON: what there is, and a part of the images of a state
    GET /api/image/SPLIT/ID          JSON: one image with all that is known of it
    GET /image/SPLIT/ID              its saved bytes, /thumbnail/SPLIT/ID a small JPEG of it
    GET /mask/MASKPATH               the PNG of a mask

No address has a path of the disk in it. Every request passes `gallery.guard` first. What blocks is done in threads of
three pools, so that a slow filter does not hold up pictures, nor thumbnails the filters; what a browser no longer waits
for is not begun. Nothing is logged but faults, a line each.
"""

import asyncio
import gzip
import json
import logging
import math
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from oid_async.concurrency import available_processors
from oid_async.dataset.image_store import StoredImage
from oid_async.errors import OidError, UsageError
from oid_async.gallery.catalog import Catalog, NotFoundError
from oid_async.gallery.guard import HEADERS, Entry, Guard, Head, Refusal
from oid_async.gallery.pictures import Pictures
from oid_async.gallery.state import State, read_number
from oid_async.gallery.thumbnails import NoThumbnailError
from oid_async.redaction import redacted_text

Result = TypeVar("Result")
Parameters = Sequence[tuple[str, str]]

_STATIC = Path(__file__).parent / "static"
_TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".json": "application/json",
    ".txt": "text/plain",
}
# A browser opens six connections to a host; what sends no head, and is not sent one, is closed after a while.
_MOST_CONNECTIONS, _IDLE_S = 256, 30.0
_MOST_AT_ONCE = 64
# How long a client may take to receive one block.
_SEND_S, _BLOCK_BYTES = 30.0, 1 << 20
_MOST_PARAMETERS = 500
_A_PAGE, _MOST_OF_A_PAGE, _MOST_IMAGES = 120, 500, 1 << 40
# Work in threads that has not come to its end by then is left alone: the process ends.
_STOP_S = 0.5
_WORTH_PACKING = 16 << 10
# Kept by a browser, and asked for again by ETag; thumbnails it need not ask for again while one scrolls.
_ASKED_AGAIN, _FOR_A_WHILE = "private, no-cache", "private, max-age=300"


@dataclass(frozen=True, slots=True)
class _Content:
    """An answer that is made: `etag` lets a browser keep it."""

    body: bytes
    type: str
    cache: str = "no-store"
    etag: str | None = None
    status: int = 200
    packed: bool = False


class GalleryServer:
    """Answers the requests of browsers. Make it on the running loop; `close` it in the end.

    `report` is told of a fault of the program in one line; the request gets status 500, the server goes on.
    """

    def __init__(self, catalog: Catalog, pictures: Pictures, guard: Guard, report: Callable[[str], None]) -> None:
        self._catalog = catalog
        self._pictures = pictures
        self._guard = guard
        self._report = report
        self._static = _read_static(_STATIC)
        self._under_way = asyncio.Semaphore(_MOST_AT_ONCE)
        self._for_data = ThreadPoolExecutor(4, "gallery-data")
        self._for_files = ThreadPoolExecutor(4, "gallery-files")
        self._for_thumbnails = ThreadPoolExecutor(max(2, min(4, available_processors())), "gallery-thumbnails")
        self._for_updates = ThreadPoolExecutor(1, "gallery-updates")
        self.web_server = _Server(self._handle, self._report)

    async def keep_up_to_date(self) -> None:
        """Let the catalog do what is due, again and again, until cancelled. A fault in it is reported and ends that."""
        is_stopped = threading.Event()
        updating: asyncio.Future[float] | None = None
        try:
            while True:
                updating = asyncio.get_running_loop().run_in_executor(
                    self._for_updates, self._catalog.update, is_stopped.is_set
                )
                await asyncio.sleep(await asyncio.shield(updating))
        except Exception as error:
            self._report_fault(error, "what the gallery does in the background has failed")
            await asyncio.Event().wait()
        finally:
            is_stopped.set()
            if updating is not None:
                await asyncio.wait([updating], timeout=_STOP_S)

    async def close(self) -> None:
        """Begin nothing more, and wait a moment for what runs in threads."""
        pools = (self._for_data, self._for_files, self._for_thumbnails, self._for_updates)
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request, whatever it is."""
        head = _head_of(request)
        decision = self._guard.decide(head)
        if isinstance(decision, Refusal):
            return _refusal(decision, head.path)
        if isinstance(decision, Entry):
            return _response(_text("Go on.", 303), {"Location": decision.location, "Set-Cookie": decision.cookie})
        try:
            async with self._under_way:
                return await self._answer(request, head.path)
        except (asyncio.CancelledError, ConnectionError):
            raise
        except BaseException as error:
            # Polars' panics are no Exception. What else is none ends the server.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            return self._failure(error, head.path)

    async def _answer(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        """Answer a request that may be answered. Raises OidError, OSError, and what a fault raises."""
        segments = _segments(path)
        packs = "gzip" in request.headers.get("Accept-Encoding", "")
        match segments:
            case [""] if "index.html" in self._static:
                return _kept(request, self._static["index.html"])
            case ["static", name] if name in self._static:
                return _kept(request, self._static[name])
            case ["api", "folder"]:
                return _content(await self._made(self._catalog.folder, packs))
            case ["api", "images"]:
                return _content(await self._made(lambda: self._images(request.raw_path), packs))
            case ["api", "image", split, image_id]:
                return _content(await self._made(lambda: self._catalog.image(split, image_id), packs))
            case ["thumbnail", split, image_id]:
                body = await self._run(self._for_thumbnails, lambda: self._pictures.thumbnail(split, image_id))
                return _kept(request, _Content(body, "image/jpeg", _FOR_A_WHILE, _etag_of(body)))
            case ["image", split, image_id]:
                return await self._send(request, lambda: self._pictures.image(split, image_id), "image/jpeg")
            case ["mask", name]:
                return await self._send(request, lambda: self._pictures.mask(name), "image/png")
        return _content(_text("There is nothing here.", 404))

    def _images(self, target: str) -> dict[str, Any]:
        given = _parameters(target)
        offset = read_number(given, "offset", 0, _MOST_IMAGES)
        limit = read_number(given, "limit", _A_PAGE, _MOST_OF_A_PAGE)
        return self._catalog.images(State.read(given), offset, limit)

    async def _made(self, make: Callable[[], Any], packs: bool) -> _Content:
        return await self._run(self._for_data, lambda: _json(make(), packs=packs))

    async def _run(self, pool: ThreadPoolExecutor, work: Callable[[], Result]) -> Result:
        """Run work in a thread; when the browser goes away before it has begun, it is not begun."""
        return await asyncio.get_running_loop().run_in_executor(pool, work)

    async def _send(
        self, request: web.BaseRequest, open_it: Callable[[], StoredImage], media_type: str
    ) -> web.StreamResponse:
        """Send a file block by block: at no time is more than a block of it in memory."""
        opened = await self._opened(open_it)
        try:
            etag = f'"{opened.size:x}-{opened.changed_ns:x}"'
            headers = {"Cache-Control": _ASKED_AGAIN, "ETag": etag}
            if request.headers.get("If-None-Match") == etag:
                return _response(_Content(b"", media_type, status=304), headers)
            response = web.StreamResponse(headers={**HEADERS, **headers, "Content-Type": media_type})
            response.content_length = opened.size
            await response.prepare(request)
            if request.method != "HEAD":
                await self._send_blocks(request, response, opened)
            return response
        finally:
            opened.file.close()

    async def _send_blocks(self, request: web.BaseRequest, response: web.StreamResponse, opened: StoredImage) -> None:
        """Send all of a file. Raises ConnectionError once it cannot go on: the browser sees that it was cut."""
        at = 0
        try:
            while at < opened.size:
                block = await self._run(self._for_files, partial(opened.read, at, _BLOCK_BYTES))
                if not block:
                    raise OSError("the file was cut while it was sent")
                async with asyncio.timeout(_SEND_S):
                    await response.write(block)
                at += len(block)
        except OSError as error:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError(str(error)) from error

    async def _opened(self, open_it: Callable[[], StoredImage]) -> StoredImage:
        """Open a file in a thread; a file that is opened for a browser that has gone is closed."""
        opening = asyncio.get_running_loop().run_in_executor(self._for_files, open_it)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_opened)
            raise

    def _failure(self, error: BaseException, path: str) -> web.StreamResponse:
        """Return what is said of an error; a fault of the program is reported as well."""
        status, text = _explained(error)
        if status == 500:
            self._report_fault(error, "a request has failed")
        return _content(_said(text, status, path))

    def _report_fault(self, error: BaseException, what: str) -> None:
        said = redacted_text(" ".join(f"{type(error).__name__}: {error}".split()))[:300]
        self._report(f"view: {what} by a fault of oid-async ({said}); the gallery goes on")


def _explained(error: BaseException) -> tuple[int, str]:
    """Return the status and the line of an answer to a request that cannot be answered."""
    match error:
        case UsageError():
            return 400, str(error)
        case NotFoundError():
            return 404, str(error)
        case NoThumbnailError():
            return 422, str(error)
        case OidError():
            return 503, str(error)
        case FileNotFoundError():
            return 404, "it is not there any more"
        case OSError():
            return 503, f"it cannot be read now ({error.strerror or 'the disk does not answer'})"
    return 500, "A fault of oid-async; its terminal says more."


class _Server(web.Server):
    """aiohttp's server with bounds, that logs nothing but faults, a line each."""

    def __init__(
        self, handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], report: Callable[[str], None]
    ) -> None:
        self._options: dict[str, Any] = {
            "logger": _fault_logger(report),
            "access_log": None,
            "keepalive_timeout": _IDLE_S,
            "lingering_time": 0.0,
        }
        super().__init__(handle, handler_cancellation=True)

    def __call__(self) -> RequestHandler:
        """Return the protocol of a new connection."""
        return _Connection(self, loop=asyncio.get_running_loop(), **self._options)


class _Connection(RequestHandler):
    """A connection to a browser."""

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close it at once if there are too many."""
        super().connection_made(transport)
        if self._manager is not None and len(self._manager.connections) > _MOST_CONNECTIONS:
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer to what is no HTTP, or more of it than is allowed; the headers are those of all answers."""
        response = _content(_text("This is no request that is understood here.", 400 if status < 500 else status))
        response.force_close()
        return response


class _FaultHandler(logging.Handler):
    def __init__(self, report: Callable[[str], None]) -> None:
        super().__init__(logging.ERROR)
        self._report_line = report

    def emit(self, record: logging.LogRecord) -> None:
        """Report what aiohttp logs, in one line."""
        error = record.exc_info[1] if record.exc_info else None
        self._report_line(f"view: {' '.join(record.getMessage().split())[:200]} ({type(error).__name__}: {error})")


def _fault_logger(report: Callable[[str], None]) -> logging.Logger:
    logger = logging.Logger("oid_async.gallery")
    logger.addHandler(_FaultHandler(report))
    return logger


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


def _parameters(target: str) -> Parameters:
    """Return the query of an address as decoded pairs. Raises UsageError."""
    try:
        return parse_qsl(target.partition("?")[2], keep_blank_values=True, max_num_fields=_MOST_PARAMETERS)
    except ValueError as error:
        raise UsageError(f"the address has more than {_MOST_PARAMETERS} parameters") from error


def _read_static(folder: Path) -> Mapping[str, _Content]:
    """Return the files of the page by their names. Raises OSError."""
    files = {}
    for path in sorted(folder.glob("*")):
        if (media_type := _TYPES.get(path.suffix)) is not None:
            body = path.read_bytes()
            files[path.name] = _Content(body, media_type, _ASKED_AGAIN, _etag_of(body))
    return files


def _etag_of(body: bytes) -> str:
    return f'"{blake2b(body, digest_size=12).hexdigest()}"'


def _json(value: Any, *, packs: bool, status: int = 200) -> _Content:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        # A table may say nan or inf, which JSON cannot.
        text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    body = text.encode("utf-8", "replace")
    packs &= len(body) > _WORTH_PACKING
    return _Content(gzip.compress(body, 1) if packs else body, "application/json", status=status, packed=packs)


def _finite(value: Any) -> Any:
    """Return a value of JSON without numbers that JSON has not: null in their place."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value


def _said(text: str, status: int, path: str) -> _Content:
    """Return a line for a person, as what was asked for has it."""
    if path.startswith("/api/"):
        return _json({"error": {"message": text}}, packs=False, status=status)
    return _text(text, status)


def _text(text: str, status: int) -> _Content:
    return _Content(f"{text}\n".encode(), "text/plain", status=status)


def _refusal(refusal: Refusal, path: str) -> web.Response:
    headers = {"Refresh": "0"} if refusal.again else {}
    if refusal.status == 405:
        headers["Allow"] = "GET, HEAD"
    return _response(_said(refusal.text, refusal.status, path), headers)


def _kept(request: web.BaseRequest, content: _Content) -> web.Response:
    """Return content that a browser may keep, or say that the one it has is still right."""
    headers = {"ETag": content.etag or ""}
    if request.headers.get("If-None-Match") == content.etag:
        return _response(_Content(b"", content.type, content.cache, status=304), headers)
    return _response(content, headers)


def _content(content: _Content) -> web.Response:
    return _response(content, {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"} if content.packed else {})


def _response(content: _Content, headers: Mapping[str, str]) -> web.Response:
    charset = "; charset=utf-8" if content.type.startswith("text/") else ""
    all_headers = {**HEADERS, "Cache-Control": content.cache, "Content-Type": f"{content.type}{charset}", **headers}
    return web.Response(body=content.body, status=content.status, headers=all_headers)


def _close_opened(opening: "asyncio.Future[StoredImage]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().file.close()
