"""The query of a repeated set: what query.json says of it then, and the query carried out anew without a manifest."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from oid_async.concurrency import in_thread, until_stopped
from oid_async.dataset.image_copies import ImageCopies, WantedImage
from oid_async.dataset.image_store import ImageFiles
from oid_async.dataset.read_lock import read_lock
from oid_async.errors import InputError, UsageError, storage_errors
from oid_async.events import Sink
from oid_async.jobs.context import RunContext
from oid_async.jobs.gathering.given_lists import GivenLists
from oid_async.jobs.ownership import owned_folder
from oid_async.jobs.query_document import NO_QUERY
from oid_async.jobs.repeating.repeat_plan import SavedSet
from oid_async.jobs.repeating.repeat_source import RepeatSource, is_same
from oid_async.jobs.repeating.repeated import repeated_run
from oid_async.jobs.stored_query import Given, is_kept
from oid_async.options.query import Options
from oid_async.options.query_table import KEPT_LISTS
from oid_async.store.disk import is_plain, md5_of, plain_file
from oid_async.store.folder import Folder
from oid_async.store.journal import scan_journal
from oid_async.store.written_files import size_and_md5
from oid_async.version import __version__

if TYPE_CHECKING:
    from oid_async.jobs.download import Run

_SLICE_ROWS = 256
_IDS = KEPT_LISTS["image_ids"]
# What query.json calls the manifest of a set that came from it alone.
REPEATED = "repeats"


def repeated_document(context: RunContext, saved: SavedSet) -> tuple[GivenLists, dict[str, Any]]:
    """Return the lists to keep in SAVEPATH, and the content of query.json. Raises StorageError.

    It is that of the source, for this folder. A manifest alone is a query of its images, by a list that is written.
    """
    folder = context.folder
    stored = saved.content.get("query") if saved.content is not None else None
    if saved.content is None or not isinstance(stored, dict):
        return _of_manifest(context, saved)
    copies: dict[str, Path] = {}
    query = {**stored, "savepath": str(folder.path)}
    for option, name in KEPT_LISTS.items():
        source = None if saved.folder is None else saved.folder / name
        given = stored.get(option)
        if source is None or not isinstance(given, str) or not is_plain(source):
            continue
        if is_kept(Folder(source.parent), option, given, stored.get("savepath")):
            query[option] = str(folder.path / name)
            copies[option] = source
    document = {name: value for name, value in saved.content.items() if name not in ("unfinished", "shards")}
    document["query"] = query
    if not isinstance(document.get("digest"), str):
        document["digest"] = hashlib.sha256(json.dumps(query, sort_keys=True).encode()).hexdigest()
    named: dict[str, Any] = {option: query[option] for option in copies}
    options = Options(savepath=folder.path, **named)
    return GivenLists(options, copies, dict.fromkeys(copies, "SOURCE")), document


def _of_manifest(context: RunContext, saved: SavedSet) -> tuple[GivenLists, dict[str, Any]]:
    folder = context.folder
    ids, copy = folder.path / _IDS, folder.tmp / "ids-of-set.txt"
    with storage_errors(folder.path):
        line = pl.concat_str("Subset", "ImageID", separator="/", ignore_nulls=True)
        saved.manifest.rows.select(line).sink_csv(copy, include_header=False, quote_style="never")
        with plain_file(copy) as file:
            digest = md5_of(file).hexdigest()
        manifest = size_and_md5(saved.manifest.table.path)
    options = Options(savepath=folder.path, image_ids=str(ids), kinds=("none",))
    document = {
        "program": f"oid-async {__version__}",
        "query": {name: value for name, value in options.as_json().items() if name not in NO_QUERY},
        "sources": list(saved.sources),
        "site": context.site.name,
        "categories": {},
        "tables": [{"table": "image-ids", "name": str(ids), "bytes": copy.stat().st_size, "md5": digest, "kept": _IDS}],
        REPEATED: {"manifest": saved.manifest.table.path.name, "bytes": manifest[0], "md5": manifest[1]},
    }
    document["digest"] = hashlib.sha256(json.dumps(document[REPEATED]).encode()).hexdigest()
    return GivenLists(options, {"image_ids": copy}, {"image_ids": _IDS}), document


async def query_again(source: RepeatSource, folder: Folder, given: Given, sink: Sink, *, own_loop: bool) -> "Run":
    """Return the run of a query without a manifest, which images that an unfinished run has saved go into.

    Raises InputError for a query.json that cannot be repeated, UsageError for what the call must name, LockedError.
    """
    content = await in_thread(source.content)
    assert content is not None
    again = partial(
        repeated_run,
        source.folder,
        given,
        sink,
        retry_failed=given.options.retry_failed,
        savepath=folder.path,
        content=content,
        own_loop=own_loop,
    )
    try:
        run = await in_thread(again)
    except (UsageError, InputError) as error:
        # It may have another name than in a folder.
        said = str(error).replace(f"{source.folder.path / 'query.json'}:", f"{source.query}:")
        raise type(error)(said) from error
    if is_same(source.folder.path, folder.path):
        return run
    lists = {option: source.folder.path / name for option, name in KEPT_LISTS.items()}
    copies = {option: path for option, path in lists.items() if getattr(run.options, option) == str(path)}
    is_begun = is_plain(source.folder.journal) and source.query == source.folder.path / "query.json"
    if copies or is_begun:
        named: dict[str, Any] = {option: str(folder.path / KEPT_LISTS[option]) for option in copies}
        run.options = replace(run.options, **named)
        with read_lock(source.folder):
            async with owned_folder(folder, run.options, sink) as (journal, _):
                await in_thread(GivenLists(run.options, copies, dict.fromkeys(copies, "SOURCE")).keep, folder)
                if is_begun:
                    copier = ImageCopies(folder, journal, ImageFiles(source.folder.images), own=False)
                    await until_stopped(_bring_saved, source.folder, copier)
    return run


def _bring_saved(source: Folder, copier: ImageCopies, stopped: Callable[[], bool]) -> None:
    """Bring the images that the journal of an unfinished run says are saved. Raises StorageError."""
    lines = scan_journal(source.journal, pl.col("Status") == "ok").collect()
    lines = lines.sort("line").unique(["ImageID", "Subset"], keep="last", maintain_order=True)
    columns = ("ImageID", "Subset", "FileName", "Source", "URL", "Bytes", "MD5")
    url = pl.when(pl.col("URL") != "-").then("URL")
    for batch in lines.with_columns(URL=url).select(columns).iter_slices(_SLICE_ROWS):
        if stopped():
            return
        copier.place(WantedImage(*row) for row in batch.iter_rows())
