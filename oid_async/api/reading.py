"""`open`, and to be awaited `verify`, `export`: what reads a saved dataset, of a folder or of a bucket."""

import os
from pathlib import Path
from typing import Any, Unpack

from oid_async.dataset.saved import SavedDataset
from oid_async.events import Sink
from oid_async.jobs.export import Export, ExportReport
from oid_async.jobs.opening import open_for_user
from oid_async.jobs.stored_query import Given
from oid_async.jobs.verification import Verification
from oid_async.jobs.verify import verification
from oid_async.options.export import ExportOptions
from oid_async.options.keywords import PlaceOptions, VerifyOptions
from oid_async.options.paths import read_path
from oid_async.options.query import Options
from oid_async.options.signatures import check_keywords, check_switch, document
from oid_async.screen.progress import shown


async def verify(
    savepath: str | os.PathLike[str],
    *,
    repair: bool = False,
    deep: bool = False,
    exports: bool = False,
    on_event: Sink | None = None,
    progress: bool = False,
    **given: Unpack[VerifyOptions],
) -> Verification:
    """Check every file that was written under `savepath`: missing, truncated, altered, extra, unchecked.

    Images are compared with the manifest, other files with the record that each run writes of them; `unchecked` is what
    has no record. With `deep` pictures are decoded, with `exports` the exports under savepath/export are checked, too.

    With `repair` what is wrong is fetched or made again by repeating the query in query.json, and all is checked once
    more. Damaged files wait in `.oid_async/damaged/` until their replacement is there; extra files are left alone. From
    query.json comes what to select and nothing else: `mirror`, `cache_dir`, `allow_hosts`, `offline`, `max_failures`,
    `label`, `annotation`, `image_url`, `image_ids`, `exclude_ids`, `category_file` are those of this call. Of these
    `cache_dir`, the tables and the lists are taken without `repair`, too: as `open` takes them.

    A bucket (`s3://`, `gs://`, `az://`; `endpoint_url` names another server), or a folder that a download past one
    machine has filled, is compared with its shards.json and manifest: shards and tables of a bucket by size and ETag,
    with `deep` by all of their bytes. Nothing repairs it: `remove` of the result says what to remove, after which the
    same download makes it anew.

    Nothing is written without `repair`. Raises InputError when there is no usable manifest (or query.json, to repair),
    UsageError for what this call must name, LockedError when a run is on in the folder, and when repairing what
    `download` raises.

    `on_event` and `progress` are as in `download`.
    """
    path = Options.of(savepath=savepath).savepath
    for name, value in (("repair", repair), ("deep", deep), ("exports", exports)):
        check_switch(name, value)
    check_keywords("verify", given, VerifyOptions)
    these = Given.of(path, given, repairs=repair)
    with shown(on_event, progress=progress) as sink:
        return await verification(these, sink, repair=repair, deep=deep, exports=exports).run()


async def export(
    savepath: str | os.PathLike[str],
    *,
    format: str,
    out: str | os.PathLike[str] | None = None,
    splits: str | None = None,
    max_side: int | None = None,
    copy: bool = False,
    min_box_area: float | str = 0.0,
    group_boxes: str = "mark",
    no_masks: bool = False,
    class_map: str | os.PathLike[str] | None = None,
    shard_size: int | str = 1 << 30,
    margin: str = "0%",
    no_files: bool = False,
    edited: bool = False,
    processes: int | str = 1,
    on_event: Sink | None = None,
    progress: bool = False,
    **read: Unpack[PlaceOptions],
) -> ExportReport:
    """Write what a download has saved under `savepath` in a format that trainers read.

    `format` is coco, yolo, voc, webdataset, imagefolder, parquet, fiftyone, kitti, cvat, labelstudio, tfrecord or
    crops; `splits` such as "80/10/10" are shares of train, validation and test by a hash of ImageID; the rest as in
    `oid-async export --help`. The folder `out` (default savepath/export/<format>) appears once it is whole; an earlier
    export there is replaced, anything else is not. Tables that are not what the run wrote are an InputError; with
    `edited` they were changed on purpose. Of a run that has not come to its end `cache_dir`, `label`, `annotation`,
    `image_url`, `image_ids`, `exclude_ids` and `category_file` name what its tables are to be made of, as for `open`.
    Of a bucket `out` must be given; images are brought from their shards, some hundred at a time.

    Raises InputError for a folder that no download has filled, or whose images are not there, UsageError, LockedError
    while a run is on, StorageError. Cancelled it leaves nothing, but for webdataset what it goes on with.

    `on_event` and `progress` are as in `download`.
    """
    given: Any = {"export_splits": splits, "format": format, "out": out, "max_side": max_side, "copy": copy}
    given |= {"min_box_area": min_box_area, "group_boxes": group_boxes, "class_map": class_map}
    given |= {"no_masks": no_masks, "margin": margin}
    options = ExportOptions(**given, shard_size=shard_size, no_files=no_files)  # type: ignore[arg-type]
    also = Options.of(savepath=savepath, processes=processes)
    check_keywords("export", read, PlaceOptions)
    these = Given.of(also.savepath, read)
    with shown(on_event, progress=progress) as sink:
        also_given: Any = {"edited": edited, "given": these, "endpoint_url": these.options.endpoint_url}
        export = Export(also.savepath, options, sink, processes=also.processes, **also_given)
        return await export.run()


def open(
    savepath: str | os.PathLike[str], *, out: str | os.PathLike[str] | None = None, **read: Unpack[PlaceOptions]
) -> SavedDataset:
    """Open a folder or bucket that a download has filled, to read its images and annotations; shards too.

    Or a bucket, as `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`, that a download has filled and
    come to its end; `endpoint_url` names another server of the protocol. Its tables are fetched when they are first
    used, into a temporary folder that goes when the program ends, or with `close()`; an image is a range of its shard.

    Of a folder also while the download is on, or after an interrupt: `images` then has Status `pending` for what has
    not landed, and `notes` says how far it is. Its tables are made of journal, query and cached tables in such a
    temporary folder; nothing is requested, nothing written into the folder. A `UserWarning` says so when the tables in
    the folder are of an earlier query.

    query.json may come from anywhere, with the folder. No cache, table or list that it names elsewhere is read, unless
    your own run has used it, or `cache_dir`, `label`, `annotation`, `image_url`, `image_ids`, `exclude_ids`,
    `category_file` name it; `out` names shards that are not below `savepath`.

    Raises InputError for a folder without a download, with damaged tables, or whose unfinished run needs tables that
    are not in the cache any more, for a bucket that no download has filled to its end; UsageError for what this call
    must name, and for a bucket that is not there or not to be read; StorageError for one that fails. Blocking.
    """
    check_keywords("open", read, PlaceOptions)
    these = Given.of(Options.of(savepath=savepath).savepath, read)
    return open_for_user(these, None if out is None else Path(read_path("out", out)))


# Keywords of `export` itself that are options, by the option.
_OF_EXPORT = ("processes", *ExportOptions.__dataclass_fields__)
document(verify, VerifyOptions, Verification)
document(export, PlaceOptions, ExportReport, own=_OF_EXPORT, called={"export_splits": "splits"})
document(open, PlaceOptions, SavedDataset)
