"""The masks of the images that a part has saved: by the places that its plan file has, without a directory read."""

from typing import TYPE_CHECKING

import polars as pl

from oid_async.cluster.part_file import MASK_FIELDS, PartFile
from oid_async.concurrency import in_thread
from oid_async.events import Sink
from oid_async.masks.fetch import MaskFetcher, MaskReport
from oid_async.openimages.kinds import KINDS
from oid_async.options.query_table import MaskSize
from oid_async.store.attached_files import AttachedFiles
from oid_async.store.folder import Folder

if TYPE_CHECKING:
    from oid_async.http.client import Client


async def fetch_masks(
    client: "Client", sink: Sink, part: PartFile, folder: Folder, *, mirror: str | None, size: MaskSize
) -> MaskReport:
    """Fetch the masks of the saved images of a folder into it. Raises StorageError."""
    fetcher = MaskFetcher(
        client,
        sink,
        mirror=mirror,
        cache=folder.tmp / "directories",
        files=AttachedFiles(folder.path / KINDS["segmentation"].folder / "masks"),
        scratch=folder.tmp,
        to_image_size=size == "image",
    )
    return await fetcher.fetch_placed(await in_thread(_wanted, part, folder), await in_thread(part.archives))


def _wanted(part: PartFile, folder: Folder) -> pl.DataFrame:
    """Return MASK_FIELDS, Width and Height of the image for the masks of the images that were saved."""
    sizes = pl.scan_parquet(folder.manifest, glob=False).filter(Status="ok").select("FileName", "Width", "Height")
    found = part.masks().join(sizes.collect(), on="FileName", how="inner", maintain_order="left")
    return found.select(*MASK_FIELDS, "Width", "Height")
