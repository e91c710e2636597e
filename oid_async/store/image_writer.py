"""Store an image: check it, write it to a temporary file, rename it, journal it. A name under images/ is complete.

A batch of images is one call in a thread, because a thread hop costs more than a small image's write. The order that
survives a crash holds within the batch: every temporary is written and renamed before its line goes to the journal.
Just before it is renamed the line goes to the intent log (`oid_async.store.intent_log`), for the run after a crash.
Images are not synced one by one: `oid_async.store.disk` says why, and what makes up for it.
"""

import os
from collections.abc import Iterable, Sequence
from typing import Protocol

from oid_async.errors import storage_error
from oid_async.http.etag import EtagTrust
from oid_async.http.spare_bodies import SpareBodies
from oid_async.quick_values import define
from oid_async.report import Outcome, outcome_of
from oid_async.store.disk import OPENER, Opener, discard, write_all
from oid_async.store.file_bytes import FileBytes
from oid_async.store.folder import Folder
from oid_async.store.image_check import Expected, ImageBytes, md5_base64, read_header, refuse
from oid_async.store.naming import clash_name
from oid_async.system.opening import PLAIN

_FRESH = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | PLAIN


@define
class ReceivedImage:
    """A body that is complete as far as HTTP can tell: in `chunks`, or `spooled` to its temporary file.

    Once it is stored its memory goes to `spare`, if any.
    """

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
    subset: str | None = None
    spare: SpareBodies | None = None


# Width and height in pixels, and the MD5 if one was computed.
_Facts = tuple[int | None, int | None, str | None]


@define
class WriteResult:
    """The result of one write: the image's Outcome once it is stored, or the reason why it is refused."""

    reason: str | None
    outcome: Outcome | None = None
    note: str | None = None


class OutcomeLog(Protocol):
    """A log of outcomes: the journal, or the connection to the process that writes it."""

    def intend(self, outcome: Outcome) -> None:
        """Write down that an image is about to get its name; from any thread. Raises OSError."""

    def append(self, outcomes: Iterable[Outcome]) -> None:
        """Write down the outcomes of these images; from any thread. Raises StorageError."""


class ImageWriter:
    """Writes received images into one folder and their outcomes to the journal; from several threads at once.

    Without `hashed` no MD5 is kept, and none is computed but to compare an original with its published one. With
    `hands_out` the outcomes carry the bytes of the images.
    """

    def __init__(
        self,
        folder: Folder,
        journal: OutcomeLog,
        *,
        hashed: bool = True,
        opener: Opener = OPENER,
        hands_out: bool = False,
    ) -> None:
        self.hands_out = hands_out
        self._folder = folder
        self._hashed = hashed
        self._opener = opener
        self._images = f"{folder.images}{os.sep}"
        self._journal = journal

    def write_batch(self, batch: Sequence[ReceivedImage | Outcome]) -> list[WriteResult]:
        """Check, store and journal images, journal failed Outcomes. Returns one result each.

        Raises StorageError when the disk is full or not writable; images that were renamed before are journalled.
        """
        results: list[WriteResult] = []
        try:
            for entry in batch:
                if isinstance(entry, Outcome):
                    results.append(WriteResult(None, entry))
                else:
                    results.append(self.write_one(entry))
        finally:
            self.record(results)
        return results

    def record(self, results: Iterable[WriteResult]) -> None:
        """Journal the outcomes of writes. Raises StorageError."""
        self._journal.append([result.outcome for result in results if result.outcome is not None])

    def write_one(self, image: ReceivedImage) -> WriteResult:
        """Check and store one image, which the caller records after that. Raises StorageError."""
        # Plain strings, not paths: pathlib's parsing would cost more here than opening and renaming the file.
        part = self._folder.temporary(image.image_id, image.subset)
        try:
            result = self._store(image, part)
            if result.outcome is None and image.spooled:
                os.unlink(part)
        except OSError as error:
            discard(part)
            raise storage_error(error, self._folder.path) from error
        return result

    def _store(self, image: ReceivedImage, part: str) -> WriteResult:
        """Store an image if its body is the image. A spooled body is read in blocks, not into memory."""
        if image.spooled:
            with FileBytes(part) as file:
                return self._store_body(image, part, file)
        chunks, image.chunks = image.chunks, ()
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        result = self._store_body(image, part, body)
        if image.spare is not None:
            image.spare.give(body)
        return result

    def _store_body(self, image: ReceivedImage, part: str, body: ImageBytes) -> WriteResult:
        if len(body) != image.size:
            return WriteResult("truncated")  # the spooled file is not what was received: it is requested again
        header = read_header(body)
        # A body without a picture is refused whatever its MD5 is; the published one decides how that is put.
        md5 = md5_base64(body) if (self._hashed and header.is_readable) or image.expected.md5 else None
        reason = refuse(body, header, md5, image.expected)
        note = None
        if reason is None and (mismatch := image.etags.contradicts(image.etag, md5)):
            reason, note = mismatch
        if reason is not None:
            return WriteResult(reason)
        return WriteResult(None, self._keep(image, part, body, (header.width, header.height, md5)), note)

    def _keep(self, image: ReceivedImage, part: str, body: ImageBytes, facts: _Facts) -> Outcome:
        """Give an image that was checked its name, and return its Outcome. Raises OSError."""
        if not isinstance(body, FileBytes):
            self._write(part, body)
        final = self._free_name(image)
        outcome = self._outcome(image, final, body, facts)
        self._journal.intend(outcome)
        os.rename(part, final)
        return outcome

    def _outcome(self, image: ReceivedImage, file: str | None, body: ImageBytes, facts: _Facts) -> Outcome:
        width, height, md5 = facts
        md5 = md5 if self._hashed else None
        held = _held(body) if self.hands_out else None
        reason = detail = asked = rows = None
        return outcome_of(
            *(image.image_id, "downloaded", file, reason, detail, image.source, image.url, len(body)),
            *(md5, width, height, image.attempts, image.subset, asked, held, rows),
        )

    def _free_name(self, image: ReceivedImage) -> str:
        """Return the final path of an image. A file that appeared there since the plan is somebody else's."""
        name = image.file_name
        while os.path.lexists(final := f"{self._images}{name}"):
            name = clash_name(name, image.image_id)
        return final

    def _write(self, path: str, body: bytes | bytearray) -> None:
        """Write a file in one call; a buffered file object costs more than the write itself at this size."""
        file = self._opener(path, _FRESH)
        try:
            write_all(file, body)
        finally:
            os.close(file)


class MemoryWriter(ImageWriter):
    """Checks received images as ImageWriter does, and stores none: their outcomes carry the bytes.

    Failures alone are journalled: for an image that is no file there is nothing to go on from.
    """

    def __init__(self, folder: Folder, journal: OutcomeLog, *, hashed: bool = True) -> None:
        super().__init__(folder, journal, hashed=hashed, hands_out=True)

    def record(self, results: Iterable[WriteResult]) -> None:
        """Journal the failed outcomes. Raises StorageError."""
        super().record([each for each in results if each.outcome is not None and each.outcome.status == "failed"])

    def _keep(self, image: ReceivedImage, part: str, body: ImageBytes, facts: _Facts) -> Outcome:
        outcome = self._outcome(image, None, body, facts)
        if image.spooled:
            os.unlink(part)
        return outcome


def _held(body: ImageBytes) -> bytes:
    return body[:] if isinstance(body, FileBytes) else bytes(body)
