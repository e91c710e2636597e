"""Comparing what a folder holds beside its images with the record of files.

Blocking; only reads. Files of query.json's kind, which no run could make again, are compared with the copy that was
kept of them; the journal may have grown since it was recorded.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from oid_async.dataset.audit import FINDINGS, FindingKind, examine, size_of
from oid_async.openimages.kinds import HIERARCHY_FILES, KINDS
from oid_async.store.attached_files import NAMES
from oid_async.store.disk import is_plain
from oid_async.store.folder import Folder, packed_in
from oid_async.store.image_check import md5_base64
from oid_async.store.journal import damaged_lines
from oid_async.store.kept_files import KEPT, kept_path, read_kept
from oid_async.store.written_files import (
    ATTACHED_FAILURES,
    INDEX,
    JOURNAL,
    RECORD,
    RECORD_SCHEMA,
    has_record,
    read_record,
    size_and_md5,
)

_TABLES = (
    *("manifest.parquet", "failures.csv", "bad_rows.csv", "unknown_ids.txt", "ATTRIBUTION.csv", "query.json"),
    *("bbox/label_data.csv", *(kind.file for kind in KINDS.values()), *ATTACHED_FAILURES, *HIERARCHY_FILES),
)
_BATCH_ROWS = 256
_NO_RECORD = "no record of it: --repair, or the next completed run, makes one"


def whole_inputs(folder: Folder, found: pl.DataFrame) -> tuple[bool, bool]:
    """Return whether the manifest can be read, and whether query.json can, by these findings.

    Without a manifest query.json is all there is, and is read.
    """
    wrong = set(found.filter(pl.col("kind") != "unchecked").get_column("path"))
    return folder.manifest.name not in wrong, "query.json" not in wrong or not folder.manifest.exists()


class FileAudit:
    """The files of one folder that are no images, compared with their record. With `deep` pictures are decoded."""

    def __init__(self, folder: Folder, *, deep: bool = False) -> None:
        self._folder = folder
        self._deep = deep
        record = read_record(folder)
        self._is_damaged = record is None and has_record(folder)
        self._record = pl.DataFrame(schema=RECORD_SCHEMA) if record is None else record
        # Copies are of what the record lists: of an unfinished run they may be newer.
        self._kept = {name: body for name in KEPT if (body := read_kept(folder, name)) is not None}

    @property
    def total(self) -> int:
        """How many files should exist."""
        return len(self._record)

    def check_first(self) -> pl.DataFrame:
        """Return the findings of the manifest alone, as FINDINGS: whether images can be compared with it."""
        return self.check(self._record.filter(path="manifest.parquet"))

    def batches(self) -> Iterator[pl.DataFrame]:
        """Yield the rows of the record, some at a time."""
        yield from self._record.iter_slices(_BATCH_ROWS)

    def check(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the findings among the files of a batch, as FINDINGS."""
        found = []
        for path, size, md5 in rows.iter_rows():
            finding = None if path in self._kept else self._examine(path, size, md5)
            if finding is not None:
                found.append(_row(path, *finding, size))
        return pl.DataFrame(found, schema=FINDINGS, orient="row")

    def others(self) -> pl.DataFrame:
        """Return the findings among files that have a copy, and those that have no record, as FINDINGS."""
        found = [*self._check_kept(), *self._unrecorded()]
        if self._is_damaged:
            found.append(_row(RECORD, "altered", "its MD5 differs; what it lists cannot be checked", None, None))
        return pl.DataFrame(found, schema=FINDINGS, orient="row")

    def _examine(self, path: str, size: int, md5: str) -> tuple[FindingKind, str, int | None] | None:
        place = self._folder.path / path
        if path == JOURNAL:
            return _examine_journal(place, size, md5)
        if path.startswith(INDEX) and not place.exists():
            return None  # it may be deleted at any time, and is with every new journal
        finding = examine(str(place), size, md5)
        if finding is None and self._deep and path.endswith(".png"):
            from oid_async.dataset.decoding import undecodable

            reason = undecodable(place)
            return None if reason is None else ("altered", reason, size)
        return finding

    def _check_kept(self) -> Iterator[tuple[object, ...]]:
        for name, body in self._kept.items():
            finding = examine(str(self._folder.path / name), len(body), md5_base64(body))
            if finding is not None:
                yield _row(name, *finding, len(body))
        recorded = set(self._record.filter(pl.col("path").is_in(KEPT)).get_column("path"))
        for name in KEPT:
            path = kept_path(self._folder, name)
            if name not in self._kept and os.path.lexists(path):
                yield _row(f".oid_async/kept/{name}", "altered", "its MD5 differs", size_of(path), None)
            elif name not in self._kept and name in recorded:
                yield _row(f".oid_async/kept/{name}", "missing", "no such file", None, None)

    def _unrecorded(self) -> Iterator[tuple[object, ...]]:
        """Yield what is there without a record: tables and attached files of ours, and other files beside these."""
        known = {*self._record.filter(~pl.col("path").str.contains(r"/(masks|voice)/")).get_column("path"), *self._kept}
        for name in _TABLES:  # a list that query.json does not take from here may be anybody's
            path = self._folder.path / name
            if name not in known and os.path.lexists(path):
                yield _row(name, "unchecked", _NO_RECORD, size_of(path), None, selected=True)
        journal = self._folder.path / JOURNAL
        if JOURNAL not in known and (finding := _examine_lines(journal, 0)) is not None:
            yield _row(JOURNAL, *finding, None)
        recorded = self._record.get_column("path").implode()
        for prefix, pattern in NAMES.items():
            for names in _listing(self._folder.path / prefix):
                paths = pl.Series([prefix + name for name in names], dtype=pl.String)
                for path in paths.filter(~paths.is_in(recorded)):
                    size = size_of(self._folder.path / path)
                    if pattern.fullmatch(path.removeprefix(prefix)):
                        yield _row(path, "unchecked", _NO_RECORD, size, None)
                    else:
                        yield _row(path, "extra", "no run has written it", size, None, selected=False)


def can_remake_manifest(folder: Folder) -> bool:
    """Return whether there is a manifest of images that are files, which a run of the query makes anew."""
    return is_plain(folder.manifest) and packed_in(folder) is None


def is_manifest_whole(damage: pl.DataFrame) -> bool:
    """Return whether the manifest is not among FINDINGS."""
    return "manifest.parquet" not in damage.get_column("path")


def unreadable_manifest(folder: Folder) -> pl.DataFrame:
    """Return the finding of a manifest without a record that cannot be read, as FINDINGS."""
    row = _row("manifest.parquet", "altered", "cannot be read as a manifest", size_of(folder.manifest), None)
    return pl.DataFrame([row], schema=FINDINGS, orient="row")


def _examine_journal(path: Path, size: int, md5: str) -> tuple[FindingKind, str, int | None] | None:
    """Compare the start of the journal, as long as it was, with its MD5: a run that was interrupted has added lines."""
    try:
        there, found = size_and_md5(path, size)
    except OSError:
        return examine(str(path), size, md5)  # which says what is wrong with it
    if there < size:
        return "truncated", f"{there} of {size} bytes", there
    return _examine_lines(path, size) if found == md5 else ("altered", "other bytes: the MD5 differs", size_of(path))


def _examine_lines(path: Path, start: int) -> tuple[FindingKind, str, int | None] | None:
    """Look for damaged lines behind what is recorded of the journal."""
    try:
        damaged = damaged_lines(path, start)
    except OSError:
        return None  # what no file is has no lines
    if not damaged:
        return None
    return (
        "altered",
        f"{damaged} damaged {'line, which does' if damaged == 1 else 'lines, which do'} not count",
        size_of(path),
    )


def _row(
    path: str, kind: FindingKind, detail: str, size: int | None, expected: int | None, *, selected: bool = True
) -> tuple[object, ...]:
    """Return one row of FINDINGS of a file that is no image."""
    return kind, None, path.rpartition("/")[2], detail, size, expected, selected, path


def _listing(folder: Path) -> Iterator[list[str]]:
    """Yield the names in a folder, as text that can be printed, some at a time."""
    names: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                names.append(os.fsencode(entry.name).decode("utf-8", "backslashreplace"))
                if len(names) == 1 << 16:
                    yield names
                    names = []
    except OSError:
        return
    yield names
