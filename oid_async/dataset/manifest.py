"""A manifest as a list of images to have again: which images, under which names, from where, with which bytes.

It may come from anywhere, with a folder or alone: each value that a file name, a request or a line is made of is
checked before anything is done. Blocking.
"""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from oid_async.errors import InputError
from oid_async.openimages.ids import HEX_ID, KEY, IdForm, within
from oid_async.openimages.vocabulary import SOURCES, SPLITS
from oid_async.select.names import folded_hashes
from oid_async.store.disk import has_plain
from oid_async.store.results import MANIFEST_SCHEMA, NEGATIVE, ROLE_SCHEMA, SELECTED
from oid_async.tables.reading import TableFile, parquet_schema, reading, require_parquet

STATUSES = ("ok", "failed", "pending")
_MOST_NAME_BYTES = 255
# No name of ours holds one of these, or is a folder's.
_NO_NAME = r"[\x00-\x1f\x7f/\\]|^\.{0,2}$"
_MD5 = "^[A-Za-z0-9+/]{22}==$"


@dataclass(frozen=True, slots=True)
class Manifest:
    """The rows of a manifest. `keys` are those of all images, sorted, `ids` their form.

    `rows` has KEY, MANIFEST_SCHEMA and `roles` (ROLE_SCHEMA, if the file has a column of it), in order of KEY if
    `is_sorted`.
    """

    table: TableFile
    rows: pl.LazyFrame
    ids: IdForm
    keys: pl.Series
    is_sorted: bool
    roles: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Check a manifest. Raises InputError, naming the column and the first value that cannot be one of ours."""
        table = TableFile(path, str(path))
        if not has_plain(path):
            raise InputError(f"{path}: it is not there")
        require_parquet(table)
        with reading(table):
            present = parquet_schema(path)
        for column in MANIFEST_SCHEMA:
            if column not in present:
                raise InputError(f"{path}: column {column!r} is missing; it is no manifest of this program's")
            if present[column].is_nested():
                raise InputError(f"{path}: column {column!r} holds {present[column]}; it is no manifest of ours")
        if "VerifiedAbsent" in present and not isinstance(present["VerifiedAbsent"], pl.List):
            raise InputError(f"{path}: column 'VerifiedAbsent' holds no lists; it is no manifest of ours")
        roles = ROLE_SCHEMA if any(name in present for name in ROLE_SCHEMA) else {}
        schema = MANIFEST_SCHEMA | roles
        # Of the two about negatives one alone may have been left.
        rows = pl.scan_parquet(path, glob=False).with_columns(
            (pl.col(name) if name in present else pl.lit(None)).cast(dtype).alias(name)
            for name, dtype in schema.items()
        )
        with reading(table):
            _check_values(path, rows)
            ids = _form_of(path, rows)
            rows = rows.with_columns(ids.key())
            keys = rows.select(KEY).collect(engine="streaming").get_column(KEY)
            _check_names(path, rows)
        is_sorted = keys.is_sorted()
        keys = keys if is_sorted else keys.sort()
        if keys.is_duplicated().any():
            twice = rows.filter(pl.col(KEY) == keys.filter(keys.is_duplicated())[0]).select("ImageID").collect()
            raise InputError(f"{path}: image {twice.item(0, 0)!r} stands in it twice")
        return cls(table, rows, ids, keys, is_sorted, tuple(roles))

    def span(self, start: int, keys: pl.Series) -> pl.DataFrame:
        """Return the rows of these keys, which begin at this place among all, in order."""
        part = self.rows.slice(start, len(keys)) if self.is_sorted else self.rows.filter(within(keys)).sort(KEY)
        with reading(self.table):
            return part.collect(engine="streaming")

    def count(self, column: str) -> dict[str, int]:
        """Return how many rows have each value of a column of text; null is left out."""
        with reading(self.table):
            groups = self.rows.group_by(column).len().sort(column).collect(engine="streaming")
        return dict(groups.drop_nulls(column).iter_rows())


def licenses_in(path: Path) -> list[str | None]:
    """Return the licences of the saved images of a manifest, each once, in order; None last. Raises InputError."""
    with reading(TableFile(path, str(path))):
        saved = pl.scan_parquet(path, glob=False).filter(Status="ok")
        return saved.select(pl.col("License").unique().sort(nulls_last=True)).collect().to_series().to_list()


def _check_values(path: Path, rows: pl.LazyFrame) -> None:
    """Raise InputError for the first value that no run of ours writes."""
    name, ok = pl.col("FileName"), pl.col("Status") == "ok"
    odd_name = name.str.contains(_NO_NAME) | (name.str.len_bytes() > _MOST_NAME_BYTES)
    checks = {
        "ImageID": (pl.col("ImageID").is_null(), "an image without an ImageID"),
        "Status": (~pl.col("Status").is_in(STATUSES).fill_null(False), f"is none of {', '.join(STATUSES)}"),
        "FileName": (odd_name | (ok & name.is_null()), "names no file of images/"),
        "Subset": (~pl.col("Subset").is_in(SPLITS), f"is none of {', '.join(SPLITS)}"),
        "Source": (~pl.col("Source").is_in(SOURCES), f"is none of {', '.join(SOURCES)}"),
        "Reason": (~pl.col("Reason").str.contains("^[a-z_]{1,40}$"), "is no kind of failure"),
        "Bytes": (pl.col("Bytes") < 0, "is no size"),
        "MD5": (~pl.col("MD5").str.contains(_MD5), "is no MD5 in base64"),
    }
    if "Role" in rows.collect_schema():
        checks["Role"] = ~pl.col("Role").is_in([SELECTED, NEGATIVE]), f"is neither {SELECTED} nor {NEGATIVE}"
    for column, (is_odd, what) in checks.items():
        found = rows.filter(is_odd.fill_null(False)).select(column).head(1).collect(engine="streaming")
        if len(found):
            raise InputError(f"{path}: column {column!r}: {str(found.item() or '')[:80]!r} {what}; it was changed")


def _form_of(path: Path, rows: pl.LazyFrame) -> IdForm:
    """Return the form of the ids: 16 hex digits, or a user's own; by split where two images have one id."""
    is_hexadecimal = rows.select(pl.col("ImageID").str.contains(HEX_ID).all()).collect(engine="streaming").item()
    ids = IdForm(bool(is_hexadecimal))
    counts = rows.select(ids.key()).select(pl.len(), pl.col(KEY).n_unique(), nulls=pl.col(KEY).null_count())
    total, distinct, nulls = counts.collect(engine="streaming").row(0)
    if nulls:
        odd = rows.filter(ids.key().is_null()).select("ImageID").head(1).collect(engine="streaming").item()
        raise InputError(f"{path}: column 'ImageID': {odd[:80]!r} is no id of an image; it was changed")
    return ids if total == distinct else IdForm(ids.hexadecimal, by_split=True)


def _check_names(path: Path, rows: pl.LazyFrame) -> None:
    """Raise InputError where two images have names that some file system takes for one."""
    hashes = pl.col("FileName").drop_nulls().map_batches(folded_hashes, return_dtype=pl.UInt64)
    folded = rows.select(hashes).collect(engine="streaming").to_series()
    twice = folded.filter(folded.is_duplicated())
    if len(twice):
        same = rows.select(name=pl.col("FileName").drop_nulls()).collect().get_column("name")
        names = same.filter(folded == twice[0]).head(2).to_list()
        raise InputError(f"{path}: column 'FileName': {' and '.join(map(repr, names))} are one name for two images")
