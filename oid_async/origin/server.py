"""The embedded origin: an aiohttp.web server on a loopback port that serves the public buckets as /<bucket>/<key>.

It serves a folder (`--mirror DIR`), or objects made on request (the demo and the tests). The real download runs against
it; only the address differs.
"""

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self

from aiohttp import web

Serve = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Origin:
    """A loopback server; use it as `async with Origin(serve) as origin` and read `origin.url`."""

    def __init__(self, serve: Serve) -> None:
        app = web.Application()
        app.router.add_get("/{key:.*}", serve)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        self.url = ""
        """The address to give as a mirror, once the server runs."""

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = site.name
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._runner.cleanup()


def folder(root: Path) -> Serve:
    """Serve the files below a folder, with ranges and validators; nothing outside it, links included."""
    root = root.resolve()

    async def serve(request: web.Request) -> web.StreamResponse:
        path = (root / request.match_info["key"]).resolve()
        if not path.is_relative_to(root) or not path.is_file():
            raise web.HTTPNotFound
        return web.FileResponse(path)

    return serve


def published_object(request: web.Request, body: bytes, content_type: str) -> web.Response:
    """Return an object as the public buckets do: its MD5 as ETag, 304 if the client has it, 206 for a range."""
    etag = f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
    headers = {"ETag": etag, "Accept-Ranges": "bytes"}
    if request.headers.get("If-None-Match") == etag:
        return web.Response(status=304, headers=headers)
    if request.headers.get("If-Match", etag) != etag:
        return web.Response(status=412, headers=headers)
    wanted = _part(request, len(body)) if request.headers.get("If-Range", etag) == etag else None
    if wanted is None:
        return web.Response(body=body, content_type=content_type, headers=headers)
    start, stop = wanted
    if start >= stop:
        return web.Response(status=416, headers=headers | {"Content-Range": f"bytes */{len(body)}"})
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(body)}"
    return web.Response(status=206, body=body[start:stop], content_type=content_type, headers=headers)


def _part(request: web.Request, size: int) -> tuple[int, int] | None:
    """Return the requested range of bytes, None for all; a malformed Range header is ignored."""
    try:
        part = request.http_range
    except ValueError:
        return None
    if part.start is None and part.stop is None:
        return None
    start, stop, _ = part.indices(size)
    return start, stop
