"""An origin that takes its time, in a thread of its own: runs of other processes are met half-way."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from aiohttp import web

from oid_async.origin.lookalike import Lookalike
from oid_async.origin.server import Origin


class Serving(Protocol):
    """Objects that answer requests."""

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        ...


class Slow(Lookalike):
    """The look-alike with a pause before each image, so that a run can be met half-way."""

    pause_s = 0.01
    stalls = False
    waiting = 0

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer like the look-alike, later."""
        if request.match_info["key"].endswith(".jpg"):
            self.waiting += 1
            await asyncio.sleep(self.pause_s)
            while self.stalls:  # noqa: ASYNC110 - it is set from another thread
                await asyncio.sleep(0.02)
            self.waiting -= 1
        return await super().serve(request)


@contextmanager
def origin_in_a_thread(objects: "Serving") -> Iterator[str]:
    """Serve objects from a loop of their own, for programs that run as a process."""
    loop = asyncio.new_event_loop()
    started: list[str] = []
    ready, stop = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with Origin(objects.serve) as origin:
            started.append(origin.url)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    ready.wait()
    try:
        yield started[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
