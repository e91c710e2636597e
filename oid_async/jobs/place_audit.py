"""The shards, tables and records of a place, compared with what its last end has noted of them. Blocking; only reads.

    .oid_async/finished.json   size, MD5, ETag of each table ──┐
    shards.json                size, MD5, ETag of each shard ──┼─▶ findings: missing, truncated, altered, extra
    manifest.parquet           where each image is in a shard ─┘

A listing gives sizes and ETags, so that what is as it was put needs no request of its own. Read are all files of a
folder, and those of a bucket if the verification is `deep`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from oid_async.cluster.layout import (
    MANIFEST,
    PLAN,
    PLANS,
    RECORDS,
    SHARD_LIST,
    SHARDS,
    generation_key,
    plan_key,
    record_key,
)
from oid_async.cluster.published import Generation, PublishedQuery
from oid_async.dataset.audit import FINDINGS, FindingKind
from oid_async.dataset.place_files import BucketFiles, PlaceFiles, written_tables
from oid_async.objects.store import ObjectInfo
from oid_async.openimages.kinds import KINDS
from oid_async.store.disk import md5_of, plain_file

_TABLES = (
    *(MANIFEST, SHARD_LIST, "query.json", "report.json", "ATTRIBUTION.csv", "failures.csv", "bad_rows.csv"),
    *("bbox/label_data.csv", *(kind.file for kind in KINDS.values())),
)
_NO_NOTE = "nothing says what it was: run the same download again, which writes it anew"
_NO_PLAN = f"nothing says what it was: this is a copy without {PLAN}"
# What a JSON file of another form raises.
DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True, slots=True)
class Expected:
    """A file as it was put: its key, size in bytes, MD5 (hexadecimal), ETag; None for what is not known."""

    key: str
    size: int | None = None
    md5: str | None = None
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class PartEntry:
    """A part in shards.json: its name, generation and number of samples; `shard` is None where it has none."""

    name: str
    generation: int
    samples: int
    shard: Expected | None

    @property
    def record(self) -> str:
        """The key of its record."""
        return record_key(self.generation, self.name)


class PlaceAudit:
    """What one place should have and what it has, compared by a listing; with `reads` all bytes are read, too."""

    def __init__(self, files: PlaceFiles, *, reads: bool) -> None:
        self.files = files
        self.reads = reads
        self.finished = written_tables(files)
        self.has_manifest = files.size(MANIFEST) is not None
        self.has_plan = files.size(PLAN) is not None
        self._damaged_list: str | None = None
        self.parts = self._read_parts()
        self._there = {info.key: info for folder in (SHARDS, RECORDS, PLANS) for info in files.listing(folder)}
        # Without a list of what was there at the last end nothing is known to be later.
        self.later = self._later_parts() if self.is_listed else frozenset()

    @property
    def total(self) -> int:
        """How many files should exist: tables, shards, records, parts of the plan."""
        shards = sum(part.shard is not None for part in self.parts)
        return len(self.tables) + shards + (2 * len(self.parts) if self.has_state else 0)

    @property
    def is_listed(self) -> bool:
        """Whether shards.json says which parts and shards there are."""
        return self._damaged_list is None

    @property
    def has_state(self) -> bool:
        """Whether there is any record: in a copy that somebody has made without .oid_async there is none."""
        return any(key.startswith(f"{RECORDS}/") for key in self._there)

    @property
    def tables(self) -> list[Expected]:
        """The tables and lists that the last end has written."""
        return [Expected(name, *facts) for name, facts in self.finished.items()]

    def listed(self) -> pl.DataFrame:
        """Return what the listing alone shows, as FINDINGS: of shards, records, plan; and tables without a note."""
        rows = []
        if self._damaged_list is not None:
            rows.append(finding(SHARD_LIST, "altered", self._damaged_list, self.files.size(SHARD_LIST)))
        for part in self.parts:
            if part.shard is not None:
                rows += self._compare(part.shard, self._there.get(part.shard.key))
        rows += self._check_plan()
        for key in self._state_keys():
            if key not in self._there:
                rows.append(finding(key, "missing", "no such file", None))
        if self.is_listed:
            known = {part.shard.key for part in self.parts if part.shard is not None}
            extra = (
                info
                for key, info in self._there.items()
                if key.startswith(f"{SHARDS}/") and key not in known and _part_of(key) not in self.later
            )
            rows += [finding(info.key, "extra", f"{SHARD_LIST} does not list it", info.size, None) for info in extra]
        if not self.finished:
            there = ((name, self.files.size(name)) for name in _TABLES)
            why = _NO_NOTE if self.has_plan else _NO_PLAN
            rows += [finding(name, "unchecked", why, size) for name, size in there if size is not None]
        return pl.DataFrame(rows, schema=FINDINGS, orient="row")

    def check_tables(self, tables: Sequence[Expected]) -> pl.DataFrame:
        """Return the findings of tables, as FINDINGS."""
        rows = []
        for table in tables:
            size = self.files.size(table.key)
            found = None if size is None else ObjectInfo(table.key, size, self.files.etag(table.key))
            rows += self._compare(table, found) or self._read(table)
        return pl.DataFrame(rows, schema=FINDINGS, orient="row")

    def whole_shards(self) -> Iterator[tuple[PartEntry, Expected]]:
        """Yield the shards of which the listing shows nothing wrong."""
        for part in self.parts:
            if part.shard is not None and not self._compare(part.shard, self._there.get(part.shard.key)):
                yield part, part.shard

    def whole_records(self) -> Iterator[PartEntry]:
        """Yield the parts that have a record."""
        yield from (part for part in self.parts if part.record in self._there)

    def read(self, expected: Expected, path: Path) -> list[tuple[object, ...]]:
        """Return the finding of a file whose bytes are in `path`, as a row of FINDINGS."""
        with plain_file(path) as file:
            digest = md5_of(file).hexdigest()
        if expected.md5 is None or digest == expected.md5:
            return []
        return [finding(expected.key, "altered", "other bytes: the MD5 differs", expected.size, expected.size)]

    def _read(self, expected: Expected) -> list[tuple[object, ...]]:
        return self.read(expected, self.files.fetch(expected.key)) if self.reads else []

    def _compare(self, expected: Expected, found: ObjectInfo | None) -> list[tuple[object, ...]]:
        """Return the finding of a file by what a listing says of it; where bytes are read, its ETag proves nothing."""
        key, size = expected.key, expected.size
        if found is None:
            return [finding(key, "missing", "no such file", None, size)]
        if size is not None and found.size != size:
            kind: FindingKind = "truncated" if found.size < size else "altered"
            return [finding(key, kind, f"{found.size} of {size} bytes", found.size, size)]
        if self.reads or found.etag is None or found.etag in (expected.etag, expected.md5) or expected.etag is None:
            return []
        what = "its ETag is another one, so it was written anew; --deep reads it"
        return [finding(key, "altered", what, found.size, size)]

    def _check_plan(self) -> list[tuple[object, ...]]:
        """Return the finding of a plan.json that no run can go on with."""
        if not self.has_plan:
            return [finding(PLAN, "missing", "no such file", None)] if self.has_state else []
        try:
            PublishedQuery.from_json(self.files.fetch(PLAN).read_bytes())
        except DAMAGE:
            return [finding(PLAN, "altered", "it cannot be read as a query", self.files.size(PLAN))]
        return []

    def _later_parts(self) -> frozenset[str]:
        """Return the names of the parts of generations that have begun since: the next end takes them in."""
        names: set[str] = set()
        number = 1 + max((part.generation for part in self.parts), default=-1)
        while generation_key(number) in self._there:
            with suppress(*DAMAGE):
                generation = Generation.from_json(self.files.fetch(generation_key(number)).read_bytes())
                names.update(part.name for part in generation.parts)
            number += 1
        return frozenset(names)

    def _state_keys(self) -> Iterator[str]:
        for part in self.parts if self.has_state else ():
            yield from (part.record, plan_key(part.generation, part.name))

    def _read_parts(self) -> list[PartEntry]:
        path = self.files.fetch(SHARD_LIST)
        try:
            return [_part(values) for values in json.loads(path.read_bytes())["shards"]]
        except FileNotFoundError:
            if SHARD_LIST not in self.finished:
                self._damaged_list = "it is not there, so nothing says which shards there should be"
        except DAMAGE:
            self._damaged_list = "it cannot be read, so nothing says which shards there should be"
        return []


def reads_all(files: PlaceFiles, *, deep: bool) -> bool:
    """Return whether a verification reads all bytes: of a folder always, as a listing proves nothing there."""
    return deep or not isinstance(files, BucketFiles)


def finding(
    key: str, kind: FindingKind, detail: str, size: int | None, expected: int | None = None, image_id: str | None = None
) -> tuple[object, ...]:
    """Return a row of FINDINGS of a file of a place, or of an image in it."""
    return kind, image_id, key.rpartition("/")[2], detail, size, expected, kind != "extra", key


def _part_of(key: str) -> str:
    """Return the name of the part whose shard has a key.

    >>> _part_of("shards/train-000003~3f9a12c4.tar")
    'train-000003'
    """
    return key.rpartition("/")[2].partition(".")[0].partition("~")[0]


def _part(values: Mapping[str, Any]) -> PartEntry:
    key = values["shard"]
    if key is not None and not key.startswith(f"{SHARDS}/"):
        raise ValueError(key)
    shard = None if key is None else Expected(key, int(values["size"]), values["md5"], values["etag"])
    return PartEntry(str(values["part"]), int(values["generation"]), int(values["samples"]), shard)
