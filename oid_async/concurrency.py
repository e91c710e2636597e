"""Blocking work in threads, tasks that wait in order, the one error of a task group.

Work in a thread cannot be cancelled once it runs, only waited for.
"""

import asyncio
import gc
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from oid_async.errors import OidError

Result = TypeVar("Result")

# A batch of targets is some thousand objects. Few enough to bound what cycles of errors and frames keep of bodies.
_OBJECTS_BETWEEN_COLLECTIONS = 10_000


async def in_thread(function: Callable[..., Result], *args: object) -> Result:
    """Run blocking work in a thread. When cancelled, wait for its end first: it may still be writing."""
    return await run_to_end(asyncio.to_thread(function, *args))


async def until_stopped(function: Callable[..., Result], *args: object) -> Result:
    """Run work in a thread that calls its last argument and stops once that returns True; so when cancelled."""
    stop = threading.Event()
    return await run_to_end(asyncio.to_thread(function, *args, stop.is_set), on_cancel=stop.set)


async def acquired(function: Callable[..., Result], *args: object, release: Callable[[Result], object]) -> Result:
    """Run work in a thread that acquires something. When cancelled, wait for its end and release what it acquired."""
    return await run_to_end(asyncio.to_thread(function, *args), release=release)


async def run_to_end(
    work: Awaitable[Result],
    *,
    on_cancel: Callable[[], object] | None = None,
    release: Callable[[Result], object] | None = None,
) -> Result:
    """Await work that must not be left half-way.

    When cancelled, call `on_cancel`, wait for the end of the work, pass its result to `release`, and raise the
    cancellation: an error of the work is dropped then.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if on_cancel is not None:
            on_cancel()
        await wait_until_done(task)
        # Looking at the error keeps asyncio from logging it.
        if not task.cancelled() and task.exception() is None and release is not None:
            release(task.result())
        raise


async def wait_until_done(work: asyncio.Future[Result]) -> None:
    """Wait until work is done; a cancellation meanwhile is dropped."""
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError:
            continue


class CallsOnLoop:
    """Calls a function on the running event loop, from any thread; `check` raises what the function has raised."""

    def __init__(self, function: Callable[[Any], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._function = function
        self._raised: BaseException | None = None

    def __call__(self, value: object) -> None:
        """Let the loop call the function with a value; do not wait for that."""
        self._loop.call_soon_threadsafe(self._call, value)

    def _call(self, value: object) -> None:
        try:
            self._function(value)
        except BaseException as error:
            self._raised = self._raised or error

    @property
    def has_failed(self) -> bool:
        """Return whether the function has raised an exception."""
        return self._raised is not None

    def wait_and_check(self) -> None:
        """From another thread: wait until the loop has made all calls so far, then raise what the first one raised."""
        made = threading.Event()
        self._loop.call_soon_threadsafe(made.set)
        made.wait()
        self.check()

    def check(self) -> None:
        """Raise the first exception of the function."""
        if self._raised is not None:
            raise self._raised


async def set_within(event: asyncio.Event, seconds: float) -> None:
    """Wait until an event is set, but for so many seconds at most."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


class WaitQueue(deque["asyncio.Future[None]"]):
    """Tasks of one event loop that wait to be woken, in order of arrival. True while any wait."""

    # Looked up once: until Python 3.12 each time is a system call, and a task may wait for every image.
    _loop: asyncio.AbstractEventLoop | None = None

    async def wait(self) -> None:
        """Wait to be woken. A task that is cancelled when it was woken already wakes the next one instead."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = self._loop.create_future()
        self.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.wake_first()
            raise

    def wake_first(self) -> None:
        """Wake the task that has waited longest, if any waits."""
        while self:
            waiter = self.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return


@contextmanager
def single_error() -> Iterator[None]:
    """Around a TaskGroup: raise what its tasks raised as one exception, the one that says most."""
    try:
        yield
    except BaseExceptionGroup as group:
        error = most_telling(group)
        raise error from group


def most_telling(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the exception of a group, nested or not, that says most: an OidError, else the first, the cause."""
    leaves = leaf_errors(group)
    return next((error for error in leaves if isinstance(error, OidError)), leaves[0])


def leaf_errors(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """Return the exceptions of a group and of the groups in it, in order."""
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves += leaf_errors(error) if isinstance(error, BaseExceptionGroup) else [error]
    return leaves


def collect_garbage_seldom() -> None:
    """Let Python look for cycles seldom, and not in what is there already; for a process that is all ours.

    An image leaves none, but with Python's own 700 objects the search takes some 7 % of what an image of 24 KB costs
    (measured): a batch of targets alone sets off several.
    """
    gc.freeze()
    gc.enable()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS, *gc.get_threshold()[1:])
