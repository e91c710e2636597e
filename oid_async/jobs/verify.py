"""`verify`: compare every file of a folder with what was written; with `repair` run the query again.

Images are compared with the manifest, everything else with the record of files, exports with their lists.

Two threads hash, a batch of files at a time, so that a verification can be cancelled at any moment; memory holds the
findings and eight bytes per image.
"""

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import chain, repeat
from pathlib import Path

import polars as pl

from oid_async.concurrency import acquired, in_thread
from oid_async.dataset.audit import (
    FINDINGS,
    IMAGES,
    Audit,
    damaged_folder,
    drop_replaced,
    drop_replaced_files,
    not_repaired,
)
from oid_async.dataset.export_audit import EXPORTS, ExportAudit, exports_of
from oid_async.dataset.file_audit import (
    FileAudit,
    can_remake_manifest,
    is_manifest_whole,
    unreadable_manifest,
    whole_inputs,
)
from oid_async.dataset.place_files import BucketFiles, FolderFiles
from oid_async.dataset.query_file import read_query_file
from oid_async.dataset.read_lock import read_lock
from oid_async.dataset.saved import SavedDataset
from oid_async.errors import InputError, UsageError, storage_errors
from oid_async.events import Note, Sink, Stage
from oid_async.jobs.export import Export
from oid_async.jobs.opening import is_place, open_folder
from oid_async.jobs.repair import clear_damage, export_options, restore_inputs
from oid_async.jobs.repeating.repeat import Repeat
from oid_async.jobs.repeating.repeat_query import REPEATED
from oid_async.jobs.repeating.repeated import repeated_run
from oid_async.jobs.stored_query import Given
from oid_async.jobs.verification import LOST, Verification, check_batches
from oid_async.jobs.verify_place import PlaceVerify, refuse_repair
from oid_async.objects.store import Objects
from oid_async.report import Report
from oid_async.store.folder import Folder
from oid_async.system.forks import refuse_forked_child

# Hashing does not hold the interpreter; more threads than this make a disk seek, not read.
_THREADS = 2


def verification(
    given: Given, sink: Sink, *, repair: bool = False, deep: bool = False, exports: bool = False
) -> "Verify | PlaceVerify":
    """Return what verifies the place of a call, a folder or a bucket. Raises UsageError for what a bucket has not."""
    place = given.options.savepath
    if isinstance(place, Path):
        return Verify(given, sink, repair=repair, deep=deep, exports=exports)
    if repair:
        raise refuse_repair(place)
    if exports:
        raise UsageError(f"{place}: a bucket holds no exports: leave --exports out")
    return PlaceVerify(BucketFiles(Objects(place, endpoint_url=given.options.endpoint_url)), sink, deep=deep)


class Verify:
    """One verification of one folder, with `deep` of pictures as pictures, with `exports` of its exports, too.

    `given` are places that the call has named; with `repair` what is damaged is mended.
    """

    def __init__(
        self, given: Given, sink: Sink, *, repair: bool = False, deep: bool = False, exports: bool = False
    ) -> None:
        self._folder = Folder(given.options.folder)
        self._given = given
        self._sink = sink
        self._repair = repair
        self._deep = deep
        self._exports = exports
        self._opened = ExitStack()

    async def run(self) -> Verification:
        """Check every file; with `repair` mend, check again. Raises InputError, LockedError, errors of a download."""
        refuse_forked_child()
        if await in_thread(is_place, self._folder):
            return await self._run_place()
        try:
            return await (self._run_repair(self._given) if self._repair else self._run())
        finally:
            await in_thread(self._opened.close)

    async def _run_place(self) -> Verification:
        """Check a folder that a download past one machine has filled."""
        await in_thread(self._folder.refuse_links)
        if self._repair:
            raise refuse_repair(self._folder.path)
        exports = await in_thread(self._audits_of_exports)
        return await PlaceVerify(FolderFiles(self._folder), self._sink, deep=self._deep, exports=exports).run()

    async def _run(self) -> Verification:
        with read_lock(self._folder):
            dataset, found = await self._check()
            return await self._with_lost(found, dataset, found.damage.clear(), 0)

    async def _run_repair(self, given: Given) -> Verification:
        damaged = damaged_folder(self._folder)
        with read_lock(self._folder):
            # An image that an earlier repair could not get has failed for good: it is requested once more.
            tried_before = await in_thread(damaged.exists)
            _, first = await self._check()
            damage = first.damage
            if not len(damage) and not tried_before:
                return first
            _check_exports(first)
            await in_thread(restore_inputs, self._folder, damage, given.names)
            fetch_again = await in_thread(self._fetching, given, damage, tried_before)
            moved = await in_thread(clear_damage, self._folder, damage)
        kept = f"; {moved} damaged files wait in {damaged}" if moved else ""
        self._sink(Note(f"{_described(damage)}{kept}"))
        of_exports = pl.col("path").str.starts_with(f"{EXPORTS}/")
        if len(damage.filter(~of_exports)) or tried_before:
            await fetch_again()
        await self._repair_exports(damage.filter(of_exports))
        with read_lock(self._folder):
            dataset, again = await self._check()
            return await self._finish_repair(dataset, damage, again)

    def _fetching(self, given: Given, damage: pl.DataFrame, retry_failed: bool) -> Callable[[], Awaitable[Report]]:
        """Return what fetches again: of a set that a manifest alone has brought its own manifest, else its query.

        The query of such a set is no more than its ids: authors, names and roles are those of the manifest. Blocking.
        """
        if is_manifest_whole(damage) and REPEATED in read_query_file(self._folder.path):
            options = replace(given.options, retry_failed=retry_failed)
            return Repeat(self._folder.path, Given(options, given.names | {"retry_failed"}), self._sink).run
        return repeated_run(self._folder, given, self._sink, retry_failed=retry_failed).download

    async def _repair_exports(self, damage: pl.DataFrame) -> None:
        """Write the exports anew of which something is wrong."""
        for name in damage.get_column("path").str.split("/").list.get(1).unique().sort():
            options = await in_thread(export_options, self._folder.path / EXPORTS / name)
            await Export(self._folder.path, options, self._sink, given=self._given).run()

    async def _check(self) -> tuple[SavedDataset | None, Verification]:
        """Check every file, a batch at a time in each of two threads."""
        self._sink(Stage("looking for the files"))
        files = await in_thread(partial(FileAudit, self._folder, deep=self._deep))
        exports = await in_thread(self._audits_of_exports)
        frames = [await in_thread(files.others), *[await in_thread(audit.others) for audit in exports]]
        inputs = await in_thread(files.check_first)
        dataset = await self._open(pl.concat([frames[0], inputs]))
        if dataset is None and not len(inputs):
            frames.append(unreadable_manifest(self._folder))
        images = await in_thread(partial(Audit, self._folder, dataset, deep=self._deep))
        total = images.selected + images.unselected
        counts = [files.total, *(audit.total for audit in exports)]
        batches = chain(
            ((images.check, batch, is_selected) for batch, is_selected in images.batches()),
            *(zip(repeat(audit.check), audit.batches()) for audit in exports),
            zip(repeat(files.check), files.batches()),
        )
        frames += await check_batches(batches, total + sum(counts), self._sink, _THREADS)
        frames.append(await in_thread(images.extras))
        return dataset, Verification(
            str(self._folder.path),
            pl.concat(frames),
            checked=total,
            unselected=images.unselected,
            unhashed=images.unhashed,
            files=sum(counts),
        )

    def _audits_of_exports(self) -> list[ExportAudit]:
        return [ExportAudit(self._folder, export) for export in exports_of(self._folder)] if self._exports else []

    async def _open(self, found: pl.DataFrame) -> SavedDataset | None:
        """Open the folder, None if its manifest is not what was written; say how far an unfinished run is."""
        manifest_is_whole, query_is_whole = await in_thread(whole_inputs, self._folder, found)
        if not manifest_is_whole:
            return None
        try:
            if query_is_whole:
                dataset = await acquired(open_folder, self._folder, "verify", self._given, release=SavedDataset.close)
            else:
                dataset = await in_thread(SavedDataset, self._folder, "verify")
        except InputError:
            # Without a record nothing but reading it shows that a manifest is damaged; a repair makes it anew.
            if not self._repair or not await in_thread(can_remake_manifest, self._folder):
                raise
            return None
        self._opened.callback(dataset.close)
        for note in dataset.notes:
            self._sink(Note(note))
        return dataset

    async def _finish_repair(
        self, dataset: SavedDataset | None, damage: pl.DataFrame, found: Verification
    ) -> Verification:
        """Return the verification after a repair, with lost images as findings; remove files that are replaced."""
        images = damage.filter(pl.col("path").str.starts_with(IMAGES))
        lost, replaced = await in_thread(_outcome_of, dataset, images, found)
        # Also those that an interrupted repair has left.
        wrong = set(found.damage.get_column("file_name"))
        with storage_errors(self._folder.path):
            kept = await in_thread(drop_replaced_files, self._folder)
            kept += await in_thread(drop_replaced, self._folder, replaced, wrong)
        if kept:
            where = damaged_folder(self._folder)
            self._sink(Note(f"{len(kept)} of the damaged files are kept in {where}: no image came in their place"))
        others = damage.join(images, on="path", how="anti").filter(pl.col("kind") != "unchecked")
        mended = len(others.join(found.damage, on="path", how="anti"))
        return await self._with_lost(found, dataset, lost, len(replaced) + mended)

    async def _with_lost(
        self, found: Verification, dataset: SavedDataset | None, lost: pl.DataFrame, repaired: int
    ) -> Verification:
        """Return a verification with the images that were lost as findings, those of earlier repairs, too."""
        if dataset is None:
            return found.after_repair(lost, repaired)
        earlier = await in_thread(not_repaired, dataset, pl.concat([lost, found.damage]))
        return found.after_repair(pl.concat([lost, earlier]), repaired)


def _check_exports(found: Verification) -> None:
    """Raise UsageError if a file of somebody else is in an export that is to be written anew."""
    damaged = {path.split("/")[1] for path in found.damage.get_column("path") if path.startswith(f"{EXPORTS}/")}
    for extra in found.findings("extra"):
        if extra.path.startswith(f"{EXPORTS}/") and extra.path.split("/")[1] in damaged:
            path = Path(found.savepath) / extra.path
            raise UsageError(f"{path}: it is no file that the export wrote, and would be in the way; move it away")


def _described(damage: pl.DataFrame) -> str:
    """Return what is to be mended, a line for a person."""
    images = damage.filter(pl.col("path").str.starts_with(IMAGES))
    texts = [f"{len(images)} images are to be fetched again"] if len(images) else []
    texts += [f"{len(damage) - len(images)} other files are to be made anew"] if len(damage) > len(images) else []
    return " and ".join(texts) or "what an earlier repair could not get is asked for again"


def _outcome_of(
    dataset: SavedDataset | None, damage: pl.DataFrame, found: Verification
) -> tuple[pl.DataFrame, pl.Series]:
    """Return the damaged images that are lost, as FINDINGS, and the names of the files that are replaced."""
    selected = damage.filter("selected")
    if dataset is None:
        return selected.clear(), selected.get_column("file_name").clear()
    now = (
        dataset.images.filter(pl.col("ImageID").is_in(selected.get_column("image_id").implode()))
        .select("ImageID", "Status", "Reason")
        .collect(engine="streaming")
    )
    selected = selected.join(now, left_on="image_id", right_on="ImageID", how="left", maintain_order="left")
    is_saved = (pl.col("Status") == "ok").fill_null(False)
    damaged_again = found.damage.get_column("image_id").implode()
    replaced = selected.filter(is_saved & ~pl.col("image_id").is_in(damaged_again)).get_column("file_name")
    reason = pl.when(pl.col("Status").is_null()).then(pl.lit("no longer selected")).otherwise("Reason")
    lost = selected.filter(~is_saved).with_columns(
        kind=pl.lit("missing"), detail=pl.format(f"{LOST}: {{}}", reason), bytes=pl.lit(None, pl.Int64)
    )
    return lost.select(list(FINDINGS)), replaced
