"""A part of the published plan as a file: its images, all their annotations to save, where their masks lie.

A Parquet file, one row an image in order of ImageID, all of one split. Its columns:

    those of a plan        (see `select.plan`), so that `transfer.targets` reads the file as it is; Action is `fetch`,
                           or `pending` for an image that waits for a later generation
    Sources, Next          String: the sources to ask now, and those left for a later generation (null: none), with a
                           comma between them
    bbox, ...              of each saved kind List(Struct): its rows as published, in published order (null: none)
    masks                  where masks are saved List(Struct) of MASK_FIELDS: where each mask lies in its archive

The metadata of the file tell the state of these archives.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

import polars as pl

from oid_async.cluster.published import PublishedQuery
from oid_async.masks.archive import ArchiveState
from oid_async.openimages.ids import KEY, ROW, IdForm
from oid_async.openimages.kinds import KINDS, Kind, KindName
from oid_async.openimages.vocabulary import SPLITS
from oid_async.store.annotation_rows import SavedAnnotations
from oid_async.store.results import ROLE_SCHEMA
from oid_async.tables.reading import TableFile, reading
from oid_async.tables.rows import RowSource
from oid_async.transfer.targets import PENDING, SOURCES

__all__ = ("MASKS", "MASK_FIELDS", "NEXT", "PENDING", "SOURCES", "PartFile", "nested", "part_bytes", "row_columns")

NEXT, MASKS = "Next", "masks"
# `archive` is a key in the bucket openimages; the rest is as in `masks.zip_archive`. `why` is "failure kind: text" of
# a mask that no archive has, or whose entry cannot be true: then its place is null.
MASK_FIELDS: dict[str, type[pl.DataType]] = {
    "MaskPath": pl.String,
    "archive": pl.String,
    **dict.fromkeys(("start", "stop", "packed", "size"), pl.Int64),
    "crc": pl.UInt32,
    "method": pl.UInt16,
    "why": pl.String,
}
_NOTE = "oid_async.part"
_ROW_GROUP = 1 << 16
_LINE = "line"


def row_columns(kind: Kind, columns: Sequence[str]) -> list[str]:
    """Return which of a kind's published columns a part holds: of a narrative its line has everything."""
    return [_LINE] if kind.is_json else list(columns)


def nested(images: pl.DataFrame, name: str, rows: pl.DataFrame) -> pl.DataFrame:
    """Add the rows (KEY and others, sorted by KEY) to their images (KEY) as a column List(Struct), null for none."""
    fields = [column for column in rows.columns if column != KEY]
    lists = rows.group_by(KEY, maintain_order=True).agg(pl.struct(fields).alias(name))
    return images.join(lists, on=KEY, how="left", maintain_order="left")


def part_bytes(images: pl.DataFrame, archives: Mapping[str, ArchiveState]) -> bytes:
    """Return the file of a part: the same for the same rows and the same release of Polars."""
    states = {key: asdict(state) for key, state in sorted(archives.items())}
    file = BytesIO()
    note = {_NOTE: json.dumps({"archives": states})}
    images.rechunk().write_parquet(file, metadata=note, row_group_size=_ROW_GROUP, compression="zstd", statistics=False)
    return file.getvalue()


def read_part(body: bytes) -> tuple[pl.DataFrame, dict[str, ArchiveState]]:
    """Return the rows of the file of a part, and the states of the archives of its masks."""
    return pl.read_parquet(BytesIO(body), glob=False), _archives(BytesIO(body))


def _archives(file: Path | BytesIO) -> dict[str, ArchiveState]:
    note = json.loads(pl.read_parquet_metadata(file)[_NOTE])
    return {key: ArchiveState(**state) for key, state in note["archives"].items()}


@dataclass(frozen=True, slots=True)
class PartFile:
    """Reads the file of a part. All of it blocks; it raises InputError for a file that is none."""

    path: Path
    query: PublishedQuery

    @property
    def ids(self) -> IdForm:
        """The form of the ids, from which their keys follow."""
        return IdForm(self.query.hexadecimal, self.query.by_split)

    @property
    def split(self) -> str | None:
        """The split of its images, None where it is not known."""
        subsets = self._read(["Subset"]).to_series().unique().to_list()
        return subsets[0] if subsets else None

    def images(self) -> pl.DataFrame:
        """Return its images: the columns of a plan, Sources, Next, and Role, VerifiedAbsent where there are."""
        there = pl.scan_parquet(self.path, glob=False)
        with reading(self._table):
            return there.drop(*self.query.kinds, MASKS, strict=False).collect()

    @property
    def has_roles(self) -> bool:
        """Whether its images have a Role."""
        with reading(self._table):
            return next(iter(ROLE_SCHEMA)) in pl.scan_parquet(self.path, glob=False).collect_schema()

    def annotations(self, folder: Path) -> list[SavedAnnotations]:
        """Write the rows of each kind into an empty folder, and return them as `store.results.Results` takes them."""
        saved = []
        for name, values in self.query.kinds.items():
            kind = next(kind for kind in KINDS.values() if kind.name == name)
            labels = values["labels"]
            source = RowSource(kind, (self.rows(kind.name, folder),), values["class_names"])
            saved.append(SavedAnnotations(source, None if labels is None else tuple(labels)))
        return saved

    def rows(self, kind: KindName, folder: Path) -> TableFile:
        """Write the rows of a kind into a folder, as the cache keeps a table, and return that.

        Columns are those that were published, all text, in published order; KEY names no split, whatever the form.
        """
        rows = self._exploded(kind, replace_key=True)
        place = folder / kind
        place.mkdir(parents=True)
        names = tuple(name for name in rows.columns if name != KEY)
        numbered = rows.with_row_index(ROW).select(KEY, ROW, *names)
        numbered.write_parquet(place / "part-00000.parquet", compression="lz4", row_group_size=_ROW_GROUP)
        split = self.split
        known = next((each for each in SPLITS if each == split), None)
        return TableFile(place, f"{self.path.name}: {kind}", names, split=known)

    def masks(self) -> pl.DataFrame:
        """Return for each mask KEY, ImageID, FileName, Subset of its image and MASK_FIELDS; images in order."""
        if MASKS not in self._columns():
            names = ("ImageID", "FileName", "Subset")
            image: dict[str, type[pl.DataType]] = {KEY: self.ids.dtype, **dict.fromkeys(names, pl.String)}
            return pl.DataFrame(schema={**image, **MASK_FIELDS})
        return self._exploded(MASKS)

    def archives(self) -> dict[str, ArchiveState]:
        """Return the archives that hold its masks, by key, in the state in which their places are true."""
        with reading(self._table):
            return _archives(self.path)

    def _exploded(self, column: str, *, replace_key: bool = False) -> pl.DataFrame:
        """Return a row for each element of a nested column, with its fields and the columns that name the image."""
        key = IdForm(self.query.hexadecimal).key() if replace_key else pl.col(KEY)
        names = () if replace_key else ("ImageID", "FileName", "Subset")
        frame = pl.scan_parquet(self.path, glob=False).filter(pl.col(column).is_not_null())
        with reading(self._table):
            return frame.select(key, *names, column).explode(column).unnest(column).collect()

    def _columns(self) -> list[str]:
        with reading(self._table):
            return pl.scan_parquet(self.path, glob=False).collect_schema().names()

    def _read(self, columns: Sequence[str]) -> pl.DataFrame:
        with reading(self._table):
            return pl.read_parquet(self.path, columns=list(columns), glob=False)

    @property
    def _table(self) -> TableFile:
        return TableFile(self.path, self.path.name)
