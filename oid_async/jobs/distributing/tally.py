"""The report of a run while parts are under way at many workers: what is committed, and how far the others are."""

from collections import Counter
from collections.abc import Iterable, Mapping

from oid_async.cluster.finish import Totals
from oid_async.cluster.published import Part
from oid_async.cluster.work import PartProgress, PartResult
from oid_async.events import Hold, Holding, Landed, Note, Sink
from oid_async.report import Report

_NOTHING = PartProgress("", "")


class Tally:
    """Keeps a report true: `take` gets everything that an engine reports, on the loop.

    Until the end, images of parts that had a record before this run count as present. Of two who carry out one part the
    one that is further counts, and in the end the one that has committed it.
    """

    def __init__(self, report: Report, sink: Sink) -> None:
        self._report = report
        self._sink = sink
        self._images: dict[str, int] = {}
        self._open: dict[str, dict[str, PartProgress]] = {}
        self._counted: dict[str, PartProgress] = {}
        self._holding = Holding()
        self._said: set[str] = set()

    def begin(self, parts: Iterable[Part]) -> None:
        """Take note of the parts that are to be carried out now."""
        self._settle()
        self._images |= {part.name: part.images for part in parts}

    def take(self, value: PartResult | PartProgress) -> None:
        """Count what an engine reports."""
        self._say(value.notes)
        if isinstance(value, PartProgress):
            self._progress(value)
        else:
            self._result(value)
        self._sink(Landed((), self._report))
        self._hold()

    def finish(self, totals: Totals, place: str) -> None:
        """Take the counts of the finished place; what this run has done stays its own."""
        self._settle()
        report = self._report
        report.selected, report.failed, report.pending = totals.selected, totals.failed, totals.pending
        report.failures = dict(totals.failures)
        report.downloaded = min(report.downloaded, totals.ok)
        report.present = totals.ok - report.downloaded
        report.masks = dict(totals.masks)
        report.bad_rows, report.unknown_ids = totals.bad_rows, totals.unknown_ids
        report.negatives = totals.negatives
        report.savepath = place

    def _say(self, notes: Iterable[str]) -> None:
        """Pass on what workers want the user to know, each line once."""
        for text in notes:
            if text not in self._said:
                self._said.add(text)
                self._sink(Note(text))

    def _progress(self, value: PartProgress) -> None:
        if value.part not in self._images:
            return  # late: it is committed
        before = self._open.setdefault(value.part, {}).get(value.worker, _NOTHING)
        self._open[value.part][value.worker] = value
        # A worker that tries a part again begins at nothing.
        self._report.requests += value.requests - before.requests if value.requests >= before.requests else 0
        furthest = max(self._open[value.part].values(), key=lambda each: each.landed)
        self._count(value.part, furthest)

    def _result(self, value: PartResult) -> None:
        images = self._images.get(value.part)
        if value.end == "unreachable":
            if images is not None:
                self._open.pop(value.part, None)
                self._count(value.part, _NOTHING)
            return
        if images is None:
            return
        self._count(value.part, _NOTHING)
        del self._images[value.part]
        self._open.pop(value.part, None)
        report, record = self._report, value.record
        if record is None or value.end == "already":
            report.pending -= images
            report.present += images
            return
        waiting = record.pending
        failed = sum(record.failures.values())
        report.pending -= images - waiting
        report.downloaded += record.saved
        report.failed += failed
        report.bytes += record.saved_bytes
        _add(report.failures, record.failures)
        _add(report.sources, record.sources)

    def _settle(self) -> None:
        """Count the parts that are left of a generation that is complete: others have committed them."""
        for part, images in self._images.items():
            self._count(part, _NOTHING)
            self._report.pending -= images
            self._report.present += images
        self._images.clear()
        self._open.clear()

    def _count(self, part: str, now: PartProgress) -> None:
        """Replace what is counted of a part that is under way."""
        before, report = self._counted.pop(part, _NOTHING), self._report
        report.downloaded += (now.landed - now.failed) - (before.landed - before.failed)
        report.failed += now.failed - before.failed
        report.pending -= now.landed - before.landed
        report.bytes += now.bytes - before.bytes
        _add(report.failures, dict(now.failures))
        _add(report.failures, {kind: -count for kind, count in before.failures})
        if now is not _NOTHING:
            self._counted[part] = now

    def _hold(self) -> None:
        """Say what holds the workers up, when that changes."""
        holds: dict[tuple[str, str], Hold] = {}
        for runs in self._open.values():
            for progress in runs.values():
                for hold in progress.holding:
                    key = (hold.cause, hold.host)
                    holds[key] = hold if key not in holds else _together(holds[key], hold)
        holding = Holding(tuple(holds.values()))
        if holding != self._holding:
            self._holding = holding
            self._sink(holding)


def _add(counts: dict[str, int], more: Mapping[str, int]) -> None:
    """Add counts to others in place; what comes to nothing goes."""
    for name, count in more.items():
        counts[name] = counts.get(name, 0) + count
        if not counts[name]:
            del counts[name]


def _together(one: Hold, other: Hold) -> Hold:
    """Return what two workers say of the same cause and host as one thing."""
    kinds = Counter(dict(one.kinds)) + Counter(dict(other.kinds))
    until = [each for each in (one.until, other.until) if each is not None]
    return Hold(
        one.cause,
        one.host,
        one.count + other.count,
        max(until, default=None),
        one.per_s,
        one.by_default,
        tuple(kinds.most_common()),
        one.trouble or other.trouble,
    )
