"""The journal: what is known of each image, one line appended once it is true.

journal.tsv, UTF-8, one line a fact, fields separated by tabs; the latest line of an image holds:

    image_id  status  source  file_name  bytes  md5  width  height  reason  detail  attempts  url  LF

`status` is `ok` (the file was renamed before the line was written) or `failed`; a line of status `forget` says that
remembered failures before it speak of another place (the mirror has changed). A line without its LF was torn by a crash
and does not count: it is cut off before anything is appended. A batch is one write to a file opened for appending.
"""

import os
import threading
from collections.abc import Iterable
from pathlib import Path

import polars as pl

from oid_async.errors import storage_error
from oid_async.report import Outcome

SCHEMA: dict[str, type[pl.DataType]] = {
    "ImageID": pl.String,
    "Status": pl.String,
    "Source": pl.String,
    "FileName": pl.String,
    "Bytes": pl.Int64,
    "MD5": pl.String,
    "Width": pl.Int64,
    "Height": pl.Int64,
    "Reason": pl.String,
    "Detail": pl.String,
    "Attempts": pl.Int64,
    "URL": pl.String,
}
FORGET = "forget"
_NO_CONTROLS = dict.fromkeys(range(32), " ")


class Journal:
    """Appends to one journal file, from any thread; open it only under the folder's lock."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise storage_error(error, path.parent) from error
        size = whole_bytes(path)
        if size < os.fstat(self._file).st_size:
            os.ftruncate(self._file, size)

    def append(self, outcomes: Iterable[Outcome]) -> None:
        """Write one line for each outcome, all of them or none. Raises StorageError."""
        self._write("".join(map(_line, outcomes)))

    def forget_failures(self) -> None:
        """Let no failure remembered so far keep a source from being asked."""
        self._write("\t".join(("", FORGET, *[""] * (len(SCHEMA) - 2))) + "\n")

    def _write(self, lines: str) -> None:
        left = memoryview(lines.encode("utf-8", "replace"))
        with self._lock:
            start = os.fstat(self._file).st_size
            try:
                while left:
                    left = left[os.write(self._file, left) :]
            except OSError as error:
                os.ftruncate(self._file, start)
                raise storage_error(error, self._path.parent) from error

    def close(self) -> None:
        """Close the file; what was appended is there already."""
        os.close(self._file)


def scan_journal(path: Path) -> pl.LazyFrame:
    """Scan the whole lines of a journal: the columns above plus `line` (u32, ascending). Empty if there is none."""
    size = whole_bytes(path)
    if not size:
        return pl.LazyFrame(schema={"line": pl.UInt32, **SCHEMA})
    frame = pl.scan_csv(
        path,
        separator="\t",
        quote_char=None,
        has_header=False,
        schema=SCHEMA,
        row_index_name="line",
        n_rows=None if size == path.stat().st_size else _count_lines(path, size),
        truncate_ragged_lines=True,
        encoding="utf8-lossy",
    )
    return frame.filter(pl.col("Status").is_in(["ok", "failed", FORGET]) & _is_whole())


def next_line(path: Path) -> int:
    """Return the number (`line` of scan_journal) that the next line appended to a journal will have, or a lower one
    that no line before it reaches."""
    last = scan_journal(path).select(pl.col("line").max()).collect().item()
    return 0 if last is None else int(last) + 1


def whole_bytes(path: Path) -> int:
    """Return how many bytes of a journal are whole lines; 0 if it is not there."""
    try:
        with path.open("rb") as file:
            at = file.seek(0, os.SEEK_END)
            while at > 0:
                start = max(0, at - 65536)
                file.seek(start)
                newline = file.read(at - start).rfind(b"\n")
                if newline >= 0:
                    return start + newline + 1
                at = start
    except (FileNotFoundError, NotADirectoryError):
        pass
    return 0


def _count_lines(path: Path, size: int) -> int:
    """Count the lines in the first bytes of a journal whose last line is torn, as a dry run may meet it."""
    lines = 0
    with path.open("rb") as file:
        while size > 0 and (block := file.read(min(size, 1 << 20))):
            lines += block.count(b"\n")
            size -= len(block)
    return lines


def _is_whole() -> pl.Expr:
    return pl.col("URL").is_not_null() | (pl.col("Status") == FORGET)


def _line(outcome: Outcome) -> str:
    status = "failed" if outcome.status == "failed" else "ok"
    fields = (
        outcome.image_id,
        status,
        outcome.source,
        outcome.path.name if outcome.path else None,
        outcome.bytes,
        outcome.md5,
        outcome.width,
        outcome.height,
        outcome.reason,
        outcome.detail,
        outcome.attempts,
        outcome.url or "-",
    )
    line = "\t".join(["" if field is None else str(field) for field in fields])
    # An id or URL of a table's may hold anything; a line that does not have its eleven tabs alone is made so.
    if not line.isprintable() and (line.splitlines() != [line] or line.count("\t") != len(fields) - 1):
        line = "\t".join(["" if field is None else str(field).translate(_NO_CONTROLS) for field in fields])
    return line + "\n"
