"""The events of a run, reported as they happen. Values only; nothing here prints or waits.

A sink is any callable that takes one event. It is called on the event loop and must return at once; an exception it
raises stops the run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

from oid_async.quick_values import frozen
from oid_async.redaction import printable
from oid_async.report import Outcome, Plan, Report


@frozen
class Note:
    """Something a user should know once: a choice that was made, a thing that was left out."""

    text: str

    def __post_init__(self) -> None:
        # It quotes tables and servers, and whoever gets it prints it.
        object.__setattr__(self, "text", printable(self.text))


@frozen
class Stage:
    """The run has come to a stage that has no count of its own yet, in words: `writing the result tables`."""

    name: str


@frozen
class TableProgress:
    """A table is being fetched: `done` of `total` bytes (None when the server does not say); or turned, in steps."""

    name: str
    done: int
    total: int | None
    finished: bool = False
    unit: Literal["byte", "step"] = "byte"


@frozen
class Planned:
    """The target set is known; the first image request follows."""

    plan: Plan


@dataclass(frozen=True)
class Landed:
    """Some images reached their outcome. One event a batch, so that a million images cost thousands of calls."""

    outcomes: tuple[Outcome, ...]
    report: Report

    @classmethod
    def elsewhere(cls, make: Callable[[], tuple[Outcome, ...]], report: Report) -> Self:
        """Return the event of images of another process; `make` is called once somebody asks for the outcomes."""
        event = cls.__new__(cls)
        vars(event).update(_make=make, report=report)
        return event

    if not TYPE_CHECKING:  # a type checker would take any attribute to be there

        def __getattr__(self, name: str) -> tuple[Outcome, ...]:
            """Make the outcomes that are not there yet."""
            if name != "outcomes" or "_make" not in vars(self):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            made: tuple[Outcome, ...] = vars(self).setdefault(name, vars(self)["_make"]())
            return made


HoldCause = Literal[
    "paused", "down", "unanswered", "capped", "limited", "disk", "consumer", "hanging", "retries", "workers"
]


@frozen
class Hold:
    """One thing that holds a run up at the moment.

    - paused: `host` has asked us to wait, `until` then; down: no connection, it is asked again `until` then at most;
      unanswered: it has not answered a single request yet
    - capped: the cap on its requests, `per_s` of them a second, `by_default` or by option; limited: the cap on bytes
    - disk: received images wait to be written; consumer: who takes the outcomes is slower than the run
    - hanging: so many of its transfers get nothing more; retries: they wait for their next attempt, `kinds` of failure
    - workers: so many worker processes have not started yet

    `host` is "" for what is of no host, `count` how many images it concerns (workers: processes), as far as it is
    known; `until` is a time of `time.time()`; `trouble` is the last error of the host.
    """

    cause: HoldCause
    host: str = ""
    count: int = 0
    until: float | None = None
    per_s: float | None = None
    by_default: bool = False
    kinds: tuple[tuple[str, int], ...] = ()
    trouble: str = ""


@frozen
class Holding:
    """All that holds the run up at the moment, worst first; empty when nothing does but the network or the hosts.

    Sent when it changes, once a second at most while images are fetched.
    """

    holds: tuple[Hold, ...] = ()


@frozen
class Checked:
    """`done` of `total` files have been verified so far."""

    done: int
    total: int


@frozen
class Exported:
    """`done` of `total` images have been exported so far."""

    done: int
    total: int


@frozen
class Finished:
    """The run is over and its tables are written."""

    report: Report


Event = Note | Stage | TableProgress | Planned | Landed | Holding | Checked | Exported | Finished
Sink = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Listen to nothing: the default sink."""
