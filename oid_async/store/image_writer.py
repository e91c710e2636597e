"""How an image lands: checked, written to a temporary, renamed, journalled. A name under images/ is always whole.

A batch of arrivals is one call in a thread, because a thread hop costs more than a small image's write. The order that
survives a crash holds within the batch: every temporary is written and renamed before its line goes to the journal.
Images are not synced one by one: `oid_async.store.disk` says why, and what makes up for it.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from oid_async.errors import storage_error
from oid_async.http.etags import EtagTrust
from oid_async.report import Outcome
from oid_async.store.disk import OPENER, Opener, discard, write_all
from oid_async.store.file_bytes import FileBytes
from oid_async.store.folder import Folder
from oid_async.store.image_check import Expected, ImageBytes, md5_base64, read_header, refuse
from oid_async.store.naming import clash_name


@dataclass(slots=True)
class ReceivedImage:
    """A body that has arrived whole as far as HTTP can tell: in `chunks`, or `spooled` to its temporary file."""

    image_id: str
    file_name: str
    source: str
    url: str
    chunks: Sequence[bytes | bytearray]
    spooled: bool
    size: int
    expected: Expected
    etag: str | None
    etags: EtagTrust
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What became of an arrival: its Outcome once it is stored and journalled, or the reason why it is refused."""

    reason: str | None
    outcome: Outcome | None = None
    note: str | None = None


class OutcomeLog(Protocol):
    """Where outcomes are written down: the journal, or the way to the process that writes it."""

    def append(self, outcomes: Iterable[Outcome]) -> None:
        """Write down what is true of these images now; from any thread. Raises StorageError."""


class ImageWriter:
    """Stores arrivals in one folder and writes the journal; batches may be landed from several threads at once.

    Without `hashed` no MD5 is kept, and none is computed but to hold an original against its published one.
    """

    def __init__(self, folder: Folder, journal: OutcomeLog, *, hashed: bool = True, opener: Opener = OPENER) -> None:
        self._folder = folder
        self._hashed = hashed
        self._opener = opener
        self._images = f"{folder.images}{os.sep}"
        self._journal = journal

    def land(self, batch: Sequence[ReceivedImage | Outcome]) -> list[WriteResult]:
        """Store a batch: arrivals are checked and stored, failed Outcomes are journalled. Returns one Landing each.

        Raises StorageError when the disk is full or not writable; what was renamed before is journalled all the same.
        """
        landings: list[WriteResult] = []
        try:
            for entry in batch:
                if isinstance(entry, Outcome):
                    landings.append(WriteResult(None, entry))
                else:
                    landings.append(self.write_one(entry))
        finally:
            self.book(landings)
        return landings

    def book(self, landings: Iterable[WriteResult]) -> None:
        """Journal what has landed. Raises StorageError."""
        self._journal.append([landing.outcome for landing in landings if landing.outcome is not None])

    def write_one(self, arrival: ReceivedImage) -> WriteResult:
        """Check and store one arrival, which is to be journalled then. Raises StorageError."""
        # Plain strings, not paths: pathlib's parsing would cost more here than opening and renaming the file.
        part = self._folder.temporary(arrival.image_id)
        try:
            landing = self._check(arrival, part)
            if landing.outcome is None and arrival.spooled:
                os.unlink(part)
        except OSError as error:
            discard(part)
            raise storage_error(error, self._folder.path) from error
        return landing

    def _check(self, arrival: ReceivedImage, part: str) -> WriteResult:
        """Check a body and store it if it is the image. What was spooled is read in blocks, not into memory."""
        if arrival.spooled:
            with FileBytes(part) as file:
                return self._judge(arrival, part, file)
        chunks, arrival.chunks = arrival.chunks, ()
        return self._judge(arrival, part, chunks[0] if len(chunks) == 1 else b"".join(chunks))

    def _judge(self, arrival: ReceivedImage, part: str, body: ImageBytes) -> WriteResult:
        if len(body) != arrival.size:
            return WriteResult("truncated")  # what was spooled is not what came: it is asked for again
        header = read_header(body)
        md5 = md5_base64(body) if self._hashed or arrival.expected.md5 else None
        reason = refuse(body, header, md5, arrival.expected)
        note = None
        if reason is None and (mismatch := arrival.etags.contradicts(arrival.etag, md5)):
            reason, note = mismatch
        if reason is not None:
            return WriteResult(reason)
        if not isinstance(body, FileBytes):
            self._write(part, body)
        outcome = Outcome(
            arrival.image_id,
            "downloaded",
            f"{self._images}{self._place(part, arrival)}",
            source=arrival.source,
            url=arrival.url,
            bytes=len(body),
            md5=md5 if self._hashed else None,
            width=header.width,
            height=header.height,
            attempts=arrival.attempts,
        )
        return WriteResult(None, outcome, note)

    def _place(self, part: str, arrival: ReceivedImage) -> str:
        """Rename the temporary to its final name. A file that appeared there since the plan is somebody else's."""
        name = arrival.file_name
        while os.path.lexists(final := f"{self._images}{name}"):
            name = clash_name(name, arrival.image_id)
        os.rename(part, final)
        return name

    def _write(self, path: str, body: bytes | bytearray) -> None:
        """Write a file in one call; a buffered file object costs more than the write itself at this size."""
        file = self._opener(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            write_all(file, body)
        finally:
            os.close(file)
