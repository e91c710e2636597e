"""The end of a download past one machine: one manifest, the tables and the list of shards, of all records.

Everything is written in spans of images, the manifest last. Doing it again on a finished place writes nothing; two at
the same time write the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from oid_async.cluster.published import Generation, PublishedQuery
from oid_async.events import Sink
from oid_async.objects.store import Objects


@dataclass(frozen=True, slots=True)
class Totals:
    """What a finished place holds: selected = ok + failed + pending images, by their latest rows.

    `failures` counts failed images by kind, `sources` saved ones; `bytes` are those of saved images, `requests` those
    of the committed parts; `rows` counts annotations by kind, `left_out` what shards lack by reason; `masks` are as in
    a report. `shards` have `shard_bytes`. `orphans` were removed now. `changed`: anything was written now.
    """

    selected: int = 0
    ok: int = 0
    failed: int = 0
    pending: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    sources: Mapping[str, int] = field(default_factory=dict)
    bytes: int = 0
    requests: int = 0
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


def finish(
    objects: Objects, query: PublishedQuery, generations: Sequence[Generation], scratch: Path, sink: Sink
) -> Totals:
    """Write what a finished place has, of all published generations. Blocking; `sink` is called in this thread.

    `scratch` is an empty folder for temporaries. Raises StorageError, which names them, if records or shards are
    missing; of the storage or the disk; InputError for a plan or record that is damaged.
    """
    raise NotImplementedError
