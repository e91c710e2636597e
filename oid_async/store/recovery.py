"""Recovery after a power cut: the first run after another boot of the machine checks what was stored last.

Images are not synced one by one (`oid_async.store.disk` says why), so that for half a minute a name under images/ may
be on the disk without its bytes. As long as the machine runs, nobody can see that. After a power cut the file may be
empty, cut at a block, or end in NULs, and the lines of the journal's end may be missing.

The lock's note names the boot in which the files were last known to be complete. In another boot, before the journal is
believed, the images of the last ten minutes before the journal's end are read again and compared with their lines; what
differs is removed and so fetched again. When the last run did not come to its end, files of the same minutes that no
line knows are read too: what has the shape of a torn image is removed, anything else is left alone. Masks and
recordings: `store.attached_recovery`.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import polars as pl

from oid_async.errors import NotPlainError
from oid_async.quick_values import frozen
from oid_async.store.attached_recovery import HOLE, remove_torn
from oid_async.store.disk import is_plain
from oid_async.store.file_bytes import FileBytes
from oid_async.store.folder import Folder
from oid_async.store.folder_lock import FolderLock
from oid_async.store.image_check import ImageBytes, is_complete, md5_base64, read_header, refuse_start
from oid_async.store.journal import SavedLine, saved_last, scan_journal
from oid_async.store.written_files import ATTACHED

# Linux writes back after 30 s, other systems within a minute; the rest is for disks that are slow to take it.
_WINDOW_S = 600.0


@frozen
class RecoveryReport:
    """How many files were read, and how many of them were torn and have been removed."""

    read: int = 0
    removed: int = 0

    def note(self) -> str | None:
        """Return the message for the user, None when no file was torn."""
        if not self.removed:
            return None
        return (
            f"the machine was started anew since the last run; of the {self.read} files that landed last "
            f"{self.removed} were torn: removed, to be fetched again"
        )


def recover_after_boot(lock: FolderLock, boot: str) -> RecoveryReport:
    """Remove what a power cut has torn, if there was another boot since the last run; then note this boot.

    Call it before the journal is opened: its time of change is the end of the last run. Blocking. Raises OSError when
    the disk fails.
    """
    if lock.last_run.boot == boot:
        return RecoveryReport()
    folder = lock.folder
    read = removed = 0
    if is_plain(folder.journal):
        end = folder.journal.stat().st_mtime
        read, removed = _check_journalled(folder, end - _WINDOW_S)
        if not lock.last_run.ended:
            unknown = _remove_torn(folder.images, end - _WINDOW_S, end + _WINDOW_S)
            read, removed = read + unknown, removed + unknown
    for prefix in ATTACHED:
        attached, torn = remove_torn(folder, prefix, _WINDOW_S)
        read, removed = read + attached, removed + torn
    lock.confirm(boot)
    return RecoveryReport(read, removed)


def _check_journalled(folder: Folder, since: float) -> tuple[int, int]:
    """Compare the files of the journal's end with their lines, from the last one back to the first that is older."""
    read = removed = 0
    for block in saved_last(folder.journal):
        recent = [saved for saved in block if _changed(folder.images / saved.file_name) >= since]
        if block and not recent:
            break
        # A name may have an older line: what differs from one is compared with its latest before it is removed.
        torn = _differing(folder, _latest(folder.journal, _differing(folder, recent)))
        for saved in torn:
            (folder.images / saved.file_name).unlink(missing_ok=True)
        read, removed = read + len(recent), removed + len(torn)
    return read, removed


def _differing(folder: Folder, lines: Iterable[SavedLine]) -> list[SavedLine]:
    return [saved for saved in lines if not _is_same(folder.images / saved.file_name, saved)]


def _remove_torn(images: Path, since: float, until: float) -> int:
    """Remove the files of those minutes that have the shape of a torn image, of any writer; return how many."""
    removed = 0
    with os.scandir(images) as entries:
        for entry in entries:
            if entry.is_file(follow_symlinks=False) and since <= entry.stat(follow_symlinks=False).st_mtime <= until:
                with FileBytes(entry.path) as body:
                    torn = is_torn(body)
                if torn:
                    Path(entry.path).unlink(missing_ok=True)
                    removed += 1
    return removed


def is_torn(body: ImageBytes) -> bool:
    """Return whether bytes are what a power cut leaves of a JPEG: none, NULs, or a beginning without its end.

    >>> is_torn(b""), is_torn(bytes(9)), is_torn(bytes.fromhex("ffd8ffe0")), is_torn(b"a text of somebody's")
    (True, True, True, False)
    """
    start = body[:16]
    if not start.strip(b"\0"):
        return True
    return refuse_start(start) is None and not is_complete(body, read_header(body))


def _is_same(path: Path, saved: SavedLine) -> bool:
    """Return whether a file is as its line describes it. One that is missing, or none of ours, is not removed."""
    try:
        with FileBytes(path) as body:
            if len(body) != saved.bytes:
                return False
            if saved.md5:
                return md5_base64(body) == saved.md5
            # Stored with --no-hash: blocks are written back in any order, so an end does not prove what is before it.
            # A picture may hold such a block, hardly ever: then a request is what it costs.
            return not is_torn(body) and not body.count(HOLE)
    except (FileNotFoundError, NotPlainError):
        return True


def _latest(journal: Path, differing: Iterable[SavedLine]) -> Iterator[SavedLine]:
    """Yield the latest line of each of these files."""
    names = {saved.file_name for saved in differing}
    if not names:
        return
    lines = scan_journal(journal, pl.col("Status") == "ok", pl.col("FileName").is_in(names))
    latest = lines.sort("line").unique("FileName", keep="last").select("FileName", "Bytes", "MD5").collect()
    for name, size, md5 in latest.iter_rows():
        yield SavedLine(name, size, md5)


def _changed(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except (OSError, ValueError):
        return 0.0
