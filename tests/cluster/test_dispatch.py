"""Which part which worker gets: with a clock that is passed in, without an engine."""

from collections.abc import Sequence

from oid_async.cluster.dispatch import MOST_LOSSES, Assignment, Dispatcher, WorkerState
from oid_async.cluster.published import Part
from oid_async.cluster.record import Record
from oid_async.cluster.work import MOST_TRIES, PartResult

TWO = {"a": WorkerState(), "b": WorkerState()}


def parts(count: int) -> list[Part]:
    """Return parts of a generation."""
    return [Part(0, "train", number, 10, 1000, "") for number in range(count)]


def assigned(dispatcher: Dispatcher, now: float) -> list[Assignment]:
    """Return all that can be assigned now."""
    found = []
    while (each := dispatcher.next(now)) is not None:
        found.append(each)
    return found


def done(each: Assignment) -> PartResult:
    """Return the result of a committed part."""
    return PartResult(each.part.name, "committed", Record(0, each.part.name, "", None, 10, 10))


def unreachable(each: Assignment) -> PartResult:
    """Return the result of a part that nobody could fetch from there."""
    return PartResult(each.part.name, "unreachable", None)


def places(found: Sequence[Assignment]) -> list[tuple[int, str]]:
    """Return number and worker of assignments."""
    return [(each.part.number, each.worker) for each in found]


def test_each_worker_has_two_parts_in_order() -> None:
    """Two overlap at one worker, more wait here: with one thread it is one."""
    dispatcher = Dispatcher(parts(5))
    assert assigned(dispatcher, 0) == []
    dispatcher.workers({"a": WorkerState(8), "b": WorkerState(1)})
    assert places(assigned(dispatcher, 0)) == [(0, "a"), (1, "b"), (2, "a")]
    assert dispatcher.waiting == 2


def test_all_parts_are_done_once() -> None:
    """Each part is given to somebody once, and then it is over."""
    dispatcher = Dispatcher(parts(20))
    dispatcher.workers(TWO)
    seen = []
    for now in range(30):
        for each in assigned(dispatcher, now):
            seen.append(each.part.number)
            dispatcher.ended(each.run, done(each), now + 0.5)
    assert sorted(seen) == list(range(20))
    assert dispatcher.is_over
    assert not dispatcher.given_up


def test_parts_of_a_lost_worker_go_to_others_first() -> None:
    """They have waited already."""
    dispatcher = Dispatcher(parts(9))
    dispatcher.workers(TWO)
    assigned(dispatcher, 0)
    assert len(dispatcher.workers({"b": WorkerState(), "c": WorkerState()})) == 2
    assert {number for number, _ in places(assigned(dispatcher, 1))} == {0, 2}


def test_only_the_part_that_kills_its_workers_is_given_up() -> None:
    """From the second loss on it is alone, so no other is blamed; the rest goes on."""
    dispatcher = Dispatcher(parts(12))
    lives, now, killed = {"a": 0, "b": 0}, 0, 0
    while not dispatcher.is_over:
        now += 1
        assert now < 100
        dispatcher.workers({f"{name}{life}": WorkerState() for name, life in lives.items()})
        found = assigned(dispatcher, now)
        bad = next((each for each in found if each.part.number == 3), None)
        if bad is not None:
            lives[bad.worker[0]] += 1
            killed += 1
        for each in found:
            if bad is None or each.worker != bad.worker:
                dispatcher.ended(each.run, done(each), now)
    assert dispatcher.given_up == ["train-000003"]
    assert killed == MOST_LOSSES


def test_a_part_that_must_be_alone_gets_a_worker_although_others_wait() -> None:
    """A worker is kept free for it: others that wait do not push it back for ever."""
    dispatcher = Dispatcher(parts(50))
    dispatcher.workers({"a0": WorkerState()})
    for life in range(1, 3):
        assigned(dispatcher, 0)
        dispatcher.workers({f"a{life}": WorkerState()})
    first = assigned(dispatcher, 1)
    assert [each.part.number for each in first] in ([0], [1])
    dispatcher.ended(first[0].run, done(first[0]), 2)
    assert len(assigned(dispatcher, 2)) == 1


def test_the_slowest_part_is_copied_when_a_worker_has_nothing_else() -> None:
    """Beyond twice the usual time and some seconds; whoever is first has done it."""
    dispatcher = Dispatcher(parts(4))
    dispatcher.workers(TWO)
    found = assigned(dispatcher, 0)
    for each in found[1:]:
        dispatcher.ended(each.run, done(each), 8)
    assert assigned(dispatcher, 17) == []
    copies = assigned(dispatcher, 18.1)
    assert places(copies) == [(0, "b")]
    assert assigned(dispatcher, 50) == []
    dispatcher.ended(copies[0].run, done(copies[0]), 51)
    assert dispatcher.is_over
    dispatcher.ended(found[0].run, PartResult("train-000000", "already", None), 60)
    assert dispatcher.is_over


def test_parts_of_a_silent_worker_are_copied_at_once() -> None:
    """A stopped worker holds nothing up, and gets nothing."""
    dispatcher = Dispatcher(parts(3))
    dispatcher.workers(TWO)
    assigned(dispatcher, 0)
    dispatcher.workers({"a": WorkerState(silent=True), "b": WorkerState()})
    assert places(assigned(dispatcher, 1)) == [(0, "b")]
    assert dispatcher.usable == 1


def test_a_capped_generation_is_of_one_worker() -> None:
    """Another one gets parts only once the first is lost; silence alone does not hand them on."""
    dispatcher = Dispatcher(parts(6), capped=True)
    dispatcher.workers(TWO)
    assert {worker for _, worker in places(assigned(dispatcher, 0))} == {"a"}
    dispatcher.workers({"a": WorkerState(silent=True), "b": WorkerState()})
    assert assigned(dispatcher, 100) == []
    dispatcher.workers({"b": WorkerState()})
    assert {worker for _, worker in places(assigned(dispatcher, 101))} == {"b"}


def test_an_unreachable_part_is_tried_elsewhere_and_later() -> None:
    """Four times in all, at another worker where there is one; the last attempt commits whatever it has come to."""
    dispatcher = Dispatcher(parts(1))
    dispatcher.workers(TWO)
    tries = []
    for now in range(200):
        for each in assigned(dispatcher, now):
            tries.append((each.attempt, each.worker, now))
            last = each.attempt == MOST_TRIES
            dispatcher.ended(each.run, done(each) if last else unreachable(each), now)
    assert [attempt for attempt, _, _ in tries] == [1, 2, 3, 4]
    assert [worker for _, worker, _ in tries][:2] == ["a", "b"]
    assert [now for _, _, now in tries] == [0, 2, 12, 42]
    assert dispatcher.is_over


def test_a_worker_that_refuses_is_left_alone_as_long_as_there_are_others() -> None:
    """Its full disk costs one try; once all refuse the run has to stop."""
    dispatcher = Dispatcher(parts(4))
    dispatcher.workers(TWO)
    found = assigned(dispatcher, 0)
    assert dispatcher.refused(found[0].run, 1)
    assert assigned(dispatcher, 1) == []
    dispatcher.ended(found[1].run, done(found[1]), 2)
    assert places(assigned(dispatcher, 2)) == [(0, "b")]
    assert not dispatcher.refused(found[3].run, 3)
