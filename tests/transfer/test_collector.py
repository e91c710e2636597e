"""The collector: what is stored in the loop, what in threads, and that journal, report, events and consumer agree."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.published import tiny_jpeg
from support.received import JPEG, StoredImages, received

from oid_async.errors import StorageError
from oid_async.events import Event, Landed, Note
from oid_async.http.etag import EtagTrust
from oid_async.report import Outcome, Report
from oid_async.store.image_writer import WriteResult
from oid_async.store.journal_line import StoredCopies, line_of
from oid_async.transfer import collector as collectors
from oid_async.transfer.collector import BATCHES_AT_ONCE, Collector, Recipients

LARGE = tiny_jpeg("large", 8, 8)[:-2] + b"\x11" * (1 << 20) + b"\xff\xd9"


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every write take no time, however busy the machine is."""
    monkeypatch.setattr(collectors, "perf_counter", lambda: 0.0)


class Results:
    """A collector, and all that it passes on. A transfer is stood in for by its image's id."""

    def __init__(self, path: Path, *, capacity: int = 64, own_loop: bool = True, delivers: bool = False) -> None:
        self.place = StoredImages(path)
        self.report = Report(pending=1000)
        self.events: list[Event] = []
        self.finished: list[tuple[Any, WriteResult]] = []
        self.delivered: list[str] = []
        self.lines: list[bytes] = []
        self.wait_for_disk: Callable[[], object] = bool
        self.refused_as: Outcome | None = None
        self.left = 1000
        deliver = self._deliver if delivers else None
        recipients = Recipients(self.report, self.events.append, deliver, self._append_lines)
        self.collector = Collector(
            self.place.writer,
            recipients,
            self._finish,
            capacity=capacity,
            own_loop=own_loop,
            are_last=lambda count: self.left <= count,
        )

    def _append_lines(self, lines: bytes) -> None:
        self.wait_for_disk()
        self.lines.append(lines)

    async def _deliver(self, outcome: Outcome) -> None:
        self.delivered.append(outcome.image_id)
        await asyncio.sleep(0)

    def _finish(self, transfer: Any, result: WriteResult) -> Outcome | None:
        self.finished.append((transfer, result))
        return self.refused_as if result.reason is not None else None

    def add_now(self, image_id: str, body: bytes = JPEG, **fields: Any) -> None:
        transfer: Any = image_id
        self.collector.add_now(transfer, received(body, image_id, **fields))

    async def add(self, image_id: str, body: bytes = JPEG) -> None:
        transfer: Any = image_id
        await self.collector.add(transfer, received(body, image_id))

    @property
    def journalled(self) -> list[str]:
        return [outcome.image_id for outcome in self.place.journal.outcomes]

    @property
    def landed(self) -> list[str]:
        return [each.image_id for event in self.events if isinstance(event, Landed) for each in event.outcomes]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the collector's tasks within the block, as a pipeline does."""
        tasks = [asyncio.create_task(self.collector.run()) for _ in range(BATCHES_AT_ONCE)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self.collector.close()

    async def wait_until_finished(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(self.finished) < count:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.001)


async def test_an_image_is_stored_in_the_loop_and_recorded_a_moment_later(tmp_path: Path) -> None:
    """In a loop of its own a small image is under its name at once; journal, report, event and `finish` follow."""
    results = Results(tmp_path / "out")
    results.add_now("a")
    assert results.place.images() == {"a.jpg": JPEG}
    assert (results.journalled, results.finished) == ([], [])
    await results.wait_until_finished(1)
    assert results.journalled == results.landed == ["a"]
    assert [(transfer, result.reason) for transfer, result in results.finished] == [("a", None)]
    report = results.report
    assert (report.downloaded, report.failed, report.pending, report.bytes) == (1, 0, 999, len(JPEG))
    assert report.sources == {"cvdf": 1}


@pytest.mark.parametrize(("took", "is_quick"), [((0.06,), True), ((0.06, 0.06, 0.06), False), ((0.11,), False)])
async def test_one_short_wait_makes_no_slow_disk(
    tmp_path: Path, took: tuple[float, ...], is_quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that waited for its turn once still stores in the loop; several waits, or a stall, are the disk's."""
    results = Results(tmp_path / "out")
    ticks = iter([tick for number, wait in enumerate(took) for tick in (number, number + wait)])
    with monkeypatch.context() as patch:
        patch.setattr(collectors, "perf_counter", lambda: next(ticks))
        for number in range(len(took)):
            results.add_now(f"{number}")
    assert results.collector.is_quick is is_quick
    results.collector.close()


@pytest.mark.parametrize(("quick", "is_quick"), [(0, False), (8, True)])
async def test_after_a_slow_second_the_first_wait_counts(
    tmp_path: Path, quick: int, is_quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that stays slow does not hold the loop up three times a second; quick writes make it quick again."""
    results = Results(tmp_path / "out")
    took = (0.11, *[0.0] * quick, 0.02)
    ticks = iter([tick for number, wait in enumerate(took) for tick in (number, number + wait)])
    with monkeypatch.context() as patch:
        patch.setattr(collectors, "perf_counter", lambda: next(ticks))
        patch.setattr(collectors, "_SLOW_FOR_S", 0.0)
        results.add_now("stalled")
        patch.setattr(collectors, "_SLOW_FOR_S", 60.0)
        for number in range(quick + 1):
            results.add_now(f"{number}")
    assert results.collector.is_quick is is_quick
    results.collector.close()


async def test_some_dozens_are_recorded_without_waiting(tmp_path: Path) -> None:
    """The 32nd image has all of them journalled in one append."""
    results = Results(tmp_path / "out")
    for number in range(32):
        results.add_now(f"{number:02}")
    assert len(results.journalled) == len(results.finished) == 32
    assert len(results.place.journal.stored) == 1
    results.collector.close()


async def test_the_last_images_are_recorded_without_waiting(tmp_path: Path) -> None:
    """The run waits for nothing else then."""
    results = Results(tmp_path / "out")
    results.left = 2
    results.add_now("a")
    assert results.journalled == []
    results.add_now("b")
    assert results.journalled == ["a", "b"]
    results.collector.close()


async def test_closing_records_what_is_left(tmp_path: Path) -> None:
    """However a run ends, an image that is stored is journalled and counted."""
    results = Results(tmp_path / "out")
    results.add_now("a")
    results.collector.close()
    assert (results.journalled, results.report.downloaded) == (["a"], 1)


@pytest.mark.parametrize("how", ["a loop of others", "a consumer", "a large body", "a spooled body", "a slow disk"])
async def test_a_thread_stores_what_would_hold_the_loop_up(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written in the loop when it is not ours, a consumer waits, the body is large, or the disk is slow."""
    results = Results(tmp_path / "out", own_loop=how != "a loop of others", delivers=how == "a consumer")
    body, fields, before = JPEG, {}, 0
    if how == "a large body":
        body = LARGE
    elif how == "a spooled body":
        results.place.spool("a", JPEG)
        fields = {"spooled": True, "chunks": []}
    elif how == "a slow disk":
        ticks: Iterator[float] = iter([0.0, 1.0])
        with monkeypatch.context() as patch:
            patch.setattr(collectors, "perf_counter", lambda: next(ticks))
            results.add_now("slow")
        before = 1
    results.add_now("a", body, **fields)
    assert len(results.place.images()) == before
    async with results.running():
        await results.wait_until_finished(before + 1)
    assert results.place.images()["a.jpg"] == body
    assert "a" in results.journalled
    assert sorted(results.journalled) == sorted(results.landed)
    assert results.delivered == (["a"] if how == "a consumer" else [])


async def test_a_consumer_has_an_outcome_before_the_transfer_is_finished(tmp_path: Path) -> None:
    """The last Outcome is delivered before the pipeline may end for lack of transfers."""
    results = Results(tmp_path / "out", delivers=True)
    order: list[str] = []

    async def deliver(outcome: Outcome) -> None:
        await asyncio.sleep(0.01)
        order.append("delivered")

    results.collector._deliver = deliver
    results.collector._finish = lambda transfer, result: order.append("finished")
    results.add_now("a")
    async with results.running(), asyncio.timeout(30):
        while len(order) < 2:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.001)
    assert order == ["delivered", "finished"]


async def test_a_refused_image_that_failed_is_recorded_as_failed(tmp_path: Path) -> None:
    """`finish` decides about a refused body; the Outcome that it returns is journalled, counted and reported."""
    results = Results(tmp_path / "out")
    results.refused_as = Outcome("a", "failed", None, "not_image", "cvdf:not_image", "cvdf")
    async with results.running():
        results.add_now("a", b"<html>" * 20)
        await results.wait_until_finished(2)
    assert [(transfer, result.reason) for transfer, result in results.finished] == [("a", "not_image"), ("a", None)]
    assert results.journalled == results.landed == ["a"]
    assert (results.report.failed, results.report.failures, results.report.pending) == (1, {"not_image": 1}, 999)
    assert results.place.images() == {}


async def test_a_refused_image_that_is_tried_again_is_not_recorded(tmp_path: Path) -> None:
    """An image that `finish` has requeued is neither journalled nor counted."""
    results = Results(tmp_path / "out")
    results.add_now("a", b"<html>" * 20)
    await results.wait_until_finished(1)
    assert (results.journalled, results.landed, results.report.pending) == ([], [], 1000)


async def test_an_image_without_a_source_is_recorded_without_a_transfer(tmp_path: Path) -> None:
    """The Outcome of an image that could not be requested is taken as it is."""
    results = Results(tmp_path / "out")
    async with results.running():
        await results.collector.add(None, Outcome("a", "failed", None, "bad_url"))
        await results.wait_until_finished(1)
    assert (results.journalled, results.report.failures) == (["a"], {"bad_url": 1})
    assert results.finished[0][0] is None


async def test_only_so_many_images_wait_for_a_thread(tmp_path: Path) -> None:
    """Beyond `capacity` `add` waits, and goes on when a batch was taken."""
    results = Results(tmp_path / "out", capacity=3, own_loop=False)
    for name in "abc":
        assert results.collector.has_space(len(JPEG))
        await results.add(name)
    assert not results.collector.has_space(len(JPEG))
    fourth = asyncio.create_task(results.add("d"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not fourth.done()
    async with results.running():
        await results.wait_until_finished(4)
    assert sorted(results.journalled) == ["a", "b", "c", "d"]
    await fourth


async def test_only_so_many_bytes_wait_for_a_thread(tmp_path: Path) -> None:
    """Four bodies of over a megabyte fill the inbox, whatever the number of images that it may hold."""
    results = Results(tmp_path / "out", own_loop=False)
    for name in "abcd":
        assert results.collector.has_space(len(LARGE))
        await results.add(name, LARGE)
    assert not results.collector.has_space(1)


async def test_results_of_another_process_are_recorded(tmp_path: Path) -> None:
    """Outcomes that a worker process has stored are journalled and counted in either kind of loop; no transfer ends."""
    for own_loop in (True, False):
        results = Results(tmp_path / str(own_loop), own_loop=own_loop, delivers=True)
        await results.collector.record([Outcome("a", "downloaded", "/a.jpg", source="cvdf", bytes=5)])
        await results.collector.deliver([Outcome("a", "downloaded", "/a.jpg")])
        assert results.journalled == results.landed == results.delivered == ["a"]
        assert (results.report.downloaded, results.report.bytes, results.finished) == (1, 5, [])


async def test_copies_of_another_process_are_recorded_by_their_lines(tmp_path: Path) -> None:
    """The lines are journalled as they came, the copies counted; the event, as any, has an Outcome of each."""
    copies = [
        Outcome(name, "downloaded", str(tmp_path / f"{name}.jpg"), None, None, "cvdf", "http://x/a", 5, "bWQ1", 4, 3, 1)
        for name in "ab"
    ]
    stored = StoredCopies("ab", 10, b"".join(map(line_of, copies)), tmp_path)
    for own_loop in (True, False):
        results = Results(tmp_path / str(own_loop), own_loop=own_loop)
        await results.collector.record_results(stored, [])
        assert results.lines == [stored.lines]
        report = results.report
        assert (report.downloaded, report.pending, report.bytes, report.sources) == (2, 998, 10, {"cvdf": 2})
        [event] = results.events
        assert type(event) is Landed
        assert event == Landed(tuple(copies), report)
        assert event.outcomes is event.outcomes
        assert replace(event, report=Report()).outcomes == event.outcomes


async def test_a_note_of_the_writer_becomes_an_event(tmp_path: Path) -> None:
    """What the writer finds out about a host is reported to the user."""
    results = Results(tmp_path / "out")
    results.add_now("a", etag='"' + "0" * 32 + '"', etags=EtagTrust("bucket"))
    results.collector.close()
    assert [event.text for event in results.events if isinstance(event, Note)] == [
        "bucket: its ETags are not the MD5s of what it sends; that check is off for this run"
    ]


async def test_a_cancelled_batch_counts_once_it_is_stored(tmp_path: Path) -> None:
    """A thread at work is waited for; what it has stored and journalled is in the report of the interrupted run."""
    results = Results(tmp_path / "out", own_loop=False)
    begun, may_end = threading.Event(), threading.Event()
    append = results.place.journal.append

    def wait(outcomes: Iterable[Outcome]) -> None:
        begun.set()
        assert may_end.wait(30)
        append(outcomes)

    results.place.journal.append = wait  # type: ignore[method-assign]
    results.add_now("a")
    task = asyncio.create_task(results.collector.run())
    await asyncio.to_thread(begun.wait, 30)
    task.cancel()
    await asyncio.sleep(0.01)
    assert not task.done()
    may_end.set()
    await asyncio.wait([task])
    assert task.cancelled()
    assert results.journalled == results.landed == ["a"]
    assert (results.report.downloaded, results.finished) == (1, [])


async def test_cancelled_results_of_another_process_count_all_of_them(tmp_path: Path) -> None:
    """Copies and the outcomes of others that came in one message are journalled both, whatever is cancelled meanwhile.

    Their process takes them for sent: nobody else knows of them.
    """
    results = Results(tmp_path / "out", own_loop=False)
    begun, may_end = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        assert may_end.wait(30)

    results.wait_for_disk = wait
    copy = Outcome("a", "downloaded", "/a.jpg", None, None, "cvdf", "http://x/a", 5, "bWQ1", 4, 3, 1)
    other = Outcome("b", "downloaded", "/b.jpg", source="original", bytes=7)
    stored = StoredCopies(["a"], 5, line_of(copy), tmp_path)
    task = asyncio.create_task(results.collector.record_results(stored, [other]))
    await asyncio.to_thread(begun.wait, 30)
    task.cancel()
    await asyncio.sleep(0.01)
    may_end.set()
    await asyncio.wait([task])
    assert task.cancelled()
    assert (results.landed, results.journalled, results.report.bytes) == (["a", "b"], ["b"], 12)


async def test_an_error_while_recording_ends_the_run(tmp_path: Path) -> None:
    """A journal that cannot be written when the timer fires raises from `run`, not from the event loop."""
    results = Results(tmp_path / "out")

    def fail(outcomes: Iterable[Outcome]) -> None:
        raise StorageError("the disk is full")

    results.place.journal.append = fail  # type: ignore[method-assign]
    results.add_now("a")
    with pytest.raises(StorageError):
        await asyncio.wait_for(results.collector.run(), 30)
