"""Whose turn it is to make the end, where many tasks come to it at the same time."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Lock
from time import monotonic

import pytest

from oid_async.cluster import end_turn
from oid_async.cluster.end_turn import EndTurn
from oid_async.cluster.layout import ENDS
from oid_async.events import ignore
from oid_async.objects.store import Objects


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beats and looks every few milliseconds; a busy machine may be silent for longer than these."""
    for name, seconds in {"BEAT_S": 0.02, "LOOK_S": 0.01, "SILENT_S": 20.0, "_SETTLE_S": 0.02}.items():
        monkeypatch.setattr(end_turn, name, seconds)


def test_one_of_many_has_the_turn_and_the_others_wait_for_it(tmp_path: Path) -> None:
    """They wait as long as it lives, and find the end made; nothing is left of the turn."""
    finished, lock = Event(), Lock()
    turns: list[int] = []

    def task(number: int) -> bool:
        turn = EndTurn(Objects(tmp_path), "records")
        if not turn.wait(finished.is_set, ignore):
            return False
        with lock:
            turns.append(number)
        with turn.used():
            Event().wait(0.6)
            finished.set()
        return True

    with ThreadPoolExecutor(6) as threads:
        assert sum(threads.map(task, range(6))) == 1
    assert len(turns) == 1
    assert list(Objects(tmp_path).list(ENDS)) == []


def test_the_turn_of_a_task_that_was_killed_passes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is silent: another one takes it after some time, without the end having been made."""
    monkeypatch.setattr(end_turn, "SILENT_S", 0.3)
    objects = Objects(tmp_path)
    assert EndTurn(objects, "records").wait(lambda: False, ignore)
    began = monotonic()
    assert EndTurn(objects, "records").wait(lambda: False, ignore)
    assert monotonic() - began >= 0.3


def test_a_turn_of_other_records_is_none_of_these(tmp_path: Path) -> None:
    """What an end that was killed long ago has left holds up nobody."""
    objects = Objects(tmp_path)
    assert EndTurn(objects, "other records").wait(lambda: False, ignore)
    began = monotonic()
    assert EndTurn(objects, "records, and more").wait(lambda: False, ignore)
    assert monotonic() - began < 10
