"""All records of a place, checked against the plan: which images each is about, and what became of its part."""

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from oid_async.cluster.layout import RECORDS, shard_key
from oid_async.cluster.local_copies import LocalCopies
from oid_async.cluster.published import Generation, Part, PublishedQuery
from oid_async.cluster.record import MADE_AGAIN, Record, reading_record
from oid_async.errors import InputError, StorageError
from oid_async.events import Sink, TableProgress
from oid_async.objects.store import ObjectInfo, Objects
from oid_async.openimages.ids import KEY, IdForm, among

# So many images are held in memory with all their rows.
SPAN_ROWS = 16384
_THREADS = 8
_MOST_NAMED = 3
_PROGRESS_ROWS = 200
Key = int | str


@dataclass(frozen=True, slots=True)
class CommittedPart:
    """A part with its record, whose rows are in `path`, about images of these keys. `place` numbers all of them."""

    place: int
    part: Part
    record: Record
    path: Path
    least: Key
    greatest: Key


@dataclass(frozen=True, slots=True)
class KeySpan:
    """Neighbouring images of all splits: so many keys, and the parts that have some of them."""

    keys: pl.Series
    parts: Sequence[CommittedPart]


@dataclass(frozen=True, slots=True)
class Committed:
    """All records of a place; `keys` are those of all planned images, sorted, each once."""

    parts: Sequence[CommittedPart]
    keys: pl.Series

    def spans(self) -> Iterator[KeySpan]:
        """Yield all images in order of their keys, some thousand at a time."""
        waiting = sorted(self.parts, key=lambda part: (part.least, part.place), reverse=True)
        active: list[CommittedPart] = []
        for start in range(0, len(self.keys), SPAN_ROWS):
            keys = self.keys.slice(start, SPAN_ROWS)
            first, last = keys[0], keys[-1]
            active = [part for part in active if part.greatest >= first]
            while waiting and waiting[-1].least <= last:
                active.append(waiting.pop())
            yield KeySpan(keys, sorted(active, key=lambda part: part.place))


def record_listing(objects: Objects, generations: Sequence[Generation]) -> dict[str, ObjectInfo]:
    """Return the records of published parts by their keys. Raises StorageError that names those which are missing."""
    parts = [part for generation in generations for part in generation.parts]
    there = objects.listed(RECORDS, (part.record_key for part in parts))
    missing = [part.name for part in parts if part.record_key not in there]
    if missing:
        raise StorageError(
            f"{objects.place}: {len(missing)} of {len(parts)} parts have no record yet ({named(missing)}): there is no "
            "manifest before that; run the same command again"
        )
    return {part.record_key: there[part.record_key] for part in parts}


def read_records(
    objects: Objects, query: PublishedQuery, generations: Sequence[Generation], files: LocalCopies, sink: Sink
) -> Committed:
    """Fetch and check all records, some at a time. Raises InputError for one that is not of its part."""
    parts = [part for generation in generations for part in generation.parts]
    ids = IdForm(query.hexadecimal, query.by_split)
    found: list[CommittedPart] = []
    planned: list[pl.Series] = [pl.Series(KEY, dtype=ids.dtype)]
    later: list[pl.Series] = []

    def read(place: int, part: Part) -> tuple[CommittedPart, pl.Series]:
        path = files.fetch(part.record_key)
        return _read(f"{objects.place}/{part.record_key}", place, part, query, path)

    with ThreadPoolExecutor(_THREADS) as threads:
        try:
            for done, (part, keys) in enumerate(threads.map(read, range(len(parts)), parts), 1):
                found.append(part)
                (later if part.part.generation else planned).append(keys)
                if done % _PROGRESS_ROWS == 0 or done == len(parts):
                    sink(TableProgress("records", done, len(parts), finished=done == len(parts), unit="step"))
        except BaseException:
            threads.shutdown(wait=True, cancel_futures=True)
            raise
    return Committed(found, _all_keys(str(objects.place), planned, later))


def _all_keys(place: str, planned: Sequence[pl.Series], later: Sequence[pl.Series]) -> pl.Series:
    """Return the keys of the first generation, sorted. Raises InputError if they are not those of all images, once."""
    keys = pl.concat(planned).sort()
    if (keys == keys.shift(1)).any():
        raise InputError(f"{place}: an image is planned twice; its plan is damaged")
    for some in later:
        if not among(some, keys).all():
            raise InputError(f"{place}: a later generation has an image that the first has not; its plan is damaged")
    return keys


def _read(name: str, place: int, part: Part, query: PublishedQuery, path: Path) -> tuple[CommittedPart, pl.Series]:
    """Return a record and the keys of its rows. Raises InputError."""
    with reading_record(name):
        record = Record.read(path)
        keys = pl.read_parquet(path, columns=[KEY], glob=False).to_series()
    is_of_part = (record.generation, record.name, record.plan_md5) == (part.generation, part.name, part.md5)
    if not is_of_part or not 0 < len(keys) == part.images or not _may_be_shard(record, part, query):
        raise InputError(
            f"{name}: it is not the record of the published part {part.name} ({len(keys)} of {part.images} images); "
            f"{MADE_AGAIN}"
        )
    return CommittedPart(place, part, record, path, keys.min(), keys.max()), keys  # type: ignore[arg-type]


def _may_be_shard(record: Record, part: Part, query: PublishedQuery) -> bool:
    """Return whether the shard of a record has one of the names that are its part's."""
    if record.shard is None:
        return True
    plain = shard_key(part.name, query.ending)
    suffixed = shard_key(part.name, query.ending, r"[0-9a-f]{8}")
    return re.fullmatch(f"{re.escape(plain)}|{suffixed.replace('.', r'[.]', 1)}", record.shard.key) is not None


def named(names: Sequence[str]) -> str:
    """Return the first of some names, and how many more there are.

    >>> named(["a", "b"]), named(["a", "b", "c", "d"])
    ('a, b', 'a, b, c and 1 more')
    """
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def summed(counts: Iterator[Mapping[str, int]]) -> dict[str, int]:
    """Return the sums of counts by their names.

    >>> summed(iter([{"a": 1}, {"a": 2, "b": 0}]))
    {'a': 3, 'b': 0}
    """
    total: dict[str, int] = {}
    for each in counts:
        for name, count in each.items():
            total[name] = total.get(name, 0) + count
    return total
