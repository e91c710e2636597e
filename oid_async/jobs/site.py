"""The site of published objects: the public buckets, a mirror by URL, a folder, or objects made on the fly.

The last two are served by an embedded origin on loopback, so that every byte takes the same way.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import aiofiles.os

from oid_async.errors import UsageError
from oid_async.http.address_guard import Endpoint, endpoint, parse_endpoint
from oid_async.http.retry import FetchError
from oid_async.http.urls import parse_url
from oid_async.metadata.paths import mirror_folder
from oid_async.openimages.catalogue import BUCKETS, IMAGE_BUCKET
from oid_async.options.query import Options
from oid_async.quick_values import frozen

if TYPE_CHECKING:
    from oid_async.origin.server import Serve


@frozen
class Site:
    """`url` is a mirror's address, None for the public buckets; `name` is what a mirror is known by over runs.

    `name` also stands for the address in what is written down: an embedded origin has another port every time.
    """

    url: str | None
    name: str | None


def allowed_endpoints(options: Options, site: Site) -> tuple[Endpoint, ...]:
    """Return the endpoints that need not be public: those the user allows, and the mirror's own."""
    own = (endpoint(parse_url(site.url)),) if site.url is not None else ()
    return (*own, *map(parse_endpoint, options.allow_hosts))


def named_endpoints(options: Options) -> tuple[Endpoint, ...]:
    """Return the endpoints of tables that the user has named by URL: allowed for tables, not for what they list."""
    given = (options.label, options.annotation, options.image_url)
    endpoints = []
    for url in given:
        if url is not None and url.lower().startswith(("http:", "https:")):
            # A text that is no URL is refused when it is fetched.
            with suppress(FetchError):
                endpoints.append(endpoint(parse_url(url)))
    return tuple(endpoints)


@asynccontextmanager
async def open_site(
    mirror: str | None, *, offline: bool = False, serve: "Serve | None" = None, name: str | None = None
) -> AsyncIterator[Site]:
    """Yield where to fetch from. Raises UsageError for a mirror that is neither an http URL nor a folder.

    `serve` plays the objects itself, known as `name`. Offline, a folder is only known by its name: nothing is served.
    """
    root = mirror_folder(mirror)
    if serve is None and root is None:
        try:
            parse_url(mirror or BUCKETS[IMAGE_BUCKET])
        except FetchError as error:
            raise UsageError(f"--mirror {mirror}: {error}") from error
        address = mirror.rstrip("/") if mirror else None
        yield Site(address, address)
        return
    if serve is None and root is not None:
        name = root.as_uri()
        if offline:
            yield Site(None, name)
            return
        if not await aiofiles.os.path.isdir(root):
            raise UsageError(f"--mirror {mirror}: neither an http URL nor a folder")
    # A server takes a tenth of a second to import, and most runs need none.
    from oid_async.origin.server import Origin, folder

    if serve is None:
        assert root is not None
        serve = folder(root)
    async with Origin(serve) as origin:
        yield Site(origin.url, name)
