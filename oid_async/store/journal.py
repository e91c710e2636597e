"""The journal: the state of each image, one line appended after it has changed.

journal.tsv, UTF-8, fields separated by tabs; the latest line of an image is valid:

    image_id status source file_name bytes md5 width height reason detail attempts url subset asked sum LF

`status` is `ok` (the file was renamed before the line was written) or `failed`; a line of status `forget` cancels the
remembered failures before it that a limit or the address guard has made, and all of version 0.1.0. A line without its
LF was torn by a crash and does not count: it is cut off before anything is appended. A batch is one write to a file
opened for appending. It is synced when it is closed: `oid_async.store.disk` says why that is enough.

An `ok` line without source, whose url is `-`, is of a file that was found: where its bytes came from is not known.
`asked` says what the failures of a line are about (see `oid_async.store.failure_memory`). `sum` is the line's checksum
(`oid_async.store.journal_line`): a line that fails it does not count. Version 0.1.0 wrote none of `subset`, `asked`,
`sum`: its lines end with `url`, and later ones with `asked`. Lines without checksum count only before the first line
that has one.

Anything else that a crash or a power cut leaves in it (a tail of NULs, half a line with the next one behind it, bytes
of another file) costs the lines that hold it, never those around them.
"""

import os
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

import polars as pl

from oid_async.errors import NotPlainError, storage_error, storage_errors
from oid_async.quick_values import frozen, value
from oid_async.report import Outcome
from oid_async.store.atomic import own_bytes
from oid_async.store.disk import open_plain, plain_file, write_all
from oid_async.store.intent_log import IntentLog
from oid_async.store.journal_line import (
    FIELDS,
    OLD_FIELDS,
    is_checked,
    is_old,
    line_of,
    line_of_fields,
    without_damaged,
)
from oid_async.system.syncing import sync

_NUMBERS = ("Bytes", "Width", "Height", "Attempts")
SCHEMA: dict[str, type[pl.DataType]] = {
    **dict.fromkeys(("ImageID", "Status", "Source", "FileName", "Bytes", "MD5", "Width", "Height"), pl.String),
    **dict.fromkeys(("Reason", "Detail", "Attempts", "URL", "Subset", "Asked"), pl.String),
    **dict.fromkeys(_NUMBERS, pl.Int64),
}
FORGET = "forget"
_TEXTS = (*SCHEMA, "Sum")
_URL = 11
# Fields of a line that may count: with its checksum, or of an earlier version.
_WIDTHS = (FIELDS, *OLD_FIELDS)
_BLOCK_BYTES = 1 << 18
_SCANNED_BYTES = 4 << 20
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f]")
_CONTROL_BYTES = bytes(byte for byte in range(32) if byte not in b"\t\n")
_LAST_FIELD = re.compile(rb"\t[0-9a-f]{8}\n")


class Journal:
    """Appends to one journal file, from any thread; open it only under the folder's lock."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._intents = IntentLog(path.parent / "intents", f"{os.getpid()}-{token_hex(4)}")
        # The lines that were written there and not appended yet; by identity, for an Outcome's hash takes too long.
        self._intended: dict[int, tuple[Outcome, bytes]] = {}
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

    def intend(self, outcome: Outcome) -> None:
        """Write down what is about to be renamed and appended, for the run after a crash. Raises OSError."""
        self._intended[id(outcome)] = outcome, self._intents.add(outcome)

    def append(self, outcomes: Iterable[Outcome]) -> None:
        """Write one line for each outcome, all of them or none. Raises StorageError."""
        intended = self._intended
        known = [(outcome, intended.get(id(outcome))) for outcome in outcomes]
        self._write(b"".join([line_of(outcome) if entry is None else entry[1] for outcome, entry in known]))
        for outcome, _ in known:
            intended.pop(id(outcome), None)

    def append_lines(self, lines: bytes) -> None:
        """Write lines that `line_of` has made in another process, all of them or none. Raises StorageError."""
        self._write(lines)

    def forget_failures(self) -> None:
        """Cancel the failures remembered so far: their sources are requested again."""
        self._write(line_of_fields("", FORGET, *[""] * (FIELDS - 3)))

    def _write(self, lines: bytes) -> None:
        if not lines:
            return
        with self._lock:
            try:
                if self._torn_at is not None:
                    os.ftruncate(self._file, self._torn_at)
                start = self._torn_at = os.fstat(self._file).st_size
                try:
                    write_all(self._file, lines)
                except OSError:
                    with suppress(OSError):
                        os.ftruncate(self._file, start)
                        self._torn_at = None
                    raise
                self._torn_at = None
            except OSError as error:
                raise storage_error(error, self._path.parent) from error

    def owns(self, path: Path) -> bool:
        """Return whether a file is of this journal's own intent log."""
        return self._intents.owns(path)

    def sync(self) -> None:
        """Wait until the lines are on the disk. Raises StorageError."""
        with storage_errors(self._path.parent):
            sync(self._file)

    def close(self) -> None:
        """Sync the lines to the disk and close the file. Raises StorageError; the file is closed all the same."""
        try:
            self.sync()
        finally:
            os.close(self._file)
            # What has its name and no line, on a full disk for example, the next run takes over.
            left = (outcome.file for outcome, _ in self._intended.values() if outcome.file is not None)
            self._intents.close(keep=any(map(os.path.lexists, left)))


@frozen
class Block:
    """Some complete lines of a journal: the first `unchecked` bytes are lines of versions that wrote no checksum.

    `is_full`: it will not change when lines are appended.
    """

    content: bytes
    unchecked: int
    is_full: bool


def read_blocks(path: Path, block_bytes: int = _SCANNED_BYTES) -> Iterator[Block]:
    """Yield the complete lines of a journal in blocks of so many bytes, each up to the end of a line."""
    left = complete_bytes(path)
    if not left:
        return
    may_be_old = True
    with plain_file(path) as file:
        while left:
            content = file.read(min(left, block_bytes))
            is_full = len(content) == block_bytes
            if not content.endswith(b"\n"):
                content += file.readline(left - len(content))
            left -= len(content)
            unchecked = _unchecked_bytes(content) if may_be_old else 0
            may_be_old = unchecked == len(content)
            yield Block(content, unchecked, is_full)


def _unchecked_bytes(content: bytes) -> int:
    """Return how many bytes come before the first line with a checksum."""
    for found in _LAST_FIELD.finditer(content):
        start = content.rfind(b"\n", 0, found.start()) + 1
        if is_checked(content[start : found.end() - 1]):
            return start
    return len(content)


def scan_journal(path: Path, *where: pl.Expr) -> pl.LazyFrame:
    """Return the lines of a journal that count: SCHEMA plus `line` (u32, ascending), those for which `where` is true.

    They are held in memory, a block at a time until they have passed. Empty if there is no journal.
    """
    frames, first = [pl.DataFrame(schema={"line": pl.UInt32, **SCHEMA})], 0
    for block in read_blocks(path):
        frames.append(parse_lines(block).with_columns(pl.col("line") + first).filter(*where))
        first += block.content.count(b"\n")
    return pl.concat(frames).lazy()


def parse_lines(block: Block) -> pl.DataFrame:
    """Return the lines of a block that count, SCHEMA plus `line` (u32), from 0.

    A block whose lines all have their fields and no odd character is read as a table, three times as fast (measured).
    """
    content = block.content
    lines = content.split(b"\n")
    del lines[-1]
    is_damaged = without_damaged(lines, content.count(b"\n", 0, block.unchecked))
    if not is_damaged and (table := _as_table(content, len(lines))) is not None:
        return _valid_lines(table.lazy()).collect()
    # As a table, one damaged line would fail all of them.
    texts = [line.decode("utf-8", "replace") for line in lines]
    frame = pl.LazyFrame({"text": texts}, schema={"text": pl.String}).with_row_index("line")
    return _valid_lines(_fields(frame)).collect()


def _as_table(content: bytes, count: int) -> pl.DataFrame | None:
    """Return `line` and _TEXTS of so many lines, None if they do not all have the same fields."""
    tabs = content.count(b"\t")
    width = next((width for width in _WIDTHS if tabs == count * (width - 1)), None)
    if width is None or len(content.translate(None, _CONTROL_BYTES)) != len(content):
        return None
    # A line with more fields is an error; with the right sum, none has fewer if none has more.
    with suppress(pl.exceptions.PolarsError):
        table = pl.read_csv(
            content,
            separator="\t",
            quote_char=None,
            has_header=False,
            schema=dict.fromkeys(_TEXTS[:width], pl.String),
            row_index_name="line",
            glob=False,
        )
        if len(table) == count:
            return table.with_columns(pl.lit(None, pl.String).alias(name) for name in _TEXTS[width:])
    return None


def _fields(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Split `text` into the journal's columns, still as text, and keep `line`; damaged lines are left out."""
    text = pl.col("text")
    fields = text.str.split_exact("\t", FIELDS - 1).struct.rename_fields(list(_TEXTS))
    return (
        frame.filter(
            text.str.count_matches("\t", literal=True).is_in([width - 1 for width in _WIDTHS]),
            ~text.str.contains(_CONTROLS.pattern),
        )
        .select("line", fields.alias("fields"))
        .unnest("fields")
        .with_columns(pl.when(pl.col(name) != "").then(name) for name in SCHEMA)
    )


def _valid_lines(fields: pl.LazyFrame) -> pl.LazyFrame:
    """Keep the valid lines, their numbers as numbers."""
    return fields.filter(
        _is_valid(),
        *(pl.col(name).is_null() | pl.col(name).cast(pl.Int64, strict=False).is_not_null() for name in _NUMBERS),
    ).select("line", *(pl.col(name).cast(dtype, strict=False) for name, dtype in SCHEMA.items()))


@value
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
    unchecked = 0
    for block in read_blocks(path, _BLOCK_BYTES):
        unchecked += block.unchecked
        if block.unchecked < len(block.content):
            break
    with plain_file(path) as file:
        rest = following = b""
        while end > 0:
            start, at = max(0, end - _BLOCK_BYTES), end + len(rest)
            file.seek(start)
            lines = (file.read(end - start) + rest).split(b"\n")
            rest = lines.pop(0) if start else b""
            found = []
            for line in reversed(lines):
                at -= len(line)
                counts = is_old(line, following) if at < unchecked else is_checked(line)
                if counts and (saved := _saved(line)) is not None:
                    found.append(saved)
                following = line
                at -= 1
            yield found
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
    is_so = (pl.col("Status") == "failed") & pl.col("Detail").str.contains(f":{kind}", literal=True)
    return any(len(parse_lines(block).filter(is_so)) for block in read_blocks(path))


def damaged_lines(path: Path, start: int = 0) -> int:
    """Return how many complete lines, from this byte on, do not count."""
    damaged = at = 0
    for block in read_blocks(path):
        content = block.content
        if (end := at + len(content)) > start:
            first = content.count(b"\n", 0, max(0, start - at))
            damaged += content.count(b"\n") - first - len(parse_lines(block).filter(pl.col("line") >= first))
        at = end
    return damaged


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


def _is_valid() -> pl.Expr:
    status = pl.col("Status")
    named = pl.col("ImageID").is_not_null() & pl.col("URL").is_not_null()
    # No file name leads out of images/: such a line is damaged.
    name = pl.col("FileName")
    named &= ~name.fill_null("").str.contains(r"/|^\.{1,2}$")
    return ((status == "ok") & named & name.is_not_null()) | ((status == "failed") & named) | (status == FORGET)
