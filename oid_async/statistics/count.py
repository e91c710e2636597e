"""All numbers of one source, from its tables: each is a pass of Polars over what was kept of them. Blocking."""

from collections.abc import Mapping
from dataclasses import replace

import polars as pl

from oid_async.openimages.kinds import KINDS, KindName
from oid_async.statistics.boxes import box_shapes, boxes_per_image, flag_counts, measured, positions
from oid_async.statistics.classes import class_counts, cooccurrence, with_state
from oid_async.statistics.images import of_images
from oid_async.statistics.tables import Tables, Workplace
from oid_async.statistics.value import Statistics


def count(tables: Tables, work: Workplace) -> Statistics:
    """Return the numbers of these tables. Raises InputError, StorageError; InterruptedError once work is stopped."""
    found = of_images(tables.of, work.keep(tables.images, "images"), work)
    rows = {kind: work.keep(_counted(kind, frame), kind) for kind, frame in tables.rows.items()}
    classes = class_counts(rows, tables.absent, tables.names, work)
    found = replace(
        found,
        kinds=_lengths(rows, tables.counted, work),
        classes=classes,
        cooccurrence=cooccurrence(rows, classes, work),
    )
    if "bbox" not in rows:
        return found
    boxes, images = rows["bbox"], found.images.selected if found.images.ok is None else found.images.ok
    share, aspect = box_shapes(boxes, work)
    flags = flag_counts(boxes, work)
    if tables.of == "export" and not any(each.yes or each.no for each in flags.values()):
        # The format has no place for them.
        flags, classes = {}, tuple(replace(each, flags={}) for each in classes)
    return replace(
        found,
        classes=classes,
        boxes_per_image=boxes_per_image(boxes, images, work),
        box_share=share,
        box_aspect=aspect,
        box_positions=positions(boxes, work),
        flags=flags,
    )


def _counted(kind: KindName, rows: pl.LazyFrame) -> pl.LazyFrame:
    """Return of the rows of a kind what is counted."""
    if kind == "bbox":
        return measured(rows)
    return with_state(rows) if kind == "label" else rows


def _lengths(rows: Mapping[KindName, pl.LazyFrame], counted: Mapping[KindName, int], work: Workplace) -> dict[str, int]:
    """Return how many rows there are of each kind, in the order of KINDS."""
    found = {kind: int(work.collect(frame.select(pl.len())).item()) for kind, frame in rows.items()} | dict(counted)
    return {kind: found[kind] for kind in KINDS if kind in found}
