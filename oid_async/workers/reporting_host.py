"""A host as a worker process sees it: its trouble is the run's to deal with."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from oid_async.http.address_guard import Endpoint
from oid_async.http.host import Host
from oid_async.http.retry import FetchError
from oid_async.measures.host import WaitReason


@dataclass(eq=False)
class ReportingHost(Host):
    """A host as a worker sees it: it reports its trouble to the run, too. A capped one is never requested here."""

    report: Callable[..., None] = lambda *_: None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.limiter is not None:
            self.not_before = math.inf

    def note_wait(self, reason: WaitReason, began: float, until: float) -> None:
        """Do nothing: it is the run that waits."""

    def asked_to_wait(self, error: FetchError, began: float, now: float) -> None:
        """Apply it, and report it."""
        super().asked_to_wait(error, began, now)
        self.report(self, "asked_to_wait", error, ("", 0), began)

    def connect_failed(self, error: FetchError, endpoint: Endpoint, began: float, now: float) -> None:
        """Apply it, and report it."""
        super().connect_failed(error, endpoint, began, now)
        self.report(self, "unreachable", error, endpoint, began)

    def request_failed(
        self, error: FetchError, began: float, now: float, *, no_response: bool, retried: bool = False
    ) -> None:
        """Apply it, and report it. Nothing is retried here."""
        super().request_failed(error, began, now, no_response=no_response, retried=retried)
        self.report(self, "stumbled", error, ("", 0), began, no_response)
