"""Handing out images while they land: to a consumer that is awaited with each Outcome, as much of it as was asked for.

    collector, or the plan ──Outcome──▶ file read? rows of its slice ──▶ deliver (waits for the consumer)

What is handed out is complete: the bytes of the image, and the rows that the saved tables have of it.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from oid_async.concurrency import in_thread
from oid_async.errors import storage_errors
from oid_async.openimages.ids import IdForm
from oid_async.quick_values import frozen
from oid_async.report import Outcome
from oid_async.store.annotation_rows import SavedAnnotations
from oid_async.store.folder import Folder
from oid_async.store.image_check import read_header
from oid_async.transfer.collector import Deliver

if TYPE_CHECKING:
    from oid_async.dataset.image_store import ImageFiles
    from oid_async.jobs.landed_rows import LandedRows

_SCRATCH = "landing"


@frozen
class Delivery:
    """Who gets the outcomes of a run: `deliver` is awaited with each, with `annotations` they carry rows and bytes.

    Without `keeps_files` the images are handed out and not stored; what lies in the folder already is read from there.
    """

    deliver: Deliver
    annotations: bool = False
    keeps_files: bool = True

    @property
    def hands_out_bytes(self) -> bool:
        """Return whether outcomes carry the bytes of their images."""
        return self.annotations or not self.keeps_files


@asynccontextmanager
async def completed(
    delivery: Delivery | None, folder: Folder, saved: Sequence[SavedAnnotations], ids: IdForm, plan: Sequence[Path]
) -> AsyncIterator[Deliver | None]:
    """Yield what takes the outcomes of the images in these files of a plan, and hands them out complete.

    `saved` are the annotations that the run saves.
    """
    if delivery is None or not delivery.hands_out_bytes:
        yield None if delivery is None else delivery.deliver
        return
    from oid_async.dataset.image_store import ImageFiles
    from oid_async.jobs.landed_rows import LandedRows

    rows = None
    if delivery.annotations:
        # Of its own: the tables that are written in the end have copies of the same names.
        scratch = folder.tmp / _SCRATCH
        await in_thread(lambda: scratch.mkdir(exist_ok=True))
        rows = LandedRows(saved, ids, plan, scratch)
    try:
        yield _Completion(delivery.deliver, ImageFiles(folder.images), rows).deliver
    finally:
        if rows is not None:
            await rows.close()


class _Completion:
    """Hands out each image with its bytes, and with its rows if there are any to be had."""

    def __init__(self, deliver: Deliver, files: "ImageFiles", rows: "LandedRows | None") -> None:
        self._deliver = deliver
        self._files = files
        self._rows = rows

    async def deliver(self, outcome: Outcome) -> None:
        """Hand out one image. Raises InputError for a file that is gone, StorageError."""
        if outcome.status == "failed":
            await self._deliver(outcome if self._rows is None else replace(outcome, rows={}))
            return
        if outcome.image is None:
            outcome = await in_thread(self._read, outcome)
        if self._rows is not None:
            outcome = replace(outcome, rows=await self._rows.of(outcome))
        await self._deliver(outcome)

    def _read(self, outcome: Outcome) -> Outcome:
        """Return the outcome of an image that was there already with its bytes, and what they say of themselves."""
        with storage_errors(self._files.folder):
            image = self._files.read(outcome.image_id, outcome.file_name or "")
        header = read_header(image)
        return replace(outcome, image=image, bytes=len(image), width=header.width, height=header.height)
