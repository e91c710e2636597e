"""The messages between a run and its worker processes: a JSON array a line, over a socket.

    to a worker     [settings]                                 the first line: the fields of `WorkerSettings`
                    ["images", [target, ...]]                  to be requested, one attempt each
                    ["host", name, not_before, is_md5, gave_up]  the state of a host
    end of stream   stop: store what was received, send the results, and end
    from a worker   ["ready"]
                    ["results", requests, copies, [outcome, ...]]  stored, or failed for good; to be journalled
                    ["returned", requests, image_id, state, made, seen, partial, delay_s]   the attempt was not the last
                    ["trouble", host, method, error, asked, began, silent, has_answered]   changes the state of a host
                    ["measures", hosts]                        measured since the last such message, for the report
                    ["hanging", counts]                        of transfers that hang, by host, when they change
                    ["note", text]
                    ["stopped", kind, text]                    an error of the machine, or a bug

`copies` are those of the bucket that were stored, which nearly all images are: ids, bytes together, journal lines.
`requests` counts all that this worker has sent so far. Times are on the monotonic clock, which is one for all processes
of a machine. JSON, because a worker that reads it can be made to do nothing else.
"""

import asyncio
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Self

from oid_async.http.address_guard import Endpoint
from oid_async.http.retry import FetchError, Limits
from oid_async.openimages.vocabulary import Source
from oid_async.report import Outcome
from oid_async.store.image_check import Expected
from oid_async.store.journal_line import StoredCopies
from oid_async.transfer.image_transfer import NOTHING, Target

# Longer than any message: images come a few dozen at a time, and a URL is limited to far less.
LINE_BYTES = 16 << 20
Fields = Sequence[Any]
_ORIGINAL = ("original.size", "original.md5", "original.saved_bytes")
_PLAN_FIELDS = ("image_id", "file_name", "subset", "original_url", *_ORIGINAL, "thumbnail_url")
# The fields of a target without its place, which only the run needs.
pack_target: Callable[[Target], Fields] = attrgetter(*_PLAN_FIELDS, "known", "copy_bytes", "sources")
# What is handed out beside an outcome is of runs in one process.
_NOT_SENT = ("image", "rows")
_outcome_fields: Callable[[Outcome], Fields] = attrgetter(
    *("file_name" if name == "file" else name for name in Outcome.__dataclass_fields__ if name not in _NOT_SENT)
)


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker needs before its first image: the run's folder, sources and limits, and its share of them.

    `tmp` and `token` name the temporaries. At most `max_transfers` images are requested at once by this process; from
    `floor` on it may estimate how many of them a host can use. `hashed`: MD5s are wanted.
    """

    savepath: str
    tmp: str
    token: str
    sources: tuple[Source, ...]
    mirror: str | None
    recorded_mirror: str | None
    allowed: tuple[Endpoint, ...]
    limits: Limits
    rate: float | None
    period: float
    max_transfers: int
    estimates_concurrency: bool
    floor: float
    hashed: bool

    def encode(self) -> bytes:
        """Return the first line to a worker."""
        return encode(asdict(self))

    @classmethod
    def decode(cls, line: bytes) -> Self:
        """Return the settings in the first line."""
        fields = json.loads(line)[0]
        own = {
            "sources": tuple(fields["sources"]),
            "allowed": tuple((host, port) for host, port in fields["allowed"]),
            "limits": Limits(**fields["limits"]),
        }
        return cls(**(fields | own))


def encode(*message: Any) -> bytes:
    """Return a message as its line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


async def read_line(reader: asyncio.StreamReader) -> bytes:
    """Return the next complete line; b"" once the other side has ended, however it did."""
    try:
        line = await reader.readline()
    except ConnectionError:
        return b""
    return line if line.endswith(b"\n") else b""


def unpack_target(fields: Fields) -> Target:
    """Return the target of these fields."""
    image_id, file_name, subset, url, size, md5, saved_bytes, thumbnail, known, copy_bytes, sources = fields
    original = NOTHING if size is None and md5 is None and saved_bytes is None else Expected(size, md5, saved_bytes)
    sources = tuple(sources) if sources is not None else None
    return Target(0, image_id, file_name, subset, url, original, thumbnail, known, copy_bytes, sources)


class UnsentResults:
    """What has become of images, until it is sent."""

    def __init__(self) -> None:
        self._copies: list[str] = []
        self._size = 0
        self._lines: list[bytes] = []
        self._outcomes: list[Fields] = []

    def __len__(self) -> int:
        return len(self._copies) + len(self._outcomes)

    def add(self, outcome: Outcome, line: bytes | None) -> None:
        """Add an outcome, with its line if one was written to the intent log."""
        # Of an address of a table the line may have other characters than the outcome.
        if line is None or outcome.source != "cvdf":
            self._outcomes.append(_outcome_fields(outcome))
            return
        self._copies.append(outcome.image_id)
        self._size += outcome.bytes or 0
        self._lines.append(line)

    def pack(self) -> tuple[Fields, list[Fields]]:
        """Return the copies and the outcomes of the others as fields."""
        return [self._copies, self._size, b"".join(self._lines).decode()], self._outcomes


@dataclass(frozen=True, slots=True)
class Results:
    """What has become of some images: copies of the bucket that were stored, and the outcomes of all others."""

    copies: StoredCopies
    outcomes: Sequence[Outcome]

    @classmethod
    def unpack(cls, copies: Fields, outcomes: Sequence[Fields], images: Path) -> Self:
        """Return the results of these fields, for a run that stores under `images`."""
        image_ids, size, lines = copies
        folder = f"{images}{os.sep}"
        return cls(
            StoredCopies(image_ids, size, lines.encode(), images),
            [
                Outcome(image_id, status, f"{folder}{name}" if name is not None else None, *rest)
                for image_id, status, name, *rest in outcomes
            ],
        )


def pack_error(error: FetchError) -> Fields:
    """Return the fields of an error that change the state of a host."""
    return [error.kind, str(error), error.retry_after_s, error.hopeless, error.unsent, error.unknown_name]


def unpack_error(fields: Fields) -> FetchError:
    """Return the error of these fields."""
    kind, text, retry_after_s, hopeless, unsent, unknown_name = fields
    error = FetchError(kind, text, retry_after_s=retry_after_s, hopeless=hopeless, unsent=unsent)
    error.unknown_name = unknown_name
    return error
