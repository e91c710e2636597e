"""The files of a SAVEPATH held against its manifest: what is missing, truncated, altered, extra. Blocking; only reads.

What the manifest lists is checked by size and MD5, without an MD5 by size and the JPEG's start and end. Files that only
the journal knows, of earlier queries, are checked by what the journal says. The rest is extra: not put there by us.

Memory holds eight bytes a file, a batch of rows, and the findings as columns.
"""

import fcntl
import hashlib
import os
import stat
from base64 import b64encode
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import polars as pl

from oid_async.errors import InputError, LockedError
from oid_async.store.folder import Folder
from oid_async.store.image_check import is_complete, read_header, refuse_start
from oid_async.store.journal import scan_journal
from oid_async.store.shards_note import packed_in
from oid_async.tables.reading import TableFile, reading
from oid_async.tables.text import is_text

FindingKind = Literal["missing", "truncated", "altered", "extra"]

# One row a finding. `image_id` is null for an extra file, `bytes` where there is no file, `expected_bytes` where it is
# not known; `selected` tells the images of the manifest from those of earlier queries.
FINDINGS = {
    "kind": pl.String,
    "image_id": pl.String,
    "file_name": pl.String,
    "detail": pl.String,
    "bytes": pl.Int64,
    "expected_bytes": pl.Int64,
    "selected": pl.Boolean,
}
_EXPECTED = {"ImageID": pl.String, "FileName": pl.String, "Bytes": pl.Int64, "MD5": pl.String}
_SLICE_ROWS = 8192
# What a thread checks between two looks at whether it is still wanted: about so many bytes, at most so many files.
_BATCH_BYTES = 8 << 20
_BATCH_ROWS = 256
_NAMES_AT_ONCE = 65536


class Audit:
    """What one folder should hold, and what it does. Raises InputError when there is no manifest to go by."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._images = f"{folder.images}{os.sep}"
        self._manifest = TableFile(folder.manifest, str(folder.manifest))
        names = self._saved_names()
        self.selected = len(names)
        self._rest, self._extra, self._odd = self._beside(names)
        self.unhashed = self._without_md5()

    @property
    def unselected(self) -> int:
        """How many files of earlier queries there are."""
        return len(self._rest)

    def batches(self) -> Iterator[tuple[pl.DataFrame, bool]]:
        """Yield what is to be checked, ImageID, FileName, Bytes and MD5 of some files; and whether it is selected."""
        with reading(self._manifest):
            rows = pl.scan_parquet(self._folder.manifest)
            total = rows.select(pl.len()).collect().item()
            for start in range(0, total, _SLICE_ROWS):
                part = rows.slice(start, _SLICE_ROWS).filter(pl.col("Status") == "ok").select(_columns()).collect()
                yield from ((batch, True) for batch in part.iter_slices(_batch_rows(part)))
        yield from ((batch, False) for batch in self._rest.iter_slices(_batch_rows(self._rest)))

    def check(self, rows: pl.DataFrame, selected: bool) -> pl.DataFrame:
        """Return what is wrong with the files of a batch, as FINDINGS."""
        found = []
        for image_id, name, size, md5 in rows.iter_rows():
            finding = examine(f"{self._images}{name}", size, md5)
            if finding is not None:
                kind, detail, there = finding
                found.append((kind, image_id, name, detail, there, size, selected))
        return pl.DataFrame(found, schema=FINDINGS, orient="row")

    def extras(self) -> pl.DataFrame:
        """Return the files that neither the manifest nor the journal knows, as FINDINGS."""
        odd = [("extra", None, _as_text(name), "its name is not UTF-8", None, None, False) for name in self._odd]
        frames = [pl.DataFrame(odd, schema=FINDINGS, orient="row")]
        for names in self._extra.iter_slices(_SLICE_ROWS):
            found = []
            for (name,) in names.iter_rows():
                path = f"{self._images}{name}"
                what = "a folder" if os.path.isdir(path) else "neither the manifest nor the journal knows it"
                found.append(("extra", None, name, what, _size(path), None, False))
            frames.append(pl.DataFrame(found, schema=FINDINGS, orient="row"))
        return pl.concat(frames)

    def _without_md5(self) -> int:
        """Return of how many files, selected or not, no MD5 is known: they landed with --no-hash."""
        with reading(self._manifest):
            saved = pl.scan_parquet(self._folder.manifest).filter(pl.col("Status") == "ok")
            selected = saved.select(pl.col("MD5").null_count()).collect(engine="streaming").item()
        return int(selected) + self._rest.get_column("MD5").null_count()

    def _saved_names(self) -> pl.Series:
        """Return the hashes of the names that the manifest lists as saved."""
        path = self._folder.manifest
        if (shards := packed_in(self._folder)) is not None:
            raise InputError(f"{self._folder.path}: its images are in the shards of {shards}, no files to verify")
        with reading(self._manifest):
            if not path.is_file():
                raise InputError(f"{path}: there is no manifest to verify against; let a download run to its end first")
            there = pl.read_parquet_schema(path)
            for column in ("Status", *_EXPECTED):
                if column not in there:
                    raise InputError(f"{path}: column {column!r} is missing; it is no manifest of this program's")
            saved = pl.scan_parquet(path).filter(pl.col("Status") == "ok").select(_columns())
            outside = pl.col("FileName").is_null() | pl.col("FileName").str.contains(r"[/\x00]|^\.{0,2}$")
            odd = saved.filter(outside).select(pl.col("FileName").fill_null("")).head(1).collect(engine="streaming")
            if len(odd):
                raise InputError(f"{path}: FileName {odd.item()!r} names no file of images/; the manifest was changed")
            return saved.select(pl.col("FileName").hash()).collect(engine="streaming").to_series()

    def _beside(self, saved: pl.Series) -> tuple[pl.DataFrame, pl.DataFrame, list[str]]:
        """Return what the journal says of the files that the manifest does not list; the names that it does not know,
        and of these the ones that are no text."""
        others, odd = [], []
        for names in _listing(self._folder.images):
            plain = [name for name in names if is_text(name)]
            odd += [name for name in names if not is_text(name)]
            frame = pl.DataFrame({"FileName": plain}, schema={"FileName": pl.String})
            others.append(frame.filter(~pl.col("FileName").hash().is_in(saved.implode())))
        if not others:
            return pl.DataFrame(schema=_EXPECTED), pl.DataFrame(schema={"FileName": pl.String}), odd
        names_there = pl.concat(others)
        known = (
            scan_journal(self._folder.journal)
            .filter(pl.col("Status") == "ok", pl.col("FileName").is_in(names_there.to_series().implode()))
            .select("line", *_EXPECTED)
            .collect(engine="streaming")
            .sort("line")
            .unique("FileName", keep="last")
            .select(_columns())
            .sort("ImageID", "FileName")
        )
        return known, names_there.join(known, on="FileName", how="anti").sort("FileName"), odd


def examine(path: str, size: int | None, md5: str | None) -> tuple[FindingKind, str, int | None] | None:
    """Hold one file against its size and base64 MD5; return None or (kind, what is wrong in words, its bytes).

    Without an MD5 the JPEG's start and end must be there. What cannot be read counts as altered.
    """
    try:
        there = os.stat(path)
        if not stat.S_ISREG(there.st_mode):
            return "altered", "a folder" if stat.S_ISDIR(there.st_mode) else "not a file", None
        if size is not None and there.st_size < size:
            return "truncated", f"{there.st_size} of {size} bytes", there.st_size
        if size is not None and there.st_size > size:
            return "altered", f"{there.st_size} bytes instead of {size}", there.st_size
        with open(path, "rb") as file:
            if md5 is None:
                wrong = _judge(file.read(), size)
                return None if wrong is None else (*wrong, there.st_size)
            digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).digest()
    except (FileNotFoundError, NotADirectoryError):
        # A link to nothing holds the name all the same: a new image would not land there.
        return ("altered", "a link to nothing", None) if os.path.islink(path) else ("missing", "no such file", None)
    except OSError as error:
        return "altered", f"cannot be read ({error.strerror})", None
    if b64encode(digest).decode() != md5:
        return "altered", "other bytes: the MD5 differs", there.st_size
    return None


@contextmanager
def looking_at(folder: Folder) -> Iterator[None]:
    """Keep runs out while the files are looked at. Nothing is written, so a folder that is read-only will do.

    Raises LockedError when a run is on.
    """
    try:
        lock = os.open(folder.state / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        # No run was here since .oid_async was deleted, or it cannot be read: then there is nothing to hold on to.
        yield
        return
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            note = os.pread(lock, 400, 0).decode("utf-8", "replace").split("\n", 1)[0].strip()
            owner = note or "another process"
            raise LockedError(f"{folder.path}: another run is on in this folder ({owner})") from None
        except OSError:
            pass  # a file system that knows no locks
        yield
    finally:
        os.close(lock)


def set_aside(folder: Folder, names: Iterable[str]) -> int:
    """Move files out of images/ into damaged/ and return how many; missing ones are no error. Raises OSError."""
    count = 0
    folder.state.mkdir(exist_ok=True)
    damaged = damaged_folder(folder)
    damaged.mkdir(exist_ok=True)
    for name in names:
        target = damaged / name
        while os.path.lexists(target):
            target = target.with_name(f"{target.name}~")
        try:
            os.rename(folder.images / name, target)
            count += 1
        except (FileNotFoundError, NotADirectoryError):
            pass  # missing is what most of them are
    return count


def drop_replaced(folder: Folder, replaced: Iterable[str], wrong: Container[str]) -> list[str]:
    """Remove the damaged files that are `replaced`, or whose name is there again and not `wrong`; return those kept.

    A folder that stood in an image's place is only removed when it is empty. Raises OSError.
    """
    damaged, gone, kept = damaged_folder(folder), set(replaced), []
    if not damaged.is_dir():
        return []
    for name in sorted(os.listdir(damaged)):
        own, path = name.rstrip("~"), damaged / name
        is_back = own in gone or (own not in wrong and (folder.images / own).is_file())
        if not is_back or not _removed(path):
            kept.append(name)
    if not kept:
        damaged.rmdir()
    return kept


def left_over(folder: Folder) -> pl.DataFrame:
    """Return, as FINDINGS, what an earlier repair could not get: selected images whose damaged file it has kept."""
    damaged = damaged_folder(folder)
    names = sorted({name.rstrip("~") for name in os.listdir(damaged)}) if damaged.is_dir() else []
    names = [name for name in names if not (folder.images / name).is_file()]
    if not names:
        return pl.DataFrame(schema=FINDINGS)
    known = scan_journal(folder.journal).filter(pl.col("Status") == "ok", pl.col("FileName").is_in(names))
    known = known.sort("line").unique("FileName", keep="last").select("ImageID", "FileName")
    failed = pl.scan_parquet(folder.manifest).filter(pl.col("Status") == "failed").select("ImageID")
    return (
        known.join(failed, on="ImageID", how="semi")
        .select(
            kind=pl.lit("missing"),
            image_id="ImageID",
            file_name="FileName",
            detail=pl.lit(f"damaged, and not had again; what was there is in {damaged}"),
            bytes=pl.lit(None, pl.Int64),
            expected_bytes=pl.lit(None, pl.Int64),
            selected=pl.lit(True),
        )
        .sort("image_id")
        .collect(engine="streaming")
        .select(list(FINDINGS))
    )


def _removed(path: Path) -> bool:
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    elif not any(path.iterdir()):
        path.rmdir()
    else:
        return False
    return True


def damaged_folder(folder: Folder) -> Path:
    """Return where damaged files wait for their replacement."""
    return folder.state / "damaged"


def _judge(body: bytes, size: int | None) -> tuple[FindingKind, str] | None:
    if refuse_start(body[:16]) is not None:
        return "altered", "does not start as a JPEG does"
    if not is_complete(body, read_header(body)):
        return ("truncated" if size is None else "altered"), "the end of the JPEG is missing"
    return None


def _batch_rows(files: pl.DataFrame) -> int:
    mean = files.select(pl.col("Bytes").mean().fill_null(0)).item()
    return max(1, min(_BATCH_ROWS, int(_BATCH_BYTES / (mean + 1))))


def _columns() -> list[pl.Expr]:
    return [pl.col(name).cast(dtype) for name, dtype in _EXPECTED.items()]


def _listing(folder: Path) -> Iterator[list[str]]:
    """Yield the names in a folder, some at a time, in no order."""
    names: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                names.append(entry.name)
                if len(names) == _NAMES_AT_ONCE:
                    yield names
                    names = []
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from error
    yield names


def _as_text(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _size(path: str) -> int | None:
    try:
        return os.lstat(path).st_size
    except OSError:
        return None
