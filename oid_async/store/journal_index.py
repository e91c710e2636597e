"""The journal in columns: the last line of each image, without reading all of the text again.

    .oid_async/lines/<SHA-256 of a block>-<schema>-<CRC-32>.parquet     the lines of one block of the journal, in order

A block is some 4 MiB of the journal up to the end of a line; only what is appended later changes the last one, which is
read as text every time. A block's file is named by the hash of the bytes that it was made from, so that it is never
used for a journal that was changed, cut or exchanged; by the schema of its columns, so that a version with other
columns makes its own (0.1.0 wrote no schema); and by the checksum of its own bytes, so that it is not believed when one
of them has flipped. All of them may be deleted at any time.
"""

import hashlib
import io
from pathlib import Path
from zlib import crc32

import polars as pl

from oid_async.openimages.ids import KEY, IdForm, within
from oid_async.quick_values import frozen
from oid_async.store.atomic import replacing
from oid_async.store.disk import read_plain
from oid_async.store.journal import FORGET, SCHEMA, Block, parse_lines, read_blocks

_BLOCK_BYTES = 4 << 20
# Raise it with every change of the journal's columns or of how they are read.
_SCHEMA_NUMBER = 3


@frozen
class _Lines:
    """The lines of one block, not read yet: their keys are between two. `line` is the number in the journal."""

    rows: pl.LazyFrame
    least: int | str
    greatest: int | str


class JournalIndex:
    """The lines of a journal at one moment. Blocking.

    `last_forget` is the number of its last line that forgets failures, -1 without one; `next_line` is the number that
    the next line appended will have. Blocks are looked for in `cached`, and in `fresh`, where missing ones are written:
    the same folder, unless nothing may be written to SAVEPATH.
    """

    def __init__(self, journal: Path, ids: IdForm, cached: Path, fresh: Path) -> None:
        self._ids = ids
        self._cached = cached
        self._fresh = fresh
        self._blocks: list[_Lines] = []
        self.last_forget = -1
        self.next_line = 0
        used: set[str] = set()
        self._kept = {folder: _names_in(folder) for folder in (cached, fresh)}
        for block in read_blocks(journal, _BLOCK_BYTES):
            if block.is_full:
                path = self._columns(block)
                used.add(path.name)
                self._add(pl.scan_parquet(path, glob=False))
            else:
                self._add(parse_lines(block).lazy())
            self.next_line += block.content.count(b"\n")
        if cached == fresh and cached.is_dir():
            # Blocks of older journals and versions, and files that a killed run was writing.
            for path in cached.iterdir():
                if path.name not in used:
                    path.unlink(missing_ok=True)

    def _columns(self, block: Block) -> Path:
        """Return the file with the lines of a block that will not change, which is made if there is none."""
        # What a line says depends on whether it needs a checksum, and so on what stands before the block.
        old = f"-{block.unchecked}" if block.unchecked else ""
        start = f"{hashlib.sha256(block.content).hexdigest()}{old}-{_SCHEMA_NUMBER}"
        for folder, names in self._kept.items():
            if (name := names.get(start)) is not None and _is_whole(folder / name):
                return folder / name
        self._fresh.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        parse_lines(block).write_parquet(content, compression="lz4", statistics=False)
        path = self._fresh / f"{start}-{crc32(content.getbuffer()):08x}.parquet"
        # Its name is proof of its content: it must not be there before its bytes are on the disk.
        with replacing(path, durable=True) as part:
            part.write_bytes(content.getbuffer())
        return path

    def _add(self, rows: pl.LazyFrame) -> None:
        rows = rows.with_columns(pl.col("line") + self.next_line)
        if self._ids.by_split:
            # Version 0.1.0 wrote no split; the URL of a copy names it.
            named = pl.when(Source="cvdf").then(pl.col("URL").str.extract(r"/([a-z]+)/[^/]*$"))
            rows = rows.with_columns(Subset=pl.coalesce("Subset", named))
        forget = pl.col("Status") == FORGET
        keyed = rows.filter(~forget).with_columns(self._ids.key()).filter(pl.col(KEY).is_not_null())
        forgets = rows.select(last=pl.col("line").filter(forget).max())
        span = keyed.select(least=pl.col(KEY).min(), greatest=pl.col(KEY).max())
        last, least, greatest = pl.concat([forgets, span], how="horizontal").collect().row(0)
        self.last_forget = self.last_forget if last is None else last
        if least is not None:
            self._blocks.append(_Lines(keyed, least, greatest))

    def all_latest(self, **columns: pl.Expr) -> pl.DataFrame:
        """Return KEY and these columns (numbers: all are held in memory) of each image's last line, in order of KEY."""
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


def _names_in(folder: Path) -> dict[str, str]:
    """Return the names of the blocks' files in a folder, each by what of it says which block it is of."""
    if not folder.is_dir():
        return {}
    return {path.name.rpartition("-")[0]: path.name for path in folder.iterdir() if path.suffix == ".parquet"}


def _is_whole(path: Path) -> bool:
    """Return whether a block's file holds the bytes that its name says."""
    try:
        return path.stem.endswith(f"-{crc32(read_plain(path)):08x}")
    except OSError:
        return False
