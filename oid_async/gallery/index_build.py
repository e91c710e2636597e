"""Make the index of a gallery: read the saved tables once, some ten MiB at a time, whatever their size.

First each table becomes parts of numbers (`_TableParts`), then images and classes are counted, a window of images at a
time (`_Totals`). Memory is that of a block and of the ids: some hundred MiB with 14.6 million boxes.
"""

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import polars as pl

from oid_async.dataset.saved import SavedDataset
from oid_async.dataset.tables import SavedTable, column, flag
from oid_async.errors import InputError, input_errors
from oid_async.gallery.index import CLASSES, FLAG_COLUMNS, IMAGES, IMAGES_A_PART, NO_BITS, part_path, parts, write_note
from oid_async.gallery.manifest_rows import ROW, ManifestRows, Owners
from oid_async.openimages.ids import id_column
from oid_async.openimages.kinds import KINDS, KindName
from oid_async.store.disk import plain_file
from oid_async.tables.reading import reading

# Short enough that a page which is asked for meanwhile need not wait: both share the processors.
_BLOCK_BYTES = 16 << 20
_MOST_RECORD_BYTES = 256 << 20
_BOM = b"\xef\xbb\xbf"
_NEVER = "\x01"


class StoppedError(Exception):
    """Somebody wants the work to stop."""


@dataclass(slots=True)
class Progress:
    """How far the tables are read, in bytes."""

    done: int = 0
    total: int = 0
    is_stopped: Callable[[], bool] = field(default=lambda: False)

    def add(self, count: int) -> None:
        """Note that so many bytes were read. Raises StoppedError."""
        self.done += count
        self.check()

    def check(self) -> None:
        """Raise StoppedError if somebody wants that."""
        if self.is_stopped():
            raise StoppedError


def build_index(dataset: SavedDataset, manifest: ManifestRows, place: Path, progress: Progress) -> None:
    """Fill an empty folder with the index of a dataset. Raises StoppedError, InputError for the manifest, OSError.

    A table that cannot be read is left out, and named in the index.
    """
    tables = [dataset.table(kind) for kind in dataset.kinds]
    progress.total = sum(table.path.stat().st_size for table in tables)
    owners = manifest.owners()
    classes = _ClassNumbers()
    kinds: dict[str, dict[str, int | bool]] = {}
    errors: dict[str, str] = {}
    for table in tables:
        writer = _TableParts(table, owners, classes, place)
        try:
            writer.write(progress)
        except InputError as error:
            errors[table.kind.name] = str(error)
            continue
        kinds[table.kind.name] = {"parts": writer.parts, "rows": writer.rows, "is_in_order": writer.is_in_order}
    images = manifest.counts.selected
    counts = {kind: int(note["parts"]) for kind, note in kinds.items()}
    classes.add(dataset.chosen_classes().select(label="LabelName", class_name="Category"))
    _Totals(place, images, counts).write(classes.frame, progress)
    write_note(place, {"images": images, "has_twins": len(owners.twins) > 0, "kinds": kinds, "errors": errors})


class _ClassNumbers:
    """Numbers the labels in the order in which they are met."""

    def __init__(self) -> None:
        self.frame = pl.DataFrame(schema={"label": pl.String, "class_name": pl.String, "class": pl.UInt32})

    def add(self, names: pl.DataFrame) -> None:
        """Take in labels with their names; null is none."""
        fresh = (
            names.drop_nulls("label")
            .group_by("label", maintain_order=True)
            .agg(pl.col("class_name").drop_nulls().first())
        )
        fresh = fresh.join(self.frame, on="label", how="anti", maintain_order="left")
        if len(fresh):
            fresh = fresh.with_columns(pl.coalesce("class_name", "label").alias("class_name"))
            numbered = fresh.with_row_index("class", offset=len(self.frame)).select("label", "class_name", "class")
            self.frame = pl.concat([self.frame, numbered])

    def number(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Replace label by class."""
        numbered = rows.join(self.frame.select("label", "class"), on="label", how="left", maintain_order="left")
        return numbered.drop("label")


class _TableParts:
    """Writes the parts of one table."""

    def __init__(self, table: SavedTable, owners: Owners, classes: _ClassNumbers, place: Path) -> None:
        self._table = table
        self._kind = table.kind
        self._owners = owners
        self._classes = classes
        self._place = place
        self.parts = self.rows = 0
        self.is_in_order = True
        self._last_id = ""

    def write(self, progress: Progress) -> None:
        """Read the table and write its parts. Raises InputError, StoppedError, OSError where they cannot be written."""
        names: list[str] = []
        for block in _blocks(self._table, quoted=not self._kind.is_json):
            data = block
            if not names and not self._kind.is_json:
                names, data = _header(self._table, block)
            with reading(self._table.file):
                rows = _narratives(data) if self._kind.is_json else self._csv_rows(data, names)
                self._note_order(rows.get_column("ImageID"))
                found = self._numbered(rows)
            if len(found):
                self.parts += 1
                self.rows += int(found.get_column("n").sum())
                found.write_parquet(part_path(self._place, self._kind.name, self.parts), compression="lz4")
            progress.add(len(block))
        if not self.parts:
            self.parts = 1
            self._numbered(_EMPTY[self._kind.name]()).write_parquet(part_path(self._place, self._kind.name, 1))

    def _note_order(self, ids: pl.Series) -> None:
        if not len(ids):
            return
        if not self.is_in_order:
            return
        first = ids[0]
        self.is_in_order = ids.null_count() == 0 and self._last_id <= first and ids.is_sorted()
        self._last_id = ids[-1] or ""

    def _csv_rows(self, data: bytes, names: list[str]) -> pl.DataFrame:
        """Return ImageID, FileName if there is one, and what is indexed of the rows of a block."""
        image_id = id_column(names)
        wanted = (image_id, "FileName", *self._kind.labels, *self._kind.categories, *_NUMBERS.get(self._kind.name, ()))
        present = [name for name in names if name in wanted]
        schema = dict.fromkeys(names, pl.String)
        if data.strip():
            table = pl.scan_csv(BytesIO(data), has_header=False, schema=schema, glob=False)
            rows = table.select(present).collect(engine="streaming")
        else:
            rows = pl.DataFrame(schema=dict.fromkeys(present, pl.String))
        missing = [name for name in (*self._kind.labels, *self._kind.categories) if name not in present]
        rows = rows.with_columns(pl.lit(None, pl.String).alias(name) for name in missing)
        return rows.rename({image_id: "ImageID"})

    def _numbered(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the part of some rows."""
        kind = self._kind
        if kind.is_json:
            found = self._owners.rows_of(rows)
            return found.select(ROW, pl.lit(1, pl.UInt8).alias("n"), "caption")
        pairs = list(zip(kind.labels, kind.categories, strict=True))
        if kind.name == "label":
            is_there = column("Confidence", pl.Float64, rows.columns).fill_null(1) > 0
            rows = rows.with_columns(pl.when(is_there).then("LabelName").alias("LabelName"))
        for label, name in pairs:
            self._classes.add(rows.select(label=label, class_name=name))
        found = self._owners.rows_of(rows)
        if kind.name == "bbox":
            # Lazily, because then a flag that is looked at twice is read once.
            boxes = found.lazy().select(ROW, _one(1), *_box_numbers(rows.columns), label="LabelName")
            return self._classes.number(boxes.collect(engine="streaming"))
        sides = [found.select(ROW, _one(1), label=pairs[0][0])]
        for label, _ in pairs[1:]:
            # A relationship of two objects of one class is one row of it.
            sides.append(found.filter(pl.col(label) != pl.col(pairs[0][0])).select(ROW, _one(0), label=label))
        numbered = self._classes.number(pl.concat(sides))
        return numbered.sort(ROW, maintain_order=True) if len(sides) > 1 else numbered


def _one(number: int) -> pl.Expr:
    return pl.lit(number, pl.UInt8).alias("n")


_SIDES = ("XMin", "XMax", "YMin", "YMax")
_NUMBERS: dict[KindName, tuple[str, ...]] = {"bbox": (*_SIDES, *FLAG_COLUMNS), "label": ("Confidence",)}


def _box_numbers(present: list[str]) -> list[pl.Expr]:
    """Return the expressions of the flags and the area of a box, from text."""
    bits = pl.lit(0, pl.UInt16)
    for place, name in enumerate(FLAG_COLUMNS):
        if name in present:
            bits = bits + (flag(name) == 1).cast(pl.UInt16) * (1 << place)
            bits = bits + (flag(name) == 0).cast(pl.UInt16) * (1 << place + NO_BITS)
    side = {name: column(name, pl.Float64, present) for name in _SIDES}
    area = (side["XMax"] - side["XMin"]) * (side["YMax"] - side["YMin"])
    # Not a number is larger than any for Polars.
    return [bits.cast(pl.UInt16).alias("flags"), pl.when(area.is_finite()).then(area).alias("area")]


def _blocks(table: SavedTable, *, quoted: bool) -> Iterator[bytes]:
    """Yield the bytes of a table in blocks of whole records, however many line breaks are quoted."""
    rest = b""
    with input_errors(table.path), plain_file(table.path) as file:
        while data := file.read(_BLOCK_BYTES):
            data = rest + data
            end = data.rfind(b"\n") + 1
            while quoted and end > 0 and data.count(b'"', 0, end) % 2:
                end = data.rfind(b"\n", 0, end - 1) + 1
            if len(data) - end > _MOST_RECORD_BYTES:
                raise InputError(
                    f"{table.path}: no row ends within {_MOST_RECORD_BYTES >> 20} MiB; its quotes do not match"
                )
            rest = data[end:]
            if end:
                yield data[:end]
    if rest:
        yield rest


def _header(table: SavedTable, block: bytes) -> tuple[list[str], bytes]:
    """Return the columns of a table, and the rows of its first block."""
    at = block.find(b"\n") + 1 or len(block)
    while block.count(b'"', 0, at) % 2 and at < len(block):
        at = block.find(b"\n", at) + 1 or len(block)
    try:
        names = next(csv.reader([block[:at].removeprefix(_BOM).decode().rstrip("\r\n")]), [])
    except (ValueError, csv.Error) as error:
        raise InputError(f"{table.path}: its first line is no header of a table") from error
    if id_column(names) not in names:
        raise InputError(f"{table.path}: column 'ImageID' is missing")
    if len(set(names)) < len(names):
        raise InputError(f"{table.path}: a column stands in it twice")
    return names, block[at:]


def _narratives(data: bytes) -> pl.DataFrame:
    lines = pl.read_csv(
        BytesIO(data),
        has_header=False,
        separator=_NEVER,
        quote_char=None,
        schema={"line": pl.String},
        encoding="utf8-lossy",
        glob=False,
    )
    found = lines.select(
        pl.col("line").str.json_path_match("$.image_id").alias("ImageID"),
        pl.col("line").str.json_path_match("$.caption").fill_null("").str.to_lowercase().alias("caption"),
    )
    return found.drop_nulls("ImageID")


def _empty(*names: str) -> Callable[[], pl.DataFrame]:
    return lambda: pl.DataFrame(schema=dict.fromkeys(("ImageID", *names), pl.String))


_EMPTY: dict[KindName, Callable[[], pl.DataFrame]] = {
    name: _empty("caption") if kind.is_json else _empty(*kind.labels, *kind.categories) for name, kind in KINDS.items()
}


class _Totals:
    """Counts what each image has and each class, a window of images at a time."""

    def __init__(self, place: Path, images: int, kinds: dict[str, int]) -> None:
        self._place = place
        self._images = images
        self._kinds = kinds
        self._rows = pl.DataFrame(schema={"class": pl.UInt32, "kind": pl.String, "rows": pl.UInt32})
        self._of_class = pl.DataFrame(schema={"class": pl.UInt32, "images": pl.UInt32})

    def write(self, classes: pl.DataFrame, progress: Progress) -> None:
        """Write the parts of `images`, and classes.parquet."""
        for number, start in enumerate(range(0, self._images, IMAGES_A_PART), 1):
            progress.check()
            stop = min(start + IMAGES_A_PART, self._images)
            self._window(start, stop).write_parquet(part_path(self._place, IMAGES, number), compression="lz4")
        rows = self._rows.group_by("class", "kind").agg(pl.sum("rows"))
        found = classes.join(self._of_class.group_by("class").agg(pl.sum("images")), on="class", how="left")
        for kind in self._kinds:
            of_kind = rows.filter(kind=kind).select("class", pl.col("rows").alias(f"{kind}_rows"))
            found = found.join(of_kind, on="class", how="left")
        found = found.sort("class").drop("class").with_columns(pl.exclude("label", "class_name").fill_null(0))
        found.write_parquet(self._place / CLASSES)

    def _window(self, start: int, stop: int) -> pl.DataFrame:
        """Return the counts of some images; add to those of the classes."""
        images = pl.DataFrame({ROW: pl.int_range(start, stop, dtype=pl.UInt32, eager=True)})
        pairs: list[pl.DataFrame] = []
        for kind, count in self._kinds.items():
            table = pl.scan_parquet(parts(self._place, kind, count), glob=False)
            rows = table.filter(pl.col(ROW).is_between(start, stop - 1)).collect(engine="streaming")
            counts = [pl.sum("n").cast(pl.UInt32).alias(kind), *([pl.max("area")] if "area" in rows.columns else [])]
            images = images.join(rows.group_by(ROW).agg(counts), on=ROW, how="left", maintain_order="left")
            if "class" in rows.columns:
                classed = rows.drop_nulls("class").group_by(ROW, "class").agg(pl.len().alias("rows"))
                pairs.append(classed.with_columns(pl.lit(kind).alias("kind")))
        if pairs:
            both = pl.concat(pairs)
            self._rows = pl.concat([self._rows, both.group_by("class", "kind").agg(pl.sum("rows"))])
            of_class = both.select("class", ROW).unique().group_by("class").agg(pl.len().alias("images"))
            self._of_class = pl.concat([self._of_class, of_class])
        missing = [pl.lit(0, pl.UInt32).alias(kind) for kind in KINDS if kind not in images.columns]
        if "area" not in images.columns:
            missing.append(pl.lit(None, pl.Float64).alias("area"))
        images = images.with_columns(missing).with_columns(pl.col(list(KINDS)).fill_null(0))
        return images.select(*KINDS, "area")
