"""A download past one machine: check the place, publish the plan or read it, have parts carried out, make the end."""

from typing import TYPE_CHECKING

from oid_async.concurrency import in_thread
from oid_async.events import Sink
from oid_async.http.retry import Limits
from oid_async.objects.store import Objects
from oid_async.options.query import Options
from oid_async.report import Report

if TYPE_CHECKING:
    from oid_async.origin.server import Serve


class DistributedRun:
    """One query carried out by an engine, or by this process alone, part by part, into one place.

    `report` is true at every moment. `serve` and `site` are those of `jobs.download.Run`.
    """

    def __init__(
        self, options: Options, sink: Sink, report: Report, *, limits: Limits, serve: "Serve | None", site: str | None
    ) -> None:
        self._options = options
        self._sink = sink
        self._report = report
        self._limits = limits
        self._serve = serve
        self._site_name = site
        self._objects = Objects(options.savepath)

    async def carry_out(self) -> None:
        """Do all that is left to do, and make the end if nothing is. Raises OidError."""
        await in_thread(self._objects.check)
