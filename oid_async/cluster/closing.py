"""What a closed worker leaves alone: a request to a storage cannot be broken off, only not waited for."""

import threading
from collections.abc import Callable
from concurrent import futures
from typing import TypeVar

from oid_async.cluster.work import ClosedError

Result = TypeVar("Result")

_LOOK_S = 0.1


class Closing:
    """Whether a worker is closed. From any thread."""

    def __init__(self) -> None:
        self._closed = threading.Event()

    @property
    def is_closed(self) -> bool:
        """Whether it is."""
        return self._closed.is_set()

    def close(self) -> None:
        """Close it."""
        self._closed.set()

    def check(self) -> None:
        """Raise ClosedError once it is closed."""
        if self._closed.is_set():
            raise ClosedError

    def wait_for(self, function: Callable[..., Result], *args: object) -> Result:
        """Return the result of blocking work in a thread of its own; raise ClosedError, and let it be, once closed."""
        done = futures.Future[Result]()

        def work() -> None:
            try:
                done.set_result(function(*args))
            except BaseException as error:
                done.set_exception(error)

        # A daemon: the end of the program does not wait for it.
        threading.Thread(target=work, name="oid_async-storage", daemon=True).start()
        while not futures.wait([done], _LOOK_S).done:
            self.check()
        return done.result()
