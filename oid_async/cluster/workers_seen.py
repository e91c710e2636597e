"""Which workers a scheduler speaks of, and which of them have given no sign of life for some time. Pure."""

from collections.abc import Mapping
from typing import Any

from oid_async.cluster.dispatch import WorkerState

# Workers give a sign of life every half second, of hundreds every few seconds.
SILENT_S = 15.0
# Who has not looked for so long was held up itself: no worker is to blame.
_HELD_UP_S = 5.0
_GOING = ("closing", "closing_gracefully", "closed", "failed", "stopping")


class WorkersSeen:
    """Keeps when each worker's last sign of life changed; the clocks of machines differ, so its time says nothing."""

    def __init__(self) -> None:
        self.workers: dict[str, WorkerState] = {}
        self._signs: dict[str, tuple[Any, float]] = {}
        self._looked: float | None = None

    def look(self, identities: Mapping[str, Mapping[str, Any]], now: float) -> dict[str, WorkerState]:
        """Return the workers by address, of what the scheduler says: `last_seen`, `nthreads` and `status` of each."""
        held_up = self._looked is not None and now - self._looked > _HELD_UP_S
        self._looked = now
        signs: dict[str, tuple[Any, float]] = {}
        for name, identity in identities.items():
            sign, since = self._signs.get(name, (None, now))
            is_new = sign != identity["last_seen"] or held_up
            signs[name] = (identity["last_seen"], now if is_new else since)
        self._signs = signs
        self.workers = {
            name: WorkerState(
                int(identity.get("nthreads") or 1),
                silent=bool(self.silent_for(SILENT_S, now, name)) or identity.get("status") in _GOING,
            )
            for name, identity in identities.items()
        }
        return self.workers

    def silent_for(self, seconds: float, now: float, name: str | None = None) -> list[str]:
        """Return the workers, or this one, of which nothing was heard for so long."""
        names = self._signs if name is None else (name,)
        return [each for each in names if now - self._signs[each][1] > seconds]
