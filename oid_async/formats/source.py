"""What a SAVEPATH holds, for an export: images in order of ImageID, a span at a time, with what is said of them.

    manifest.parquet ─┐                       ┌─▶ spans: images, and the rows of each kind
    bbox/bbox.csv ... ┴─▶ scratch/*.parquet ──┴─▶ what is planned: images of each split, rows of each kind

The tables are turned once, with the columns that are needed and the rows that are asked for; then a span of images
finds its rows by the statistics of the row groups. No image is opened: its size stands in the manifest. Blocking.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

import polars as pl

from oid_async.errors import InputError
from oid_async.formats.classes import ExportClasses
from oid_async.openimages.ids import HEX_ID, KEY
from oid_async.openimages.kinds import KINDS, KindName
from oid_async.options.export import ExportOptions, shares
from oid_async.select.choose import shuffled
from oid_async.store.folder import Folder
from oid_async.store.shards_note import packed_in
from oid_async.tables.reading import TableFile, reading

# The flags of a box, 1, 0 or -1 for unknown, and what formats call them.
FLAGS = {
    "IsOccluded": "occluded",
    "IsTruncated": "truncated",
    "IsGroupOf": "group_of",
    "IsDepiction": "depiction",
    "IsInside": "inside",
}
SIDES = ("XMin", "XMax", "YMin", "YMax")
# The number of a class, of 0, in rows of boxes and masks.
CLASS = "__class"
_IMAGE_COLUMNS = (
    "ImageID",
    "Subset",
    "FileName",
    "Bytes",
    "MD5",
    "Width",
    "Height",
    "Rotation",
    "License",
    "Author",
    "AuthorProfileURL",
    "Title",
    "URL",
    "OriginalURL",
    "OriginalLandingURL",
)
_DRAWN = ("bbox", "segmentation")
_SIZES = ("Width", "Height")
# Why a row is left out, null for one that is asked for.
_WHY = "__why"
SPAN_ROWS = 4096
_ROW_GROUP = 4096
_NARRATIVE = {"image_id": pl.String, "annotator_id": pl.Int64, "caption": pl.String}


@dataclass(frozen=True, slots=True)
class Span:
    """Some images in order of ImageID, and the rows of each kind, by ImageID and then in published order.

    `images` has ImageID, Subset, FileName, Bytes, MD5, Width, Height, Rotation, License, Author, AuthorProfileURL,
    Title, URL, OriginalURL, OriginalLandingURL, and of the export: KEY (u64, the id as a number), Place (i64, from 1),
    Split, OutWidth and OutHeight in pixels. Rows of boxes and masks have ImageID, CLASS (u32), XMin, XMax, YMin, YMax
    (f64, of 1) beside what is theirs; other kinds are as published, as text.
    """

    images: pl.DataFrame
    rows: Mapping[KindName, pl.DataFrame]

    def of(self, kind: KindName) -> pl.DataFrame:
        """Return the rows of a kind beside Split, OutWidth, OutHeight and FileName of their image."""
        facts = self.images.select("ImageID", "Split", "FileName", "OutWidth", "OutHeight")
        return self.rows[kind].join(facts, on="ImageID", how="inner", maintain_order="left")

    def split(self, name: str) -> "Span":
        """Return the images of one split, and their rows."""
        images = self.images.filter(Split=name)
        ids = images.select("ImageID")
        rows = {
            kind: each.join(ids, on="ImageID", how="semi", maintain_order="left") for kind, each in self.rows.items()
        }
        return Span(images, rows)


@dataclass(slots=True)
class ExportPlan:
    """What is to be exported: images of each split, rows of each kind; and rows that are left out, by the reason."""

    images: dict[str, int] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)


class ExportSource:
    """One SAVEPATH, read for one export. Raises InputError for a folder that no download has filled.

    `kinds` are those that the format has a place for: of them those are read that are saved here. `classes` stands for
    what the tables say of classes.
    """

    def __init__(
        self,
        folder: Folder,
        options: ExportOptions,
        kinds: Sequence[KindName],
        scratch: Path,
        *,
        classes: ExportClasses | None = None,
    ) -> None:
        self.folder = folder
        self._options = options
        self._scratch = scratch
        self._manifest = folder.manifest
        self._known_classes = classes
        self._check_manifest()
        wanted = [kind for kind in kinds if kind != "segmentation" or not options.no_masks]
        self.kinds = tuple(kind for kind in wanted if (folder.path / KINDS[kind].file).is_file())
        self.planned = ExportPlan()
        self._images = scratch / "images.parquet"
        with reading(TableFile(self._manifest, str(self._manifest)), into=scratch):
            self._turn_images()
        for kind in self.kinds:
            path = self._path(kind)
            with reading(TableFile(path, str(path)), into=scratch):
                turn = self._turn_narratives if KINDS[kind].is_json else self._turn_rows
                turn(kind)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have images, the published ones first."""
        order = {name: at for at, name in enumerate(("train", "validation", "test"))}
        return tuple(sorted(self.planned.images, key=lambda name: (order.get(name, len(order)), name)))

    def _numbered(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Add CLASS. Here, where a few rows are at hand: Polars maps no values while it streams a table."""
        numbers = dict(self.classes.numbers)
        number = pl.col("LabelName").replace_strict(numbers, default=None, return_dtype=pl.UInt32)
        return rows.with_columns(number.alias(CLASS))

    def short_numbers(self) -> pl.Expr:
        """Return the expression image -> its number in 53 bits, those that its ImageID begins with.

        Numbers of any language hold that much. Should two images have the same, all are counted from 1 instead.
        """
        short = pl.col(KEY) // (1 << 11)
        unlike = pl.scan_parquet(self._images).select(short.n_unique()).collect(engine="streaming").item()
        return (short if unlike == sum(self.planned.images.values()) else pl.col("Place")).cast(pl.Int64)

    @property
    def masks(self) -> Path:
        """Where the masks lie."""
        return self.folder.path / KINDS["segmentation"].folder / "masks"

    @cached_property
    def classes(self) -> ExportClasses:
        """The classes of boxes and masks: those that were chosen, then what else the tables hold, or as mapped."""
        classes = self._known_classes or self._saved_classes()
        mapped = self._options.class_map
        return classes if mapped is None else classes.mapped(Path(mapped))

    def _saved_classes(self) -> ExportClasses:
        called: list[tuple[str, str]] = []
        tables = [self.folder.path / "bbox" / "label_data.csv"]
        tables += [self._path(kind) for kind in self.kinds if kind in ("bbox", "segmentation")]
        for path in tables:
            if path.is_file():
                with reading(TableFile(path, str(path))):
                    frame = pl.scan_csv(path, infer_schema=False).select("LabelName", "Category")
                    called += frame.unique().sort("LabelName").collect(engine="streaming").iter_rows()
        return ExportClasses.of((label, name or label) for label, name in self._in_order(called))

    def _in_order(self, called: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Bring what label_data.csv names into its own order: as the categories were asked for."""
        path = self.folder.path / "bbox" / "label_data.csv"
        if not path.is_file():
            return called
        order = pl.read_csv(path, infer_schema=False).get_column("LabelName").to_list()
        place = {label: at for at, label in enumerate(order)}
        return sorted(called, key=lambda row: place.get(row[0], len(place)))

    def spans(self, rows: int = SPAN_ROWS) -> Iterator[Span]:
        """Yield every image once, with its rows, so many images at a time."""
        images = pl.scan_parquet(self._images)
        tables = {kind: self._rows(kind) for kind in self.kinds}
        for start in range(0, sum(self.planned.images.values()), rows):
            span = images.slice(start, rows).collect()
            ids = span.get_column("ImageID")
            within = pl.col("ImageID").is_between(pl.lit(ids[0]), pl.lit(ids[-1]))
            found = pl.collect_all([table.filter(within) for table in tables.values()])
            rows_of = dict(zip(tables, found, strict=True))
            yield Span(span, rows_of | {kind: self._numbered(rows_of[kind]) for kind in _DRAWN if kind in rows_of})

    def smaller(self) -> int:
        """Return how many images are to be made smaller."""
        frame = pl.scan_parquet(self._images).filter(pl.col("OutWidth") != pl.col("Width"))
        return int(frame.select(pl.len()).collect().item())

    def licenses(self) -> list[str]:
        """Return the licences of the images, each once, in order."""
        frame = pl.scan_parquet(self._images).select(pl.col("License").drop_nulls().unique().sort())
        return frame.collect(engine="streaming").to_series().to_list()

    def _path(self, kind: KindName) -> Path:
        return self.folder.path / KINDS[kind].file

    def _turned(self, kind: KindName) -> Path:
        return self._scratch / f"{kind}.parquet"

    def _check_manifest(self) -> None:
        path = self._manifest
        if (shards := packed_in(self.folder)) is not None:
            raise InputError(f"{self.folder.path}: its images are in the shards of {shards}, no files to export from")
        if not path.is_file():
            raise InputError(f"{path}: there is no manifest to export from; let a download run to its end first")
        with reading(TableFile(path, str(path))):
            there = pl.read_parquet_schema(path)
        for column in ("Status", *_IMAGE_COLUMNS):
            if column not in there:
                raise InputError(f"{path}: column {column!r} is missing; it is no manifest of this program's")

    def _turn_images(self) -> None:
        saved = pl.scan_parquet(self._manifest).filter(Status="ok")
        odd = pl.col("Width").is_null() | pl.col("Height").is_null() | (pl.col("Width") < 1) | (pl.col("Height") < 1)
        unknown = saved.filter(odd).select("ImageID").head(1).collect(engine="streaming")
        if len(unknown):
            raise InputError(f"{self._manifest}: {unknown.item()} has no width and height; run the download again")
        outside = pl.col("FileName").is_null() | pl.col("FileName").str.contains(r"[/\x00]|^\.{0,2}$")
        if len(named := saved.filter(outside).select("ImageID").head(1).collect(engine="streaming")):
            raise InputError(f"{self._manifest}: FileName of {named.item()} names no file of images/; it was changed")
        images = saved.select(*_IMAGE_COLUMNS, self._number(saved).alias(KEY))
        images = images.with_columns(self._split().alias("Split"), *self._out_size())
        images = images.with_row_index("Place", offset=1).with_columns(pl.col("Place").cast(pl.Int64))
        images.sink_parquet(self._images, row_group_size=_ROW_GROUP, compression="lz4", maintain_order=True)
        counted = pl.scan_parquet(self._images).group_by("Split").len().collect(engine="streaming")
        self.planned.images = dict(counted.iter_rows())

    def _number(self, saved: pl.LazyFrame) -> pl.Expr:
        """Return the number that an ImageID is; of ids of a user's own the start of their hash."""
        image_id = pl.col("ImageID")
        own = saved.select((~image_id.str.contains(HEX_ID)).any()).collect(engine="streaming").item()
        if not own:
            return image_id.str.to_integer(base=16, dtype=pl.UInt64)

        def hashed(ids: pl.Series) -> pl.Series:
            digests = (blake2b(each.encode(), digest_size=8).digest() for each in ids)
            return pl.Series([int.from_bytes(digest) for digest in digests], dtype=pl.UInt64)

        return image_id.map_batches(hashed, return_dtype=pl.UInt64)

    def _split(self) -> pl.Expr:
        """Return the split of an image: the published one, or by the hash that --shuffle sorts by, of seed 0."""
        parts = self._options.export_splits
        if parts is None:
            # A table of a user's own may say anything, and this becomes the name of a folder.
            return pl.col("Subset").fill_null("train").str.replace_all(r"[^A-Za-z0-9_-]", "_")
        split = pl.lit(None, pl.String)
        for name, end in reversed(shares(parts)):
            within = shuffled(0) <= pl.lit(int(end * 2**64) - 1, pl.UInt64) if end else pl.lit(False)
            split = pl.when(within).then(pl.lit(name)).otherwise(split)
        return split

    def _out_size(self) -> list[pl.Expr]:
        width, height = pl.col("Width").cast(pl.Float64), pl.col("Height").cast(pl.Float64)
        longer = pl.max_horizontal(width, height)
        most = self._options.max_side
        scale = pl.lit(1.0) if most is None else pl.min_horizontal(pl.lit(1.0), most / longer)
        return [
            (side * scale).round().clip(lower_bound=1).cast(pl.Int32).alias(name)
            for side, name in ((width, "OutWidth"), (height, "OutHeight"))
        ]

    def _turn_rows(self, kind: KindName) -> None:
        path = self._path(kind)
        frame = pl.scan_csv(path, infer_schema=False)
        there = frame.collect_schema().names()
        if kind in _DRAWN:
            frame = self._boxes(kind, frame, there)
        elif "ImageID" not in there:
            frame = frame.rename({"ImageId": "ImageID"})
        frame.sink_parquet(self._turned(kind), row_group_size=_ROW_GROUP * 4, compression="lz4", maintain_order=True)
        self._count(kind)

    def _rows(self, kind: KindName) -> pl.LazyFrame:
        """Return the turned rows that are asked for."""
        rows = pl.scan_parquet(self._turned(kind))
        if kind not in _DRAWN:
            return rows
        return rows.filter(pl.col(_WHY).is_null()).drop(
            _WHY, *(name for name in _SIZES if name in rows.collect_schema())
        )

    def _boxes(self, kind: KindName, frame: pl.LazyFrame, there: Sequence[str]) -> pl.LazyFrame:
        prefix = "Box" if kind == "segmentation" else ""
        sides = {side: f"{prefix}{side}" for side in SIDES}
        for column in ("ImageID", "LabelName", *sides.values()):
            if column not in there:
                raise InputError(f"{self._path(kind)}: column {column!r} is missing: there are no boxes to export")
        own = ["MaskPath", "BoxID", "PredictedIoU", "Clicks"] if kind == "segmentation" else ["Source", "Confidence"]
        flags = [
            _flag(flag) if flag in there else pl.lit(-1, pl.Int8).alias(flag)
            for flag in (FLAGS if kind == "bbox" else ())
        ]
        frame = frame.select(
            "ImageID",
            "LabelName",
            *(pl.col(name).cast(pl.Float64, strict=False).alias(side) for side, name in sides.items()),
            *(pl.col(name) for name in own if name in there),
            *flags,
            *self._sizes(there),
        )
        reasons = {
            "class": ~pl.col("LabelName").is_in(list(self.classes.numbers)),
            "no numbers": pl.any_horizontal(pl.col(side).is_null() | ~pl.col(side).is_finite() for side in SIDES),
            "group": pl.col("IsGroupOf") == 1 if kind == "bbox" and self._options.group_boxes == "drop" else None,
            "area": self._too_small(),
            "no mask": ~pl.col("MaskPath").is_in(self._masks_there().implode()) if kind == "segmentation" else None,
        }
        why = pl.lit(None, pl.String)
        for reason, left_out in reversed(reasons.items()):
            if left_out is not None:
                why = pl.when(left_out).then(pl.lit(f"{kind}: {reason}")).otherwise(why)
        return frame.with_columns(why.alias(_WHY))

    def _sizes(self, there: Sequence[str]) -> list[pl.Expr]:
        return [pl.col(name).cast(pl.Int32, strict=False) for name in _SIZES if name in there]

    def _too_small(self) -> pl.Expr | None:
        least = self._options.min_box_area
        if not least:
            return None
        share = (pl.col("XMax") - pl.col("XMin")) * (pl.col("YMax") - pl.col("YMin"))
        if isinstance(least, str):
            return share * 100 < float(least.removesuffix("%"))
        width, height = self._out_size()
        return share * width * height < least

    def _masks_there(self) -> pl.Series:
        try:
            names = os.listdir(self.masks)
        except FileNotFoundError:
            names = []
        return pl.Series(names, dtype=pl.String)

    def _turn_narratives(self, kind: KindName) -> None:
        frame = pl.scan_ndjson(self._path(kind), schema=_NARRATIVE).rename({"image_id": "ImageID"})
        frame.sink_parquet(self._turned(kind), row_group_size=_ROW_GROUP, compression="lz4", maintain_order=True)
        self._count(kind)

    def _count(self, kind: KindName) -> None:
        """Count the rows that are asked for, and of boxes and masks those that are left out, by the reason."""
        rows = pl.scan_parquet(self._turned(kind))
        if kind not in _DRAWN:
            self.planned.rows[kind] = rows.select(pl.len()).collect().item()
            return
        counts = dict(rows.group_by(_WHY).len().sort(_WHY).collect(engine="streaming").iter_rows())
        self.planned.rows[kind] = counts.pop(None, 0)
        self.planned.left_out |= counts


def _flag(name: str) -> pl.Expr:
    """Return a flag as 1, 0 or -1; a table of a user's own may say true and false."""
    text = pl.col(name)
    number = text.cast(pl.Float64, strict=False).cast(pl.Int8, strict=False)
    said = pl.when(text.str.to_lowercase() == "true").then(1).when(text.str.to_lowercase() == "false").then(0)
    return said.otherwise(number).cast(pl.Int8).fill_null(-1).alias(name)
