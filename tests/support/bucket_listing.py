"""A bucket that can be listed, as S3 lists one: page by page."""

import asyncio
from collections import Counter
from html import escape
from urllib.parse import quote

from aiohttp import web


class Lister:
    """Lists objects as S3 does, `page` keys an answer; `troubles` are answers to come first."""

    def __init__(self, objects: dict[str, int], page: int = 7) -> None:
        self.objects, self.page = dict(sorted(objects.items())), page
        self.troubles: list[web.Response] = []
        self.asked: Counter[str] = Counter()
        self.stop_after: int | None = None
        self.stopped = asyncio.Event()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        if query.get("list-type") != "2":
            raise web.HTTPNotFound
        self.asked[query["prefix"]] += 1
        if self.troubles:
            return self.troubles.pop()
        if self.stop_after is not None and sum(self.asked.values()) > self.stop_after:
            self.stopped.set()
            await asyncio.sleep(0.3)
        keys = [key for key in self.objects if key.startswith(query["prefix"])]
        after = query.get("continuation-token", "").removeprefix("after/+ ")
        keys = [key for key in keys if key > after]
        here, more = keys[: self.page], len(keys) > self.page
        return web.Response(body=page_of({key: self.objects[key] for key in here}, more=more))


def page_of(objects: dict[str, int], *, more: bool) -> bytes:
    entries = "".join(
        f"<Contents><Key>{escape(quote(key))}</Key><Size>{size}</Size><ETag>&quot;{'ab' * 16}&quot;</ETag></Contents>"
        for key, size in objects.items()
    )
    token = f"<NextContinuationToken>after/+ {escape(list(objects)[-1])}</NextContinuationToken>" if more else ""
    space = "http://s3.amazonaws.com/doc/2006-03-01/"
    return (
        f'<?xml version="1.0"?><ListBucketResult xmlns="{space}"><EncodingType>url</EncodingType>'
        f"<IsTruncated>{str(more).lower()}</IsTruncated>{entries}{token}</ListBucketResult>"
    ).encode()
