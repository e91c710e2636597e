"""Parquet with the bytes inside: <split>-00000.parquet, ..., one row an image: `image` {bytes, path}, then its sample.

`image` has the form of an image in the datasets library; `masks` are {bytes, path}, one for each object that has a
mask, by the name in objects.mask. Files are cut by size.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from oid_async.formats.samples import SAMPLE_KINDS, counted, samples, schema
from oid_async.formats.source import Span
from oid_async.formats.writer import ExportContext
from oid_async.openimages.kinds import KindName

_PICTURE = pl.Struct({"bytes": pl.Binary, "path": pl.String})
# So many bytes of each split are held in memory before a file is written.
_HELD_BYTES = 64 << 20


class Parquet:
    """Gathers the rows of each split, and writes a file when they have as many bytes as a shard may have."""

    kinds: ClassVar[Sequence[KindName]] = SAMPLE_KINDS
    names: ClassVar[Sequence[str]] = (r"{split}-[0-9]{5}\.parquet",)
    names_by_image: ClassVar[Sequence[str]] = ()

    def __init__(self, context: ExportContext) -> None:
        self._context = context
        self._schema = {
            "image": _PICTURE,
            **schema(has_roles=context.source.has_roles),
            "masks": pl.List(_PICTURE),
        }
        self._most = min(context.options.shard_size, _HELD_BYTES)
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self._bytes: dict[str, int] = {}
        self._files: dict[str, int] = {}

    def write(self, span: Span) -> None:
        """Write a span."""
        pictures = self._context.pictures
        bodies = pictures.bodies(span.images)
        for sample, body in zip(samples(span, self._context.source.classes), bodies, strict=True):
            split, size = sample["split"], (sample["width"], sample["height"])
            names = [name for name in sample["objects"]["mask"] if name is not None]
            pngs = list(pictures.mask_bodies([(name, *size) for name in names]))
            masks = [{"bytes": png, "path": name} for name, png in zip(names, pngs, strict=True)]
            more = len(body) + sum(map(len, pngs))
            if self._rows.get(split) and self._bytes[split] + more > self._most:
                self._flush(split)
            image = {"bytes": body, "path": sample["file_name"]}
            self._rows.setdefault(split, []).append({"image": image, **sample, "masks": masks})
            self._bytes[split] = self._bytes.get(split, 0) + more
            self._context.written.rows.update(counted(sample))
        self._context.wrote(span.images, {})

    def finish(self) -> None:
        """Write the rows that are left."""
        for split in self._rows:
            if self._rows[split]:
                self._flush(split)

    def _flush(self, split: str) -> None:
        number = self._files.get(split, 0)
        path: Path = self._context.stage / f"{split}-{number:05}.parquet"
        pl.DataFrame(self._rows[split], schema=self._schema).write_parquet(path, row_group_size=256)
        self._context.pictures.record.read(path)
        self._files[split], self._rows[split], self._bytes[split] = number + 1, [], 0
