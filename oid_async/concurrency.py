"""Blocking work in threads, the one error of a task group, and how many processors there are.

Work in a thread cannot be cancelled once it runs, only waited for.
"""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from oid_async.errors import OidError

Result = TypeVar("Result")


async def in_thread(function: Callable[..., Result], *args: object) -> Result:
    """Run blocking work in a thread. When cancelled, wait for its end first: it may still be writing."""
    return await finished(asyncio.to_thread(function, *args))


async def until_stopped(function: Callable[..., Result], *args: object) -> Result:
    """Run in a thread what asks its last argument, now and then, whether to stop. When cancelled, have it stop."""
    stop = threading.Event()
    task = asyncio.ensure_future(asyncio.to_thread(function, *args, stop.is_set))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        await settled(task)
        if not task.cancelled():
            task.exception()
        raise


async def acquired(function: Callable[..., Result], *args: object, release: Callable[[Result], object]) -> Result:
    """Run in a thread what takes hold of something. When cancelled, wait for its end and give that back."""
    task = asyncio.ensure_future(asyncio.to_thread(function, *args))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await settled(task)
        if not task.cancelled() and task.exception() is None:
            release(task.result())
        raise


async def finished(work: Awaitable[Result]) -> Result:
    """Await work that must not be left half-way. When cancelled, wait for its end, then pass the cancellation on."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await settled(task)
        if not task.cancelled():
            task.exception()
        raise


async def settled(work: asyncio.Future[Result]) -> None:
    """Wait for work to end, whatever happens meanwhile."""
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError:
            continue


@contextmanager
def single_error() -> Iterator[None]:
    """Around a TaskGroup: raise what its tasks raised as one exception, the one that says most."""
    try:
        yield
    except BaseExceptionGroup as group:
        error = most_telling(group)
        raise error from group


def most_telling(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the exception of a group, nested or not, that says most: an OidError, else the first one.

    What one task raises first is the cause; what others raise because of it follows. An OidError is meant for people.
    """
    leaves = leaf_errors(group)
    return next((error for error in leaves if isinstance(error, OidError)), leaves[0])


def leaf_errors(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """Return the exceptions of a group and of the groups in it, in order."""
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves += leaf_errors(error) if isinstance(error, BaseExceptionGroup) else [error]
    return leaves


def available_processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
