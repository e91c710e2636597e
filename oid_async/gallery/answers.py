"""What the gallery's server answers: texts, JSON, files of the page; with the headers that all answers have."""

import gzip
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from aiohttp import web

from oid_async.errors import OidError, UsageError
from oid_async.gallery.catalog import NotFoundError
from oid_async.gallery.guard import HEADERS, Entry, Refusal
from oid_async.gallery.thumbnails import NotShownError

# Kept by a browser, and asked for again by ETag; thumbnails it need not ask for again while one scrolls.
ASKED_AGAIN, FOR_A_WHILE = "private, no-cache", "private, max-age=300"
_STATIC = Path(__file__).parent / "static"
_TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
# A smaller JSON is not worth the time.
_WORTH_PACKING = 16 << 10


@dataclass(frozen=True, slots=True)
class Content:
    """An answer that is made, in any thread. `etag` lets a browser keep it, `headers` are further ones."""

    body: bytes
    type: str
    status: int = 200
    cache: str = "no-store"
    etag: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self, request: web.BaseRequest | None = None) -> web.Response:
        """Return it as an answer; without the bytes if it is what the browser has kept."""
        charset = "; charset=utf-8" if self.type.startswith("text/") else ""
        headers = {**HEADERS, "Cache-Control": self.cache, "Content-Type": f"{self.type}{charset}", **self.headers}
        if self.etag is not None:
            headers["ETag"] = self.etag
            if request is not None and is_kept(request, self.etag):
                return web.Response(status=304, headers=headers)
        return web.Response(body=self.body, status=self.status, headers=headers)


def is_kept(request: web.BaseRequest, etag: str) -> bool:
    """Return whether the browser has this already."""
    return request.headers.get("If-None-Match") == etag


def etag_of(body: bytes) -> str:
    """Return an ETag that other bytes do not have."""
    return f'"{blake2b(body, digest_size=12).hexdigest()}"'


def read_static() -> Mapping[str, Content]:
    """Return the files of the page by their names. Blocking. Raises OSError."""
    files = {}
    for path in sorted(_STATIC.iterdir()):
        if (media_type := _TYPES.get(path.suffix)) is not None:
            body = path.read_bytes()
            files[path.name] = Content(body, media_type, cache=ASKED_AGAIN, etag=etag_of(body))
    return files


def thumbnail(body: bytes) -> Content:
    """Return a thumbnail. The next gallery at this port may be of another folder: it has another cookie."""
    return Content(body, "image/jpeg", cache=FOR_A_WHILE, etag=etag_of(body), headers={"Vary": "Cookie"})


def json_of(value: Any, *, packs: bool = False, status: int = 200) -> Content:
    """Return plain values as JSON, in a packed form where that is `packs` and worth it."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        # A table may say nan or inf, which JSON cannot.
        text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    body = text.encode("utf-8", "replace")
    if not packs or len(body) < _WORTH_PACKING:
        return Content(body, "application/json", status)
    packed = {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    return Content(gzip.compress(body, 1), "application/json", status, headers=packed)


def _finite(value: Any) -> Any:
    """Return a value of JSON with null in the place of numbers that JSON has not."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value


def line(text: str, status: int, path: str = "/") -> Content:
    """Return a line for a person, in the form that the path has its answers in."""
    if path.startswith("/api/"):
        return json_of({"error": {"message": text}}, status=status)
    return Content(f"{text}\n".encode("utf-8", "replace"), "text/plain", status)


def refusal(refused: Refusal, path: str) -> web.Response:
    """Return the answer to a request that is refused."""
    response = line(refused.text, refused.status, path).response()
    if refused.again:
        response.headers["Refresh"] = "0"
    if refused.status == 405:
        response.headers["Allow"] = "GET, HEAD"
    return response


def entry(entered: Entry) -> web.Response:
    """Return the answer to a browser that has brought the token."""
    response = line("Go on.", 303).response()
    response.headers["Location"] = entered.location
    for cookie in entered.cookies:
        response.headers.add("Set-Cookie", cookie)
    return response


def explained(error: BaseException) -> tuple[int, str]:
    """Return status and line of the answer to a request that cannot be answered; 500 is a fault of the program."""
    match error:
        case UsageError():
            return 400, str(error)
        case NotFoundError():
            return 404, str(error)
        case NotShownError():
            return 422, str(error)
        case OidError():
            return 503, str(error)
        case FileNotFoundError():
            return 404, "It is not there any more."
        case OSError():
            return 503, f"It cannot be read now ({error.strerror or 'the disk does not answer'})."
    return 500, "A fault of oid-async; the terminal that it runs in says more."
