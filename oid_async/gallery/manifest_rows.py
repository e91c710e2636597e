"""The images of a folder by their place in its manifest: counts, single rows, and which rows an ImageID has."""

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from oid_async.dataset.saved import SavedDataset
from oid_async.errors import input_errors
from oid_async.openimages.ids import KEY, IdForm
from oid_async.store.disk import plain_file
from oid_async.store.results import SELECTED
from oid_async.tables.reading import reading

# The place of an image in the manifest, from 0 (u32): the gallery's number of an image.
ROW = "row"
# In an address, the split of images whose table names none.
NO_SPLIT = "-"
# Rows within so many are read together, which takes a few of the manifest's row groups; others by a look at all.
_NEAR_ROWS = 1 << 15
PAGE_COLUMNS = ("ImageID", "Subset", "FileName", "Status", "Reason", "Bytes", "MD5", "Width", "Height")


@dataclass(frozen=True, slots=True)
class ManifestCounts:
    """How many images there are, in all and by their facts."""

    selected: int
    statuses: dict[str, int]
    splits: dict[str, int]
    sources: dict[str, int]
    reasons: dict[str, int]
    roles: dict[str, int]


class ManifestRows:
    """Reads the manifest of an opened folder by row number. Blocking; raises InputError.

    It is the manifest of this moment that is read, also when a run has put another one in its place.
    """

    def __init__(self, dataset: SavedDataset) -> None:
        self._dataset = dataset
        path = dataset.manifest.path
        with input_errors(path), plain_file(path) as file, reading(dataset.manifest):
            self._identity = _identity(os.fstat(file.fileno()))
            images = dataset.images_of(file)
        self._images = images.with_columns(pl.col("Subset").fill_null(NO_SPLIT))
        self.has_roles = "Role" in self._images.collect_schema()

    @property
    def identity(self) -> tuple[int, int, int]:
        """Inode, size in bytes and time of change (ns) of the manifest: another one has others."""
        return self._identity

    @property
    def is_replaced(self) -> bool:
        """Whether another manifest is in the place of this one, or none."""
        try:
            return _identity(os.stat(self._dataset.manifest.path)) != self._identity
        except OSError:
            return True

    @property
    def images(self) -> pl.LazyFrame:
        """The manifest with ROW in front; Subset is `-` where there is none, Role and VerifiedAbsent may be missing."""
        return self._images.with_row_index(ROW)

    @cached_property
    def counts(self) -> ManifestCounts:
        """The images counted."""
        columns = ["Status", "Subset", "Source", "Reason", *(["Role"] if self.has_roles else [])]
        with reading(self._dataset.manifest):
            groups = self._images.group_by(columns).len().collect(engine="streaming")
        selected = int(groups.get_column("len").sum())
        return ManifestCounts(
            selected,
            _counted(groups, "Status"),
            _counted(groups, "Subset"),
            _counted(groups.filter(Status="ok"), "Source"),
            _counted(groups, "Reason"),
            _counted(groups, "Role") if self.has_roles else {SELECTED: selected},
        )

    def slice(self, offset: int, length: int) -> pl.DataFrame:
        """Return some rows in the manifest's order, with PAGE_COLUMNS, ROW and Role."""
        with reading(self._dataset.manifest):
            rows = self._images.slice(offset, length).select(self._page_columns).collect()
        return rows.with_row_index(ROW, offset=offset)

    def rows(self, numbers: pl.Series) -> pl.DataFrame:
        """Return the rows of these numbers, in their order."""
        wanted = pl.DataFrame({ROW: numbers.cast(pl.UInt32)})
        low, high = wanted.select(pl.min(ROW).alias("low"), pl.max(ROW).alias("high")).row(0)
        if low is None or high - low < _NEAR_ROWS:
            found = self.slice(low or 0, 0 if low is None else high - low + 1)
        else:
            with reading(self._dataset.manifest):
                rows = self.images.select(ROW, *self._page_columns)
                found = rows.join(wanted.lazy(), on=ROW, how="semi").collect(engine="streaming")
        return wanted.join(found, on=ROW, how="left", maintain_order="left")

    def of_id(self, image_id: str) -> list[dict[str, Any]]:
        """Return the rows of an ImageID as dicts of the manifest's columns, in order; two if it is in two splits."""
        with reading(self._dataset.manifest):
            return self._images.filter(pl.col("ImageID") == image_id).collect().to_dicts()

    def number_of(self, split: str, image_id: str) -> int | None:
        """Return the row number of an image, None if it is not in the manifest."""
        with reading(self._dataset.manifest):
            found = self.images.filter(ImageID=image_id, Subset=split).select(ROW).head(1).collect()
        return int(found.item()) if len(found) else None

    @property
    def _page_columns(self) -> list[pl.Expr]:
        role = pl.col("Role") if self.has_roles else pl.lit(SELECTED).alias("Role")
        return [*map(pl.col, PAGE_COLUMNS), role]

    def owners(self) -> "Owners":
        """Return which row the annotations of an ImageID belong to; about 20 bytes an image."""
        with reading(self._dataset.manifest):
            saved = self.images.filter(Status="ok")
            form = IdForm(hexadecimal=not saved.select(IdForm().key().null_count()).collect().item())
            keys = saved.select(form.key(), ROW).collect(engine="streaming").sort(KEY, ROW)
            is_twin = keys.get_column(KEY).is_duplicated()
            twins = keys.filter(is_twin)
            named = pl.DataFrame(schema={KEY: form.dtype, "FileName": pl.String, "twin": pl.UInt32})
            if len(twins):
                names = saved.select(ROW, "FileName").join(twins.lazy(), on=ROW, how="inner")
                named = names.select(KEY, "FileName", twin=ROW).collect(engine="streaming")
        return Owners(form, keys.filter(keys.get_column(KEY).is_first_distinct()), named)


@dataclass(frozen=True, slots=True)
class Owners:
    """Which image the annotations with an ImageID belong to.

    `first` has KEY and ROW of the saved images, sorted; of an id in two splits the first one. `twins` has KEY, FileName
    and `twin`, the row, of all images whose id is in two splits: rows that name the file are told apart by it.
    """

    form: IdForm
    first: pl.DataFrame
    twins: pl.DataFrame

    def rows_of(self, table: pl.DataFrame) -> pl.DataFrame:
        """Replace ImageID and FileName of some rows by ROW; rows of images that are not in the manifest are dropped."""
        keyed = table.with_columns(self.form.key()).drop("ImageID")
        bounds: Any = keyed.select(pl.min(KEY).alias("low"), pl.max(KEY).alias("high")).row(0)
        low, high = bounds
        if low is None:
            return keyed.clear().with_columns(pl.lit(0, pl.UInt32).alias(ROW)).drop(KEY, "FileName", strict=False)
        keys = self.first.get_column(KEY)
        start, stop = keys.search_sorted(low, "left"), keys.search_sorted(high, "right")
        found = keyed.join(self.first.slice(start, stop - start), on=KEY, how="inner", maintain_order="left")
        if len(self.twins) and "FileName" in table.columns:
            found = found.join(self.twins, on=[KEY, "FileName"], how="left", maintain_order="left")
            found = found.with_columns(pl.coalesce("twin", ROW).alias(ROW)).drop("twin")
        return found.drop(KEY, "FileName", strict=False)


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _counted(groups: pl.DataFrame, column: str) -> dict[str, int]:
    named = groups.drop_nulls(column).group_by(column).agg(pl.sum("len")).sort(column)
    return dict(named.iter_rows())
