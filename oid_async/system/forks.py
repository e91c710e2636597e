"""Forked children: what a fork does not copy are the threads of Polars, and a child that waits for them hangs.

So each door asks here first. A child that was forked before Polars had begun to work can use everything; one that was
forked later is told so at once. A module that a thread is importing stays locked in the child for ever: so a fork waits
until those of this package are imported, with all that they import. Importing the package is enough to have forks
noticed, and it loads nothing.
"""

import os
import sys
import time
from threading import get_ident

from oid_async.errors import UsageError

# Longer than any import takes.
_MOST_WAIT_S = 10.0
_PACKAGE = "oid_async"
_THREADS = ("polars-0", "tokio-rt-worker", "async-executor")


class _Forks:
    """Whether Polars had threads when this process was forked.

    `has_begun`: this process uses a door, so that Polars' threads are there or begin any moment, even while it forks.
    """

    is_cut_off = False
    has_begun = False
    _had_threads = False

    def look(self) -> None:
        """Before a fork, in the parent."""
        # Whether Polars has begun is read from files, while other threads may go on to import: so that comes first.
        is_loaded = any(each in sys.modules for each in ("polars", "obstore"))
        self._had_threads = is_loaded and _polars_has_begun()
        _wait_for_imports()

    def note(self) -> None:
        """After a fork, in the child."""
        self.is_cut_off = self.is_cut_off or self.has_begun or self._had_threads


def _polars_has_begun() -> bool:
    """Return whether a thread of Polars' pools is there; True where that cannot be seen."""
    tasks = "/proc/self/task"
    try:
        for task in os.listdir(tasks):
            with open(f"{tasks}/{task}/comm") as file:
                if file.read().startswith(_THREADS):
                    return True
    except OSError:
        return True
    return False


def _wait_for_imports() -> None:
    """Wait, for some seconds at most, until no other thread imports what doors need: a child would wait for ever."""
    end = time.monotonic() + _MOST_WAIT_S
    while _is_importing() and time.monotonic() < end:
        time.sleep(0.002)


def _is_importing() -> bool:
    """Return whether another thread imports something of ours now, False where that cannot be seen.

    Python keeps a lock a module (importlib/_bootstrap.py, 3.11 to 3.14). A thread that imports something itself goes
    on: the other one may be waiting for it. So it does in a child whose parent was importing; those threads are not in
    it.
    """
    locks = getattr(sys.modules.get("_frozen_importlib"), "_module_locks", {})
    owners: dict[str, object] = {name: getattr(lock(), "owner", None) for name, lock in list(locks.items())}
    if get_ident() in owners.values():
        return False
    ours = {owner for name, owner in owners.items() if name.partition(".")[0] == _PACKAGE}
    return bool(ours & sys._current_frames().keys())


_forks = _Forks()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_forks.look, after_in_child=_forks.note)


def refuse_forked_child() -> None:
    """Raise UsageError in a child that was forked after Polars had been used: it would hang. Every door begins so."""
    if _forks.is_cut_off:
        raise UsageError(
            "this process was forked after oid_async or Polars was used, and would hang: start it with spawn, such as "
            "multiprocessing.get_context('spawn')"
        )
    _forks.has_begun = True
