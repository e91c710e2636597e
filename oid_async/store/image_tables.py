"""The tables for people with one row an image, written span by span: ATTRIBUTION.csv and failures.csv."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import polars as pl

from oid_async.store.changes import CHANGES, made_changes

ATTRIBUTION_COLUMNS = (
    *("ImageID", "FileName", "Author", "AuthorProfileURL", "License", "Title", "OriginalLandingURL"),
    CHANGES,
)
FAILURE_COLUMNS = ("ImageID", "URL", "Reason", "Detail", "Attempts")
ATTRIBUTION, FAILURES = "ATTRIBUTION.csv", "failures.csv"


class ImageTables:
    """Writes both tables; `file` returns where the table of a name is to be. Without a failure there is no second.

    `side` is the longest side, in pixels, that images were made smaller to for their shards, None if they were not.
    """

    def __init__(self, file: Callable[[str], Path], side: int | None = None) -> None:
        self._file = file
        self._changes = made_changes(side)
        self._files = ExitStack()
        self._attribution = self._files.enter_context(file(ATTRIBUTION).open("wb"))
        pl.DataFrame(schema=dict.fromkeys(ATTRIBUTION_COLUMNS, pl.String)).write_csv(self._attribution)
        self._failures: IO[bytes] | None = None

    def write(self, images: pl.DataFrame) -> None:
        """Append the images of the next span: columns of a manifest, Detail, Attempts."""
        saved = images.filter(Status="ok").with_columns(self._changes).select(ATTRIBUTION_COLUMNS)
        saved.write_csv(self._attribution, include_header=False)
        failed = images.filter(Status="failed").select(FAILURE_COLUMNS)
        if not len(failed):
            return
        is_first = self._failures is None
        if self._failures is None:
            self._failures = self._files.enter_context(self._file(FAILURES).open("wb"))
        failed.write_csv(self._failures, include_header=is_first)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.close()
