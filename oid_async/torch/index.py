"""The index of a saved folder: what its images and their objects are, in columns that workers map into memory.

    image_id, file_name             texts, a row an image, in order of the manifest
    size                            int32 [images, 2], width and height in pixels; 0 where they are not known
    shard, offset, bytes            int32, int64, int64: where images in shards are; -1 for none (see `pictures`)
    <kind>.at                       int64 [images + 1]: objects at[i] up to at[i + 1] are those of image i
    <kind>.sides                    XMin, XMax, YMin, YMax [objects, 4]: int32 in millionths of the image's side, as
                                    they are published, or float64 where some numbers are finer
    <kind>.label                    int32: the place of the MID in the notes' `mids`
    <kind>.box_id                   uint64, the hash of BoxID; where both tables have it
    bbox.group                      uint8, 1 for a box around a group
    segmentation.path               texts, MaskPath

`kind` is bbox or segmentation, each if it was saved. The notes also have `names` (class names by label, from 1),
`labels` (of each MID), `kinds`, `pictures`. Made once, by Polars; 70 bytes an image and 21 a box.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from oid_async.dataset.packed_images import SHARD_SCHEMA
from oid_async.dataset.saved import SavedDataset
from oid_async.errors import InputError
from oid_async.formats.classes import ExportClasses
from oid_async.openimages.kinds import KINDS, KindName
from oid_async.tables.reading import reading
from oid_async.torch.columns import ColumnWriter
from oid_async.torch.pictures import located
from oid_async.torch.targets import SIDES, have_place

SHAPES: tuple[KindName, ...] = ("bbox", "segmentation")
_ROWS_AT_ONCE = 1 << 18
_MILLIONTHS = 1_000_000
_ROW = "__row"


@dataclass(frozen=True, slots=True)
class _Objects:
    """The rows of one kind, copied to a Parquet file in order of their images."""

    kind: KindName
    table: str
    copy: Path
    classes: pl.DataFrame


def write_index(
    dataset: SavedDataset, splits: Sequence[str] | None, folder: Path, endpoint_url: str | None = None
) -> list[str]:
    """Write the index of the saved images, of these splits or all, into a folder. Blocking.

    Return what a person should know of it, a line each: which objects are left out. Raises InputError, StorageError.
    """
    images = _saved_images(dataset, splits)
    kinds = [kind for kind in SHAPES if dataset.has(kind)]
    has_box_ids = len(kinds) == len(SHAPES) and all("BoxID" in dataset.table(kind).columns() for kind in kinds)
    objects = [_copy(dataset, kind, images, folder, has_box_ids=has_box_ids, splits=splits) for kind in kinds]
    classes = _classes(dataset, objects)
    mids = {mid: place for place, mid in enumerate(classes.numbers)}
    said = []
    with ColumnWriter(folder) as columns:
        pictures = _write_images(columns, images, dataset) | {"endpoint_url": endpoint_url}
        for each in objects:
            said += _write_objects(columns, each, len(images), mids, _missing_masks(dataset, each))
            each.copy.unlink()
        columns.close(
            {
                "images": len(images),
                "kinds": kinds,
                "names": classes.names,
                "mids": list(mids),
                "labels": [1 + classes.numbers[mid] for mid in mids],
                "pictures": pictures,
            }
        )
    return said


def _saved_images(dataset: SavedDataset, splits: Sequence[str] | None) -> pl.DataFrame:
    """Return the saved images in order of the manifest, with their numbers, and whether an id is also another's."""
    dataset.check_file_names()
    columns = ["ImageID", "Subset", "FileName", "Width", "Height"]
    columns += ["Bytes", *SHARD_SCHEMA] if dataset.files is not None else []
    is_twin = pl.col("ImageID") == pl.col("ImageID").shift()
    with reading(dataset.manifest):
        saved = dataset.images.filter(Status="ok").select(columns).collect(engine="streaming")
    saved = saved.with_columns(is_twin=is_twin.fill_null(False))
    if splits is not None:
        saved = saved.filter(pl.col("Subset").is_in(list(splits)))
    return saved.with_row_index(_ROW)


def _copy(
    dataset: SavedDataset,
    kind: KindName,
    images: pl.DataFrame,
    folder: Path,
    *,
    has_box_ids: bool,
    splits: Sequence[str] | None,
) -> _Objects:
    """Copy the rows of a kind that belong to these images, with what the index needs, in order of their images."""
    table, copy = dataset.table(kind), folder / f"{kind}.parquet"
    present = table.columns()
    for name in ("ImageID", "LabelName", *table.kind.numbers):
        if name not in present:
            raise InputError(f"{table.file.name}: column {name!r} is missing: there are no objects in it")
    rows, classes = table.typed(), ["LabelName", "Category"]
    # An id in two splits is two images: their rows are told apart by the name of the file.
    on = ["ImageID", "FileName"] if images["is_twin"].any() and "FileName" in present else ["ImageID"]
    keys = images.unique(on, keep="first", maintain_order=True).select(_ROW, *on).lazy()
    columns = [pl.col(name).alias(side) for side, name in zip(SIDES, table.kind.numbers, strict=True)]
    columns += [pl.col("IsGroupOf") == 1] if kind == "bbox" else [pl.col("MaskPath")]
    columns += [pl.col("BoxID").hash().alias("box_id")] if has_box_ids else []
    with reading(table.file, into=folder):
        wanted = rows.select(*on, *classes, *columns).join(keys, on=on, how="inner", maintain_order="left").drop(on)
        wanted.sink_parquet(copy, compression="lz4", row_group_size=_ROWS_AT_ONCE, maintain_order=True)
        copied = pl.scan_parquet(copy, glob=False)
        if not copied.select(_ROW).collect().to_series().is_sorted():
            # A table that somebody has edited.
            unsorted = copy.rename(copy.with_suffix(".unsorted"))
            pl.scan_parquet(unsorted, glob=False).sort(_ROW, maintain_order=True).sink_parquet(copy)
            unsorted.unlink()
        # Labels are those of all splits, whichever are read.
        all_rows = copied if splits is None else rows
        found = all_rows.select(classes).unique().collect(engine="streaming")
    return _Objects(kind, table.file.name, copy, found)


def _classes(dataset: SavedDataset, objects: Sequence[_Objects]) -> ExportClasses:
    chosen = dataset.chosen_classes().rows()
    return ExportClasses.saved(chosen, [row for each in objects for row in each.classes.iter_rows()])


def _write_images(columns: ColumnWriter, images: pl.DataFrame, dataset: SavedDataset) -> dict[str, Any]:
    """Write what is known of each image; return what `pictures` needs to read all of them."""
    places, pictures = located(dataset, images)
    for part in images.iter_slices(_ROWS_AT_ONCE):
        for name, column in (("image_id", "ImageID"), ("file_name", "FileName")):
            _add_texts(columns, name, part.get_column(column))
        sizes = part.select(pl.col("Width", "Height").fill_null(0).cast(pl.Int32))
        columns.add("size", sizes.to_numpy())
    for name in places.columns:
        columns.add(name, places.get_column(name).to_numpy())
    side = dataset.stored_side
    return pictures | {"max_side": side}


def _add_texts(columns: ColumnWriter, name: str, texts: pl.Series) -> None:
    texts = texts.fill_null("")
    columns.add_texts(name, "".join(texts.to_list()).encode(), texts.str.len_bytes().to_numpy())


def _missing_masks(dataset: SavedDataset, objects: _Objects) -> pl.Series | None:
    """Return the MaskPaths without a picture; None where there are none, or pictures are in shards."""
    if objects.kind != "segmentation" or dataset.files is not None or not dataset.masks_folder.is_dir():
        return None
    if dataset.image_store is not dataset.image_files:
        return None
    names: list[str] = []
    with suppress(FileNotFoundError), os.scandir(dataset.masks_folder) as entries:
        names = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
    paths = pl.scan_parquet(objects.copy, glob=False).select("MaskPath").collect().to_series()
    return paths.filter(~paths.is_in(pl.Series(names, dtype=pl.String).implode()))


def _write_objects(
    columns: ColumnWriter, objects: _Objects, images: int, mids: dict[str, int], missing: pl.Series | None
) -> list[str]:
    """Write the objects of one kind; return what is to be said of those that are left out."""
    kind, counts, left_out = objects.kind, np.zeros(images, np.int64), 0
    copied = pl.scan_parquet(objects.copy, glob=False)
    if missing is not None and len(missing):
        copied = copied.filter(~pl.col("MaskPath").is_in(missing.implode()))
    total = copied.select(pl.len()).collect().item()
    scale, dtype = _scale(copied, total)
    for start in range(0, total, _ROWS_AT_ONCE):
        rows = copied.slice(start, _ROWS_AT_ONCE).collect()
        sides = rows.select(SIDES).to_numpy()
        label = rows.get_column("LabelName").replace_strict(mids, default=None, return_dtype=pl.Int32)
        kept = have_place(sides) & label.is_not_null().to_numpy()
        left_out += len(rows) - int(kept.sum())
        rows, label = rows.filter(kept), label.filter(pl.Series(kept))
        counts += np.bincount(rows.get_column(_ROW).to_numpy(), minlength=images)
        columns.add(f"{kind}.sides", np.rint(sides[kept] * scale).astype(dtype) if scale > 1 else sides[kept])
        columns.add(f"{kind}.label", label.to_numpy())
        if "box_id" in rows.columns:
            columns.add(f"{kind}.box_id", rows.get_column("box_id").fill_null(0).to_numpy())
        if kind == "bbox":
            columns.add("bbox.group", rows.get_column("IsGroupOf").fill_null(False).cast(pl.UInt8).to_numpy())
        else:
            _add_texts(columns, "segmentation.path", rows.get_column("MaskPath"))
    columns.add(f"{kind}.at", np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
    return _said(objects, left_out, missing)


def _scale(copied: pl.LazyFrame, total: int) -> tuple[int, Any]:
    """Return what sides are multiplied by, and the dtype for them: whole millionths are what is published."""
    for start in range(0, total, _ROWS_AT_ONCE):
        sides = copied.select(SIDES).slice(start, _ROWS_AT_ONCE).collect().to_numpy()
        sides = sides[have_place(sides)]
        # Not by Polars, which divides by a constant less exactly.
        if not (np.rint(sides * _MILLIONTHS) / _MILLIONTHS == sides).all():
            return 1, np.float64
    return _MILLIONTHS, np.int32


def _said(objects: _Objects, left_out: int, missing: pl.Series | None) -> list[str]:
    what, said = KINDS[objects.kind].what, []
    if left_out:
        said.append(
            f"{objects.table}: {left_out} {what} are left out: turned round, outside of their image, or without "
            "numbers or class"
        )
    if missing is not None and len(missing):
        said.append(
            f"{objects.table}: {len(missing)} masks have no picture (the first is {missing[0]}), and are zeros; run "
            "the download again to fetch them"
        )
    return said
