"""`oid-async demo`: the real download against an embedded look-alike, offline; some objects fail on purpose."""

from collections import Counter
from pathlib import Path
from shlex import quote
from tempfile import TemporaryDirectory
from typing import Any

from oid_async.errors import UsageError, storage_errors
from oid_async.events import Sink
from oid_async.jobs.download import Run
from oid_async.openimages.vocabulary import SPLITS
from oid_async.options.paths import read_path, shown
from oid_async.options.query import Options
from oid_async.report import Report

# The name of the look-alike's site over runs; its address is another one each time.
SITE = "demo:"


def demo_run(savepath: Path, cache_dir: Path | None, sink: Sink) -> Run:
    """Return the run of the demo: every split of the look-alike, every image with a box, all kinds of annotations."""
    options = Options(savepath=savepath, splits=SPLITS, cache_dir=cache_dir, kinds=("all",))
    return look_alike_run(options, sink)


def look_alike_run(options: Options, sink: Sink) -> Run:
    """Return the run of any query against the look-alike."""
    # It brings a server, which takes a tenth of a second to import; reading a folder must not load it.
    from oid_async.origin.lookalike import Lookalike

    return Run(options, sink, serve=Lookalike().serve, site=SITE)


def write_mirror(folder: str) -> dict[str, Any]:
    """Write the look-alike as a mirror, <bucket>/<key> in a new folder; return what `--json` says of it.

    The folder appears whole or not at all. Images that are staged as missing are missing; the others are whole. Raises
    UsageError if there is something of this name, StorageError.
    """
    from oid_async.origin.lookalike import Lookalike

    root = Path(read_path("--write-mirror", folder))
    if root.is_symlink() or root.exists():
        raise UsageError(f"{shown(root)}: there is something of this name; --write-mirror makes a new folder")
    with storage_errors(root):
        root.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent) as beside:
            mirror, count = Path(beside, "mirror"), 0
            for place, body in Lookalike().objects():
                path = mirror / place
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(body)
                count += 1
            mirror.rename(root)
    return {
        "mirror": str(root),
        "objects": count,
        "environment": {"OID_ASYNC_MIRROR": str(root), "OID_ASYNC_CACHE": f"{root}_cache"},
    }


def mirror_words(made: dict[str, Any]) -> list[str]:
    """Return what a user should read of the mirror that `write_mirror` has made, and what to type next."""
    variables = made["environment"]
    settings = " ".join(f"{name}={quote(value)}" for name, value in variables.items())
    return [
        f"{made['objects']} objects in {shown(made['mirror'])}, a look-alike of the public buckets",
        f"to read from it in this terminal, with a cache of its own:  export {settings}",
        f"to go back to the real dataset:  unset {' '.join(variables)}",
    ]


def went_as_staged(report: Report) -> bool:
    """Return whether exactly the staged failures happened."""
    from oid_async.origin.lookalike import STAGED_FAILURES

    return report.failures == dict(Counter(STAGED_FAILURES))


def closing_words(report: Report, program: str) -> list[str]:
    """Return what a user should read at the end: what was done, where the files are, what to type next."""
    if report.interrupted:
        return [
            f"{report.selected} images selected: {report.downloaded} downloaded now, {report.pending} pending",
            "interrupted; run the same command again to go on",
        ]
    path = shown(report.savepath)
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(report.failures.items()))
    staged = "exactly those that were staged" if went_as_staged(report) else "NOT those that were staged"
    return [
        f"{report.selected} images selected: {report.downloaded} downloaded now, {report.present} were there already, "
        f"{report.failed} failed",
        f"failed on purpose: {kinds or 'nothing'}: {staged}",
        f"pictures:    {path}/images/",
        f"boxes:       {path}/bbox/bbox.csv  (+ label_data.csv)",
        f"masks:       {path}/segmentation/masks/  (+ segmentation.csv)",
        f"and:         {path}/relationship/, narrative/, label/, point/",
        f"bookkeeping: {path}/manifest.parquet, failures.csv, ATTRIBUTION.csv, query.json",
        f"to look:     {program} view {quote(path)}",
        f"to train:    {program} export {quote(path)} --format coco  (or yolo, voc, webdataset, parquet, ...)",
        "next, from the real dataset:",
        f'  {program} download --category "Football" --category "Person" --type "inter" --split validation '
        '--savepath "Football_data"',
        "or run the demo again: it downloads nothing twice",
    ]
