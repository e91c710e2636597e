"""The objects of a part: its plan is read; its shard is put, then its record, each only where nothing has the name.

The record is the commit, and the first one counts. Another worker may put the same part at any moment, be it a copy of
a straggler's or one that was taken for dead; and any put may have taken place although its answer got lost.
"""

import secrets
from collections.abc import Callable

from oid_async.cluster.generations import get_part_bytes
from oid_async.cluster.layout import shard_key
from oid_async.cluster.part_shard import PartShard
from oid_async.cluster.published import Part
from oid_async.cluster.record import Record, ShardNote, reading_record
from oid_async.cluster.work import End
from oid_async.objects.store import ExistsError, MissingError, Objects

_SUFFIX_BYTES = 4


class PartObjects:
    """The objects of one part at a place. Blocking; raises StorageError. `check` raises where no more may be put."""

    def __init__(self, objects: Objects, part: Part, check: Callable[[], object]) -> None:
        self._objects = objects
        self._part = part
        self._check = check

    def plan(self) -> bytes:
        """Return the part's file. Raises InputError for one that is not as it was published."""
        return get_part_bytes(self._objects, self._part)

    def committed(self) -> Record | None:
        """Return the record of the part, None as long as there is none."""
        key = self._part.record_key
        try:
            content = self._objects.get(key)
        except MissingError:
            return None
        with reading_record(f"{self._objects.place}/{key}"):
            return Record.read(content)

    def put(self, shard: PartShard, ending: str, record: Callable[[ShardNote | None], bytes]) -> tuple[End, Record]:
        """Put a shard, if it has a file, and the record that is made of its note; or return the one that came first."""
        suffix, note = "", None
        if shard.path is not None:
            try:
                note = self._put_shard(shard, ending, suffix)
            except ExistsError:
                # Other bytes: somebody else was at this part, and perhaps has done with it.
                if (before := self.committed()) is not None:
                    return "already", before
                suffix = secrets.token_hex(_SUFFIX_BYTES)
                note = self._put_shard(shard, ending, suffix)
        content = record(note)
        self._check()
        try:
            self._objects.put_new(self._part.record_key, content)
        except ExistsError:
            winner = self.committed()
            assert winner is not None, "records are never removed"
            # One without a suffix stays where the winner's has one: the end copies that over it.
            if note is not None and (winner.shard is None or (suffix and winner.shard.key != note.key)):
                self._objects.delete([note.key])
            return "already", winner
        return "committed", Record.read(content)

    def _put_shard(self, shard: PartShard, ending: str, suffix: str) -> ShardNote:
        assert shard.path is not None
        self._check()
        put = self._objects.put_new(shard_key(self._part.name, ending, suffix), shard.path)
        return ShardNote(put.key, put.size, shard.md5, put.etag, len(shard.offsets))
