"""The columns of the tables by which images are filtered and sorted, as small Parquet files beside the folder.

A folder, made by `gallery.index_build` and never changed:

    bbox-00001.parquet ...   row (u32, the image's place in the manifest), class (u32), n (u8: 1, or 0 for the second
                             side of a relationship), flags (u16: bit k the flag is 1, bit k + 8 it is 0), area (f64,
                             share of the image). Other kinds: row, class, n; a label of Confidence 0 has no class
    narrative-00001.parquet ...    row, n, caption (lower case)
    images-00001.parquet ...       a row an image of the manifest, in its order: the number of rows of each kind, and
                                   `area`, that of its largest box
    classes.parquet          label, class_name, images, and for each kind a column KIND_rows. Its place is the class
    index.json               {"schema", "images", "has_twins", "kinds": {kind: {"parts", "rows", "is_in_order"}},
                             "errors": {kind: line}}; written last
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from oid_async.dataset.saved import SavedDataset
from oid_async.errors import InputError
from oid_async.gallery.manifest_rows import ROW
from oid_async.openimages.classes import Classes
from oid_async.openimages.kinds import KINDS, KindName
from oid_async.openimages.vocabulary import FLAGS
from oid_async.store.atomic import read_json
from oid_async.tables.reading import TableFile, reading

SCHEMA = 2
NOTE = "index.json"
CLASSES = "classes.parquet"
IMAGES = "images"
# Behind the bits of the flags that are 1 come those of the flags that are 0; a flag that is not known has neither.
NO_BITS = 8
FLAG_COLUMNS = tuple(FLAGS.values())


def identity(dataset: SavedDataset, manifest: tuple[int, int, int]) -> str:
    """Return the name of the index of a manifest and the tables beside it: others have another. Raises OSError."""
    _, size, changed_ns = manifest
    found = [(dataset.manifest.path.name, size, changed_ns)]
    for table in map(dataset.table, dataset.kinds):
        status = table.path.stat()
        found.append((table.path.name, status.st_size, status.st_mtime_ns))
    return hashlib.sha256(repr((SCHEMA, found)).encode()).hexdigest()[:16]


class Index:
    """Reads a finished index. Raises InputError if it is not there, or damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        note = read_json(path / NOTE)
        match note:
            case {"images": int(images), "has_twins": bool(twins), "kinds": dict(kinds), "errors": dict(errors)}:
                pass
            case _:
                raise InputError(f"{path}: it is no index of a gallery")
        self.images = images
        # Whether an ImageID is in two splits.
        self.has_twins = twins
        self.errors: dict[str, str] = errors
        self._kinds: dict[str, Any] = {kind: kinds[kind] for kind in KINDS if kind in kinds}
        self.file = TableFile(path, str(path))
        with reading(self.file):
            self.classes = pl.read_parquet(path / CLASSES, glob=False)

    @property
    def kinds(self) -> tuple[KindName, ...]:
        """The kinds whose tables it holds."""
        return tuple(kind for kind in KINDS if kind in self._kinds)

    @property
    def is_whole(self) -> bool:
        """Whether its files are still there, and Parquet files to their end."""
        try:
            for rows in (self.counts(), *map(self.rows, self.kinds)):
                rows.select(pl.len()).collect(engine="streaming")
        except (OSError, pl.exceptions.PolarsError):
            return False
        return True

    def is_in_order(self, kind: KindName) -> bool:
        """Return whether the rows of a saved table are in order of ImageID."""
        return bool(self._kinds[kind]["is_in_order"])

    def rows(self, kind: KindName) -> pl.LazyFrame:
        """Scan the rows of a kind."""
        return pl.scan_parquet(parts(self.path, kind, self._kinds[kind]["parts"]), glob=False)

    def counts(self) -> pl.LazyFrame:
        """Scan the numbers of rows of each image, in order of the manifest."""
        if not self.images:
            return pl.LazyFrame(schema={**dict.fromkeys(KINDS, pl.UInt32), "area": pl.Float64})
        return pl.scan_parquet(parts(self.path, IMAGES, -(-self.images // IMAGES_A_PART)), glob=False)

    def counts_of(self, rows: pl.Series) -> pl.DataFrame:
        """Return the numbers of rows of some images, with ROW, in the order of the manifest."""
        found = []
        for number in sorted(set((rows // IMAGES_A_PART).to_list())):
            part = pl.scan_parquet(part_path(self.path, IMAGES, number + 1), glob=False)
            numbered = part.with_row_index(ROW, offset=number * IMAGES_A_PART)
            found.append(numbered.filter(pl.col(ROW).is_in(rows.implode())))
        return pl.concat(found).collect(engine="streaming") if found else pl.DataFrame(schema={ROW: pl.UInt32})

    @cached_property
    def names(self) -> Classes:
        """The classes by name."""
        return Classes(dict(self.classes.select("label", "class_name").iter_rows()))

    def numbers_of(self, labels: Iterable[str]) -> list[int]:
        """Return the numbers of some labels."""
        wanted = set(labels)
        return [number for number, label in enumerate(self.classes.get_column("label")) if label in wanted]


# So many images are counted at a time.
IMAGES_A_PART = 1 << 17


def parts(path: Path, name: str, count: int) -> list[Path]:
    """Return the Parquet files of one table of an index."""
    return [part_path(path, name, number) for number in range(1, count + 1)]


def part_path(path: Path, name: str, number: int) -> Path:
    """Return one Parquet file of an index."""
    return path / f"{name}-{number:05}.parquet"


def write_note(path: Path, note: dict[str, Any]) -> None:
    """Write the file that ends an index."""
    (path / NOTE).write_text(json.dumps({"schema": SCHEMA, **note}, indent=1) + "\n", encoding="utf-8")


def flag_bits(flags: Sequence[tuple[str, int]]) -> int:
    """Return the bits that a box must have for these answers.

    >>> flag_bits([("IsTruncated", 1), ("IsOccluded", 0)])
    258
    """
    return sum(1 << (FLAG_COLUMNS.index(column) + (0 if yes else NO_BITS)) for column, yes in flags)
