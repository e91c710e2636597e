"""Signals: an interrupt that is held back, a call that a signal brings about, handlers that outlive Polars' import."""

import asyncio
import signal
import threading
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


@contextmanager
def kept_interrupt_handler() -> Iterator[None]:
    """Around an import that may be the first one of Polars: whoever handles SIGINT already does so afterwards, too.

    Polars puts a handler of its own before the one it finds: a signal while a table is read ends the table's thread by
    KeyboardInterrupt as well, and with it the event loop that waits for that (pola-rs/polars, pull request 20961). It
    stays where Python's own handler is, whose KeyboardInterrupt is the same, and in a thread, where none may be set.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if before not in (None, signal.default_int_handler) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)
