"""Adoption of files that no journal knows, after a crash or when .oid_async/ was deleted.

A file is adopted only if it passes its source's check; any other file of its name is somebody else's and is left alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from oid_async.report import Outcome
from oid_async.store.disk import is_plain
from oid_async.store.file_bytes import FileBytes
from oid_async.store.folder import Folder
from oid_async.store.image_check import Expected, is_complete, md5_base64, read_header, refuse, refuse_start
from oid_async.tables.reading import TableFile, reading

_BATCH = 2048


@dataclass(frozen=True, slots=True)
class Adopter:
    """Adopts single files for the plan. `sources` is the run's order; without `hashed` no MD5 is kept."""

    folder: Folder
    sources: tuple[str, ...]
    hashed: bool = True

    def __call__(self, image_id: str, file_name: str, size: str | None, md5: str | None) -> Outcome | None:
        """Return the Outcome of a file that is this image, None if it is not or cannot be read.

        The original's MD5 proves an original. Else the markers decide, and the first source that it may be from is
        credited.
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
        source, expected = self.sources[0], Expected()
        if "original" in self.sources and original.md5 and original.md5 == found:
            source = "original"
        elif source == "original" and refuse(body, header, found, original) is not None:
            source = next((other for other in self.sources if other != "original"), source)
            expected = original if source == "original" else expected
        if refuse(body, header, found, expected) is not None:
            return None
        return Outcome(
            image_id,
            "present",
            str(path),
            source=source,
            bytes=len(body),
            md5=found if self.hashed else None,
            width=header.width,
            height=header.height,
        )


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
