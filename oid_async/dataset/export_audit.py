"""Comparing the exports of a folder with the lists of what they wrote. Blocking; only reads."""

import os
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from oid_async.dataset.audit import FINDINGS, FindingKind, examine
from oid_async.dataset.export_list import LIST, MARKER, files_in, read_list
from oid_async.errors import InputError
from oid_async.openimages.kinds import KINDS
from oid_async.store.disk import is_plain
from oid_async.store.folder import Folder
from oid_async.store.image_check import md5_base64

# What is wrong with a file, in a word and in words, and its bytes.
Finding = tuple[FindingKind, str, int | None]
_BATCH_ROWS = 256
EXPORTS = "export"


class ExportAudit:
    """One export of a folder, below SAVEPATH/export, compared with its list."""

    def __init__(self, folder: Folder, export: Path) -> None:
        self._folder = folder
        self._export = export
        self._prefix = f"{EXPORTS}/{export.name}/"
        self._is_damaged = False
        self._place = os.path.realpath(export)
        self._inside = {"": True}
        self._files: pl.DataFrame | None = None
        try:
            listed = read_list(export)
            self._files = None if listed is None else listed[0]
        except InputError:
            self._is_damaged = True

    @property
    def total(self) -> int:
        """How many files should exist."""
        return 0 if self._files is None else len(self._files)

    def batches(self) -> Iterator[pl.DataFrame]:
        """Yield the rows of the list, some at a time."""
        yield from () if self._files is None else self._files.iter_slices(_BATCH_ROWS)

    def check(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the findings among the files of a batch, as FINDINGS."""
        found = []
        for path, size, md5 in rows.iter_rows():
            finding: Finding | None = ("missing", "its folder is a link, or below one", None)
            if self._is_inside(path.rpartition("/")[0]):
                finding = self._examine(self._behind_link(self._export / path), size, md5)
            if finding is not None:
                found.append(self._row(path, *finding, size))
        return pl.DataFrame(found, schema=FINDINGS, orient="row")

    def others(self) -> pl.DataFrame:
        """Return the findings that are not in the list: of the list itself, and files that it does not name."""
        return pl.DataFrame(list(self._others()), schema=FINDINGS, orient="row")

    def _others(self) -> Iterator[tuple[object, ...]]:
        if self._is_damaged:
            yield self._row(LIST, "altered", "the list of the export's files is damaged", None, None)
            return
        if self._files is None:
            yield self._row(MARKER, "unchecked", "version 0.1.0 wrote no list of an export's files", None, None)
            return
        names = pl.concat([self._files.get_column("path"), pl.Series([MARKER, LIST])])
        there = files_in(self._export)
        for path, size in (
            there.filter(~pl.col("path").is_in(names.implode())).select("path", "found_bytes").iter_rows()
        ):
            yield self._row(path, "extra", "the export has not written it", size, None, selected=False)

    def _is_inside(self, folder: str) -> bool:
        """Return whether a folder of the export is where it seems to be: no link on the way to it."""
        if folder not in self._inside:
            self._inside[folder] = os.path.realpath(self._export / folder) == os.path.join(self._place, folder)
        return self._inside[folder]

    def _behind_link(self, path: Path) -> Path:
        """Return the image or mask that an export holds as a link, as where a disk knows no hard links; else the path.

        A link to anything else is no file of the export's.
        """
        if not path.is_symlink():
            return path
        target = Path(os.readlink(path))
        ours = (self._folder.images.absolute(), (self._folder.path / KINDS["segmentation"].folder / "masks").absolute())
        return target if target.parent in ours else path

    @staticmethod
    def _examine(path: Path, size: int, md5: str | None) -> Finding | None:
        if md5 is not None:
            return examine(str(path), size, md5)
        # An image without an MD5 (--no-hash), or a folder: its size says what can be said.
        try:
            found = os.lstat(path).st_size
        except OSError:
            return examine(str(path), size, md5_base64(b""))
        if found == size and is_plain(path):
            return None
        kind: FindingKind = "truncated" if found < size else "altered"
        return kind, f"{found} of {size} bytes", found

    def _row(
        self,
        path: str,
        kind: FindingKind,
        detail: str,
        size: int | None,
        expected: int | None,
        *,
        selected: bool = True,
    ) -> tuple[object, ...]:
        return kind, None, path.rpartition("/")[2], detail, size, expected, selected, f"{self._prefix}{path}"


def exports_of(folder: Folder) -> list[Path]:
    """Return the exports below SAVEPATH/export, by name: what has a list or the mark of an export."""
    place = folder.path / EXPORTS
    if not place.is_dir():
        return []
    folders = (path for path in place.iterdir() if not path.is_symlink())
    return sorted(path for path in folders if any(os.path.lexists(path / name) for name in (MARKER, LIST)))
