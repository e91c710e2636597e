"""The end of a download past one machine: one manifest, the tables and the list of shards, of all records.

Everything is written in spans of images, the manifest last. Doing it again on a finished place writes nothing; two at
the same time write the same; of one that is killed the next one writes all again.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from oid_async.cluster.committed import Committed, read_records, record_listing, summed
from oid_async.cluster.end_turn import EndTurn
from oid_async.cluster.finished import FinishedEnd
from oid_async.cluster.generations import read_generation
from oid_async.cluster.layout import MANIFEST, SHARD_LIST, copied_files
from oid_async.cluster.local_copies import LocalCopies
from oid_async.cluster.merged_tables import OPTIONAL, MergedTables
from oid_async.cluster.published import Generation, PublishedQuery
from oid_async.cluster.shard_names import PartShard, give_names, orphans, shard_list
from oid_async.cluster.totals import Totals
from oid_async.errors import StorageError, machine_error, storage_error
from oid_async.events import Event, Sink, Stage
from oid_async.objects.store import MissingError, ObjectInfo, Objects, md5_of
from oid_async.store.results import query_text
from oid_async.tables.damage import StoppedError

__all__ = ["Totals", "finish"]

WriteCard = Callable[[MergedTables, Totals], None]


def finish(
    objects: Objects,
    query: PublishedQuery,
    generations: Sequence[Generation],
    scratch: Path,
    sink: Sink,
    stopped: Callable[[], bool] = lambda: False,
    *,
    shared: bool = False,
    card: WriteCard | None = None,
) -> Totals:
    """Write what a finished place has, of all published generations. Blocking; `sink` is called in this thread.

    `scratch` is an empty folder for temporaries: about twice the size of the tables, of a bucket its records in
    addition. Raises StorageError, which names them, if records or shards are missing; of the storage or the disk;
    InputError for a plan or record that is damaged; StoppedError, between two spans of images or two files, once
    `stopped`. `shared`: many tasks come to the end at the same time, and one of them should make it. `card` writes
    README.md among the tables.
    """

    def told(event: Event) -> None:
        if stopped():
            raise StoppedError
        sink(event)

    try:
        while True:
            totals = _End(objects, query, generations, scratch, told, card).finish(shared)
            newer = _newer(objects, generations)
            if newer is None:
                return totals
            # Another run was quicker, and has come further: what was written here must not be the last of it.
            generations = [*generations, newer]
    except (OSError, pl.exceptions.PolarsError) as error:
        if machine_error(error) is None and not isinstance(error, OSError):
            raise
        raise StorageError(f"{storage_error(error, scratch)}; TMPDIR may name a folder with more room") from error


def _newer(objects: Objects, generations: Sequence[Generation]) -> Generation | None:
    """Return the next generation, if another run has published it and all its records are there."""
    newer = read_generation(objects, len(generations))
    with suppress(StorageError):
        if newer is not None:
            record_listing(objects, [newer])
            return newer
    return None


class _End:
    """One end under way."""

    def __init__(
        self,
        objects: Objects,
        query: PublishedQuery,
        generations: Sequence[Generation],
        scratch: Path,
        sink: Sink,
        card: WriteCard | None,
    ) -> None:
        self._objects = objects
        self._query = query
        self._generations = generations
        self._scratch = scratch
        self._sink = sink
        self._card = card
        self._copies = copied_files(query.kinds)
        self._files: dict[str, dict[str, Any]] = {}
        self._end = FinishedEnd(objects, query, record_listing(objects, generations))

    def finish(self, shared: bool) -> Totals:
        turn = EndTurn(self._objects, self._end.records)
        if shared and turn.wait(lambda: self._end.read() is not None, self._sink):
            with turn.used():
                return self._finish()
        return self._finish()

    def _finish(self) -> Totals:
        if (before := self._end.read()) is not None:
            shards, totals = before
            _, there = give_names(self._objects, shards)
            return replace(totals, orphans=self._remove(shards, there), changed=False)
        try:
            return self._write()
        finally:
            for name in ("objects", "tables"):
                shutil.rmtree(self._scratch / name, ignore_errors=True)

    def _write(self) -> Totals:
        """Write everything. The manifest is the last that a reader sees."""
        self._sink(Stage("reading the records"))
        copies = LocalCopies(self._objects, self._scratch / "objects")
        committed = read_records(self._objects, self._query, self._generations, copies, self._sink)
        by_part = [PartShard.of(part.record, self._query) for part in committed.parts]
        by_part, there = give_names(self._objects, by_part)
        self._sink(Stage("writing the result tables"))
        keys = [None if each.shard is None else each.key for each in by_part]
        tables = MergedTables(self._query, committed, keys, copies, self._scratch / "tables")
        tables.write(self._sink)
        totals = self._totals(committed, tables, by_part)
        if self._card is not None:
            self._card(tables, totals)
        self._put_all(tables, totals)
        self._put(SHARD_LIST, shard_list(self._query, by_part))
        removed = self._remove(by_part, there)
        self._sink(Stage(f"writing {MANIFEST}"))
        self._put(MANIFEST, tables.write_manifest())
        self._end.write(self._files, totals)
        return replace(totals, orphans=removed, changed=True)

    def _totals(self, committed: Committed, tables: MergedTables, shards: Sequence[PartShard]) -> Totals:
        records = [part.record for part in committed.parts]
        notes = [each.shard for each in shards if each.shard is not None]
        counts = tables.counts
        lines = {name: self._copied(key).count(b"\n") for key, name in self._copies.items()}
        return Totals(
            selected=len(committed.keys),
            ok=counts["ok"],
            failed=counts["failed"],
            pending=counts["pending"],
            failures=dict(sorted(tables.failures.items())),
            sources=dict(sorted(tables.sources.items())),
            bytes=counts["bytes"],
            requests=sum(record.requests for record in records),
            seconds=round(sum(record.seconds for record in records), 3),
            rows={name: tables.rows[name] for name in self._query.kinds},
            left_out=summed(record.left_out for record in records),
            masks=summed(record.masks for record in records),
            shards=len(notes),
            shard_bytes=sum(note.size for note in notes),
            bad_rows=max(0, lines["bad_rows.csv"] - 1),
            unknown_ids=lines["unknown_ids.txt"],
            negatives=counts["negative"],
        )

    def _copied(self, key: str) -> bytes:
        """Return what was published with the query, nothing where there is nothing to say."""
        with suppress(MissingError):
            return self._objects.get(key)
        return b""

    def _put_all(self, tables: MergedTables, totals: Totals) -> None:
        """Put everything but shards.json and the manifest; remove what an earlier end had to say, and this has not."""
        for key, name in self._copies.items():
            if text := self._copied(key):
                tables.file(name).write_bytes(text)
        query = {name: value for name, value in self._query.query.items() if name != "unfinished"}
        tables.file("query.json").write_text(query_text(query | {"shards": "shards"}), encoding="utf-8")
        report = totals.report(str(self._objects.place)).as_json()
        report |= {"annotations": totals.rows, "left_out": totals.left_out}
        report |= {"shards": totals.shards, "shard_bytes": totals.shard_bytes}
        tables.file("report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        for name, path in tables.written():
            self._sink(Stage(f"writing {name}"))
            self._put(name, path)
            path.unlink()
        self._objects.delete(name for name in (*OPTIONAL, *self._copies.values()) if name not in self._files)

    def _put(self, name: str, body: bytes | Path) -> None:
        info = self._objects.put(name, body)
        self._files[name] = {"bytes": info.size, "md5": md5_of(body), "etag": info.etag}

    def _remove(self, shards: Sequence[PartShard], there: Mapping[str, ObjectInfo]) -> int:
        """Remove the shards that no record names, and what killed writers have left; return how many objects."""
        gone = orphans(self._generations, shards, there)
        gone += [info.key for info in self._objects.leftovers()]
        self._objects.delete(gone)
        return len(gone)
