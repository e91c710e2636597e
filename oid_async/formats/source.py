"""The images and rows of one export: read from the saved dataset, prepared once, then handed out in spans.

    images ───────────┐                               ┌─▶ spans: images in order of ImageID, and their rows by kind
    boxes, masks ... ─┴─▶ scratch/<kind>.parquet ─────┴─▶ plan: the number of images by split and of rows by kind

The tables are copied once, with the columns and rows that are needed; a span of images then finds its rows by the
statistics of the row groups. No image is opened: its size is in the manifest. Blocking.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock

import polars as pl

from oid_async.dataset.saved import SavedDataset
from oid_async.dataset.tables import column
from oid_async.formats.classes import ExportClasses
from oid_async.formats.row_checks import (
    NO_CLASS,
    NO_NUMBERS,
    OUTSIDE,
    REASON,
    TURNED,
    checked,
    first_reason,
    misplaced,
    rows_as_text,
)
from oid_async.openimages.catalogue_tables import SIDES
from oid_async.openimages.ids import HEX_ID, KEY, export_number
from oid_async.openimages.kinds import KindName
from oid_async.openimages.vocabulary import FLAGS, SPLITS
from oid_async.options.export import ExportOptions, shares
from oid_async.select.limits import shuffled
from oid_async.store.attached_files import NAMES
from oid_async.store.changes import made_changes
from oid_async.store.written_files import MASKS
from oid_async.tables.reading import reading

# Column of a flag of a box (1, 0, or -1 for unknown) -> what formats call it.
FLAG_NAMES = {flag: option.removeprefix("is_") for option, flag in FLAGS.items()}
# The number of the class, from 0, in rows of boxes and masks.
CLASS = "__class"
SPAN_ROWS = 4096
PART_ROWS = 256
_ROW_GROUP = 4096
_SHAPES = ("bbox", "segmentation")
_SIZES = ("Width", "Height")
# Published coordinates have six decimals; a table that went through binary numbers spells them differently.
_MILLIONTHS = 1e6
_MISPLACED = "__misplaced"
# Of a format that cuts boxes out.
_NO_PIXEL = "less than 1 x 1 px"
_DECIMALS = 6
_NAMED = 5
# In place of a size: there is no file.
_NO_FILE = -1
# Formats that hold the images themselves.
_HOLDS_IMAGES = ("webdataset", "parquet", "tfrecord")
# They read each image as a whole; four times of what a download takes by default.
_MOST_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Span:
    """Some images in order of ImageID, and their rows of each kind, by ImageID and then in published order.

    `images` has the columns of SavedDataset.images but Status, Reason and Source, and of the export: KEY (u64, the id
    as a number), Place (i64, from 1), Split, OutWidth and OutHeight in pixels, Changes (what was done to it as text,
    null for nothing); of a query with negatives also Role and VerifiedAbsent. Rows of boxes and masks have ImageID,
    CLASS (u32), XMin, XMax, YMin, YMax (f64, fractions), the flags (i8, -1 for unknown, as of every mask) and own
    columns; other kinds are as published, as text.
    """

    images: pl.DataFrame
    rows: Mapping[KindName, pl.DataFrame]

    def of(self, kind: KindName) -> pl.DataFrame:
        """Return the rows of a kind with Split, OutWidth, OutHeight and FileName of their image."""
        facts = self.images.select("ImageID", "Split", "FileName", "OutWidth", "OutHeight")
        return self.rows[kind].join(facts, on="ImageID", how="inner", maintain_order="left")

    def split(self, name: str) -> "Span":
        """Return the images of one split, and their rows."""
        return self._of(self.images.filter(Split=name))

    def parts(self, images: int = PART_ROWS) -> "Iterator[Span]":
        """Yield so many images at a time with their rows: what a process takes of a span at once."""
        for some in self.images.iter_slices(images):
            yield self._of(some)

    def _of(self, images: pl.DataFrame) -> "Span":
        ids = images.select("ImageID")
        rows = {
            kind: each.join(ids, on="ImageID", how="semi", maintain_order="left") for kind, each in self.rows.items()
        }
        return Span(images, rows)


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """The counts of an export before it is written: images by split, rows by kind, what is left out by reason.

    What proves to be no picture while the export is written is moved to what is left out. `names` are the first images
    and masks that are left out for a reason.
    """

    images: Counter[str]
    rows: Counter[str]
    left_out: Counter[str]
    names: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, reason: str, names: Sequence[str]) -> None:
        """Count images or masks as left out for this reason."""
        if names:
            self.left_out[reason] += len(names)
            known = self.names.setdefault(reason, [])
            known += names[: _NAMED - len(known)]

    def left_out_lines(self) -> Iterator[str]:
        """Yield what is left out, a line a reason."""
        for reason, count in self.left_out.items():
            names = self.names.get(reason, [])
            more = ", ..." if count > len(names) else ""
            yield f"left out: {count} of {reason}" + (f" ({', '.join(names)}{more})" if names else "")


class ExportSource:
    """One saved dataset, prepared for one export. Needs a dataset opened to export; raises InputError.

    `kinds` are the kinds that the format can hold; those of them that were saved are exported. Rows of `side_kinds` are
    in the spans, too, and are not counted: they say something of images. `classes` replaces the classes of the tables.
    """

    def __init__(
        self,
        dataset: SavedDataset,
        options: ExportOptions,
        kinds: Sequence[KindName],
        scratch: Path,
        *,
        classes: ExportClasses | None = None,
        side_kinds: Sequence[KindName] = (),
    ) -> None:
        self.dataset = dataset
        self._options = options
        self._scratch = scratch
        self._given_classes = classes
        wanted = [kind for kind in kinds if kind != "segmentation" or not options.no_masks]
        self.kinds = tuple(kind for kind in wanted if dataset.has(kind))
        self.side_kinds = tuple(kind for kind in side_kinds if kind not in self.kinds and dataset.has(kind))
        self._images = scratch / "images.parquet"
        self.needs_pictures = not options.no_files or options.format in _HOLDS_IMAGES
        self.planned = ExportPlan(Counter(), Counter(), Counter())
        # The next span is prepared while one is written, and both may leave out what is no picture.
        self._planning = Lock()
        # FileName, __id: an id in two splits is two images, and one of them goes by another id in the export.
        self._renamed = self._twins()
        self.unusable = self._find_unusable()
        self.planned.images.update(self._copy_images())
        # The number of images that are handed out; some may prove to be no pictures.
        self.total = sum(self.planned.images.values())
        for kind in self.kinds:
            for reason, count in self._copy_rows(kind).items():
                (self.planned.left_out if reason else self.planned.rows)[reason or kind] += count
                if reason == f"{kind}: {_NO_PIXEL}":
                    self.planned.names[reason] = self._first_images(kind, reason)
        for kind in self.side_kinds:
            self._copy_rows(kind)

    @property
    def has_shapes(self) -> bool:
        """Whether there are boxes or masks, which have classes."""
        return any(kind in self.kinds for kind in _SHAPES)

    @property
    def has_roles(self) -> bool:
        """Whether the images have Role and VerifiedAbsent: the query had negatives."""
        return "Role" in self.dataset.images.collect_schema()

    @property
    def _max_side(self) -> int | None:
        """The most pixels of a side of an exported image. Crops are made smaller themselves."""
        return None if self._options.format == "crops" else self._options.max_side

    @property
    def made_smaller_to(self) -> int | None:
        """The most pixels of a side of an exported image: by the export, or of a place when its shards were made."""
        sides = [side for side in (self._max_side, self.dataset.stored_side) if side is not None]
        return min(sides, default=None)

    @property
    def draws_masks(self) -> bool:
        """Whether every image comes with a picture of its masks, in its size."""
        return self._options.format == "webdataset" and "segmentation" in self.kinds

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have images, the published ones first."""
        order: dict[str, int] = {name: place for place, name in enumerate(SPLITS)}
        return tuple(sorted(self.planned.images, key=lambda name: (order.get(name, len(order)), name)))

    @cached_property
    def classes(self) -> ExportClasses:
        """The classes of boxes and masks: the chosen ones, then others in the tables; or as `--class-map` has them."""
        classes = self._given_classes or self._saved_classes()
        class_map = self._options.class_map
        return classes if class_map is None else classes.mapped(Path(class_map))

    def short_numbers(self) -> pl.Expr:
        """Return the expression image -> its number in 53 bits, the first ones of its ImageID.

        Numbers of every programming language hold 53 bits. Should two images have the same number, all images are
        counted from 1 instead.
        """
        short = pl.col(KEY) // (1 << 11)
        distinct = pl.scan_parquet(self._images, glob=False).select(short.n_unique()).collect(engine="streaming").item()
        return (short if distinct == self.total else pl.col("Place")).cast(pl.Int64)

    def spans(self, rows: int = SPAN_ROWS) -> Iterator[Span]:
        """Yield every image once, with its rows, so many images at a time."""
        images = pl.scan_parquet(self._images, glob=False)
        tables = {kind: self._exported_rows(kind) for kind in (*self.kinds, *self.side_kinds)}
        for start in range(0, self.total, rows):
            span = images.slice(start, rows).collect()
            ids = span.get_column("ImageID")
            within = pl.col("ImageID").is_between(pl.lit(ids.min()), pl.lit(ids.max()))
            found = pl.collect_all([table.filter(within) for table in tables.values()])
            rows_of = dict(zip(tables, found, strict=True))
            yield Span(span, rows_of | {kind: self._with_class(rows_of[kind]) for kind in _SHAPES if kind in rows_of})

    def count_resized(self) -> int:
        """Return the number of images that are exported in a smaller size."""
        frame = pl.scan_parquet(self._images, glob=False).filter(pl.col("OutWidth") != pl.col("Width"))
        return int(frame.select(pl.len()).collect().item())

    def licenses(self) -> list[str | None]:
        """Return the licences of the images, each once, in order; the last one is None if an image has none."""
        frame = pl.scan_parquet(self._images, glob=False).select(pl.col("License").unique().sort(nulls_last=True))
        return frame.collect(engine="streaming").to_series().to_list()

    def distinct(self, kind: KindName, **columns: pl.Expr) -> pl.DataFrame:
        """Return the values of these columns in the exported rows of a kind, each once, in order."""
        rows = self._exported_rows(kind).select(**columns).unique().sort(*columns)
        return rows.collect(engine="streaming")

    def _saved_classes(self) -> ExportClasses:
        """Return the classes of label_data.csv, in the order of the categories, then the others by MID."""
        found: list[tuple[str, str]] = []
        for kind in (kind for kind in self.kinds if kind in _SHAPES):
            table = self.dataset.table(kind)
            with reading(table.file):
                rows = rows_as_text(table).select("LabelName", "Category").drop_nulls("LabelName")
                found += rows.unique().sort("LabelName", "Category").collect(engine="streaming").rows()
        return ExportClasses.saved(self.dataset.chosen_classes().rows(), found)

    def _with_class(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Add CLASS. Not while the table is copied: Polars maps no values while it streams."""
        numbers = dict(self.classes.numbers)
        number = pl.col("LabelName").replace_strict(numbers, default=None, return_dtype=pl.UInt32)
        return rows.with_columns(number.alias(CLASS))

    def _copy_images(self) -> dict[str, int]:
        """Write the saved images with the columns of the export; return their number by split."""
        manifest = self.dataset.manifest
        saved = self.dataset.images.filter(Status="ok")
        with reading(manifest, into=self._scratch):
            saved = saved.filter(~pl.col("FileName").is_in(self.unusable.get_column("FileName").implode()))
            images = saved.with_columns(_number(saved).alias(KEY), self._changes())
            images = images.drop("Status", "Reason", "Source")
            images = self._with_own_ids(images)
            images = images.with_columns(self._split().alias("Split"), *self._out_size())
            if self.dataset.stored_side is not None:
                # In the shards they have other sizes than when they were fetched, and other bytes.
                width, height = self._scaled(self.dataset.stored_side)
                images = images.with_columns(Width=width, Height=height, Bytes=None, MD5=None)
                images = images.with_columns(Bytes=pl.col("Bytes").cast(pl.Int64), MD5=pl.col("MD5").cast(pl.String))
            images = images.with_row_index("Place", offset=1).with_columns(pl.col("Place").cast(pl.Int64))
            images.sink_parquet(self._images, row_group_size=_ROW_GROUP, compression="lz4", maintain_order=True)
            counted = pl.scan_parquet(self._images, glob=False).group_by("Split").len().collect(engine="streaming")
        return dict(counted.iter_rows())

    def _find_unusable(self) -> pl.DataFrame:
        """Return ImageID, FileName, reason of the saved images that cannot be exported; they count as left out."""
        with reading(self.dataset.manifest):
            saved = self.dataset.images.filter(Status="ok")
            facts = saved.select("ImageID", "FileName", "Bytes", *_SIZES).collect(engine="streaming")
        reason: pl.Expr = pl.when(pl.any_horizontal(pl.col(side).fill_null(0) < 1 for side in _SIZES)).then(
            pl.lit("no width and height")
        )
        # Of a place the shards hold what the manifest says: how they are is not seen before they are read.
        if self.needs_pictures and self.dataset.files is None:
            folder = self.dataset.image_files.folder
            sizes = [_size(f"{folder}{os.sep}{name}") for name in facts.get_column("FileName")]
            facts = facts.with_columns(there=pl.Series(sizes, dtype=pl.Int64))
            reason = (
                pl.when(pl.col("there").is_null())
                .then(pl.lit("not there"))
                .when(pl.col("there") == _NO_FILE)
                .then(pl.lit("not a plain file"))
                .when(pl.col("there") != pl.col("Bytes"))
                .then(pl.lit("cut or changed"))
                .when((pl.col("there") > _MOST_BYTES) & (self._options.format in _HOLDS_IMAGES))
                .then(pl.lit(f"more than {_MOST_BYTES >> 20} MiB"))
                .otherwise(reason)
            )
        unusable = facts.select("ImageID", "FileName", reason=reason).drop_nulls("reason")
        for (why,), rows in unusable.group_by("reason", maintain_order=True):
            self.planned.leave_out(f"image: {why}", rows.get_column("FileName").to_list())
        return self._with_own_ids(unusable.lazy()).collect()

    def _twins(self) -> pl.DataFrame:
        """Return FileName and __id of the images whose id is also one of an earlier split."""
        with reading(self.dataset.manifest):
            saved = self.dataset.images.filter(Status="ok")
            is_twin = pl.col("ImageID") == pl.col("ImageID").shift()
            # By sorting within the manifest: its rows are in order of ImageID, then of the splits.
            names = saved.with_columns(is_twin=is_twin.fill_null(False)).filter("is_twin")
            mark = pl.concat_str("ImageID", "Subset", separator="_", ignore_nulls=True)
            return names.select("FileName", __id=mark).collect(engine="streaming")

    def _with_own_ids(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """Replace ImageID by FileName where two images have one; rows without FileName are of the first of them."""
        if not len(self._renamed) or "FileName" not in rows.collect_schema():
            return rows
        named = rows.join(self._renamed.lazy(), on="FileName", how="left", maintain_order="left")
        return named.with_columns(ImageID=pl.coalesce("__id", "ImageID")).drop("__id")

    def without(self, span: Span, images: Mapping[str, Sequence[str]], masks: Mapping[str, Sequence[str]]) -> Span:
        """Return a span without these images (FileNames by reason), all their rows, and these masks; count them."""
        if not (any(images.values()) or any(masks.values())):
            return span
        with self._planning:
            return self._without(span, images, masks)

    def _without(self, span: Span, images: Mapping[str, Sequence[str]], masks: Mapping[str, Sequence[str]]) -> Span:
        plan, rows = self.planned, dict(span.rows)
        for kind, found in (("image", images), ("segmentation", masks)):
            for why, names in found.items():
                plan.leave_out(f"{kind}: {why}", names)
        if "segmentation" in rows:
            before, is_mask = rows["segmentation"], pl.col("MaskPath").is_in(names_of(masks).implode())
            rows["segmentation"] = before.filter(~is_mask)
            plan.rows["segmentation"] -= len(before) - len(rows["segmentation"])
        is_refused = pl.col("FileName").is_in(names_of(images).implode())
        refused = span.images.filter(is_refused)
        plan.images.subtract(refused.get_column("Split").to_list())
        ids = pl.col("ImageID").is_in(refused.get_column("ImageID").implode())
        for kind, before in rows.items():
            rows[kind] = before.filter(~ids)
            if (gone := len(before) - len(rows[kind])) and kind in self.kinds:
                plan.left_out[f"{kind}: image left out"] += gone
                plan.rows[kind] -= gone
        return Span(span.images.filter(~is_refused), rows)

    def _split(self) -> pl.Expr:
        """Return the split of an image: the published one, or by the hash that --shuffle sorts by, of seed 0."""
        parts = self._options.export_splits
        if parts is None:
            # A table of a user's own may hold anything, and this becomes the name of a folder.
            return pl.col("Subset").fill_null("train").str.replace_all(r"[^A-Za-z0-9_-]", "_")
        split = pl.lit(None, pl.String)
        for name, end in reversed(shares(parts)):
            within = shuffled(0) <= pl.lit(int(end * 2**64) - 1, pl.UInt64) if end else pl.lit(False)
            split = pl.when(within).then(pl.lit(name)).otherwise(split)
        return split

    def _out_size(self) -> list[pl.Expr]:
        width, height = self._scaled(self.made_smaller_to)
        return [width.alias("OutWidth"), height.alias("OutHeight")]

    def _changes(self) -> pl.Expr:
        """Return what was done to an image that is in the export, or to the saved one where the export holds none."""
        return made_changes(self.made_smaller_to if self.needs_pictures else self.dataset.stored_side)

    @staticmethod
    def _scaled(most: int | None) -> tuple[pl.Expr, pl.Expr]:
        """Return width and height of an image that is made smaller until no side has more pixels than this."""
        width, height = pl.col("Width").cast(pl.Float64), pl.col("Height").cast(pl.Float64)
        scale = pl.lit(1.0) if most is None else pl.min_horizontal(pl.lit(1.0), most / pl.max_horizontal(width, height))
        width, height = ((side * scale).round().clip(lower_bound=1).cast(pl.Int32) for side in (width, height))
        return width, height

    def _copy(self, kind: KindName) -> Path:
        return self._scratch / f"{kind}.parquet"

    def _copy_rows(self, kind: KindName) -> dict[str | None, int]:
        """Write the rows of a kind; return their number by the reason why they are left out, None for the others."""
        table, copy = self.dataset.table(kind), self._copy(kind)
        with reading(table.file, into=self._scratch):
            if kind in _SHAPES:
                rows = self._shapes(kind)
            elif table.kind.is_json:
                rows = table.typed().select(pl.col("image_id").alias("ImageID"), "annotator_id", "caption")
                has_none = pl.col("caption").is_null()
                rows = rows.with_columns(pl.when(has_none).then(pl.lit(f"{kind}: no caption")).alias(REASON))
            else:
                rows = checked(kind, self._with_own_ids(rows_as_text(table)))
            reason = pl.col(REASON) if REASON in rows.collect_schema() else pl.lit(None, pl.String)
            has_no_image = pl.col("ImageID").is_in(self.unusable.get_column("ImageID").implode())
            reason = pl.when(has_no_image).then(pl.lit(f"{kind}: image left out")).otherwise(reason)
            rows = rows.with_columns(reason.alias(REASON))
            size = _ROW_GROUP if table.kind.is_json else _ROW_GROUP * 4
            rows.sink_parquet(copy, row_group_size=size, compression="lz4", maintain_order=True)
            copied = pl.scan_parquet(copy, glob=False)
            return dict(copied.group_by(REASON).len().sort(REASON).collect(engine="streaming").iter_rows())

    def _first_images(self, kind: KindName, reason: str) -> list[str]:
        """Return the FileNames of the first images that have a row which is left out for a reason."""
        rows = pl.scan_parquet(self._copy(kind), glob=False).filter(pl.col(REASON) == reason)
        rows = rows.select(pl.col("ImageID").unique(maintain_order=True)).head(_NAMED)
        images = pl.scan_parquet(self._images, glob=False).select("ImageID", "FileName")
        named = rows.join(images, on="ImageID", how="left", maintain_order="left")
        return named.select(pl.col("FileName").fill_null("?")).collect(engine="streaming").to_series().to_list()

    def _exported_rows(self, kind: KindName) -> pl.LazyFrame:
        """Return the copied rows that are not left out."""
        rows = pl.scan_parquet(self._copy(kind), glob=False)
        sizes = [name for name in _SIZES if kind in _SHAPES and name in rows.collect_schema()]
        return rows.filter(pl.col(REASON).is_null()).drop(REASON, *sizes)

    def _shapes(self, kind: KindName) -> pl.LazyFrame:
        """Return the boxes or masks with XMin, XMax, YMin, YMax, the flags, and the reason to leave a row out."""
        table = self.dataset.table(kind)
        present = table.columns()
        own = ["MaskPath", "BoxID", "PredictedIoU", "Clicks"] if kind == "segmentation" else ["Source", "Confidence"]
        sides = zip(SIDES, table.kind.numbers, strict=True)
        rows = self._with_own_ids(rows_as_text(table)).select(
            "ImageID",
            "LabelName",
            *(column(name, pl.Float64, present).alias(side) for side, name in sides),
            *(pl.col(name) for name in own if name in present),
            *(column(flag, pl.Int8, present) for flag in FLAG_NAMES),
            *(column(name, pl.Int32, present) for name in _SIZES if name in present),
        )
        rows = rows.with_columns(misplaced(*map(pl.col, SIDES)).alias(_MISPLACED))
        rows = rows.with_columns(pl.col(side).clip(0, 1) for side in SIDES)
        return rows.with_columns(first_reason(kind, self._reasons(kind))).drop(_MISPLACED)

    def _reasons(self, kind: KindName) -> dict[str, pl.Expr]:
        """Return the conditions under which a box or mask is left out, the first one that holds first."""
        reasons = {
            NO_CLASS: pl.col("LabelName").is_null(),
            "class": ~pl.col("LabelName").is_in(list(self.classes.numbers)),
            NO_NUMBERS: pl.any_horizontal(pl.col(side).is_null() | ~pl.col(side).is_finite() for side in SIDES),
            TURNED: pl.col(_MISPLACED) == TURNED,
            OUTSIDE: pl.col(_MISPLACED) == OUTSIDE,
        }
        if kind == "bbox" and self._options.group_boxes == "drop":
            reasons["group"] = pl.col("IsGroupOf") == 1
        if self._options.min_box_area:
            reasons["area"] = self._too_small(self._options.min_box_area)
        if self._options.format == "crops":
            reasons[_NO_PIXEL] = self._covers_no_pixel()
        if kind == "segmentation":
            reasons["no mask"] = self._has_no_mask()
        return reasons

    def _too_small(self, least: float | str) -> pl.Expr:
        share = (pl.col("XMax") - pl.col("XMin")) * (pl.col("YMax") - pl.col("YMin"))
        if isinstance(least, str):
            return share * 100 < float(least.removesuffix("%"))
        width, height = self._out_size()
        return share * width * height < least

    def _covers_no_pixel(self) -> pl.Expr:
        """Return the condition that a box is narrower or lower than a pixel of its image."""
        extents = (pl.col(f"{axis}Max") - pl.col(f"{axis}Min") for axis in "XY")
        sizes = zip(extents, self._out_size(), strict=True)
        return pl.any_horizontal((extent * size).round(_DECIMALS) < 1 for extent, size in sizes)

    def _has_no_mask(self) -> pl.Expr:
        """Return the condition that a mask is not there; of a place, whose shards have them, that none can be."""
        if self.dataset.files is not None:
            return ~pl.col("MaskPath").str.contains(f"^(?:{NAMES[MASKS].pattern})$").fill_null(False)
        names: list[str] = []
        with suppress(FileNotFoundError), os.scandir(self.dataset.masks_folder) as entries:
            names = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
        return ~pl.col("MaskPath").is_in(pl.Series(names, dtype=pl.String).implode())


def names_of(by_reason: Mapping[str, Sequence[str]]) -> pl.Series:
    """Return all file names that were found by reason."""
    return pl.Series([name for names in by_reason.values() for name in names], dtype=pl.String)


def _size(path: str) -> int | None:
    """Return the size of a file, None where there is nothing, _NO_FILE for a link or folder, which is not opened."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else _NO_FILE


def _number(saved: pl.LazyFrame) -> pl.Expr:
    """Return the expression ImageID -> its number; for ids of a user's own the start of their hash."""
    image_id = pl.col("ImageID")
    has_other_ids = saved.select((~image_id.str.contains(HEX_ID)).any()).collect(engine="streaming").item()
    if not has_other_ids:
        return image_id.str.to_integer(base=16, dtype=pl.UInt64)

    def hashed(ids: pl.Series) -> pl.Series:
        return pl.Series(map(export_number, ids), dtype=pl.UInt64)

    return image_id.map_batches(hashed, return_dtype=pl.UInt64)


def count_objects(rows: pl.DataFrame) -> dict[str, int]:
    """Return the number of boxes and of masks among objects."""
    boxes, masks = rows.select(pl.col("has_box").sum(), pl.col("MaskPath").count()).row(0)
    return {"bbox": int(boxes), "segmentation": int(masks)}


def objects(span: Span) -> pl.DataFrame:
    """Return the boxes of a span, each with its mask, then the masks without a box.

    By ImageID, boxes in published order. The columns are those of boxes (an unknown flag is -1), MaskPath (null: no
    mask), Split, FileName, OutWidth, OutHeight; `has_box` is false for a mask alone. A mask belongs to the box of its
    class that has its corners; of several such boxes each gets one.
    """
    boxes = span.of("bbox") if "bbox" in span.rows else None
    masks = span.of("segmentation") if "segmentation" in span.rows else None
    if masks is None:
        assert boxes is not None
        return boxes.with_columns(MaskPath=pl.lit(None, pl.String), has_box=pl.lit(True))
    if boxes is None:
        return masks.with_columns(has_box=pl.lit(False))
    corners = [(pl.col(side) * _MILLIONTHS).round().cast(pl.Int64).alias(f"__{side}") for side in SIDES]
    same = ["ImageID", "LabelName", *(f"__{side}" for side in SIDES)]

    def marked(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.with_columns(corners).with_columns(__nth=pl.int_range(pl.len()).over(same))

    boxes, masks = marked(boxes).with_row_index("__row"), marked(masks)
    on = [*same, "__nth"]
    found = boxes.join(masks.select(*on, "MaskPath"), on=on, how="left", maintain_order="left")
    alone = masks.join(boxes.select(on), on=on, how="anti", maintain_order="left").with_columns(
        __row=pl.lit(None, pl.UInt32), has_box=pl.lit(False)
    )
    found = found.with_columns(has_box=pl.lit(True))
    both = pl.concat([found, alone], how="diagonal")
    return both.sort("ImageID", "__row", nulls_last=True, maintain_order=True).drop("__row", *on[2:])
