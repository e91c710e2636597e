"""The saved tables as LazyFrames: the documented columns in their dtypes, whatever columns a file has."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import polars as pl

from oid_async.openimages.catalogue_tables import (
    BOX_COLUMNS,
    CLICK_COLUMNS,
    LABEL_COLUMNS,
    MASK_COLUMNS,
    POINT_COLUMNS,
    RELATIONSHIP_COLUMNS,
    VOTES,
)
from oid_async.openimages.ids import id_column
from oid_async.openimages.kinds import KINDS, Kind, KindName
from oid_async.openimages.vocabulary import FLAGS
from oid_async.store.annotation_table import IMAGE_FIELDS
from oid_async.store.disk import has_plain
from oid_async.tables.reading import TableFile, pattern_of, reading

Schema = dict[str, pl.DataType | type[pl.DataType]]

_FLAGS = tuple(FLAGS.values())
_PUBLISHED: dict[KindName, tuple[str, ...]] = {
    "bbox": (*BOX_COLUMNS, *CLICK_COLUMNS),
    "segmentation": MASK_COLUMNS,
    "relationship": RELATIONSHIP_COLUMNS,
    "label": LABEL_COLUMNS,
    "point": ("ImageID", *POINT_COLUMNS[1:]),
}
_DTYPES: Schema = {
    **dict.fromkeys((name for kind in KINDS.values() for name in (*kind.numbers, *kind.maybe)), pl.Float64),
    **dict.fromkeys(("Confidence", *CLICK_COLUMNS), pl.Float64),
    **dict.fromkeys(_FLAGS, pl.Int8),
    **dict.fromkeys(VOTES, pl.Int64),
    **dict.fromkeys(("Width", "Height"), pl.Int32),
}
# Columns and dtypes of each kind: as published, then the names of the classes and the facts about the image.
SCHEMAS: dict[KindName, Schema] = {
    kind: {name: _DTYPES.get(name, pl.String) for name in (*columns, *KINDS[kind].categories, *IMAGE_FIELDS)}
    for kind, columns in _PUBLISHED.items()
} | {
    "narrative": {
        "dataset_id": pl.String,
        "image_id": pl.String,
        "annotator_id": pl.Int64,
        "caption": pl.String,
        "timed_caption": pl.List(pl.Struct({"utterance": pl.String, "start_time": pl.Float64, "end_time": pl.Float64})),
        "traces": pl.List(pl.List(pl.Struct({"x": pl.Float64, "y": pl.Float64, "t": pl.Float64}))),
        "voice_recording": pl.String,
    }
}


@dataclass(frozen=True, slots=True)
class SavedTable:
    """The table of one kind of annotations under SAVEPATH, which need not exist.

    `name` is what messages call it: its path, unless it was fetched from elsewhere.
    """

    kind: Kind
    path: Path
    name: str = ""

    @classmethod
    def under(cls, savepath: Path, kind: KindName) -> "SavedTable":
        """Return the table of a kind."""
        return cls(KINDS[kind], savepath / KINDS[kind].file)

    @property
    def exists(self) -> bool:
        """Whether rows of this kind were saved. Raises InputError for a link in the place of their table."""
        return has_plain(self.path)

    @property
    def file(self) -> TableFile:
        """The table under the name that messages give it."""
        return TableFile(self.path, self.name or str(self.path))

    def columns(self) -> Sequence[str]:
        """Return the columns of the CSV file. Raises InputError."""
        with reading(self.file):
            return self.as_text().collect_schema().names()

    def as_text(self) -> pl.LazyFrame:
        """Scan the CSV file as published, every column as String; point labels call the id ImageID too."""
        return _as_text(self.path)

    def typed(self) -> pl.LazyFrame:
        """Scan the file with the columns of SCHEMAS, then any others as String; empty if it does not exist.

        A documented column that the file has not is null, a flag -1; so is a field that is no number where one
        belongs.
        """
        schema = SCHEMAS[self.kind.name]
        if not self.exists:
            return pl.LazyFrame(schema=schema)
        if self.kind.is_json:
            return pl.scan_ndjson(pattern_of(self.path), schema=schema)
        return _typed(self.as_text(), self.columns(), schema)


def read_content(kind: Kind, content: bytes) -> pl.DataFrame:
    """Return the rows in the content of a kind's table, as `SavedTable.typed` has those of a file."""
    schema = SCHEMAS[kind.name]
    if kind.is_json:
        return pl.read_ndjson(BytesIO(content), schema=schema) if content else pl.DataFrame(schema=schema)
    text = _as_text(content)
    return _typed(text, text.collect_schema().names(), schema).collect()


def _as_text(source: Path | bytes) -> pl.LazyFrame:
    rows = pl.scan_csv(source, infer_schema=False, glob=False)
    image_id = id_column(rows.collect_schema())
    return rows if image_id == "ImageID" else rows.rename({image_id: "ImageID"})


def _typed(rows: pl.LazyFrame, present: Sequence[str], schema: Schema) -> pl.LazyFrame:
    """Return the rows of a CSV file with the columns of a schema, then the others that are present."""
    documented = [column(name, dtype, present) for name, dtype in schema.items()]
    return rows.select(*documented, *(name for name in present if name not in schema))


def column(name: str, dtype: pl.DataType | type[pl.DataType], present: Sequence[str]) -> pl.Expr:
    """Return the expression text -> a column of its dtype: null for what is absent or no number, -1 for a flag."""
    if name in _FLAGS:
        return flag(name) if name in present else pl.lit(-1, pl.Int8).alias(name)
    if name not in present:
        return pl.lit(None, dtype).alias(name)
    if dtype == pl.String:
        return pl.col(name)
    number = pl.col(name).cast(pl.Float64, strict=False)
    return number if dtype == pl.Float64 else number.cast(dtype, strict=False)


def flag(name: str) -> pl.Expr:
    """Return the expression text -> flag, Int8: 1, 0, or -1 for unknown. A user's own table may hold true and false."""
    text = pl.col(name)
    number = text.cast(pl.Float64, strict=False).cast(pl.Int8, strict=False)
    word = pl.when(text.str.to_lowercase() == "true").then(1).when(text.str.to_lowercase() == "false").then(0)
    return word.otherwise(number).cast(pl.Int8).fill_null(-1).alias(name)
