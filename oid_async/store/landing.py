"""How an image lands: checked, written to a temporary, renamed, journalled. A name under images/ is always whole.

A batch of arrivals is one call in a thread, because a thread hop costs more than a small image's write. The order that
survives a crash holds within the batch: every temporary is written and renamed before its line goes to the journal.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from oid_async.errors import storage_error
from oid_async.report import Outcome
from oid_async.store.folder import Folder
from oid_async.store.journal import Journal
from oid_async.store.naming import clash_name
from oid_async.store.verify import EtagTrust, Expected, md5_base64, read_header, refuse


@dataclass(slots=True)
class Arrival:
    """A body that has arrived whole as far as HTTP can tell: in `chunks`, or `spooled` to its temporary file."""

    image_id: str
    file_name: str
    source: str
    url: str
    chunks: list[bytes]
    spooled: bool
    size: int
    expected: Expected
    etag: str | None
    etags: EtagTrust
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Landing:
    """What became of an arrival: its Outcome once it is stored and journalled, or the reason why it is refused."""

    reason: str | None
    outcome: Outcome | None = None
    note: str | None = None


class Lander:
    """Stores arrivals in one folder and writes the journal; batches may be landed from several threads at once."""

    def __init__(self, folder: Folder, journal: Journal) -> None:
        self._folder = folder
        self._images = f"{folder.images}{os.sep}"
        self._journal = journal

    def land(self, batch: Sequence[Arrival | Outcome]) -> list[Landing]:
        """Store a batch: arrivals are checked and stored, failed Outcomes are journalled. Returns one Landing each.

        Raises StorageError when the disk is full or not writable; what was renamed before is journalled all the same.
        """
        landings: list[Landing] = []
        try:
            for entry in batch:
                if isinstance(entry, Outcome):
                    landings.append(Landing(None, entry))
                else:
                    landings.append(self._land_one(entry))
        finally:
            self._journal.append([landing.outcome for landing in landings if landing.outcome is not None])
        return landings

    def _land_one(self, arrival: Arrival) -> Landing:
        # Plain strings, not paths: pathlib's parsing would cost more here than opening and renaming the file.
        part = self._folder.part(arrival.image_id)
        try:
            body = _read(part) if arrival.spooled else b"".join(arrival.chunks)
            arrival.chunks = []
            header = read_header(body)
            md5 = md5_base64(body)
            reason = refuse(body, header, md5, arrival.expected)
            note = None
            if reason is None and (mismatch := arrival.etags.contradicts(arrival.etag, md5)):
                reason, note = mismatch
            if reason is not None:
                if arrival.spooled:
                    os.unlink(part)
                return Landing(reason)
            if not arrival.spooled:
                _write(part, body)
            name = self._place(part, arrival)
        except OSError as error:
            with suppress(OSError):
                os.unlink(part)
            raise storage_error(error, self._folder.path) from error
        outcome = Outcome(
            arrival.image_id,
            "downloaded",
            self._folder.images / name,
            source=arrival.source,
            url=arrival.url,
            bytes=len(body),
            md5=md5,
            width=header.width,
            height=header.height,
            attempts=arrival.attempts,
        )
        return Landing(None, outcome, note)

    def _place(self, part: str, arrival: Arrival) -> str:
        """Rename the temporary to its final name. A file that appeared there since the plan is somebody else's."""
        name = arrival.file_name
        while os.path.lexists(final := f"{self._images}{name}"):
            name = clash_name(name, arrival.image_id)
        os.rename(part, final)
        return name


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _write(path: str, body: bytes) -> None:
    """Write a file in one call; a buffered file object costs more than the write itself at this size."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        left = memoryview(body)
        while left:
            left = left[os.write(file, left) :]
    finally:
        os.close(file)
