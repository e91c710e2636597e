"""Carries out the parts of a plan in this process: images, shard, then the record that commits them."""

from collections.abc import Callable

from oid_async.cluster.published import Part
from oid_async.cluster.work import PartProgress, PartResult, WorkSettings


class PartWorker:
    """Carries out parts of one run, see `cluster.work.Worker`; `run` may be called from two threads at a time.

    It has a thread with an event loop of its own, in which one client lives on over all parts.
    """

    def __init__(self, settings: WorkSettings) -> None:
        self._settings = settings

    def run(self, part: Part, *, attempt: int, progress: Callable[[PartProgress], None]) -> PartResult:
        """Carry a part out; see `cluster.work.Worker.run`."""
        raise NotImplementedError

    def close(self) -> None:
        """End what is under way and give everything back."""
