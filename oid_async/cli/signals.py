"""Hearing SIGINT and SIGTERM in a thread of its own: the event loop may be held up by a disk that hangs."""

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
    """Hears signals for one task. `heard` is the first one, None so far.

    The first one cancels the task; the second, or `patience_s` without an end, ends the process there and then. Before
    patience ends it, `last_words` is called.
    """

    def __init__(self, patience_s: float, last_words: Callable[[], None] | None) -> None:
        self.heard: int | None = None
        self._patience_s = patience_s
        self._last_words = last_words
        self._task: asyncio.Task[object] | None = None
        self._own, self._its = socket.socketpair()
        self._its.setblocking(False)

    def listen_for(self, task: "asyncio.Task[object]") -> None:
        """Cancel this task at the first signal; at once, if it was heard before."""
        self._loop = asyncio.get_running_loop()
        self._task = task
        if self.heard is not None:
            task.cancel()

    @contextmanager
    def open(self) -> Iterator[None]:
        """Listen. What Python wakes up for a signal is put back afterwards."""
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        thread = Thread(target=self._listen, name="oid_async-signals", daemon=True)
        # Written to where the signal arrives, whatever the main thread is waiting for.
        woken_before = signal.set_wakeup_fd(self._its.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, _go_on)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(woken_before)
            for number, handler in before.items():
                if handler is not None:
                    signal.signal(number, handler)
            self._its.close()
            thread.join()
            self._own.close()

    def _listen(self) -> None:
        ends_at: float | None = None
        while True:
            self._own.settimeout(None if ends_at is None else max(0.001, ends_at - monotonic()))
            try:
                numbers = self._own.recv(64)
            except TimeoutError:
                self._give_up()
            if not numbers:
                return
            now = monotonic()
            for number in numbers:
                if number not in _SIGNALS:
                    continue
                if self.heard is None:
                    self.heard, ends_at = number, now + self._patience_s
                    self._cancel()
                elif ends_at is not None and now - (ends_at - self._patience_s) > _ONE_SIGNAL_S:
                    os._exit(128 + number)

    def _cancel(self) -> None:
        if self._task is not None:
            with suppress(RuntimeError):  # the loop has just come to its end by itself
                self._loop.call_soon_threadsafe(self._task.cancel)

    def _give_up(self) -> None:
        assert self.heard is not None
        try:
            if self._last_words is not None:
                self._last_words()
        finally:
            os._exit(128 + self.heard)


def _go_on(number: int, frame: FrameType | None) -> None:
    """Do nothing: the thread that listens has heard it."""
