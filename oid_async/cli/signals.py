"""SIGINT and SIGTERM, received in a thread of their own: a disk that hangs may hold up the event loop."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from time import monotonic
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# A terminal and a wrapper such as timeout may both pass one Ctrl-C on: that is one signal, not two.
_ONE_SIGNAL_S = 0.2


class SignalListener:
    """Cancels one task when a signal comes. `received` is the first signal, None so far.

    The first one cancels the task; the second, or `patience_s` without an end, ends the process there and then. Before
    patience ends it, `on_forced_end` is called.
    """

    def __init__(self, patience_s: float, on_forced_end: Callable[[], None] | None) -> None:
        self.received: int | None = None
        self._patience_s = patience_s
        self._on_forced_end = on_forced_end
        self._task: asyncio.Task[object] | None = None
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)

    def cancel_on_signal(self, task: "asyncio.Task[object]") -> None:
        """Cancel this task at the first signal; at once, if one was received before."""
        self._loop = asyncio.get_running_loop()
        self._task = task
        if self.received is not None:
            task.cancel()

    @contextmanager
    def open(self) -> Iterator[None]:
        """Receive signals while the context lasts; Python's own handlers are restored afterwards."""
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        thread = Thread(target=self._wait_for_signals, name="oid_async-signals", daemon=True)
        # Written to where the signal arrives, whatever the main thread is waiting for.
        woken_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, _ignore_signal)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(woken_before)
            for number, handler in before.items():
                if handler is not None:
                    signal.signal(number, handler)
            self._writer.close()
            thread.join()
            self._reader.close()

    def _wait_for_signals(self) -> None:
        ends_at: float | None = None
        while True:
            self._reader.settimeout(None if ends_at is None else max(0.001, ends_at - monotonic()))
            try:
                numbers = self._reader.recv(64)
            except TimeoutError:
                self._end_process()
            if not numbers:
                return
            now = monotonic()
            for number in numbers:
                if number not in _SIGNALS:
                    continue
                if self.received is None:
                    self.received, ends_at = number, now + self._patience_s
                    self._cancel()
                elif ends_at is not None and now - (ends_at - self._patience_s) > _ONE_SIGNAL_S:
                    os._exit(128 + number)

    def _cancel(self) -> None:
        if self._task is not None:
            with suppress(RuntimeError):  # the loop has just come to its end by itself
                self._loop.call_soon_threadsafe(self._task.cancel)

    def _end_process(self) -> None:
        assert self.received is not None
        try:
            if self._on_forced_end is not None:
                self._on_forced_end()
        finally:
            os._exit(128 + self.received)


def _ignore_signal(number: int, frame: FrameType | None) -> None:
    """Do nothing: the thread that waits for signals has received it."""
