"""A thread with an event loop of its own, for a library that wants one: who awaits it may have any loop."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Self, TypeVar

from oid_async.concurrency import run_to_end

Result = TypeVar("Result")
_LAST_S = 1.0


class EngineThread:
    """Runs coroutines on its own loop. Use as `async with`: it ends with that, tasks that are left are cancelled."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        # What a library does not await is no matter of the user's.
        self._loop.set_exception_handler(lambda loop, context: None)
        # A daemon: a loop that hangs in a library does not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    async def __aenter__(self) -> Self:
        self._thread.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        await run_to_end(asyncio.to_thread(self._thread.join, 2 * _LAST_S))

    async def run(self, make: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Await a coroutine there. When cancelled, cancel it and wait for its end."""
        done: Future[Result] = Future()
        tasks: list[asyncio.Task[Result]] = []

        def start() -> None:
            task = self._loop.create_task(make())
            task.add_done_callback(lambda task: _pass_on(task, done))
            tasks.append(task)

        def cancel() -> None:
            for task in tasks:
                task.cancel()

        self._loop.call_soon_threadsafe(start)
        return await run_to_end(asyncio.wrap_future(done), on_cancel=lambda: self._loop.call_soon_threadsafe(cancel))

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            if tasks:
                self._loop.run_until_complete(asyncio.wait(tasks, timeout=_LAST_S))
        finally:
            asyncio.set_event_loop(None)
            with suppress(RuntimeError):
                self._loop.close()


def _pass_on(task: "asyncio.Task[Result]", done: "Future[Result]") -> None:
    """Give the end of a task to who waits for it in another thread."""
    if task.cancelled():
        done.set_exception(RuntimeError("cancelled by the library"))
    elif (error := task.exception()) is not None:
        done.set_exception(error)
    else:
        done.set_result(task.result())
