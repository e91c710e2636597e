"""An event loop whose seconds take no time: what waits for a clock is tested as fast as it computes."""

import asyncio
import math
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class SkippingSelector(selectors.SelectSelector):
    """Does not wait for the time that the loop would sleep: it moves the clock there.

    As with epoll it wakes at whole milliseconds, so that a limiter must not count on being woken at once. Each turn of
    the loop takes a microsecond: who finds a rounding error left to wait for is not stuck.
    """

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("the loop waits for something that no time brings")
        self.now += max(1e-6, math.ceil(timeout * 1000 - 1e-6) / 1000)
        return super().select(0)


class FakeTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose seconds take no time."""

    def __init__(self) -> None:
        self._skipping = SkippingSelector()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.now


def run_fast(job: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=FakeTimeLoop) as runner:
        return runner.run(job)
