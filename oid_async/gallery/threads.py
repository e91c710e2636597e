"""Threads for what blocks: a bounded number for each kind of work, and nothing is begun that nobody waits for."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")


class Threads:
    """One kind of work, in so many threads. Work waits for a free one in the order of arrival."""

    def __init__(self, name: str, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, f"gallery-{name}")
        self._running: set[Future[Any]] = set()

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run work in a thread. When cancelled, it is not begun, or its result is dropped."""
        return await self.start(work)

    def start(self, work: Callable[[], Result]) -> "asyncio.Future[Result]":
        """Run work in a thread."""
        running = self._pool.submit(work)
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        return asyncio.wrap_future(running)

    def close(self) -> None:
        """Begin nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def wait(self, most_s: float) -> None:
        """Wait until nothing runs, for so long at the most."""
        if waiting := [asyncio.wrap_future(running) for running in tuple(self._running)]:
            ended, _ = await asyncio.wait(waiting, timeout=most_s)
            for each in ended:
                # Looking at the error keeps asyncio from logging it.
                _ = each.cancelled() or each.exception()
