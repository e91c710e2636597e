"""What a finished place holds, in numbers. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from oid_async.report import Report


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
