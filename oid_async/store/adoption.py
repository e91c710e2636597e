"""Adoption of files that no journal knows, after a crash or when .oid_async/ was deleted.

A file is adopted only if it passes its source's check; any other file of its name is somebody else's and is left alone.
Where its bytes came from the file does not say: source and URL are known only from the intent log (`take_over`) or from
the manifest (`credited`), else they stay unknown.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from oid_async.quick_values import frozen
from oid_async.report import Outcome
from oid_async.store.disk import is_plain
from oid_async.store.file_bytes import FileBytes
from oid_async.store.folder import Folder
from oid_async.store.image_check import Expected, is_complete, md5_base64, read_header, refuse, refuse_start
from oid_async.store.intent_log import intent_files
from oid_async.store.journal import Journal, saved_last, scan_journal
from oid_async.tables.reading import TableFile, reading

_BATCH = 2048
# What the intent logs hold is among the last lines of the journal, if it is there: a worker's are some thousand.
_BLOCKS_OF_LAST = 32


@frozen
class Adopter:
    """Adopts single files for the plan. `sources` is the run's order; without `hashed` no MD5 is kept."""

    folder: Folder
    sources: tuple[str, ...]
    hashed: bool = True

    def __call__(self, image_id: str, file_name: str, size: str | None, md5: str | None) -> Outcome | None:
        """Return the Outcome, without source and URL, of a file that is this image; None if it is not or unreadable.

        What is not the original, by size and MD5, may be of another source, of whose bytes nothing is known.
        """
        path = self.folder.images / file_name
        try:
            if not is_plain(path):
                return None
            original = Expected.published(size, md5)
            with FileBytes(path) as body:
                return self._check(body, path, image_id, original)
        except OSError:
            return None

    def _check(self, body: FileBytes, path: Path, image_id: str, original: Expected) -> Outcome | None:
        found = md5_base64(body) if self.hashed or original.md5 else None
        header = read_header(body)
        possible = {original if source == "original" else Expected() for source in self.sources}
        if all(refuse(body, header, found, expected) is not None for expected in possible):
            return None
        return Outcome(
            image_id,
            "present",
            str(path),
            bytes=len(body),
            md5=found if self.hashed else None,
            width=header.width,
            height=header.height,
        )


def take_over(folder: Folder, journal: Journal, *, alone: bool) -> None:
    """Journal the images that a killed process has renamed and not journalled, from its intent log. Raises OSError.

    Only files that are what their lines say. With `alone` the logs of other processes go: no other run is on here.
    """
    logs = [path for path in intent_files(folder.intents) if not journal.owns(path)]
    if not logs:
        return
    known = {line.file_name for lines in islice(saved_last(folder.journal), _BLOCKS_OF_LAST) for line in lines}
    for path in logs:
        lines = scan_journal(path, pl.col("Status") == "ok", ~pl.col("FileName").is_in(known)).collect()
        found = (unchanged(folder, row) for row in lines.iter_rows(named=True))
        journal.append([outcome for outcome in found if outcome is not None])
    if alone:
        journal.sync()
        for path in logs:
            path.unlink(missing_ok=True)
        with suppress(OSError):
            folder.intents.rmdir()


def credited(folder: Folder, adopted: Sequence[Outcome]) -> list[Outcome]:
    """Return adopted images with the source and URL that the manifest has for files of their names, sizes and MD5s."""
    if not adopted or not is_plain(folder.manifest):
        return list(adopted)
    names = pl.Series([outcome.file_name for outcome in adopted], dtype=pl.String)
    columns = ("FileName", "ImageID", "Bytes", "MD5", "Source", "URL")
    # A manifest that is none of ours, or torn, tells nothing.
    known: dict[str, tuple[object, ...]] = {}
    with suppress(pl.exceptions.PolarsError):
        rows = pl.scan_parquet(folder.manifest, glob=False).filter(pl.col("Status") == "ok")
        rows = rows.filter(pl.col("FileName").is_in(names.implode()))
        known = {row[0]: row[1:] for row in rows.select(columns).collect(engine="streaming").iter_rows()}
    outcomes = []
    for outcome in adopted:
        match known.get(outcome.file_name or ""):
            case (outcome.image_id, outcome.bytes, md5, str(source), str(url)) if md5 == outcome.md5:
                outcomes.append(replace(outcome, source=source, url=url))
            case _:
                outcomes.append(outcome)
    return outcomes


def from_manifest(folder: Folder, packed: pl.Series | None = None) -> Iterator[list[Outcome]]:
    """Yield, in batches, the images of the manifest whose files match it or whose names are `packed` (hashes)."""
    table = TableFile(folder.manifest, str(folder.manifest))
    with reading(table):
        saved = pl.scan_parquet(folder.manifest, glob=False).filter(pl.col("Status") == "ok")
        count = saved.select(pl.len()).collect().item()
        for start in range(0, count, _BATCH):
            rows = saved.slice(start, _BATCH).collect()
            names = rows.get_column("FileName").hash()
            is_packed = names.is_in((packed if packed is not None else names.clear()).implode())
            outcomes = (
                _outcome(folder, row) if in_shard else unchanged(folder, row)
                for row, in_shard in zip(rows.iter_rows(named=True), is_packed, strict=True)
            )
            yield [outcome for outcome in outcomes if outcome is not None]


def unchanged(folder: Folder, row: dict[str, Any]) -> Outcome | None:
    """Return the Outcome of a row of the manifest, or of the journal, if its file is what the row says, else None."""
    path: Path = folder.images / str(row["FileName"])
    try:
        if path.parent != folder.images or not is_plain(path) or path.stat().st_size != row["Bytes"]:
            return None
        with FileBytes(path) as body:
            if row["MD5"] is None:
                is_same = refuse_start(body[:16]) is None and is_complete(body, read_header(body))
            else:
                is_same = md5_base64(body) == row["MD5"]
        if not is_same:
            return None
    except OSError:
        return None
    return _outcome(folder, row)


def _outcome(folder: Folder, row: dict[str, Any]) -> Outcome:
    return Outcome(
        str(row["ImageID"]),
        "present",
        str(folder.images / str(row["FileName"])),
        source=row["Source"],
        url=row["URL"],
        bytes=row["Bytes"],
        md5=row["MD5"],
        width=row["Width"],
        height=row["Height"],
        subset=row["Subset"],
    )
