"""What the end of a download past one machine leaves behind for the next one, and for who verifies.

.oid_async/finished.json    records: tells the records that it was made of; files: bytes, md5 (hexadecimal) and etag
                            of each; totals
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from oid_async.cluster.layout import FINISHED, SHARD_LIST
from oid_async.cluster.published import DAMAGED, PublishedQuery
from oid_async.cluster.shard_names import PartShard, read_shard_list
from oid_async.cluster.totals import Totals
from oid_async.objects.store import MissingError, ObjectInfo, Objects

_FORM = 1


class FinishedEnd:
    """The end made of these records: it is read, if it is there, or written. Blocking; raises StorageError."""

    def __init__(self, objects: Objects, query: PublishedQuery, records: Mapping[str, ObjectInfo]) -> None:
        self._objects = objects
        self._query = query
        # They never change, but one may have been removed and made again.
        lines = sorted(f"{info.key} {info.size} {info.etag}" for info in records.values())
        self.records = hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def read(self) -> tuple[list[PartShard], Totals] | None:
        """Return the shards and the totals; None if it was not made, or any file of it is gone."""
        try:
            note = json.loads(self._objects.get(FINISHED))
            if (note["form"], note["digest"], note["records"]) != (_FORM, self._query.digest, self.records):
                return None
            for name, facts in note["files"].items():
                found = self._objects.head(name)
                if found is None or found.size != facts["bytes"] or found.etag != facts["etag"]:
                    return None  # an older end, which was slower, has written over it and was killed, for example
            shards = read_shard_list(self._objects.get(SHARD_LIST), self._query)
            return shards, Totals(**note["totals"])
        except (MissingError, *DAMAGED):
            return None

    def write(self, files: Mapping[str, Mapping[str, Any]], totals: Totals) -> None:
        """Note that these files are there, and that nothing is left to do."""
        note = {"form": _FORM, "digest": self._query.digest, "records": self.records}
        note |= {"files": files, "totals": asdict(totals)}
        self._objects.put(FINISHED, json.dumps(note).encode())
