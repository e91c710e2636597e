"""What a run and its worker processes say to one another: a JSON array a line, over a socket.

    to a worker     [orders]                                   the first line: the fields of `WorkerSettings`
                    ["images", [target, ...]]                  to be asked for, one attempt each
                    ["host", name, not_before, is_md5, gave_up]  how things stand with a host
    end of stream   stop: land what is at hand, say so, and end
    from a worker   ["ready"]
                    ["landed", requests, [outcome, ...]]       stored, or failed to the end; to be journalled
                    ["back", requests, [image_id, note, made, seen, partial, delay_s]]   the attempt has settled nothing
                    ["trouble", host, method, error, asked, began, silent]   what a host's state must learn from
                    ["note", text]
                    ["stopped", kind, text]                    the machine says no, or a bug

`requests` counts all that this worker has sent so far. Times are on the monotonic clock, which is one for all processes
of a machine. JSON, because a worker that reads it can be made to do nothing else.
"""

import asyncio
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from oid_async.http.address_guard import Endpoint
from oid_async.http.retry import FetchError, Limits
from oid_async.openimages.vocabulary import Source
from oid_async.report import Outcome
from oid_async.store.image_check import Expected
from oid_async.transfer.image_transfer import Target

# Longer than any line of ours: images come a few dozen at a time, and an address is cut off long before this.
LINE_BYTES = 16 << 20
Fields = list[Any]


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker must know before its first image: the run's folder, sources and limits, and its share of them.

    `tmp` and `token` name the temporaries; `workers` is how many transfers this process may have on at once,
    and from `floor` on it may find out how many of them a host can use; `hashed`: MD5s are wanted.
    """

    savepath: str
    tmp: str
    token: str
    sources: tuple[Source, ...]
    mirror: str | None
    written: str | None
    allowed: tuple[Endpoint, ...]
    limits: Limits
    rate: float | None
    period: float
    workers: int
    estimates_concurrency: bool
    floor: float
    hashed: bool

    def line(self) -> bytes:
        """Return the first line to a worker."""
        return line(asdict(self))

    @classmethod
    def of_line(cls, told: bytes) -> Self:
        """Return what the first line says."""
        fields = json.loads(told)[0]
        own = {
            "sources": tuple(fields["sources"]),
            "allowed": tuple((host, port) for host, port in fields["allowed"]),
            "limits": Limits(**fields["limits"]),
        }
        return cls(**(fields | own))


async def next_line(reader: asyncio.StreamReader) -> bytes:
    """Return the next whole line; nothing once the other side has ended, however it did."""
    try:
        told = await reader.readline()
    except ConnectionError:
        return b""
    return told if told.endswith(b"\n") else b""


def line(*content: Any) -> bytes:
    """Return a message as its line."""
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


def pack_target(target: Target) -> Fields:
    """Return the fields of a target; its place is the business of the run alone."""
    original = target.original
    return [
        target.image_id,
        target.file_name,
        target.subset,
        target.original_url,
        original.size,
        original.md5,
        target.thumbnail_url,
        target.known,
        target.copy_bytes,
    ]


def unpack_target(fields: Fields) -> Target:
    """Return the target of these fields."""
    image_id, file_name, subset, url, size, md5, thumbnail, known, copy_bytes = fields
    return Target(0, image_id, file_name, subset, url, Expected(size, md5), thumbnail, known, copy_bytes)


def pack_outcomes(outcomes: Iterable[Outcome]) -> list[Fields]:
    """Return the fields of outcomes, of a path its name alone."""
    return [
        [
            outcome.image_id,
            outcome.status,
            outcome.file_name,
            outcome.reason,
            outcome.detail,
            outcome.source,
            outcome.url,
            outcome.bytes,
            outcome.md5,
            outcome.width,
            outcome.height,
            outcome.attempts,
        ]
        for outcome in outcomes
    ]


def unpack_outcomes(packed: list[Fields], images: Path) -> list[Outcome]:
    """Return the outcomes of these fields, for a run that stores them under `images`."""
    folder = f"{images}{os.sep}"
    return [
        Outcome(image_id, status, f"{folder}{name}" if name is not None else None, *rest)
        for image_id, status, name, *rest in packed
    ]


def pack_error(error: FetchError) -> Fields:
    """Return what a host's state can learn from an error."""
    return [error.kind, str(error), error.retry_after_s, error.hopeless, error.unsent, error.unknown_name]


def unpack_error(fields: Fields) -> FetchError:
    """Return the error of these fields."""
    kind, text, retry_after_s, hopeless, unsent, unknown_name = fields
    error = FetchError(kind, text, retry_after_s=retry_after_s, hopeless=hopeless, unsent=unsent)
    error.unknown_name = unknown_name
    return error
