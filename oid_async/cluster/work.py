"""The values that go between who spreads parts over workers and the workers."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from oid_async.cluster.published import Generation, Part, PublishedQuery
from oid_async.cluster.record import Record
from oid_async.events import Hold
from oid_async.formats.classes import ExportClasses
from oid_async.http.address_guard import Endpoint
from oid_async.http.retry import Limits
from oid_async.objects.store import Objects
from oid_async.options.query import Options

# A part most of which failed by `network` is tried so often, then committed with its failures.
MOST_TRIES = 4
# A part is committed already where somebody else was quicker; `unreachable`: most of it failed by `network`, nothing is
# committed, and somebody else should try.
End = Literal["committed", "already", "unreachable"]


class ClosedError(Exception):
    """The worker was closed while it carried out a part."""


@dataclass(frozen=True, slots=True)
class WorkSettings:
    """What a worker needs to carry out parts of one run; picklable. `transfers` is how many may be on at once.

    `options` give what is not part of the query: limits, rate, period. `mirror` and `recorded_mirror` are as in
    `workers.messages.WorkerSettings`. `classes` are those of `part_shard.part_classes` where --class-map may name a
    file that workers do not have; None: a worker makes them.
    """

    objects: Objects
    query: PublishedQuery
    options: Options
    limits: Limits
    mirror: str | None
    recorded_mirror: str | None
    allowed: tuple[Endpoint, ...]
    transfers: int
    classes: ExportClasses | None = None


@dataclass(frozen=True, slots=True)
class PartProgress:
    """How far one worker has come with one part, since it began with it.

    `requests` are those that its images took, so that the sum over parts is what the worker has sent; `failures` counts
    the failed images by kind; `holding` is what holds images up at the moment, worst first; `notes` are lines for the
    user.
    """

    part: str
    worker: str
    landed: int = 0
    failed: int = 0
    bytes: int = 0
    requests: int = 0
    failures: tuple[tuple[str, int], ...] = ()
    holding: tuple[Hold, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PartResult:
    """How a part ended at one worker. `record` is the one that counts, None for an unreachable part.

    `requests` are those of this worker, whoever has committed; `notes` are lines for the user.
    """

    part: str
    end: End
    record: Record | None
    requests: int = 0
    notes: tuple[str, ...] = field(default_factory=tuple)


class Worker(Protocol):
    """Carries out parts in this process. One at a time is fetched; the next begins while the last one is put away."""

    def run(self, part: Part, *, attempt: int, progress: Callable[[PartProgress], None]) -> PartResult:
        """Carry a part out, from any thread; the `attempt`s count from 1, the last one commits whatever became of it.

        `progress` is called in this thread, some times a second at most. Raises StorageError for a storage or disk that
        refuses, InputError for a plan that is not as published, ClosedError when it is closed.
        """
        ...

    def close(self) -> None:
        """End what is under way and give everything back; from any thread, more than once, too."""
        ...


class Engine(Protocol):
    """Has parts carried out somewhere."""

    async def run(self, generation: Generation, report: "Callable[[PartResult | PartProgress], None]") -> list[str]:
        """Carry out the parts of a generation that have no record; return the names of those that were given up."""
        ...
