"""The journal in columns: what it says last of each image, without reading all of its text again.

    .oid_async/lines/<SHA-256 of a block>.parquet     the whole lines of one block of the journal, in order

A block is some 4 MiB of the journal up to the end of a line; only what is appended later changes the last one, which is
read as text every time. A block's file is called by the hash of the bytes that it was made from, so that it never
speaks for a journal that was changed, cut or exchanged. All of them may be deleted at any time.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from oid_async.openimages.ids import KEY, IdForm, within
from oid_async.store.disk import sync_file
from oid_async.store.journal import FORGET, SCHEMA, parse_lines, whole_bytes

_BLOCK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class _Block:
    """The lines of one block: to be scanned, their keys lie between two. The number of its first line is added."""

    rows: pl.LazyFrame
    least: int | str
    greatest: int | str


class JournalIndex:
    """What a journal says at one moment. Blocking.

    `forgotten` is the number of its last line that forgets failures, -1 without one; `following` is the number that the
    next line appended will have. Blocks are looked for in `kept`, and in `fresh`, where those are written that are not
    there: the same folder, unless nothing may be written to SAVEPATH.
    """

    def __init__(self, journal: Path, ids: IdForm, kept: Path, fresh: Path) -> None:
        self._ids = ids
        self._kept = kept
        self._fresh = fresh
        self._blocks: list[_Block] = []
        self.forgotten = -1
        self.following = 0
        used: set[str] = set()
        for block, is_full in _read_blocks(journal):
            name = f"{hashlib.sha256(block).hexdigest()}.parquet"
            self._add(self._full(name, block) if is_full else parse_lines(block).lazy())
            self.following += block.count(b"\n")
            used.add(name)
        if kept == fresh:
            _drop_others(kept, used)

    def _full(self, name: str, block: bytes) -> pl.LazyFrame:
        """Return the lines of a block that will not change, read from its file, which is made if it is not there."""
        for folder in (self._kept, self._fresh):
            if (folder / name).exists():
                return pl.scan_parquet(folder / name, glob=False)
        self._fresh.mkdir(parents=True, exist_ok=True)
        part = self._fresh / f"{name}.part"
        parse_lines(block).write_parquet(part, compression="lz4", statistics=False)
        # Its name vouches for it: it must not be there before its bytes are.
        sync_file(part)
        part.replace(self._fresh / name)
        return pl.scan_parquet(self._fresh / name, glob=False)

    def _add(self, rows: pl.LazyFrame) -> None:
        rows = rows.with_columns(pl.col("line") + self.following)
        forget = pl.col("Status") == FORGET
        keyed = rows.filter(~forget).with_columns(self._ids.key()).filter(pl.col(KEY).is_not_null())
        said = rows.select(last=pl.col("line").filter(forget).max())
        span = keyed.select(least=pl.col(KEY).min(), greatest=pl.col(KEY).max())
        last, least, greatest = pl.concat([said, span], how="horizontal").collect().row(0)
        self.forgotten = self.forgotten if last is None else last
        if least is not None:
            self._blocks.append(_Block(keyed, least, greatest))

    def all_latest(self, **columns: pl.Expr) -> pl.DataFrame:
        """Return KEY and these of the last line of each image, in order of KEY: numbers, as all are held at once."""
        frames = [block.rows.select(KEY, **columns).collect() for block in self._blocks]
        return _last(pl.concat(frames)) if frames else _nothing(self._ids).select(KEY, **columns)

    def latest(self, span: pl.Series) -> pl.DataFrame:
        """Return the last line of each image of a span of sorted keys: KEY, `line` and the journal's columns."""
        first, last = span[0], span[-1]
        rows = [
            block.rows.filter(within(span)) for block in self._blocks if block.least <= last and first <= block.greatest
        ]
        if not rows:
            return _nothing(self._ids)
        return _last(pl.concat(pl.collect_all(rows)))


def _last(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the last of the rows of each key, in order of the keys."""
    return rows.sort(KEY, maintain_order=True).filter(pl.col(KEY).ne_missing(pl.col(KEY).shift(-1)))


def _nothing(ids: IdForm) -> pl.DataFrame:
    return pl.DataFrame(schema={"line": pl.UInt32, **SCHEMA, KEY: ids.dtype})


def _read_blocks(journal: Path) -> Iterator[tuple[bytes, bool]]:
    """Yield the whole lines of a journal in blocks, and whether a block will stay as it is."""
    left = whole_bytes(journal)
    if not left:
        return
    with journal.open("rb") as file:
        while left:
            block = file.read(min(left, _BLOCK_BYTES))
            is_full = len(block) == _BLOCK_BYTES
            if not block.endswith(b"\n"):
                block += file.readline(left - len(block))
            left -= len(block)
            yield block, is_full


def _drop_others(folder: Path, used: Iterable[str]) -> None:
    """Remove what a journal that is no more has left, and what a killed run was writing."""
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name not in used:
                path.unlink(missing_ok=True)
