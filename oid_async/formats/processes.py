"""The processes that share the work of an export, and the thread that prepares a span while another one is written.

    spans ──▶ one_ahead: rows read, pictures checked, made smaller ──▶ the writer of the format, span by span
                            │                                               │
                            └──────────▶ Pool.each, results in order ◀──────┘

Processes are started anew (spawn), never forked: threads of Polars do not survive a fork. They hold no state, so that
an export has the same bytes whoever does the work.
"""

import multiprocessing
import os
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from oid_async.errors import StorageError
from oid_async.system.interrupts import no_interrupt
from oid_async.system.processes import available_processors

Item = TypeVar("Item")
Result = TypeVar("Result")

# Calls that go to a process at once, and how many times that each process may have waiting or done.
_CHUNK, _CHUNKS = 16, 3
# Less work is done in this process: starting another takes half a second of a processor.
_WORTH_A_POOL = 200
# So many images without a picture to decode are as much work as one that has: a header is read, texts are made.
IMAGES_OF_A_PICTURE = 100
_KILLED = (
    "a process that reads pictures was killed, by the system for want of memory as a rule; run the same again with "
    "--processes 1"
)
_NOT_STARTED = (
    "a process that reads pictures ended before its first one: a script that asks for processes does so under "
    '`if __name__ == "__main__":`, and is a file; or give it --processes 1, in Python processes=1'
)


class Pool:
    """Processes that call functions of this program; `stopped` is asked between the calls."""

    def __init__(self, executor: Executor, processes: int, stopped: Callable[[], bool]) -> None:
        self._executor = executor
        self._most = _CHUNKS * processes
        self._stopped = stopped
        self._has_worked = False

    def each(
        self, function: Callable[..., Result], calls: Iterable[tuple[Any, ...]], chunk: int = _CHUNK
    ) -> Iterator[Result]:
        """Yield the results of a function in the order of the calls, so many of them at once for a process.

        Three times that is held for each process. Raises what the function raises, InterruptedError when stopped, and
        StorageError if a process is killed or cannot start: each imports the script that is running.
        """
        remaining, waiting = iter(calls), deque[Future[list[Result]]]()
        try:
            while True:
                while len(waiting) < self._most and (some := list(islice(remaining, chunk))):
                    with no_interrupt():
                        waiting.append(self._executor.submit(_apply, function, some))
                if not waiting:
                    return
                if self._stopped():
                    raise InterruptedError("the export was stopped")
                results = waiting.popleft().result()
                self._has_worked = True
                yield from results
        except BrokenProcessPool as error:
            raise StorageError(_KILLED if self._has_worked else _NOT_STARTED) from error
        finally:
            for future in waiting:
                future.cancel()


def each(
    pool: Pool | None, function: Callable[..., Result], calls: Iterable[tuple[Any, ...]], chunk: int = _CHUNK
) -> Iterator[Result]:
    """Yield the results of a function in order, by the processes of a pool or, without one, by this process."""
    return (function(*arguments) for arguments in calls) if pool is None else pool.each(function, calls, chunk)


@contextmanager
def process_pool(processes: int | str, work: int, stopped: Callable[[], bool] = bool) -> Iterator[Pool | None]:
    """Yield processes for so much work, in pictures to decode; None if it is too little, or is for this process alone.

    A daemon, such as a process of a user's own pool, may start none.
    """
    wanted = available_processors() if processes == "auto" else int(processes)
    if wanted < 2 or work < _WORTH_A_POOL or multiprocessing.current_process().daemon:
        yield None
        return
    spawn = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(wanted, mp_context=spawn, initializer=_start_worker)
    try:
        yield Pool(executor, wanted, stopped)
    finally:
        executor.shutdown(cancel_futures=True)


@contextmanager
def one_ahead(items: Iterator[Item]) -> Iterator[Iterator[Item]]:
    """Yield the same items, the next one made in a thread while this one is used."""

    def taken() -> Iterator[Item]:
        following = thread.submit(list, islice(items, 1))
        while some := following.result():
            following = thread.submit(list, islice(items, 1))
            yield some[0]

    with ThreadPoolExecutor(1) as thread:
        yield taken()


def _start_worker() -> None:
    """End when the program was killed; an interrupt is its own affair, it stops its workers (`no_interrupt`)."""
    # Pillow warns of odd EXIF data, which is nothing that an export looks at.
    warnings.simplefilter("ignore")
    # There is a process for each processor already. Polars reads this before it starts its threads.
    os.environ["POLARS_MAX_THREADS"] = "1"
    program = multiprocessing.parent_process()

    def end_with_program() -> None:
        if program is not None:
            program.join()
            os._exit(1)

    threading.Thread(target=end_with_program, daemon=True).start()


def _apply(function: Callable[..., Result], calls: list[tuple[Any, ...]]) -> list[Result]:
    return [function(*arguments) for arguments in calls]
