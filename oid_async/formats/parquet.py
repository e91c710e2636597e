"""Parquet with the bytes inside: <split>-00000.parquet, ..., one row an image: `image` {bytes, path}, then its sample.

`image` has the form of an image in the datasets library; `masks` are {bytes, path}, one for each object that has a
mask, by the name in objects.mask. The metadata of a file has the library's features, README.md is their card. Files are
cut by size.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
from polars.io.plugins import register_io_source

from oid_async.formats.classes import ExportClasses
from oid_async.formats.dataset_card import CARD, PARQUET, write_card
from oid_async.formats.hub_features import Feature, parquet_features, parquet_metadata
from oid_async.formats.mask_shapes import mask_body
from oid_async.formats.samples import SAMPLE_KINDS, counted, samples, schema
from oid_async.formats.source import Span
from oid_async.formats.writer import ExportContext
from oid_async.openimages.kinds import KindName

_PICTURE = pl.Struct({"bytes": pl.Binary, "path": pl.String})
# So many bytes of each split are held in memory before a file is written.
_HELD_BYTES = 64 << 20
_ROW_GROUP = 256
# Of a file that is written as its rows come so many are handed over at once.
_BATCH = 32
# Rows that a process makes at once.
_PART = 64
# The key as Thrift's compact protocol has it: a text, of 12 bytes.
_ARROW_KEY = b"\x18\x0cARROW:schema"


class Parquet:
    """Gathers the rows of each split, and writes a file when they have as many bytes as a shard may have."""

    kinds: ClassVar[Sequence[KindName]] = SAMPLE_KINDS
    names: ClassVar[Sequence[str]] = (r"{split}-[0-9]{5}\.parquet", re.escape(CARD))
    names_by_image: ClassVar[Sequence[str]] = ()

    def __init__(self, context: ExportContext) -> None:
        self._context = context
        self._schema = _schema(context)
        self._features = _features(context)
        self._most = min(context.options.shard_size, _HELD_BYTES)
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self._bytes: dict[str, int] = {}
        self._files: dict[str, int] = {}

    def write(self, span: Span) -> None:
        """Write a span."""
        for row in _rows(self._context, span):
            split, more = row["split"], _bytes_of(row)
            if self._rows.get(split) and self._bytes[split] + more > self._most:
                self._flush(split)
            self._rows.setdefault(split, []).append(row)
            self._bytes[split] = self._bytes.get(split, 0) + more
        self._context.wrote(span.images, {})

    def finish(self) -> None:
        """Write the rows that are left."""
        for split in self._rows:
            if self._rows[split]:
                self._flush(split)
        write_card(self._context, PARQUET, self._features)

    def _flush(self, split: str) -> None:
        number = self._files.get(split, 0)
        path: Path = self._context.stage / f"{split}-{number:05}.parquet"
        metadata = parquet_metadata(self._features)
        frame = pl.DataFrame(self._rows[split], schema=self._schema)
        frame.write_parquet(path, row_group_size=_ROW_GROUP, metadata=metadata)
        _hide_arrow_types(path)
        self._context.pictures.record.read(path)
        self._files[split], self._rows[split], self._bytes[split] = number + 1, [], 0


def write_file(context: ExportContext, spans: Iterable[Span], path: Path, packed: Callable[[str], object]) -> None:
    """Write the samples of all spans into one file, in their order, and count their rows as written.

    Memory holds some row groups of 256. `packed` is called with the FileName of each image whose bytes were taken.
    Raises what the spans raise, OSError, PolarsError.
    """
    types, raised = _schema(context), list[BaseException]()

    def batches(*_: object) -> Iterator[pl.DataFrame]:
        try:
            rows = (row for span in spans for row in _rows(context, span))
            while some := list(islice(rows, _BATCH)):
                for row in some:
                    packed(row["file_name"])
                yield pl.DataFrame(some, schema=types)
        except BaseException as error:
            raised.append(error)
            raise

    try:
        found = register_io_source(batches, schema=types)
        metadata = parquet_metadata(_features(context))
        found.sink_parquet(path, row_group_size=_ROW_GROUP, maintain_order=True, metadata=metadata)
        _hide_arrow_types(path)
    except Exception:
        # Polars says it in words of its own.
        if raised:
            raise raised[0] from None
        raise


def _schema(context: ExportContext) -> dict[str, pl.DataType | type[pl.DataType]]:
    return {"image": _PICTURE, **schema(has_roles=context.source.has_roles), "masks": pl.List(_PICTURE)}


def _features(context: ExportContext) -> Feature:
    names = context.source.classes.names if context.source.has_shapes else ()
    return parquet_features(names, has_roles=context.source.has_roles)


def _hide_arrow_types(path: Path) -> None:
    """Give the Arrow schema in the metadata of a file another name, so that no reader takes its types from there.

    Polars (2.1) notes that its texts are large_string and its bytes large_binary, and lets nobody choose. Readers that
    follow, as pyarrow does, then find no image in {bytes, path}: the datasets library wants binary and string, which is
    what the types of Parquet itself come to. Raises OSError.
    """
    with path.open("r+b") as file:
        # A file ends in its metadata, their length, PAR1.
        end = file.seek(-8, os.SEEK_END)
        start = end - int.from_bytes(file.read(4), "little")
        file.seek(start)
        # Behind the type of a text and its length: as such it is in no text of a user's own.
        place = file.read(end - start).rfind(_ARROW_KEY)
        if place >= 0:
            file.seek(start + place)
            file.write(_ARROW_KEY.lower())


def _rows(context: ExportContext, span: Span) -> Iterator[dict[str, Any]]:
    """Yield the rows of a span, in its order, and count their annotations as written."""
    pictures = context.pictures
    calls = ((part, context.source.classes, str(pictures.masks)) for part in span.parts(_PART))
    found = chain.from_iterable(pictures.each(_with_masks, calls, 1))
    for (sample, masks, rows), body in zip(found, pictures.bodies(span.images), strict=True):
        context.written.add_sample(sample["split"], sample["objects"]["category"], rows)
        yield {"image": {"bytes": body, "path": sample["file_name"]}, **sample, "masks": masks}


def _with_masks(
    span: Span, classes: ExportClasses, folder: str
) -> list[tuple[dict[str, Any], list[dict[str, Any]], dict[str, int]]]:
    """Return each sample of a span, its masks, whose files are in a folder, and the number of its rows by kind."""
    found = []
    for sample in samples(span, classes):
        size, names = (sample["width"], sample["height"]), filter(None, sample["objects"]["mask"])
        masks = [{"bytes": mask_body(os.path.join(folder, name), *size), "path": name} for name in names]
        found.append((sample, masks, counted(sample)))
    return found


def _bytes_of(row: dict[str, Any]) -> int:
    """Return how many bytes the pictures of a row have."""
    return sum(len(picture["bytes"]) for picture in (row["image"], *row["masks"]))
