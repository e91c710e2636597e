"""The folder of an export: where it may be, which files in it the export wrote, how a new export takes its place.

    OUT/                      the export: whole under its name, or not there
    .OUT.oid_async/           next to it while an export is written; one export at a time has its lock
        export/               becomes OUT when it is complete
        before/               the earlier export while the two change places

An earlier export is replaced if all that is in it was written by the export and is what it was: that says its list
(`dataset.export_list`), for version 0.1.0 the names that its format writes. What a trainer or a person put there, or
changed, is never removed.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import polars as pl

from oid_async.dataset.export_list import LIST, MARKER, files_in, kept_marker, read_list
from oid_async.errors import InputError, LockedError, UsageError
from oid_async.formats.registry import WRITERS
from oid_async.openimages.kinds import KINDS
from oid_async.store.disk import read_plain
from oid_async.store.file_bytes import FileBytes
from oid_async.store.folder import Folder
from oid_async.store.lock import FileLock
from oid_async.system.file_names import refuse_long_path

_OURS = (MARKER, LIST)
# What a download writes into SAVEPATH: no export may have one of these names.
_OF_DOWNLOAD = frozenset(
    (
        *("images", ".oid_async", "manifest.parquet", "query.json", "ATTRIBUTION.csv", "failures.csv", "bad_rows.csv"),
        *(kind.folder for kind in KINDS.values()),
    )
)


def check_place(out: Path, folder: Folder) -> None:
    """Raise UsageError for a folder that a download, or a person, keeps other things in."""
    if out.is_symlink() and out.absolute().parent == folder.path.absolute() / "export":
        raise UsageError(f"{out}: it is a link; name the folder where it leads with --out, or remove it")
    place, savepath, home = out.resolve(), folder.path.resolve(), Path("~").expanduser().resolve()
    if place == savepath or place in savepath.parents:
        raise UsageError(f"--out {out}: the download itself is in {folder.path}; name another folder")
    if savepath in place.parents and place.relative_to(savepath).parts[0] in _OF_DOWNLOAD:
        raise UsageError(f"--out {out}: the download keeps its own files there; name another folder")
    if place == home or place in home.parents:
        raise UsageError(f"--out {out}: the home folder is no place for an export; name a folder in it")


class ExportFolder:
    """The folder of one export of a download."""

    def __init__(self, out: Path, folder: Folder) -> None:
        self.out = out
        self._folder = folder
        # A link to a folder stays what it is: the export goes where it leads.
        self._path = out.resolve() if out.is_dir() else out.absolute()
        self._stage = self._path.parent / f".{self._path.name}.oid_async"
        self._before = self._stage / "before"

    def check(self) -> None:
        """Raise UsageError if the folder may not be taken: what is there is not, or not only, an earlier export."""
        check_place(self.out, self._folder)
        refuse_long_path(self._path)
        if not os.path.lexists(self._path):
            return
        if not self._path.is_dir():
            raise UsageError(f"--out {self.out}: it is there and is no folder; nothing is overwritten: name another")
        self._own_files(self._path)

    @contextmanager
    def stage(self) -> Iterator[Path]:
        """Yield the locked folder in which the export is written; it stays if the export can be continued."""
        self._stage.mkdir(parents=True, exist_ok=True)
        lock = FileLock.take(self._stage)
        if lock is None:
            raise LockedError(f"{self.out}: another export into it is on; wait for its end, or stop it")
        with lock:
            self._end_what_was_cut_short()
            try:
                yield self._stage
            except BaseException:
                shutil.rmtree(self._stage / "scratch", ignore_errors=True)
                if not (self._stage / "export" / "progress.json").exists():
                    shutil.rmtree(self._stage, ignore_errors=True)
                raise
            shutil.rmtree(self._stage)

    def take(self, export: Path) -> Path | None:
        """Rename the complete export to its name and remove an earlier one. Raises UsageError as `check` does.

        Returns where the earlier one was put if a file came into it in this very moment, else None.
        """
        self.check()
        if os.path.lexists(self._path):
            self._path.rename(self._before)
        export.rename(self._path)
        return self._remove_before()

    def _end_what_was_cut_short(self) -> None:
        """Give an earlier export its name back if the next one did not get it; else remove it."""
        if self._before.exists() and not os.path.lexists(self._path):
            self._before.rename(self._path)
        self._remove_before()

    def _remove_before(self) -> Path | None:
        """Remove the files of an earlier export, its list last; keep all of it if there is a file of somebody else."""
        if not self._before.exists():
            return None
        try:
            paths = self._own_files(self._before)
        except UsageError:
            return self._kept(self._before)
        for path in (*paths, *_OURS):
            with suppress(FileNotFoundError):
                os.unlink(self._before / path)
        try:
            _remove_folders(self._before)
        except OSError:
            return self._kept(self._before)
        return None

    def _kept(self, before: Path) -> Path:
        number, kept = 1, self._path.with_name(f"{self._path.name}.kept")
        while os.path.lexists(kept):
            number, kept = number + 1, self._path.with_name(f"{self._path.name}.kept-{number + 1}")
        before.rename(kept)
        return kept

    def _own_files(self, place: Path) -> pl.Series:
        """Return the paths of the files of an export, its marker and list apart. Raises UsageError if others are there.

        An empty folder has none.
        """
        found = files_in(place)
        # The list of an export whose marker was lost holds it, too; the list of a download's shards has none.
        marked = bool(found.get_column("path").eq(MARKER).any()) or kept_marker(place) is not None
        found = found.filter(~pl.col("path").is_in(_OURS))
        if not marked and len(found):
            raise UsageError(
                f"--out {self.out}: it is there and is no export of ours ({found.item(0, 'path')} is in it); nothing "
                "is overwritten: name another"
            )
        try:
            listed = read_list(place)
        except InputError as error:
            raise UsageError(f"{error}; nothing is overwritten: move the folder away, or name another") from error
        if not len(found):
            pass
        elif listed is None:
            self._check_names(place, found)
        else:
            self._check_listed(place, found, *listed)
        return found.get_column("path")

    def _check_listed(self, place: Path, found: pl.DataFrame, listed: pl.DataFrame, written: int) -> None:
        """Raise UsageError unless every file is in the list and is what it was when the list was written.

        A file that has not changed since needs no reading, nor one that is still a hard link of a saved image (a link
        that another export made or removed counts as a change). A symbolic link holds nothing.
        """
        files = found.join(listed, on="path", how="left", maintain_order="left")
        self._refuse_foreign(files.filter(pl.col("bytes").is_null()))
        files = files.filter(~pl.col("is_link"))
        altered = files.filter(~pl.col("is_file") | (pl.col("bytes") != pl.col("found_bytes")))
        late = files.filter(pl.col("is_file"), pl.col("bytes") == pl.col("found_bytes"), pl.col("changed") > written)
        late = late.filter(~pl.col("inode").is_in(_inodes(self._folder.images, place).implode())).drop_nulls("md5")
        changed = altered.get_column("path").to_list()
        for path, md5 in late.select("path", "md5").iter_rows():
            with FileBytes(place / path) as file:
                if file.md5_base64() != md5:
                    changed.append(path)
        if changed:
            raise UsageError(
                f"{self.out}: {min(changed)} was changed since the export wrote it{_and_more(changed)}; nothing is "
                "overwritten: move it away, or name another --out"
            )

    def _check_names(self, place: Path, found: pl.DataFrame) -> None:
        """Raise UsageError unless every file has a name that the format writes, of an export without a list."""
        try:
            marker: dict[str, Any] = json.loads(read_plain(place / MARKER).decode())
            writer, images = WRITERS[marker["format"]], int(marker["images"])
            split = f"(?:{'|'.join(map(re.escape, marker['splits'])) or 'train'})"
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"--out {self.out}: its {MARKER} cannot be read, so nothing says what the export wrote; move the "
                "folder away, or name another"
            ) from error
        path, is_ours = pl.col("path"), pl.lit(False)
        for pattern in writer.names:
            is_ours |= path.str.contains(f"^{pattern.replace('{split}', split)}$")
        crowded = None
        for pattern in writer.names_by_image:
            of_images = path.str.contains(f"^{pattern.replace('{split}', split)}$")
            is_ours |= of_images
            if (count := found.filter(of_images).height) > images:
                crowded = f"{count} files like {found.filter(of_images).item(0, 'path')}, and the export wrote {images}"
        self._refuse_foreign(found.filter(~is_ours))
        if crowded is not None:
            raise UsageError(f"--out {self.out}: it holds {crowded}; nothing is overwritten: name another")

    def _refuse_foreign(self, files: pl.DataFrame) -> None:
        if not len(files):
            return
        paths = files.get_column("path").to_list()
        advice = "move it away, or name another --out"
        if paths[0].endswith(".cache"):
            advice = "a trainer's cache, which it makes anew: remove it and run again"
        raise UsageError(f"{self.out}: {paths[0]} is no file that the export wrote{_and_more(paths)}; {advice}")


def _and_more(paths: list[str]) -> str:
    return f", nor are {len(paths) - 1} more" if len(paths) > 1 else ""


def _inodes(images: Path, place: Path) -> pl.Series:
    """Return the inode numbers of the saved images, none if they are on another disk than an export."""
    numbers: list[int] = []
    with suppress(OSError):
        if os.stat(images).st_dev == os.stat(place).st_dev:
            with os.scandir(images) as entries:
                numbers = [entry.inode() for entry in entries]
    return pl.Series(numbers, dtype=pl.UInt64)


def _remove_folders(folder: Path) -> None:
    """Remove a folder in which there are empty folders alone. Raises OSError if a file is there."""
    for path, _, _ in os.walk(folder, topdown=False):
        os.rmdir(path)
