"""The tables of a folder copied into another one: byte for byte where all of its images are there, under their names.

Rows of images that are not there any more are left out, and an image that had to take another name has it in its rows.
Blocking.
"""

import shutil
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import cast

import polars as pl

from oid_async.openimages.ids import KEY
from oid_async.openimages.kinds import HIERARCHY_FILES, KINDS
from oid_async.store.atomic import replacing
from oid_async.store.disk import has_plain, plain_file
from oid_async.store.folder import Folder
from oid_async.store.results import KEPT, NEGATIVE
from oid_async.store.written_files import NARRATIVES
from oid_async.tables.reading import TableFile, reading, scan_lines

_OTHERS = ("bbox/label_data.csv", "bad_rows.csv", "unknown_ids.txt", *HIERARCHY_FILES)
_CHANGES = {"ImageID": pl.String, "Saved": pl.String, "Now": pl.String}


class CopiedTables:
    """The tables of `folder`, for a run whose plan has these files (`store.results.KEPT`): see `TableCopies`.

    `own`: the run replaces them. Then a table that loses rows is kept whole in `.oid_async/rows/` until all of its
    images are there again, or another run makes its own tables.
    """

    def __init__(self, folder: Folder | None, plan: Sequence[Path], *, own: bool) -> None:
        self._folder = folder
        self._plan = plan
        self._own = own
        self._changes: pl.DataFrame | None = None
        # How many images are there that `folder` had not, so that its tables have no rows of them.
        self.added = 0

    @cached_property
    def names(self) -> list[str]:
        """The tables that there are. Raises InputError for a link in the place of one."""
        folder, tables = self._folder, [kind.file for kind in KINDS.values()]
        return [name for name in (*tables, *_OTHERS) if folder is not None and has_plain(folder.path / name)]

    def write(self, name: str, path: Path, parts: Sequence[Path]) -> None:
        """Write the rows of the images that are there. Raises InputError, OSError, PolarsError."""
        if self._changes is None:
            self._changes = pl.concat([pl.DataFrame(schema=_CHANGES), *map(self._changed, self._plan, parts)])
        source = self._source(name)
        if name not in _OTHERS and self._own and len(self._changes):
            source = self._keep(name, source)
        if name in _OTHERS or not len(self._changes):
            with plain_file(source) as table, path.open("wb") as copy:
                shutil.copyfileobj(table, copy, 1 << 20)
        elif name == NARRATIVES:
            self._write_lines(source, path, parts)
        else:
            self._write_rows(source, path)

    @cached_property
    def _has_kept(self) -> bool:
        return self._own and self._folder is not None and self._folder.rows.is_dir()

    def drop_kept(self) -> None:
        """Remove the tables that were kept, once no image is missing any more. For after the run's own are there."""
        if self._own and self._folder is not None and self._changes is not None and not len(self._changes):
            shutil.rmtree(self._folder.rows, ignore_errors=True)

    def _source(self, name: str) -> Path:
        """Return the table to copy from: the one that was kept whole, if there is one."""
        assert self._folder is not None
        kept = self._folder.rows / name.replace("/", "!")
        return kept if self._own and has_plain(kept) else self._folder.path / name

    def _keep(self, name: str, source: Path) -> Path:
        """Keep a table whole, unless it is kept already; return where."""
        assert self._folder is not None
        kept = self._folder.rows / name.replace("/", "!")
        if source != kept:
            kept.parent.mkdir(exist_ok=True)
            with replacing(kept, durable=True) as part, plain_file(source) as table, part.open("wb") as copy:
                shutil.copyfileobj(table, copy, 1 << 20)
        return kept

    def _write_rows(self, source: Path, path: Path) -> None:
        """Copy a table of rows: every one has the FileName of its image."""
        assert self._changes is not None
        lost = self._changes.filter(pl.col("Now").is_null()).get_column("Saved")
        renamed = self._changes.drop_nulls("Now")
        names = cast("Mapping[str, str]", dict(renamed.select("Saved", "Now").iter_rows()))
        name = pl.col("FileName")
        with reading(TableFile(source, str(source)), into=path):
            rows = pl.scan_csv(source, infer_schema=False, glob=False)
            rows = rows.filter(~name.is_in(lost.implode()).fill_null(False))
            rows.with_columns(name.replace(names)).sink_csv(path)

    def _write_lines(self, source: Path, path: Path, parts: Sequence[Path]) -> None:
        """Copy narratives, which name their images by their ids."""
        assert self._changes is not None
        lost = self._changes.filter(pl.col("Now").is_null()).get_column("ImageID")
        there = pl.scan_parquet(list(parts), glob=False).filter(Status="ok").select("ImageID")
        twins = there.filter(pl.col("ImageID").is_in(lost.implode())).collect(engine="streaming").to_series()
        lost = lost.filter(~lost.is_in(twins.implode()))
        table = TableFile(source, str(source))
        with reading(table, into=path):
            lines = scan_lines(table).filter(~pl.col("image_id").is_in(lost.implode()).fill_null(False))
            lines.select("line").sink_csv(path, include_header=False, quote_style="never")

    def _changed(self, plan: Path, part: Path) -> pl.DataFrame:
        """Return the images of a span that were there and are not, or have another name now; count the others."""
        before = pl.read_parquet(plan, columns=[KEY, *KEPT[:2]], glob=False)
        now = pl.read_parquet(part, glob=False)
        now = now.select(KEY, "ImageID", "Status", "FileName", *(name for name in ("Role",) if name in now.columns))
        both = before.join(now, on=KEY, how="left", maintain_order="left")
        name = pl.when(Status="ok").then("FileName")
        # What was there once has its rows in the tables that were kept.
        had_rows = pl.col("WasOk") | (pl.lit(self._has_kept) & pl.col("SavedName").is_not_null())
        has_rows = pl.col("Role") != NEGATIVE if "Role" in now.columns else pl.lit(True)
        self.added += len(both.filter(~had_rows, has_rows.fill_null(True), Status="ok"))
        changed = both.filter(had_rows, name.ne_missing(pl.col("SavedName")))
        return changed.select("ImageID", Saved="SavedName", Now=name)
