"""The end of a download past one machine: one manifest, the tables and the list of shards, of all records.

Everything is written in spans of images, the manifest last. Doing it again on a finished place writes nothing; two at
the same time write the same; of one that is killed the next one writes all again.

    .oid_async/finished.json    the records that the end was made of, size and MD5 of each file, and the totals
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from oid_async.cluster.committed import Committed, read_records, record_listing, summed
from oid_async.cluster.layout import BAD_ROWS, FINISHED, MANIFEST, SHARD_LIST, UNKNOWN_IDS, generation_key
from oid_async.cluster.local_copies import LocalCopies
from oid_async.cluster.merged_tables import MASK_FAILURES, MergedTables
from oid_async.cluster.published import Generation, PublishedQuery
from oid_async.cluster.shard_names import PartShard, give_names, orphans, read_shard_list, shard_list
from oid_async.errors import StorageError, machine_error, storage_error
from oid_async.events import Event, Sink, Stage
from oid_async.objects.store import MissingError, ObjectInfo, Objects
from oid_async.objects.values import md5_of
from oid_async.openimages.vocabulary import SPLITS
from oid_async.report import Report
from oid_async.store.image_tables import FAILURES
from oid_async.store.results import query_text
from oid_async.tables.damage import StoppedError

_FORM = 1
# Absent where there is nothing to say; an earlier end of the same query may have had something.
_OPTIONAL = (FAILURES, MASK_FAILURES, "bad_rows.csv", "unknown_ids.txt")
_COPIED = {BAD_ROWS: "bad_rows.csv", UNKNOWN_IDS: "unknown_ids.txt"}


@dataclass(frozen=True, slots=True)
class Totals:
    """What a finished place holds: selected = ok + failed + pending images, by their latest rows.

    `failures` counts failed images by kind, `sources` saved ones; `bytes` are those of saved images, `requests` and
    `seconds` those of the committed parts together; `rows` counts annotations by kind, `left_out` what shards lack by
    reason; `masks` are as in a report. `shards` have `shard_bytes`. `orphans` were removed now. `changed`: anything was
    written now.
    """

    selected: int = 0
    ok: int = 0
    failed: int = 0
    pending: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    sources: Mapping[str, int] = field(default_factory=dict)
    bytes: int = 0
    requests: int = 0
    seconds: float = 0.0
    rows: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    masks: Mapping[str, int] = field(default_factory=dict)
    shards: int = 0
    shard_bytes: int = 0
    bad_rows: int = 0
    unknown_ids: int = 0
    negatives: int = 0
    orphans: int = 0
    changed: bool = False

    def report(self, place: str) -> Report:
        """Return the place as a report has a folder: every saved image was downloaded."""
        return Report(
            selected=self.selected,
            downloaded=self.ok,
            failed=self.failed,
            pending=self.pending,
            bad_rows=self.bad_rows,
            bytes=self.bytes,
            requests=self.requests,
            seconds=self.seconds,
            masks=dict(self.masks),
            failures=dict(self.failures),
            sources=dict(self.sources),
            savepath=place,
            unknown_ids=self.unknown_ids,
            negatives=self.negatives,
        )


def finish(
    objects: Objects,
    query: PublishedQuery,
    generations: Sequence[Generation],
    scratch: Path,
    sink: Sink,
    stopped: Callable[[], bool] = lambda: False,
) -> Totals:
    """Write what a finished place has, of all published generations. Blocking; `sink` is called in this thread.

    `scratch` is an empty folder for temporaries: about twice the size of the tables, of a bucket its records in
    addition. Raises StorageError, which names them, if records or shards are missing; of the storage or the disk;
    InputError for a plan or record that is damaged; StoppedError, between two spans of images or two files, once
    `stopped`.
    """

    def told(event: Event) -> None:
        if stopped():
            raise StoppedError
        sink(event)

    try:
        while True:
            totals = _End(objects, query, generations, scratch, told).finish()
            newer = _newer(objects, generations)
            if newer is None:
                return totals
            # Another run was quicker, and has come further: what was written here must not be the last of it.
            generations = [*generations, newer]
    except (OSError, pl.exceptions.PolarsError) as error:
        if machine_error(error) is None and not isinstance(error, OSError):
            raise
        raise storage_error(error, scratch) from error


def _newer(objects: Objects, generations: Sequence[Generation]) -> Generation | None:
    """Return the next generation, if another run has published it and all its records are there."""
    number = generations[-1].number + 1 if generations else 0
    try:
        newer = Generation.from_json(objects.get(generation_key(number)))
        record_listing(objects, [newer])
    except (MissingError, StorageError):
        return None
    return newer


class _End:
    """One end under way."""

    def __init__(
        self, objects: Objects, query: PublishedQuery, generations: Sequence[Generation], scratch: Path, sink: Sink
    ) -> None:
        self._objects = objects
        self._query = query
        self._generations = generations
        self._scratch = scratch
        self._sink = sink
        self._files: dict[str, dict[str, Any]] = {}

    def finish(self) -> Totals:
        self._records = _fingerprint(record_listing(self._objects, self._generations))
        if (before := self._finished()) is not None:
            shards, totals = before
            _, there = give_names(self._objects, shards)
            return replace(totals, orphans=self._remove(shards, there), changed=False)
        try:
            return self._write()
        finally:
            for name in ("objects", "tables"):
                shutil.rmtree(self._scratch / name, ignore_errors=True)

    def _finished(self) -> tuple[list[PartShard], Totals] | None:
        """Return what an earlier end of these very records has left, None if anything of it is not there."""
        try:
            note = json.loads(self._objects.get(FINISHED))
            if (note["form"], note["digest"], note["records"]) != (_FORM, self._query.digest, self._records):
                return None
            for name, facts in note["files"].items():
                found = self._objects.head(name)
                if found is None or found.size != facts["bytes"]:
                    return None
            shards = read_shard_list(self._objects.get(SHARD_LIST), self._query)
            return shards, Totals(**note["totals"])
        except (MissingError, ValueError, KeyError, TypeError):
            return None

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
        shards = sorted(by_part, key=lambda each: _order(each.part))
        totals = self._totals(committed, tables, shards)
        self._put_all(tables, totals)
        self._put(SHARD_LIST, shard_list(self._query, shards))
        removed = self._remove(shards, there)
        self._sink(Stage(f"writing {MANIFEST}"))
        self._put(MANIFEST, tables.write_manifest())
        self._note(totals)
        return replace(totals, orphans=removed, changed=True)

    def _totals(self, committed: Committed, tables: MergedTables, shards: Sequence[PartShard]) -> Totals:
        records = [part.record for part in committed.parts]
        notes = [each.shard for each in shards if each.shard is not None]
        counts = tables.counts
        lines = {name: self._copied(key).count(b"\n") for key, name in _COPIED.items()}
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
        for key, name in _COPIED.items():
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
        self._objects.delete(name for name in _OPTIONAL if name not in self._files)

    def _put(self, name: str, body: bytes | Path) -> None:
        info = self._objects.put(name, body)
        self._files[name] = {"bytes": info.size, "md5": md5_of(body), "etag": info.etag}

    def _note(self, totals: Totals) -> None:
        note = {"form": _FORM, "digest": self._query.digest, "records": self._records}
        note |= {"files": self._files, "totals": asdict(totals)}
        self._objects.put(FINISHED, json.dumps(note).encode())

    def _remove(self, shards: Sequence[PartShard], there: Mapping[str, ObjectInfo]) -> int:
        """Remove the shards that no record names, and what killed writers have left; return how many objects."""
        gone = orphans(self._generations, shards, there)
        gone += [info.key for info in self._objects.leftovers()]
        self._objects.delete(gone)
        return len(gone)


def _fingerprint(records: Mapping[str, ObjectInfo]) -> str:
    """Return what tells these records from others: they never change, but one may be removed and made again."""
    lines = sorted(f"{info.key} {info.size} {info.etag}" for info in records.values())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _order(part: str) -> tuple[int, int]:
    """Return the place of a part among all: by split, then by number."""
    split, _, number = part.rpartition("-")
    return SPLITS.index(split) if split in SPLITS else len(SPLITS), int(number)
