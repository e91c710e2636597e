"""The tables of a saved folder as they are counted."""

import polars as pl

from oid_async.dataset.saved import SavedDataset
from oid_async.errors import InputError
from oid_async.openimages.ids import HEX_ID, IdForm
from oid_async.openimages.kinds import KindName
from oid_async.statistics.tables import COLUMNS, IMAGE, IMAGE_SCHEMA, Tables, Workplace
from oid_async.store.results import SELECTED


def tables_of(dataset: SavedDataset, work: Workplace) -> Tables:
    """Return the tables of a folder. Raises InputError."""
    images = dataset.images
    has_roles = "Role" in images.collect_schema()
    image = _image(images, work)
    counted: dict[KindName, int] = {}
    rows: dict[KindName, pl.LazyFrame] = {}
    for kind in dataset.kinds:
        table = dataset.table(kind)
        if table.exists and not table.kind.is_json and "ImageID" not in table.columns():
            raise InputError(f"{table.path}: column 'ImageID' is missing; nothing in it is of an image")
        typed = table.typed()
        if kind in COLUMNS:
            typed = typed.rename({"Label": "LabelName"}) if kind == "point" else typed
            rows[kind] = typed.select(image, *COLUMNS[kind])
        else:
            counted[kind] = int(work.collect(typed.select(pl.len())).item())
    role = "Role" if has_roles else pl.lit(SELECTED).alias("Role")
    return Tables(
        "folder",
        images.select(*(name for name in IMAGE_SCHEMA if name != "Role"), role),
        rows,
        _absent(images, image) if has_roles else None,
        counted,
        _names(dataset),
    )


def _names(dataset: SavedDataset) -> dict[str, str]:
    """Return what the chosen classes are called, by MID: without saved boxes there is no label_data.csv."""
    try:
        categories = dataset.query.get("categories")
    except InputError:
        categories = None
    found: dict[str, str] = {}
    if isinstance(categories, dict):
        for name, labels in categories.items():
            found |= dict.fromkeys(map(str, labels), str(name)) if isinstance(labels, list) else {}
    return found | dict(dataset.chosen_classes().iter_rows())


def _absent(images: pl.LazyFrame, image: pl.Expr) -> pl.LazyFrame:
    """Return IMAGE, LabelName, Category of what is verified to be absent in negatives; the name is not known there."""
    absent = images.filter(pl.col("VerifiedAbsent").list.len() > 0).select(image, LabelName="VerifiedAbsent")
    return absent.explode("LabelName").with_columns(Category=pl.lit(None, pl.String))


def _image(images: pl.LazyFrame, work: Workplace) -> pl.Expr:
    """Return what tells images apart in every table: the number of the ImageID; else their file, of which each has one.

    An id may be a user's own text, or that of two images in two splits.
    """
    image_id = pl.col("ImageID")
    kept = images.select(all_hex=image_id.str.contains(HEX_ID).all(), twice=image_id.is_duplicated().any())
    all_hex, twice = work.collect(kept).row(0)
    return IdForm().key().alias(IMAGE) if all_hex and not twice else pl.col("FileName").alias(IMAGE)
