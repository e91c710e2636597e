"""A journal that is not what was written is made anew, from the manifest and from those of its lines that are true.

What a line says of a saved file is held against the file; which images have failed is forgotten, and asked again.
"""

import os
import shutil

import polars as pl

from oid_async.store.adoption import from_manifest, unchanged
from oid_async.store.disk import is_plain
from oid_async.store.folder import Folder
from oid_async.store.journal import Journal, scan_journal

_BATCH = 2048


def rebuild_journal(folder: Folder) -> None:
    """Replace the journal; a damaged manifest is out of the way already. Blocking. Raises StorageError, OSError."""
    fresh = folder.state / "journal.new"
    fresh.unlink(missing_ok=True)
    journal = Journal(fresh)
    try:
        listed = pl.Series(dtype=pl.UInt64)
        if is_plain(folder.manifest):
            saved = pl.scan_parquet(folder.manifest, glob=False).filter(Status="ok")
            listed = saved.select(pl.col("FileName").hash()).collect(engine="streaming").to_series()
            for batch in from_manifest(folder):
                journal.append(batch)
        is_listed = pl.col("FileName").hash().is_in(listed.implode())
        others = scan_journal(folder.journal, pl.col("Status") == "ok", ~is_listed)
        latest = others.unique("FileName", keep="last", maintain_order=True).collect()
        for rows in latest.iter_slices(_BATCH):
            found = (unchanged(folder, row) for row in rows.iter_rows(named=True))
            journal.append(outcome for outcome in found if outcome is not None)
    finally:
        journal.close()
    os.replace(fresh, folder.journal)
    shutil.rmtree(folder.index, ignore_errors=True)
