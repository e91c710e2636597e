"""Comparing the images of a saved folder with its manifest: missing, truncated, altered, extra. Blocking; only reads.

A file that the manifest lists is checked by size and MD5, without an MD5 by size and the JPEG's start and end. A file
that only the journal lists, of an earlier query, is checked by its journal line. Any other file is extra: not ours.

Memory holds eight bytes a file, a batch of rows, and the findings as columns.
"""

import os
import stat
from base64 import b64encode
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

import polars as pl

from oid_async.dataset.decoding import undecodable
from oid_async.dataset.saved import SavedDataset
from oid_async.errors import InputError
from oid_async.store.disk import is_plain, md5_of, odd_kind, plain_file
from oid_async.store.file_bytes import FileBytes
from oid_async.store.folder import Folder
from oid_async.store.image_check import has_size, is_complete, read_header, refuse_start
from oid_async.store.journal import scan_journal
from oid_async.tables.reading import TableFile, is_text, reading

FindingKind = Literal["missing", "truncated", "altered", "extra", "unchecked"]

# One row per finding. `image_id` is null for an extra file and for what is no image, `bytes` where there is no file,
# `expected_bytes` where it is not known; `selected` is true for the images of the manifest, false for those of earlier
# queries; `path` is relative to SAVEPATH, parts joined by "/".
FINDINGS = {
    "kind": pl.String,
    "image_id": pl.String,
    "file_name": pl.String,
    "detail": pl.String,
    "bytes": pl.Int64,
    "expected_bytes": pl.Int64,
    "selected": pl.Boolean,
    "path": pl.String,
}
IMAGES = "images/"
# Below damaged/: files that are no images, "!" for "/" in their paths.
OTHERS = "files"
_EXPECTED = {"ImageID": pl.String, "FileName": pl.String, "Bytes": pl.Int64, "MD5": pl.String}
_SLICE_ROWS = 8192
# A thread checks about so many bytes, at most so many files, before it looks whether the verification was cancelled.
_BATCH_BYTES = 8 << 20
_BATCH_ROWS = 256
_NAMES_AT_ONCE = 65536


class Audit:
    """The images that one folder should have and those that it has, compared; with `deep` they are decoded, too.

    Needs a dataset opened to verify; without one, where the manifest is damaged, the journal says what was saved.
    """

    def __init__(self, folder: Folder, dataset: SavedDataset | None, *, deep: bool = False) -> None:
        self._folder = folder
        self._deep = deep
        self._images = f"{folder.images}{os.sep}"
        self._manifest = TableFile(folder.manifest, str(folder.manifest)) if dataset is None else dataset.manifest
        self._rows = _journalled(folder) if dataset is None else dataset.images
        self._is_selected = dataset is not None
        self._saved = self._rows.filter(Status="ok")
        self._planned = dataset.made.planned if dataset is not None and dataset.made is not None else None
        with reading(self._manifest):
            names = self._saved.select(pl.col("FileName").hash()).collect(engine="streaming").to_series()
        self.selected = len(names)
        self._others, self._extra, self._not_text = self._unlisted(names)
        # Files, selected or not, without a known MD5: they were saved with --no-hash.
        with reading(self._manifest):
            selected = self._saved.select(pl.col("MD5").null_count()).collect(engine="streaming").item()
        self.unhashed = int(selected) + self._others.get_column("MD5").null_count()

    @property
    def unselected(self) -> int:
        """How many files of earlier queries there are."""
        return len(self._others)

    @property
    def unselected_files(self) -> pl.DataFrame:
        """ImageID, FileName, Bytes, MD5 of the files of earlier queries, as their lines in the journal say."""
        return self._others

    def batches(self) -> Iterator[tuple[pl.DataFrame, bool]]:
        """Yield ImageID, FileName, Bytes and MD5 of some files to check, and whether they are selected."""
        with reading(self._manifest):
            total = self._rows.select(pl.len()).collect().item()
            for start in range(0, total, _SLICE_ROWS):
                part = self._rows.slice(start, _SLICE_ROWS).filter(Status="ok").select(list(_EXPECTED)).collect()
                yield from ((batch, self._is_selected) for batch in part.iter_slices(_batch_rows(part)))
        yield from ((batch, False) for batch in self._others.iter_slices(_batch_rows(self._others)))

    def check(self, rows: pl.DataFrame, selected: bool) -> pl.DataFrame:
        """Return the findings among the files of a batch, as FINDINGS."""
        found = []
        for image_id, name, size, md5 in rows.iter_rows():
            finding = examine(f"{self._images}{name}", size, md5) or self._look_into(f"{self._images}{name}", size)
            if finding is not None:
                kind, detail, there = finding
                found.append((kind, image_id, name, detail, there, size, selected, f"{IMAGES}{name}"))
        return pl.DataFrame(found, schema=FINDINGS, orient="row")

    def _look_into(self, path: str, size: int | None) -> tuple[FindingKind, str, int | None] | None:
        """Return the finding of an image that is what was saved, and is no picture: version 0.1.0 saved such."""
        with suppress(OSError), FileBytes(path) as body:
            if (reason := no_picture(body)) is not None:
                return "altered", reason, size
        reason = undecodable(Path(path)) if self._deep else None
        return None if reason is None else ("altered", reason, size)

    def extras(self) -> pl.DataFrame:
        """Return the files that neither the manifest nor the journal lists, as FINDINGS."""
        what, not_text = "its name is not UTF-8", map(_as_text, self._not_text)
        odd = [("extra", None, name, what, None, None, False, f"{IMAGES}{name}") for name in not_text]
        frames = [pl.DataFrame(odd, schema=FINDINGS, orient="row")]
        for names in self._extra.iter_slices(_SLICE_ROWS):
            found = []
            for (name,) in names.iter_rows():
                path = f"{self._images}{name}"
                detail = "a folder" if os.path.isdir(path) else "neither the manifest nor the journal knows it"
                found.append(("extra", None, name, detail, size_of(path), None, False, f"{IMAGES}{name}"))
            frames.append(pl.DataFrame(found, schema=FINDINGS, orient="row"))
        return pl.concat(frames)

    def _unlisted(self, listed: pl.Series) -> tuple[pl.DataFrame, pl.DataFrame, list[str]]:
        """Return the files that are not among these hashes of names.

        In three parts: ImageID, FileName, Bytes, MD5 of those that the journal lists; FileName of the others; and of
        these the names that are not UTF-8.
        """
        others, odd = [], []
        for names in _listing(self._folder.images):
            plain = [name for name in names if is_text(name)]
            odd += [name for name in names if not is_text(name)]
            frame = pl.DataFrame({"FileName": plain}, schema={"FileName": pl.String})
            others.append(frame.filter(~pl.col("FileName").hash().is_in(listed.implode())))
        if not others:
            return pl.DataFrame(schema=_EXPECTED), pl.DataFrame(schema={"FileName": pl.String}), odd
        names_there = pl.concat(others)
        known = (
            scan_journal(
                self._folder.journal,
                pl.col("Status") == "ok",
                pl.col("FileName").is_in(names_there.to_series().implode()),
            )
            .select("line", *_EXPECTED)
            .collect()
            .sort("line")
            .unique("FileName", keep="last")
            .select(pl.col(name).cast(dtype) for name, dtype in _EXPECTED.items())
            .sort("ImageID", "FileName")
        )
        unknown = names_there.join(known, on="FileName", how="anti")
        if self._planned is not None:
            # Stored by a run that was killed before it could journal them: the next run looks at them.
            unknown = unknown.filter(~pl.col("FileName").hash().is_in(self._planned.implode()))
        return known, unknown.sort("FileName"), odd


def _journalled(folder: Folder) -> pl.LazyFrame:
    """Return the images that the journal says are saved, as their manifest would."""
    lines = scan_journal(folder.journal).sort("line").unique("ImageID", keep="last", maintain_order=True)
    saved = lines.filter(Status="ok").sort("line").unique("FileName", keep="last", maintain_order=True)
    columns = [pl.col(name).cast(dtype) for name, dtype in _EXPECTED.items()]
    return saved.select("Status", *columns).sort("ImageID", "FileName").collect(engine="streaming").lazy()


def examine(path: str, size: int | None, md5: str | None) -> tuple[FindingKind, str, int | None] | None:
    """Compare one file with its size and base64 MD5; return None or (kind, detail, its bytes).

    Without an MD5 the JPEG's start and end must be there. A file that cannot be read counts as altered.
    """
    try:
        found = os.lstat(path)
        if not stat.S_ISREG(found.st_mode):
            return "altered", odd_kind(path) or "not a file", None
        if size is not None and found.st_size < size:
            return "truncated", f"{found.st_size} of {size} bytes", found.st_size
        if size is not None and found.st_size > size:
            return "altered", f"{found.st_size} bytes instead of {size}", found.st_size
        with plain_file(path) as file:
            if md5 is None:
                damage = _check_jpeg(file.read(), size)
                return None if damage is None else (*damage, found.st_size)
            digest = md5_of(file).digest()
    except (FileNotFoundError, NotADirectoryError):
        return "missing", "no such file", None
    except OSError as error:
        return "altered", f"cannot be read ({error.strerror})", None
    if b64encode(digest).decode() != md5:
        return "altered", "other bytes: the MD5 differs", found.st_size
    return None


def no_picture(body: FileBytes | bytes) -> str | None:
    """Return why a JPEG holds no picture, by its header; None if it may hold one."""
    header = read_header(body)
    if not has_size(header.width, header.height):
        return "no readable size"
    return None if header.is_readable else "no scan: there is no picture in it"


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
            pass  # most of them are missing
    return count


def set_files_aside(folder: Folder, paths: Iterable[str]) -> int:
    """Move files that are no images (relative to SAVEPATH) into damaged/ and return how many. Raises OSError."""
    count = 0
    for path in paths:
        target = damaged_folder(folder) / OTHERS / path.replace("/", "!")
        target.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError, NotADirectoryError):
            os.rename(folder.path / path, target)
            count += 1
    return count


def drop_replaced_files(folder: Folder) -> list[str]:
    """Remove those of the files set aside whose name exists again; return the others. Raises OSError."""
    others = damaged_folder(folder) / OTHERS
    if not others.is_dir():
        return []
    kept = []
    for name in sorted(os.listdir(others)):
        if not os.path.lexists(folder.path / name.replace("!", "/")) or not _removed(others / name):
            kept.append(name.replace("!", "/"))
    if not kept:
        others.rmdir()
    return kept


def drop_replaced(folder: Folder, replaced: Iterable[str], wrong: Container[str]) -> list[str]:
    """Remove the damaged files that are `replaced`, or whose name exists again and is not `wrong`; return the others.

    A folder that was in an image's place is only removed when it is empty. Raises OSError.
    """
    damaged, names, kept = damaged_folder(folder), set(replaced), []
    if not damaged.is_dir():
        return []
    for name in sorted(os.listdir(damaged)):
        if name == OTHERS:
            continue
        file_name, path = name.rstrip("~"), damaged / name
        is_back = file_name in names or (file_name not in wrong and is_plain(folder.images / file_name))
        if not is_back or not _removed(path):
            kept.append(name)
    with suppress(OSError):
        damaged.rmdir()  # unless something is kept
    return kept


def not_repaired(dataset: SavedDataset, found: pl.DataFrame) -> pl.DataFrame:
    """Return, as FINDINGS, the selected images that an earlier repair could not get, without those found already."""
    folder = dataset.folder
    damaged = damaged_folder(folder)
    names = sorted({name.rstrip("~") for name in os.listdir(damaged)} - {OTHERS}) if damaged.is_dir() else []
    names = [name for name in names if not is_plain(folder.images / name)]
    if not names:
        return pl.DataFrame(schema=FINDINGS)
    known = scan_journal(folder.journal, pl.col("Status") == "ok", pl.col("FileName").is_in(names))
    known = known.sort("line").unique("FileName", keep="last").select("ImageID", "FileName")
    failed = dataset.images.filter(Status="failed").select("ImageID")
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
            path=pl.concat_str(pl.lit(IMAGES), "FileName"),
        )
        .sort("image_id")
        .collect(engine="streaming")
        .select(list(FINDINGS))
        .join(found, on="path", how="anti", maintain_order="left")
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


def _check_jpeg(body: bytes, size: int | None) -> tuple[FindingKind, str] | None:
    if refuse_start(body[:16]) is not None:
        return "altered", "does not start as a JPEG does"
    if not is_complete(body, read_header(body)):
        return ("truncated" if size is None else "altered"), "the end of the JPEG is missing"
    return None


def _batch_rows(files: pl.DataFrame) -> int:
    mean = files.select(pl.col("Bytes").mean().fill_null(0)).item()
    return max(1, min(_BATCH_ROWS, int(_BATCH_BYTES / (mean + 1))))


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


def size_of(path: str | Path) -> int | None:
    """Return the size of a file, or of a link itself; None where there is nothing."""
    try:
        return os.lstat(path).st_size
    except OSError:
        return None
