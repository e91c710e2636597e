"""What a command has come to, as a person reads it: a download, a verification, an export, a prune."""

from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from oid_async.openimages.kinds import KINDS
from oid_async.options.paths import shown
from oid_async.report import FINAL_KINDS, PASSING_KINDS, Report, counted, size_text

if TYPE_CHECKING:
    from oid_async.jobs.export import ExportReport
    from oid_async.jobs.prune import PruneReport
    from oid_async.jobs.verification import Verification

_RESULTS = (
    "images/",
    *(kind.file for kind in KINDS.values()),
    "segmentation/masks/",
    "narrative/voice/",
    "manifest.parquet",
    "ATTRIBUTION.csv",
)


def finding_rows(found: "Verification") -> Iterator[tuple[str, str, str, str]]:
    """Yield the findings: kind, name (of another file: path), ImageID, what is wrong."""
    for finding in found.findings():
        name = finding.path if finding.path.removeprefix("images/") != finding.file_name else finding.file_name
        yield finding.kind, name, finding.image_id or "-", finding.detail


def verification_lines(found: "Verification") -> list[str]:
    """Return what a verification found, as a person reads it."""
    counts = ", ".join(f"{count} {kind}" for kind, count in found.counts.items())
    lines = [
        f"{counted(found.checked, 'image')} and {counted(found.files, 'other file')} checked in "
        f"{shown(found.savepath)}: "
        + ("all whole" if found.clean else counts)
        + (f", {found.repaired} repaired" if found.repaired else "")
        + (f"; {found.unselected} of them of earlier queries" if found.unselected else "")
        + (f"; {found.unhashed} have no MD5: size, start and end alone were checked" if found.unhashed else "")
    ]
    if found.advice:
        lines += found.advice
    elif len(found.damage) and not found.repaired:
        lines.append(f"oid-async verify {quote(shown(found.savepath))} --repair mends what is damaged")
    return lines


def export_lines(report: "ExportReport") -> list[str]:
    """Return what an export holds, as a person reads it."""
    splits = ", ".join(f"{split} {count}" for split, count in report.splits.items())
    rows = ", ".join(f"{count} {KINDS[kind].what}" for kind, count in report.annotations.items())  # type: ignore[index]
    return [
        f"{report.format}: {counted(report.images, 'image')} ({splits or 'none'}), {rows or 'no annotations'}, in "
        f"{report.seconds:.1f} s: {shown(report.out)}"
    ]


def prune_lines(report: "PruneReport") -> list[str]:
    """Return what was removed, or would be, as a person reads it."""
    also = "".join(
        f", {count} {what}" for what, count in (("masks", report.masks), ("recordings", report.recordings)) if count
    )
    done = "would be removed from" if report.dry_run else "removed from"
    return [f"{counted(report.images, 'image')}{also} ({size_text(report.bytes)}) {done} {report.savepath}"]


def summary_lines(
    report: Report, *, packed: bool = False, distributed: bool = False, endpoint_url: str | None = None
) -> list[str]:
    """Return what a finished or interrupted run did, as a person reads it.

    `packed`: its images are in shards; `distributed`: they went there past one machine, to a bucket at `endpoint_url`
    if that was given.
    """
    negatives = f", {report.negatives} of them negatives" if report.negatives else ""
    lines = [
        (f"part {report.shard}: " if report.shard else "")
        + f"{report.selected} selected{negatives}: {report.downloaded} downloaded ({size_text(report.bytes)} in "
        f"{report.seconds:.1f} s), {report.present} present, {report.failed} failed"
        + (f", {report.pending} pending" if report.pending else "")
        + (f"; {report.unselected} of earlier queries stay" if report.unselected else "")
        + ("; the tables are now of this query alone" if report.unselected and not report.interrupted else "")
    ]
    if report.failures:
        words = FINAL_KINDS | PASSING_KINDS  # type: ignore[operator]
        kinds = sorted(report.failures.items(), key=lambda item: -item[1])
        lines.append("failed: " + ", ".join(f"{kind} {count} ({words.get(kind, kind)})" for kind, count in kinds))
        if not report.interrupted:
            again = "; run again to ask for what may come back" if set(report.failures) & set(PASSING_KINDS) else ""
            lines.append(f"each is named in {shown(report.savepath)}/failures.csv{again}")
    if distributed:
        return lines + _distributed_lines(report, endpoint_url)
    if report.interrupted:
        saved = report.present + report.downloaded
        readers = (
            "view, stats and oid_async.open work" if packed else "view, stats, export, verify and oid_async.open work"
        )
        works = (
            f": {saved} of {counted(report.selected, 'image')} {'is' if saved == 1 else 'are'} saved; {readers} on them"
        )
        lines.append(f"interrupted{works if report.selected else ''}; run the same command again to go on")
    elif report.savepath:
        if report.pending:
            what = "1 image is" if report.pending == 1 else f"{report.pending} images are"
            lines.append(f"{what} pending: nothing is requested with --offline; run again without it to fetch them")
        lines.append(f"saved in {shown(report.savepath)}: {', '.join(_saved_by(report))}")
    if report.export:
        lines.append(f"exported as {report.export['format']}: {shown(report.export['out'])}")
    return lines


def _saved_by(report: Report) -> Iterator[str]:
    """Yield what this run has saved, as it is called below SAVEPATH.

    Tables that are there are of this run; pictures and recordings may be of earlier queries.
    """
    counts = {"segmentation/masks/": report.masks, "narrative/voice/": report.recordings}
    saved = {name: each.get("present", 0) + each.get("downloaded", 0) for name, each in counts.items()}
    saved["images/"] = report.present + report.downloaded
    for name in _RESULTS:
        if saved.get(name, True) and (Path(report.savepath) / name).exists():
            yield name


def _distributed_lines(report: Report, endpoint_url: str | None) -> list[str]:
    """Return how a download past one machine goes on, or what to do with what it has come to."""
    place = shown(report.savepath)
    if report.interrupted:
        return [
            f"interrupted: committed parts stay in {place}; run the same command again to go on"
            if report.selected
            else "interrupted; run the same command again to go on"
        ]
    if report.left_to_others:
        return []
    there = "" if endpoint_url is None else f" --endpoint-url {quote(endpoint_url)}"
    return [
        f"shards, manifest.parquet and tables are in {place}",
        f"oid-async verify {quote(place)}{there} checks them, oid_async.open reads them",
    ]
