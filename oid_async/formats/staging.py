"""The images and masks of a span as files, for as long as the span is exported: of a place they are in its shards.

shards ──ranges, several at once──▶ scratch/place/images/<FileName> ──▶ linked, copied, read as any saved image
       ──run lengths of samples───▶ scratch/place/masks/<MaskPath>
"""

import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from oid_async.dataset.packed_images import PLACES, PackedImages
from oid_async.dataset.packed_masks import packed_masks
from oid_async.formats.source import Span
from oid_async.openimages.catalogue_tables import SIDES

# Each holds a block of a shard in memory (packed_images: 32 MB).
_THREADS = 4


class Staging:
    """The folder into which the pictures of one span at a time are brought."""

    def __init__(self, packed: PackedImages, scratch: Path, *, needs_pictures: bool) -> None:
        self._packed = packed
        self._place = scratch / "place"
        self._needs_pictures = needs_pictures
        self.images = self._place / "images"
        self.masks = self._place / "masks"

    @contextmanager
    def staged(self, span: Span) -> Iterator[None]:
        """Have the pictures of a span as files. Raises InputError for what is not in the shards, OSError."""
        for folder in (self.images, self.masks):
            folder.mkdir(parents=True)
        masks = span.rows.get("segmentation")
        images = span.images
        if not self._needs_pictures:
            images = images.clear() if masks is None else images.join(masks, on="ImageID", how="semi")
        try:
            with ThreadPoolExecutor(_THREADS) as threads:
                parts = self._packed.shards_of(images.select(PLACES))
                for _ in threads.map(lambda part: self._bring(part[0], part[1], masks), parts):
                    pass
            yield
        finally:
            shutil.rmtree(self._place, ignore_errors=True)

    def _bring(self, shard: str, images: pl.DataFrame, masks: pl.DataFrame | None) -> None:
        wanted = None if masks is None else masks.join(images, on="ImageID", how="semi", maintain_order="left")
        names, offsets = images.get_column("FileName").to_list(), images.get_column("ShardOffset")
        if offsets.null_count():
            self._bring_rows(shard, names, wanted)
            return
        bodies = self._packed.bodies(shard, offsets.to_list(), images.get_column("Bytes").fill_null(0).to_list())
        self._write(names, bodies)
        if wanted is not None and len(wanted):
            has_masks = images.get_column("ImageID").is_in(wanted.get_column("ImageID").implode())
            sizes = pl.Series([len(body) for body in bodies], dtype=pl.Int64)
            self._bring_masks(shard, images.with_columns(__size=sizes).filter(has_masks), wanted)

    def _write(self, names: Sequence[str], bodies: Sequence[bytes]) -> None:
        for name, body in zip(names if self._needs_pictures else (), bodies, strict=False):
            (self.images / name).write_bytes(body)

    def _bring_masks(self, shard: str, images: pl.DataFrame, masks: pl.DataFrame) -> None:
        """Write the masks of images, of the run lengths in their samples. What is not there will be left out."""
        ids, offsets, sizes = (images[name].to_list() for name in ("ImageID", "ShardOffset", "__size"))
        by_image = masks.partition_by("ImageID", as_dict=True, maintain_order=True)
        for image_id, sample in zip(ids, self._packed.samples(shard, offsets, sizes), strict=True):
            rows = by_image[image_id,].select("LabelName", *SIDES, "MaskPath").rows()
            found = packed_masks(sample or b"", [(label, sides) for label, *sides, _ in rows])
            for (*_, name), png in zip(rows, found, strict=True):
                if png is not None:
                    (self.masks / name).write_bytes(png)

    def _bring_rows(self, shard: str, names: Sequence[str], masks: pl.DataFrame | None) -> None:
        """Write the images and masks of rows of a Parquet shard, which holds masks as pictures."""
        found = self._packed.rows(shard, names, masks=masks is not None)
        self._write(found["file_name"].to_list(), found["bytes"].to_list())
        if masks is None:
            return
        wanted = set(masks.get_column("MaskPath"))
        for held in found["masks"]:
            for mask in held if held is not None else ():
                if mask["path"] in wanted:
                    (self.masks / mask["path"]).write_bytes(mask["bytes"])
