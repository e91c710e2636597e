"""failures.csv of what is fetched in addition to images (masks, recordings): a row for each one that failed."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from oid_async.store.atomic import replacing


def write_failures(path: Path, rows: Sequence[tuple[str, str, str, str]], *, column: str, scratch: Path) -> None:
    """Write the rows, sorted, as `column`, ImageID, Reason, Detail; without any remove the file. Raises OSError.

    `scratch` is a folder for temporaries on the same file system.
    """
    if not rows:
        path.unlink(missing_ok=True)
        return
    names = (column, "ImageID", "Reason", "Detail")
    with replacing(path, part=scratch / f"{path.parent.name}-failures.csv") as part:
        pl.DataFrame(sorted(rows), schema=dict.fromkeys(names, pl.String), orient="row").write_csv(part)
