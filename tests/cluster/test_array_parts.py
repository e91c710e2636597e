"""Tasks of an array: which one this is, what it begins with, how a run counts what parts come to."""

import random
from typing import Any

import pytest

from oid_async.cluster.array_engine import divided
from oid_async.cluster.array_task import ArrayTask, array_task
from oid_async.cluster.dispatch import Dispatcher, WorkerState
from oid_async.cluster.finish import Totals
from oid_async.cluster.published import Part
from oid_async.cluster.record import Record
from oid_async.cluster.work import PartProgress, PartResult
from oid_async.cluster.workers_seen import SILENT_S, WorkersSeen
from oid_async.events import Event, Hold, Holding, Note
from oid_async.jobs.distributing.tally import Tally
from oid_async.report import Report

PARTS = [Part(0, "train", number, 10, 1000, "") for number in range(20)]
ARRAY = {"SLURM_ARRAY_TASK_MIN": "4", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_JOB_ID": "77"}


@pytest.mark.parametrize(
    ("environment", "task"),
    [
        ({}, (0, 1, None)),
        ({"SLURM_ARRAY_TASK_ID": "5", **ARRAY}, (1, 3, "77")),
        ({"SLURM_ARRAY_TASK_ID": "8", "SLURM_ARRAY_TASK_STEP": "2", **ARRAY}, (2, 3, "77")),
        ({"SLURM_ARRAY_TASK_ID": "many"}, (0, 1, None)),
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}, (2, 4, "7.0")),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"}, (0, 1, None)),
        ({"JOB_COMPLETION_INDEX": "3", "HOSTNAME": "pull-3"}, (3, None, "pull")),
        ({"JOB_COMPLETION_INDEX": "3", "OID_ASYNC_SHARDS": "8", "OID_ASYNC_JOB": "uid"}, (3, 8, "uid")),
    ],
    ids=str,
)
def test_the_environment_says_which_task_this_is(environment: dict[str, str], task: tuple[Any, ...]) -> None:
    """Nothing that is missing or odd there stops a run: it says only what to begin with."""
    found = array_task(environment)
    assert (found.index, found.count, found.job) == task


def test_a_task_begins_with_its_own_parts() -> None:
    """Those of all tasks are disjoint and all; the others come in random order."""
    tasks = [divided(PARTS, ArrayTask(index, 3), random.Random(1)) for index in range(3)]
    assert sorted(part.number for own, _ in tasks for part in own) == list(range(20))
    for own, others in tasks:
        assert sorted(part.number for part in (*own, *others)) == list(range(20))
        assert [part.number for part in others] != sorted(part.number for part in others)


def test_a_task_that_knows_no_number_of_tasks_begins_anywhere() -> None:
    """And goes on from there; capped parts are all of the one task that does them."""
    own, others = divided(PARTS, ArrayTask(2, None), random.Random(2))
    assert not others
    assert sorted(part.number for part in own) == list(range(20))
    assert own[0].number
    assert divided(PARTS, ArrayTask(0, 3), random.Random(2), capped=True) == (PARTS, [])


def test_parts_that_others_have_committed_are_left_out() -> None:
    """More can be added meanwhile."""
    dispatcher = Dispatcher(PARTS[:3])
    dispatcher.workers({"here": WorkerState()})
    assert dispatcher.leave({"train-000001"})
    assert not dispatcher.leave({"train-000001"})
    dispatcher.add(PARTS[5:6])
    found = [each.part.number for _ in range(3) if (each := dispatcher.next(0)) is not None]
    assert found == [1, 5]


def test_a_worker_is_silent_when_its_signs_of_life_stand_still() -> None:
    """By the clock of who looks; who was held up itself blames nobody."""
    seen, sign = WorkersSeen(), {"last_seen": 5.0, "nthreads": 2, "status": "running"}
    for now in range(int(SILENT_S) + 1):
        assert not seen.look({"a": sign}, float(now))["a"].silent
    assert seen.look({"a": sign}, SILENT_S + 1)["a"].silent
    assert not seen.look({"a": sign | {"last_seen": 6.0}}, SILENT_S + 2)["a"].silent
    assert not seen.look({"a": sign | {"last_seen": 6.0}}, SILENT_S + 100)["a"].silent
    assert seen.look({"a": sign | {"last_seen": 7.0, "status": "closing_gracefully"}}, SILENT_S + 101)["a"].silent


def record(part: Part, *, saved: int, failures: dict[str, int] | None = None, pending: int = 0) -> Record:
    """Return what a part has come to."""
    return Record(
        0, part.name, "", None, part.images, saved, failures or {}, {"cvdf": saved}, pending, saved_bytes=100 * saved
    )


def test_a_report_is_true_at_every_moment() -> None:
    """While parts are under way, tried again, copied, committed here or by others, and at the end."""
    report, events = Report(selected=40, pending=30, present=10), list[Event]()
    tally = Tally(report, events.append)

    def counts() -> tuple[int, ...]:
        assert report.selected == report.present + report.downloaded + report.failed + report.pending
        return report.present, report.downloaded, report.failed, report.pending, report.requests

    tally.begin(PARTS[:3])
    hold = Hold("capped", "h", 3, per_s=10.0)
    tally.take(PartProgress("train-000000", "a", landed=4, failed=1, bytes=300, requests=5, holding=(hold,)))
    assert counts() == (10, 3, 1, 26, 5)
    tally.take(PartProgress("train-000000", "b", landed=2, requests=2, holding=(hold,)))
    assert counts() == (10, 3, 1, 26, 7)
    assert events[-1] == Holding((Hold("capped", "h", 6, per_s=10.0),))
    tally.take(PartResult("train-000000", "unreachable", None, 5, ("a note",)))
    assert counts() == (10, 0, 0, 30, 7)
    tally.take(PartProgress("train-000000", "a", landed=9, requests=9))
    tally.take(PartResult("train-000000", "committed", record(PARTS[0], saved=8, failures={"gone": 2}), 9, ("a note",)))
    tally.take(PartProgress("train-000000", "b", landed=9, requests=9))
    assert counts()[:4] == (10, 8, 2, 20)
    tally.take(PartResult("train-000001", "already", record(PARTS[1], saved=10)))
    tally.take(PartResult("train-000002", "committed", record(PARTS[2], saved=7, pending=3)))
    assert counts()[:4] == (20, 15, 2, 3)
    assert report.bytes == 1500
    assert [event.text for event in events if isinstance(event, Note)] == ["a note"]
    tally.finish(Totals(selected=40, ok=37, failed=3, failures={"gone": 3}), "s3://b/p")
    assert counts()[:4] == (22, 15, 3, 0)
    assert (report.savepath, report.failures) == ("s3://b/p", {"gone": 3})


def test_a_part_that_others_commit_meanwhile_is_none_of_this_run() -> None:
    """An array's task learns that by listing records: what it had fetched of it itself counts for nothing."""
    report, events = Report(selected=20, pending=20), list[Event]()
    tally = Tally(report, events.append)
    tally.begin(PARTS[:2])
    failures = (("gone", 2), ("network", 1))
    tally.take(PartProgress("train-000000", "a", landed=8, failed=3, bytes=500, failures=failures, notes=("a note",)))
    assert (report.downloaded, report.failed, report.failures) == (5, 3, {"gone": 2, "network": 1})
    assert Note("a note") in events
    tally.take(PartResult("train-000001", "committed", record(PARTS[1], saved=10)))
    tally.begin(PARTS[2:3])
    assert (report.present, report.downloaded, report.failed, report.failures) == (10, 10, 0, {})
    tally.finish(Totals(selected=20, ok=18, failed=2, failures={"gone": 2}), "s3://b/p")
    assert (report.present, report.downloaded) == (8, 10)
