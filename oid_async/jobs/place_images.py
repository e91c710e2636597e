"""The images and records of a place, compared with its manifest. Blocking; only reads.

Of a shard its MD5 is that of shards.json; with `deep` each image is looked at where the manifest says that it is. The
rows of a record are compared with those of the manifest between its first and last image.
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from oid_async.cluster.layout import MANIFEST
from oid_async.cluster.record import RECORD_SCHEMA, Record
from oid_async.dataset.audit import FINDINGS, no_picture
from oid_async.dataset.decoding import undecodable
from oid_async.dataset.packed_images import PackedImages
from oid_async.dataset.saved import SavedDataset
from oid_async.errors import InputError
from oid_async.jobs.place_audit import DAMAGE, Expected, PartEntry, PlaceAudit, finding
from oid_async.store.image_check import md5_base64
from oid_async.tables.reading import reading

# What a record and the manifest say of a saved image alike, under the record's names.
_SAME = ("FileName", "Status", "Source", "URL", "Bytes", "MD5", "Width", "Height", "Shard", "Offset")
_ROWS_AT_ONCE = 64
Rows = list[tuple[object, ...]]


class ImageAudit:
    """The images that a manifest lists; with `deep` decoded."""

    def __init__(self, audit: PlaceAudit, dataset: SavedDataset, *, deep: bool) -> None:
        assert dataset.packed_images is not None
        self._audit = audit
        self._files = audit.files
        self._dataset = dataset
        self._packed: PackedImages = dataset.packed_images
        self._deep = deep
        saved = dataset.images.filter(Status="ok")
        with reading(dataset.manifest):
            counts = saved.select(pl.len(), pl.col("MD5").null_count()).collect(engine="streaming").row(0)
            self.selected = dataset.images.select(pl.len()).collect().item()
            self._by_shard = dict(saved.group_by("Shard").len().collect(engine="streaming").iter_rows())
        self.total, self.unhashed = (int(count) for count in counts)
        # Then the shards hold other bytes than were fetched.
        self._are_smaller = dataset.stored_side is not None

    def check_manifest(self) -> pl.DataFrame:
        """Return where the manifest does not say what shards.json does, as FINDINGS."""
        samples = {part.shard.key: part.samples for part in self._audit.parts if part.shard is not None}
        rows = []
        for key in sorted({*samples, *(key or "" for key in self._by_shard)}):
            there, listed = self._by_shard.get(key or None, 0), samples.get(key, 0)
            if there != listed:
                what = f"it has {there} images in {key or 'no shard'}, and shards.json {listed} samples"
                rows.append(finding(MANIFEST, "altered", what, self._files.size(MANIFEST)))
        return pl.DataFrame(rows, schema=FINDINGS, orient="row")

    def check_shard(self, shards: list[tuple[PartEntry, Expected]]) -> pl.DataFrame:
        """Return the findings in shards whose bytes are read, as FINDINGS."""
        rows: Rows = []
        for _, shard in shards:
            path = self._files.fetch(shard.key)
            try:
                rows += (found := self._audit.read(shard, path))
                if self._deep:
                    rows += self._check_images(shard, is_known=bool(found))
            except FileNotFoundError:
                rows.append(finding(shard.key, "missing", "no such file", None, shard.size))
            finally:
                self._files.forget(shard.key)
        return pl.DataFrame(rows, schema=FINDINGS, orient="row")

    def check_record(self, parts: list[PartEntry]) -> pl.DataFrame:
        """Return the findings in records, as FINDINGS."""
        rows: Rows = []
        for part in parts:
            path = self._files.fetch(part.record)
            try:
                what = self._differs(part, Record.read(path), path)
            except (*DAMAGE, pl.exceptions.PolarsError):
                what = "it cannot be read as the record of a part"
            if what is not None:
                rows.append(finding(part.record, "altered", what, self._files.size(part.record)))
            self._files.forget(part.record)
        return pl.DataFrame(rows, schema=FINDINGS, orient="row")

    def _differs(self, part: PartEntry, record: Record, path: Path) -> str | None:
        """Return what a record says otherwise than manifest and shards.json, None for nothing."""
        note, shard = record.shard, part.shard
        if (record.generation, record.name) != (part.generation, part.name):
            return f"it is the record of {record.name}"
        if (note is None) != (shard is None):
            return "it and shards.json do not agree whether its part has a shard"
        if note is not None and shard is not None and (note.size, note.md5) != (shard.size, shard.md5):
            return f"its shard has other bytes than {shard.key}"
        key = None if shard is None else shard.key
        rows = pl.read_parquet(path, glob=False, columns=[name for name in RECORD_SCHEMA if name != "Known"])
        saved = rows.filter(Status="ok").with_columns(Shard=pl.lit(key, pl.String))
        if not len(saved):
            return None
        first, last = saved.select(pl.col("ImageID").min(), last=pl.col("ImageID").max()).row(0)
        is_here = pl.col("ImageID").is_between(pl.lit(first), pl.lit(last)) & (pl.col("Shard") == key)
        with reading(self._dataset.manifest):
            manifest = self._dataset.images.filter(is_here).rename({"ShardOffset": "Offset"}).collect()
        found = saved.join(manifest, on=["ImageID", "Subset"], how="left", nulls_equal=True, suffix=":there")
        for name in _SAME:
            other = found.filter(pl.col(name).ne_missing(pl.col(f"{name}:there")))
            if len(other):
                return (
                    f"{len(other)} of its images are not as the manifest has them (first {other['ImageID'][0]}: {name})"
                )
        return None if len(saved) == len(manifest) else f"the manifest has {len(manifest)} of its {len(saved)} images"

    def _check_images(self, shard: Expected, *, is_known: bool) -> Rows:
        """Return the findings of images; `is_known`: that the shard has other bytes is found already."""
        with reading(self._dataset.manifest):
            here = self._dataset.images.filter(pl.col("Shard") == shard.key, Status="ok").collect()
        rows: Rows = []
        for some in here.iter_slices(_ROWS_AT_ONCE):
            try:
                bodies = list(self._bodies(shard.key, some))
            except InputError:
                unreadable = finding(shard.key, "altered", "it cannot be read as a shard", shard.size, shard.size)
                return rows if is_known else [*rows, unreadable]
            for image_id, size, md5, body in bodies:
                what = self._problem(size, md5, body)
                if what is not None:
                    there = None if body is None else len(body)
                    rows.append(finding(shard.key, "altered", f"image {image_id}: {what}", there, size, image_id))
        return rows

    def _bodies(self, key: str, rows: pl.DataFrame) -> Iterator[tuple[str, int | None, str | None, bytes | None]]:
        """Yield ImageID, Bytes, MD5 of images, and their bytes in the shard, None where there are none."""
        found = self._packed.found(key, rows)
        for image_id, name, size, md5 in rows.select("ImageID", "FileName", "Bytes", "MD5").iter_rows():
            yield image_id, size, md5, found.get(name)

    def _problem(self, size: int | None, md5: str | None, body: bytes | None) -> str | None:
        """Return what is wrong with the bytes of an image, None if nothing is."""
        if body is None:
            return "it is not where the manifest says"
        if not self._are_smaller:
            if size is not None and len(body) != size:
                return f"{len(body)} of {size} bytes"
            if md5 is not None and md5_base64(body) != md5:
                return "other bytes: the MD5 differs"
        return no_picture(body) or undecodable(body)
