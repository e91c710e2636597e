"""The journal: the state of each image, one line appended after it has changed.

journal.tsv, UTF-8, fields separated by tabs; the latest line of an image is valid:

    image_id  status  source  file_name  bytes  md5  width  height  reason  detail  attempts  url  subset  asked  LF

`status` is `ok` (the file was renamed before the line was written) or `failed`; a line of status `forget` cancels the
remembered failures before it that a limit or the address guard has made, and all of version 0.1.0. A line without its
LF was torn by a crash and does not count: it is cut off before anything is appended. A batch is one write to a file
opened for appending. It is synced when it is closed: `oid_async.store.disk` says why that is enough.

`asked` says what the failures of a line are about (see `oid_async.store.failure_memory`). Version 0.1.0 wrote neither
it nor `subset`: its lines end with `url`.

Anything else that a crash or a power cut leaves in it (a tail of NULs, half a line with the next one behind it, bytes
of another file) costs the lines that hold it, never those around them: a line counts only if all of its fields can be
read.
"""

import os
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from oid_async.errors import NotPlainError, storage_error, storage_errors
from oid_async.report import Outcome
from oid_async.store.atomic import own_bytes
from oid_async.store.disk import open_plain, plain_file, write_all

_NUMBERS = ("Bytes", "Width", "Height", "Attempts")
SCHEMA: dict[str, type[pl.DataType]] = {
    **dict.fromkeys(("ImageID", "Status", "Source", "FileName", "Bytes", "MD5", "Width", "Height"), pl.String),
    **dict.fromkeys(("Reason", "Detail", "Attempts", "URL", "Subset", "Asked"), pl.String),
    **dict.fromkeys(_NUMBERS, pl.Int64),
}
FORGET = "forget"
_FIELDS_OF_0_1_0 = 12
_WIDTHS = (len(SCHEMA), _FIELDS_OF_0_1_0)
_URL = 11
# No line of ours holds a control character but the tab: split at this one a line is one text.
_IN_NO_LINE = "\x1e"
_BLOCK_BYTES = 1 << 18
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f]")
_CONTROL_BYTES = bytes(byte for byte in range(32) if byte not in b"\t\n")
_NO_CONTROLS = dict.fromkeys(range(32), " ")


class Journal:
    """Appends to one journal file, from any thread; open it only under the folder's lock."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        # The end of the complete lines, when a batch was torn and could not be cut off: it must be, before the next.
        self._torn_at: int | None = None
        with storage_errors(path.parent):
            own_bytes(path)
            self._file = open_plain(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            try:
                # In this order: where there are no locks, another run's lines may come in between.
                size = os.fstat(self._file).st_size
                if (end := complete_bytes(path)) < size:
                    os.ftruncate(self._file, end)
            except OSError:
                os.close(self._file)
                raise

    def append(self, outcomes: Iterable[Outcome]) -> None:
        """Write one line for each outcome, all of them or none. Raises StorageError."""
        self._write("".join(map(_line, outcomes)))

    def forget_failures(self) -> None:
        """Cancel the failures remembered so far: their sources are requested again."""
        self._write("\t".join(("", FORGET, *[""] * (len(SCHEMA) - 2))) + "\n")

    def _write(self, lines: str) -> None:
        with self._lock:
            try:
                if self._torn_at is not None:
                    os.ftruncate(self._file, self._torn_at)
                start = self._torn_at = os.fstat(self._file).st_size
                try:
                    write_all(self._file, lines.encode("utf-8", "replace"))
                except OSError:
                    with suppress(OSError):
                        os.ftruncate(self._file, start)
                        self._torn_at = None
                    raise
                self._torn_at = None
            except OSError as error:
                raise storage_error(error, self._path.parent) from error

    def close(self) -> None:
        """Sync the lines to the disk and close the file. Raises StorageError; the file is closed all the same."""
        try:
            with storage_errors(self._path.parent):
                os.fsync(self._file)
        finally:
            os.close(self._file)


def scan_journal(path: Path) -> pl.LazyFrame:
    """Scan the complete lines of a journal: SCHEMA plus `line` (u32, ascending). Empty if there is no journal.

    Lines are read as text first and split after that: as a table, one damaged line would fail all of them.
    """
    size = complete_bytes(path)
    if not size:
        return pl.LazyFrame(schema={"line": pl.UInt32, **SCHEMA})
    frame = pl.scan_csv(
        path,
        separator=_IN_NO_LINE,
        quote_char=None,
        has_header=False,
        schema={"text": pl.String},
        row_index_name="line",
        n_rows=None if size == path.stat().st_size else _count_lines(path, size),
        truncate_ragged_lines=True,
        extra_columns="ignore",
        encoding="utf8-lossy",
        glob=False,
    )
    return _valid_lines(_fields(frame))


def parse_lines(block: bytes) -> pl.DataFrame:
    """Return the lines of a block of a journal as scan_journal does, `line` from 0. The last must be complete.

    A block whose lines all have their fields and no odd character is read as a table, three times as fast (measured).
    """
    count, tabs = block.count(b"\n"), block.count(b"\t")
    width = next((width for width in _WIDTHS if tabs == count * (width - 1)), None)
    if width is not None and len(block.translate(None, _CONTROL_BYTES)) == len(block):
        # A line with more fields is an error; with the right sum, none has fewer if none has more.
        with suppress(pl.exceptions.PolarsError):
            table = pl.read_csv(
                block,
                separator="\t",
                quote_char=None,
                has_header=False,
                schema=dict.fromkeys(list(SCHEMA)[:width], pl.String),
                row_index_name="line",
                glob=False,
            )
            if len(table) == count:
                missing = [pl.lit(None, pl.String).alias(name) for name in list(SCHEMA)[width:]]
                return _valid_lines(table.lazy().with_columns(missing)).collect()
    texts = block.decode("utf-8", "replace").split("\n")[:-1]
    frame = pl.LazyFrame({"text": texts}, schema={"text": pl.String}).with_row_index("line")
    return _valid_lines(_fields(frame)).collect()


def _fields(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Split `text` into the journal's columns, still as text, and keep `line`; damaged lines are left out."""
    text = pl.col("text")
    fields = text.str.split_exact("\t", len(SCHEMA) - 1).struct.rename_fields(list(SCHEMA))
    return (
        frame.filter(
            text.str.count_matches("\t", literal=True).is_in([width - 1 for width in _WIDTHS]),
            ~text.str.contains(_CONTROLS.pattern),
        )
        .select("line", fields.alias("fields"))
        .unnest("fields")
        .with_columns(pl.when(pl.col(name) != "").then(name).alias(name) for name in SCHEMA)
    )


def _valid_lines(fields: pl.LazyFrame) -> pl.LazyFrame:
    """Keep the valid lines, their numbers as numbers."""
    return fields.filter(
        _is_valid(),
        *(pl.col(name).is_null() | pl.col(name).cast(pl.Int64, strict=False).is_not_null() for name in _NUMBERS),
    ).with_columns(pl.col(name).cast(pl.Int64, strict=False) for name in _NUMBERS)


@dataclass(frozen=True, slots=True)
class SavedLine:
    """A file that was saved by a request, as its line describes it."""

    file_name: str
    bytes: int
    md5: str | None


def saved_last(path: Path) -> Iterator[list[SavedLine]]:
    """Yield the downloaded files (adopted ones are left out), the last line first, a block of lines at a time."""
    end = complete_bytes(path)
    if not end:
        return
    with plain_file(path) as file:
        rest = b""
        while end > 0:
            start = max(0, end - _BLOCK_BYTES)
            file.seek(start)
            lines = (file.read(end - start) + rest).split(b"\n")
            rest = lines.pop(0) if start else b""
            yield [saved for line in reversed(lines) if (saved := _saved(line)) is not None]
            end = start


def _saved(line: bytes) -> SavedLine | None:
    fields = line.decode("utf-8", "replace").split("\t")
    if len(fields) not in _WIDTHS or fields[1] != "ok" or fields[_URL] == "-" or not fields[4].isdecimal():
        return None
    if not fields[3] or "/" in fields[3] or fields[3] in (".", ".."):  # not a file name: a damaged line
        return None
    return SavedLine(fields[3], int(fields[4]), fields[5] or None)


def has_failed(path: Path, kind: str) -> bool:
    """Return whether any line of a journal records a failure of this kind, at any source."""
    lines = scan_journal(path).filter(Status="failed")
    return bool(lines.select(pl.col("Detail").str.contains(f":{kind}", literal=True).any()).collect().item())


def complete_bytes(path: Path) -> int:
    """Return how many bytes of a journal are complete lines; 0 if it is missing, or no plain file."""
    try:
        with plain_file(path) as file:
            at = file.seek(0, os.SEEK_END)
            while at > 0:
                start = max(0, at - 65536)
                file.seek(start)
                newline = file.read(at - start).rfind(b"\n")
                if newline >= 0:
                    return start + newline + 1
                at = start
    except (FileNotFoundError, NotADirectoryError, NotPlainError):
        pass
    return 0


def _count_lines(path: Path, size: int) -> int:
    """Count the lines in the first bytes of a journal."""
    lines = 0
    if not size:
        return lines
    with plain_file(path) as file:
        while size > 0 and (block := file.read(min(size, 1 << 20))):
            lines += block.count(b"\n")
            size -= len(block)
    return lines


def _is_valid() -> pl.Expr:
    status = pl.col("Status")
    named = pl.col("ImageID").is_not_null() & pl.col("URL").is_not_null()
    # No file name leads out of images/: such a line is damaged.
    saved = (status == "ok") & named & ~pl.col("FileName").fill_null("").str.contains(r"/|^\.{0,2}$")
    return saved | ((status == "failed") & named) | (status == FORGET)


def _line(outcome: Outcome) -> str:
    status = "failed" if outcome.status == "failed" else "ok"
    fields = (
        outcome.image_id,
        status,
        outcome.source,
        outcome.file_name,
        outcome.bytes,
        outcome.md5,
        outcome.width,
        outcome.height,
        outcome.reason,
        outcome.detail,
        outcome.attempts,
        outcome.url or "-",
        outcome.subset,
        outcome.asked,
    )
    line = "\t".join(["" if field is None else str(field) for field in fields])
    # An id or URL of a table may hold any character; control characters become spaces.
    if line.count("\t") != len(fields) - 1 or _CONTROLS.search(line):
        line = "\t".join(["" if field is None else str(field).translate(_NO_CONTROLS) for field in fields])
    return line + "\n"
