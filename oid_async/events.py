"""The events of a run, reported as they happen. Values only; nothing here prints or waits.

A sink is any callable that takes one event. It is called on the event loop and must return at once; an exception it
raises stops the run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from oid_async.redaction import printable
from oid_async.report import Outcome, Plan, Report


@dataclass(frozen=True, slots=True)
class Note:
    """Something a user should know once: a choice that was made, a thing that was left out."""

    text: str

    def __post_init__(self) -> None:
        # It quotes tables and servers, and whoever gets it prints it.
        object.__setattr__(self, "text", printable(self.text))


@dataclass(frozen=True, slots=True)
class TableProgress:
    """A table is being fetched: `done` of `total` bytes (None when the server does not say); or turned, in steps."""

    name: str
    done: int
    total: int | None
    finished: bool = False
    unit: Literal["byte", "step"] = "byte"


@dataclass(frozen=True, slots=True)
class Planned:
    """The target set is known; the first image request follows."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class Landed:
    """Some images reached their outcome. One event a batch, so that a million images cost thousands of calls."""

    outcomes: tuple[Outcome, ...]
    report: Report


@dataclass(frozen=True, slots=True)
class Checked:
    """`done` of `total` files have been verified so far."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Exported:
    """`done` of `total` images have been exported so far."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The run is over and its tables are written."""

    report: Report


Event = Note | TableProgress | Planned | Landed | Checked | Exported | Finished
Sink = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Listen to nothing: the default sink."""
