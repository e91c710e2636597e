"""Forked children: what a fork does not copy are the threads of Polars, and a child that waits for them hangs.

So each door asks here first. A child that was forked before Polars had begun to work can use everything; one that was
forked later is told so at once. Importing the package is enough to have forks noticed, and it loads nothing.
"""

import os
import sys

from oid_async.errors import UsageError

_THREADS = ("polars-0", "tokio-rt-worker", "async-executor")


class _Forks:
    """Whether Polars had threads when this process was forked."""

    is_cut_off = False
    _had_threads = False

    def look(self) -> None:
        """Before a fork, in the parent."""
        self._had_threads = any(each in sys.modules for each in ("polars", "obstore")) and _polars_has_begun()

    def note(self) -> None:
        """After a fork, in the child."""
        self.is_cut_off = self.is_cut_off or self._had_threads


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


_forks = _Forks()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_forks.look, after_in_child=_forks.note)


def refuse_forked_child() -> None:
    """Raise UsageError in a child that was forked after Polars had been used: it would hang."""
    if _forks.is_cut_off:
        raise UsageError(
            "this process was forked after oid_async or Polars was used, and would hang: start it with spawn, such as "
            "multiprocessing.get_context('spawn')"
        )
