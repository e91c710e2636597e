"""Work in threads that is waited for, tasks that wait in order, and the one error of a group."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from oid_async.concurrency import (
    WaitQueue,
    acquired,
    in_thread,
    leaf_errors,
    most_telling,
    run_to_end,
    single_error,
    until_stopped,
    wait_until_done,
)
from oid_async.errors import StorageError, UsageError


class Gate:
    """Blocking work that begins, then waits until the test lets it end."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.may_end = threading.Event()
        self.ended = False

    def work(self, result: str = "done") -> str:
        self.begun.set()
        assert self.may_end.wait(30)
        self.ended = True
        return result

    def fail(self) -> str:
        self.work()
        raise StorageError("the disk is full")

    async def wait_for_begin(self) -> None:
        await asyncio.to_thread(self.begun.wait, 30)


async def cancel_while_running(task: "asyncio.Task[str]", gate: Gate) -> None:
    """Cancel a task twice while its work runs; it must not end before the work does."""
    await gate.wait_for_begin()
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done()
    gate.may_end.set()
    await asyncio.wait([task])


async def test_work_in_a_thread_returns_its_result_or_raises_its_error() -> None:
    """Without a cancellation results and errors pass through unchanged."""
    gate = Gate()
    gate.may_end.set()
    assert await in_thread(gate.work, "one") == "one"
    assert await acquired(gate.work, "two", release=lambda _: pytest.fail("nothing was cancelled")) == "two"
    assert await until_stopped(lambda name, is_stopped: (name, is_stopped()), "three") == ("three", False)
    with pytest.raises(StorageError):
        await in_thread(gate.fail)


async def test_work_in_a_thread_is_waited_for_when_cancelled() -> None:
    """A cancelled task ends only after its work, however often it is cancelled, and ends as cancelled."""
    gate = Gate()
    task = asyncio.create_task(in_thread(gate.work))
    await cancel_while_running(task, gate)
    assert gate.ended
    assert task.cancelled()


async def test_an_error_after_the_cancellation_is_dropped() -> None:
    """The cancellation comes first; the error of the work is not logged as one that nobody looked at."""
    problems: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    gate = Gate()
    released: list[str] = []
    task = asyncio.create_task(acquired(gate.fail, release=released.append))
    await cancel_while_running(task, gate)
    assert task.cancelled()
    del task
    await asyncio.sleep(0)
    assert (released, problems) == ([], [])


async def test_what_was_acquired_is_released_when_cancelled() -> None:
    """Work that ends after the cancellation gives its result back, once."""
    gate = Gate()
    released: list[str] = []
    task = asyncio.create_task(acquired(gate.work, "lock", release=released.append))
    await cancel_while_running(task, gate)
    assert task.cancelled()
    assert released == ["lock"]


async def test_work_that_can_stop_stops_when_cancelled() -> None:
    """The work sees the cancellation through its last argument, and is waited for."""
    begun, stopped = threading.Event(), threading.Event()

    def work(is_stopped: Callable[[], bool]) -> str:
        begun.set()
        while not is_stopped():
            pass
        stopped.set()
        return "stopped"

    task = asyncio.create_task(until_stopped(work))
    await asyncio.to_thread(begun.wait, 30)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert stopped.is_set()


async def test_awaited_work_is_not_left_half_way() -> None:
    """A coroutine is run to its end like work in a thread; `on_cancel` is called before that end, `release` after."""
    end = asyncio.Event()
    steps: list[str] = []

    async def work() -> str:
        await end.wait()
        steps.append("work")
        return "result"

    task = asyncio.create_task(run_to_end(work(), on_cancel=lambda: steps.append("cancel"), release=steps.append))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0.01)
    assert steps == ["cancel"]
    end.set()
    await asyncio.wait([task])
    assert task.cancelled()
    assert steps == ["cancel", "work", "result"]


async def test_work_that_was_cancelled_itself_counts_as_done() -> None:
    """Whoever waits for work to end is not stuck when it is cancelled, nor does its own cancellation end the wait."""
    work = asyncio.create_task(asyncio.sleep(3600))
    waiting = asyncio.create_task(wait_until_done(work))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0.01)
    assert not waiting.done()
    work.cancel()
    await waiting
    with pytest.raises(asyncio.CancelledError):
        await run_to_end(work)


async def waiters(queue: WaitQueue, count: int) -> tuple[list["asyncio.Task[None]"], list[int]]:
    """Return tasks that wait in a queue, in order, and the numbers of those that were woken."""
    woken: list[int] = []

    async def wait(number: int) -> None:
        await queue.wait()
        woken.append(number)

    tasks = [asyncio.create_task(wait(number)) for number in range(count)]
    await asyncio.sleep(0)
    return tasks, woken


async def test_tasks_are_woken_in_the_order_in_which_they_came() -> None:
    """One call wakes one task, the one that has waited longest; none is left to wake in an empty queue."""
    queue = WaitQueue()
    queue.wake_first()
    assert not queue
    tasks, woken = await waiters(queue, 3)
    assert len(queue) == 3
    for count in (1, 2, 3):
        queue.wake_first()
        await asyncio.sleep(0)
        assert woken == list(range(count))
    assert not queue
    await asyncio.gather(*tasks)


async def test_a_cancelled_waiter_is_passed_over() -> None:
    """A task that was cancelled before it was woken uses up no call."""
    queue = WaitQueue()
    tasks, woken = await waiters(queue, 3)
    tasks[0].cancel()
    queue.wake_first()
    await asyncio.sleep(0)
    assert woken == [1]
    queue.wake_first()
    await asyncio.wait(tasks)
    assert woken == [1, 2]


async def test_a_waiter_that_is_cancelled_after_it_was_woken_wakes_the_next_one() -> None:
    """A call is not lost with the task that it was for."""
    queue = WaitQueue()
    tasks, woken = await waiters(queue, 3)
    queue.wake_first()
    tasks[0].cancel()
    await asyncio.wait(tasks[:2])
    assert (tasks[0].cancelled(), woken) == (True, [1])
    queue.wake_first()
    await asyncio.wait(tasks)
    assert woken == [1, 2]


def test_the_error_for_people_wins_in_a_nested_group() -> None:
    """An OidError anywhere in the groups is raised, else the first error; all of them stay in the cause."""
    bug, wrong, full = ValueError("a bug"), UsageError("wrong"), StorageError("full")
    group = ExceptionGroup("outer", [bug, ExceptionGroup("inner", [OSError("no"), ExceptionGroup("", [full])]), wrong])
    assert [str(error) for error in leaf_errors(group)] == ["a bug", "no", "full", "wrong"]
    assert most_telling(group) is full
    assert most_telling(ExceptionGroup("", [ExceptionGroup("", [bug]), OSError()])) is bug
    with pytest.raises(StorageError) as raised, single_error():
        raise group
    assert raised.value is full
    assert raised.value.__cause__ is group


async def test_a_task_group_raises_one_error() -> None:
    """Around a TaskGroup the error of one task is raised as it is; an error without a group passes through."""
    with pytest.raises(UsageError):
        await _run_tasks()
    with pytest.raises(KeyError), single_error():
        raise KeyError("alone")


async def _run_tasks() -> None:
    with single_error():
        async with asyncio.TaskGroup() as group:
            group.create_task(in_thread(_raise, UsageError("wrong")))
            group.create_task(asyncio.sleep(3600))


def _raise(error: Exception) -> None:
    raise error
