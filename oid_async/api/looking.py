"""`await stats(...)`: numbers about a saved folder, or about what a query selects."""

import os
from pathlib import Path
from typing import Unpack

from oid_async.errors import UsageError
from oid_async.events import Sink
from oid_async.jobs.stats import Stats
from oid_async.options.keywords import StatsOptions
from oid_async.options.paths import read_path
from oid_async.options.selection import Query
from oid_async.options.signatures import check_keywords, document
from oid_async.screen.progress import shown
from oid_async.statistics.value import Statistics


async def stats(
    savepath: str | os.PathLike[str] | None = None,
    *,
    html: str | os.PathLike[str] | None = None,
    query: Query | None = None,
    on_event: Sink | None = None,
    progress: bool = False,
    **options: Unpack[StatsOptions],
) -> Statistics:
    """Count what is in a folder that a download has filled, or what a query selects: classes, boxes, sizes, licences.

    With `savepath` the folder's own tables are counted, also while a download is on, or after an interrupt (`notes`
    says how far it is); of the keywords `cache_dir`, the tables and the lists are taken, as `open` takes them. It may
    be the folder of an export (yolo, coco, voc, imagefolder, parquet): its own files are counted then. Without it the
    other keywords, or `query`, say what to select: images are chosen as `plan` chooses them, and the rows that
    `download` would save are counted. Nothing is fetched but tables.

    `html` is a file that a page with plots is written to, which opens offline; it appears whole or not at all, and
    replaces an earlier page, but no other file. It needs the extra `view`.

    Raises UsageError for both or neither of folder and query, and for `html` without the extra, before any work;
    InputError for a folder without a download, or tables that cannot be read; StorageError without room for the
    temporary copy of the columns that are counted, which goes into the system's temporary folder.

    `on_event` and `progress` are as in `download`.
    """
    if html == "-":
        raise UsageError("html '-' is for the command line, which writes to stdout; name a file")
    check_keywords("stats", options, StatsOptions)
    place = None if html is None else Path(read_path("html", html))
    with shown(on_event, progress=progress) as sink:
        return await Stats(savepath, query, options, sink, html=place).run()


document(stats, StatsOptions, Statistics)
