"""`repeat` and `prune`, to be awaited: what is done with a saved folder."""

import os
from typing import Unpack

from oid_async.events import Sink
from oid_async.jobs.prune import Prune, PruneReport
from oid_async.jobs.repeating.repeat import Repeat
from oid_async.jobs.stored_query import Given
from oid_async.options.keywords import FetchAgainOptions
from oid_async.options.query import Options
from oid_async.options.signatures import check_keywords, check_switch, document
from oid_async.report import Report
from oid_async.screen.progress import shown


async def repeat(
    source: str | os.PathLike[str],
    *,
    savepath: str | os.PathLike[str] | None = None,
    on_event: Sink | None = None,
    progress: bool = False,
    **given: Unpack[FetchAgainOptions],
) -> Report:
    """Have the set of `source` again under `savepath`, by default its own folder, and return the report.

    `source` is a folder that a download has filled (rows are copied from its tables), its query.json, or a manifest
    alone (images and names, no rows). Whole images of it are hard links, else copies, and count as present; the others
    are fetched from where the manifest says they came from, and are to be the same bytes: else they fail as `checksum`.
    What had failed stays failed without `retry_failed`. Of a query.json without a manifest the query is carried out
    anew; then it gives what to select and nothing else: places, tables and hosts are those of this call.

    Raises InputError for what is none of these, or is not as it was written, UsageError for what this call must name,
    LockedError while a run is on in either folder, StorageError.

    `on_event` and `progress` are as in `download`.
    """
    check_keywords("repeat", given, FetchAgainOptions)
    with shown(on_event, progress=progress) as sink:
        return await Repeat(source, Given.to_repeat(savepath, given), sink).run()


async def prune(
    savepath: str | os.PathLike[str], *, dry_run: bool = False, on_event: Sink | None = None, progress: bool = False
) -> PruneReport:
    """Remove the images, masks and recordings under `savepath` that its query does not select, and return the counts.

    They are of earlier queries in the same folder. Files of others, and what is not as it was saved, stay; hard links,
    as in exports, keep their bytes; an image that a later query wants is fetched again. With `dry_run` it is only
    counted. Raises InputError for a folder without a finished download, LockedError while a run is on, StorageError.

    `on_event` and `progress` are as in `download`.
    """
    path = Options.of(savepath=savepath).folder_for("prune")
    check_switch("dry_run", dry_run)
    with shown(on_event, progress=progress) as sink:
        return await Prune(path, sink, dry_run=dry_run).run()


document(repeat, FetchAgainOptions, Report)
