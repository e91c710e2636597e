"""Blocking work beside the loop: it cannot be cancelled once it runs, only waited for."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

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
