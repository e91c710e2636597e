"""Signals where systems differ: an interrupt that is held back, a call that a signal brings about on an event loop."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def no_interrupt() -> Iterator[None]:
    """Hold back an interrupt, which reaches all processes: one that starts in the block never sees it.

    Where signals cannot be held back it is not.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def call_at_signal(loop: asyncio.AbstractEventLoop, number: int, function: Callable[[], object]) -> None:
    """Let an event loop call a function when a signal comes. From the main thread."""
    try:
        loop.add_signal_handler(number, function)
    except NotImplementedError:
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(function))
