"""The masks of a folder: those that its table names, and those that failed.

segmentation/masks/<MaskPath>      the masks, as published or in their image's size
segmentation/failures.csv          MaskPath, ImageID, Reason, Detail; absent when none failed
.oid_async/masks.json              the size that the masks in the folder have
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from oid_async.concurrency import in_thread
from oid_async.events import Sink
from oid_async.masks.fetch import BUCKET, MaskFetcher, MaskReport
from oid_async.openimages.ids import IdForm
from oid_async.openimages.kinds import KINDS
from oid_async.options.query_table import MaskSize
from oid_async.store.atomic import read_json, write_json
from oid_async.store.attached_files import AttachedFiles
from oid_async.store.folder import Folder
from oid_async.store.results import write_failures
from oid_async.store.written_files import MASKS

if TYPE_CHECKING:
    from oid_async.http.client import Client


class MaskFolder:
    """The masks of one folder, in one size. Make it in a thread: it reads what is recorded of them."""

    def __init__(self, folder: Folder, size: MaskSize, ids: IdForm) -> None:
        kind = KINDS["segmentation"]
        self._folder = folder
        self._size = size
        self._ids = ids
        self._table = folder.path / kind.file
        self.files = AttachedFiles.of(folder, MASKS)
        self._failures = folder.path / kind.folder / "failures.csv"
        self._note = folder.state / "masks.json"

    async def fetch(self, client: "Client", sink: Sink, *, mirror: str | None, cache: Path) -> MaskReport:
        """Fetch the masks that are missing. Raises StorageError."""
        before = await in_thread(self._read_note)
        masks = MaskFetcher(
            client,
            sink,
            mirror=mirror,
            cache=cache / BUCKET,
            files=self.files,
            scratch=self._folder.tmp,
            to_image_size=self._size == "image",
            again=before not in (None, self._size),
        )
        # Until all are stored in the new size, another run must not take the old ones for them.
        await in_thread(self._write_note, self._size if before in (None, self._size) else "mixed")
        report = await masks.fetch(self._wanted())
        await in_thread(self._write_note, self._size if before in (None, self._size) or not report.failed else "mixed")
        rows = [(name, name[:16], reason, detail) for name, reason, detail in report.failures]
        await in_thread(partial(write_failures, self._failures, rows, column="MaskPath", scratch=self._folder.tmp))
        return report

    def _wanted(self) -> pl.LazyFrame:
        """Return MaskPath, Subset, Width and Height of the masks in the saved table."""
        text = pl.scan_csv(self._table, infer_schema=False, glob=False)
        manifest = pl.scan_parquet(self._folder.manifest, glob=False)
        # The saved table does not say the split of an image, but its file: no two images share one.
        on = ["ImageID", "FileName"] if self._ids.by_split else ["ImageID"]
        sizes = [pl.col(name).cast(pl.Int64) for name in ("Width", "Height")]
        wanted = text.select(*on, "MaskPath", *sizes)
        return wanted.join(manifest.select(*on, "Subset"), on=on, nulls_equal=True).drop(on)

    def _read_note(self) -> str | None:
        try:
            return str(read_json(self._note)["size"])
        except (KeyError, TypeError):
            return None

    def _write_note(self, size: str) -> None:
        write_json(self._note, {"size": size}, part=self._folder.tmp / self._note.name, durable=True)
