"""The shards of a place in the end: each has its part's name, and there are no others.

A record may name a shard with a suffix, where the part's name was taken by somebody who did not commit. The end copies
it over, and only then deletes: whoever is killed in between, or does the same at the same time, spoils nothing.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from oid_async.cluster.committed import named
from oid_async.cluster.layout import SHARDS, part_name, record_key, shard_key
from oid_async.cluster.published import Generation, PublishedQuery
from oid_async.cluster.record import Record, ShardNote
from oid_async.errors import StorageError
from oid_async.objects.store import MissingError, ObjectInfo, Objects
from oid_async.openimages.vocabulary import SPLITS

_SHARD = re.compile(r"shards/(.+?)(?:~[0-9a-f]{8})?\.(?:tar|parquet)")


@dataclass(frozen=True, slots=True)
class PartShard:
    """The shard of one part: `shard` as the record has it, with the `key` that it has in the end; None without one."""

    generation: int
    part: str
    key: str
    shard: ShardNote | None

    @classmethod
    def of(cls, record: Record, query: PublishedQuery) -> Self:
        """Return the shard of a record's part."""
        return cls(record.generation, record.name, shard_key(record.name, query.ending), record.shard)

    @classmethod
    def listed(cls, values: Mapping[str, Any], query: PublishedQuery) -> Self:
        """Return what `as_listed` has been made of. Raises KeyError, TypeError."""
        key = shard_key(values["part"], query.ending)
        note = ShardNote(key, values["size"], values["md5"], values["etag"], values["samples"])
        return cls(values["generation"], values["part"], key, None if values["shard"] is None else note)

    def as_listed(self) -> dict[str, Any]:
        """Return its entry in shards.json."""
        note = self.shard
        if note is None:
            facts: dict[str, Any] = {"shard": None, "size": 0, "md5": None, "etag": None, "samples": 0}
        else:
            facts = {"shard": self.key, "size": note.size, "md5": note.md5, "etag": note.etag, "samples": note.samples}
        return {"part": self.part, "generation": self.generation, **facts}


def shard_list(query: PublishedQuery, shards: Iterable[PartShard]) -> bytes:
    """Return shards.json: the shard of every part, an entry a line, by split, then by number.

    `max_side` is there if images were made smaller for their shards.
    """
    facts = {"digest": query.digest, "format": query.format}
    head = json.dumps(facts | ({} if query.max_side is None else {"max_side": query.max_side}))
    lines = ",\n".join(json.dumps(shard.as_listed()) for shard in sorted(shards, key=_order))
    return f'{head[:-1]}, "shards": [\n{lines}\n]}}\n'.encode()


def _order(shard: PartShard) -> tuple[int, int]:
    split, _, number = shard.part.rpartition("-")
    return next((place for place, each in enumerate(SPLITS) if each == split), len(SPLITS)), int(number)


def read_shard_list(text: bytes, query: PublishedQuery) -> list[PartShard]:
    """Return the shards of shards.json. Raises ValueError, KeyError, TypeError for one that is none."""
    return [PartShard.listed(values, query) for values in json.loads(text)["shards"]]


def give_names(objects: Objects, shards: Sequence[PartShard]) -> tuple[list[PartShard], dict[str, ObjectInfo]]:
    """Copy shards with a suffix over their parts' names; return all as they are now, and what is under shards/.

    Raises StorageError if one is missing or of another size, and says which records to remove.
    """
    notes = ((each.shard, each.key) for each in shards)
    there = objects.listed(SHARDS, (key for note, key in notes if note is not None and note.key == key))
    named_now: list[PartShard] = []
    lost: list[PartShard] = []
    for each in shards:
        note = each.shard
        if note is None:
            named_now.append(each)
        elif note.key != each.key:
            found = _named(objects, each, there)
            (lost if found is None else named_now).append(found or each)
        elif note.key in there and there[note.key].size == note.size:
            named_now.append(each)
        else:
            lost.append(each)
    if lost:
        raise _loss(objects, lost, there)
    return named_now, there


def _named(objects: Objects, each: PartShard, there: Mapping[str, ObjectInfo]) -> PartShard | None:
    """Return a shard with a suffix under its part's name; None if it is lost."""
    note = each.shard
    assert note is not None
    found, suffixed = there.get(each.key), there.get(note.key) or objects.head(note.key)
    if suffixed is not None and suffixed.size == note.size:
        try:
            found = objects.copy(note.key, each.key)
        except MissingError:
            found = objects.head(each.key)  # somebody else was quicker, and has removed it
    if found is None or not objects.holds(each.key, note.size, note.md5):
        return None
    return replace(each, shard=replace(note, key=each.key, etag=found.etag))


def _loss(objects: Objects, lost: Sequence[PartShard], there: Mapping[str, ObjectInfo]) -> StorageError:
    first = lost[0]
    assert first.shard is not None
    found = there.get(first.shard.key) or there.get(first.key)
    what = "is missing" if found is None else f"is not what was put ({found.size} of {first.shard.size} bytes)"
    if found is not None and found.size == first.shard.size:
        what = "has other bytes than were put"
    more = f", and {len(lost) - 1} more" if len(lost) > 1 else ""
    records = [record_key(each.generation, each.part) for each in lost]
    return StorageError(
        f"{objects.place}/{first.shard.key} {what}{more}: no manifest is written; remove from {objects.place} the "
        f"{'record' if len(lost) == 1 else 'records'} {named(records)}, then run the same command again, and the "
        f"{'part is' if len(lost) == 1 else 'parts are'} made again"
    )


def orphans(generations: Sequence[Generation], shards: Iterable[PartShard], there: Iterable[str]) -> list[str]:
    """Return what of the keys `there` is a shard of a published part, but not the one that its record names.

    Of parts that these generations do not have nothing is said: another run may have published them since.
    """
    parts = {part_name(part.split, part.number) for generation in generations for part in generation.parts}
    kept = {each.key for each in shards if each.shard is not None}
    found = []
    for key in there:
        match = _SHARD.fullmatch(key)
        if match is not None and match[1] in parts and key not in kept:
            found.append(key)
    return sorted(found)
