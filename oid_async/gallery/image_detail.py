"""One image as plain values: its row of the manifest, every annotation, its links and why it failed."""

import json
import math
from typing import Any
from urllib.parse import quote, urlsplit

import polars as pl

from oid_async.dataset.saved import SavedDataset
from oid_async.errors import InputError
from oid_async.gallery.image_page import classes_in
from oid_async.gallery.snapshot import Snapshot
from oid_async.openimages.kinds import KINDS
from oid_async.store.annotation_table import IMAGE_FIELDS
from oid_async.store.changes import CHANGES, made_changes
from oid_async.store.disk import has_plain
from oid_async.tables.reading import TableFile, reading

_MOST_ROWS = 2000
_LINKS = {"landing": "OriginalLandingURL", "original": "OriginalURL", "author": "AuthorProfileURL"}


def image_detail(snapshot: Snapshot, image: dict[str, Any], *, is_first: bool) -> dict[str, Any]:
    """Return the answer of `Catalog.image` for a row of the manifest.

    `is_first`: rows that only name the ImageID, not the file, are of this image and not of one in another split.
    """
    detail: dict[str, Any] = {"image": {name: plain(value) for name, value in image.items()}}
    detail["image"][CHANGES] = _changes(image, snapshot.dataset.stored_side)
    totals: dict[str, int] = {}
    classes: dict[str, list[str]] = {}
    for name, kind in KINDS.items():
        rows = snapshot.rows(name, [image["ImageID"]]) if image["Status"] == "ok" else None
        found = pl.DataFrame() if rows is None else _of_image(rows, image["FileName"], is_first=is_first)
        totals[name] = len(found)
        shown = found.head(_MOST_ROWS)
        detail[kind.what] = _narratives(shown) if kind.is_json else _objects(shown)
        if len(shown) and not kind.is_json:
            pairs = list(zip(kind.labels, kind.categories, strict=True))
            classes |= {label: each for each in classes_in(shown, pairs) for label in each[:1]}
    for mask in detail["masks"]:
        mask["url"] = mask_url(mask["MaskPath"])
    detail["totals"] = totals
    detail["verified_absent"] = _absent(snapshot, image.get("VerifiedAbsent"))
    detail["classes"] = list(classes.values())
    detail["links"] = {name: image[column] for name, column in _LINKS.items() if is_web_address(image[column])}
    detail["failure"] = _failure(snapshot.dataset, image)
    detail["notes"] = list(snapshot.notes)
    return detail


def _changes(image: dict[str, Any], side: int | None) -> str | None:
    """Return what was done to a saved image, None for nothing."""
    if image["Status"] != "ok":
        return None
    columns = {"Source": pl.String, "URL": pl.String, "Width": pl.Int32, "Height": pl.Int32}
    row = pl.DataFrame({name: [image[name]] for name in columns}, schema=columns)
    changes: str | None = row.select(made_changes(side)).item()
    return changes


def _of_image(rows: pl.DataFrame, file_name: str | None, *, is_first: bool) -> pl.DataFrame:
    """Return the rows that are of this one image of all with its ImageID."""
    if "FileName" not in rows.columns:
        return rows if is_first else rows.clear()
    return rows.filter((pl.col("FileName") == file_name).fill_null(is_first))


def _objects(rows: pl.DataFrame) -> list[dict[str, Any]]:
    """Return rows under the names of their columns, without what is said of the image."""
    rows = rows.drop("ImageID", *IMAGE_FIELDS, strict=False)
    return [{name: plain(value) for name, value in row.items()} for row in rows.iter_rows(named=True)]


def _narratives(rows: pl.DataFrame) -> list[dict[str, Any]]:
    found = []
    for line in rows.get_column("line") if len(rows) else ():
        try:
            narrative = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(narrative, dict):
            found.append({name: plain(value) for name, value in narrative.items() if name != "image_id"})
    return found


def _absent(snapshot: Snapshot, labels: list[str] | None) -> list[list[str]]:
    """Return the classes that a person has verified to be absent, with their names."""
    if not labels:
        return []
    chosen = dict(snapshot.chosen_classes.iter_rows())
    return [[label, chosen.get(label) or label] for label in labels]


def _failure(dataset: SavedDataset, image: dict[str, Any]) -> dict[str, Any] | None:
    """Return why an image is not there; what failures.csv says in addition is looked up in it, row by row."""
    if image["Status"] != "failed":
        return None
    failure = {"reason": image["Reason"], "detail": None, "url": None, "attempts": None}
    path = dataset.manifest.path.with_name("failures.csv")
    try:
        if has_plain(path):
            with reading(TableFile(path, str(path))):
                rows = pl.scan_csv(path, infer_schema=False, glob=False)
                found = rows.filter(pl.col("ImageID") == image["ImageID"]).collect(engine="streaming")
            for row in found.iter_rows(named=True):
                if len(found) == 1 or row.get("URL") == image["URL"]:
                    return failure | {
                        "detail": row.get("Detail"),
                        "url": row.get("URL"),
                        "attempts": row.get("Attempts"),
                    }
    except InputError:
        pass  # the reason is known without it
    return failure


def mask_url(mask_path: str | None) -> str | None:
    """Return where the picture of a mask is asked for, relative to the page; None for no name of a file."""
    if not mask_path or "/" in mask_path or mask_path in (".", "..") or "\0" in mask_path:
        return None
    return f"mask/{quote(mask_path, safe='')}"


def is_web_address(url: str | None) -> bool:
    """Return whether a table's URL may be a link: http or https, and nothing that a browser would take for another.

    >>> is_web_address("https://www.flickr.com/photos/a/1"), is_web_address("javascript:alert(1)")
    (True, False)
    """
    if not url or not url.isprintable() or url != url.strip():
        return False
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme.lower() in ("http", "https") and bool(parts.hostname)


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: numbers that are none as None, at any depth."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    return value
