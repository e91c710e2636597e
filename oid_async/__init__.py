"""Pull any subset of Google's Open Images onto a disk.

>>> import oid_async
>>> report = await oid_async.download(categories=["Football", "Person"], match="all")  # doctest: +SKIP
>>> saved = oid_async.open("train_data")  # doctest: +SKIP
>>> saved.boxes.filter(IsOccluded=1).group_by("Category").len().collect()  # doctest: +SKIP

`open` reads a folder that a download has filled: see SavedDataset.

Importing this package loads neither aiohttp nor polars nor rich: names are resolved when first used (PEP 562).
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from oid_async.system import forks as _forks  # noqa: F401 (it notices forks from now on)
from oid_async.version import __version__

if TYPE_CHECKING:
    from oid_async import errors, events
    from oid_async.api.folders import prune, repeat
    from oid_async.api.looking import stats
    from oid_async.api.lookups import classes, metadata_list, metadata_pull, resolve
    from oid_async.api.reading import export, open, verify
    from oid_async.api.runs import Stream, download, plan, stream
    from oid_async.dataset.saved import SavedDataset
    from oid_async.jobs.export import ExportReport
    from oid_async.jobs.listed import ClassList, ClassRow, TableList, TableRow
    from oid_async.jobs.prune import PruneReport
    from oid_async.jobs.resolve import Resolution, ResolvedImage
    from oid_async.jobs.verification import Finding, Verification
    from oid_async.options.selection import Query
    from oid_async.report import Outcome, Plan, Report
    from oid_async.statistics.value import Statistics

__all__ = [
    "ClassList",
    "ClassRow",
    "ExportReport",
    "Finding",
    "Outcome",
    "Plan",
    "PruneReport",
    "Query",
    "Report",
    "Resolution",
    "ResolvedImage",
    "SavedDataset",
    "Statistics",
    "Stream",
    "TableList",
    "TableRow",
    "Verification",
    "__version__",
    "classes",
    "download",
    "errors",
    "events",
    "export",
    "metadata_list",
    "metadata_pull",
    "open",
    "plan",
    "prune",
    "repeat",
    "resolve",
    "stats",
    "stream",
    "verify",
]

_HOME = {
    "ClassList": "oid_async.jobs.listed",
    "ClassRow": "oid_async.jobs.listed",
    "ExportReport": "oid_async.jobs.export",
    "Finding": "oid_async.jobs.verification",
    "Outcome": "oid_async.report",
    "Plan": "oid_async.report",
    "PruneReport": "oid_async.jobs.prune",
    "Query": "oid_async.options.selection",
    "Report": "oid_async.report",
    "Resolution": "oid_async.jobs.resolve",
    "ResolvedImage": "oid_async.jobs.resolve",
    "SavedDataset": "oid_async.dataset.saved",
    "Statistics": "oid_async.statistics.value",
    "Stream": "oid_async.api.runs",
    "TableList": "oid_async.jobs.listed",
    "TableRow": "oid_async.jobs.listed",
    "Verification": "oid_async.jobs.verification",
    "classes": "oid_async.api.lookups",
    "download": "oid_async.api.runs",
    "export": "oid_async.api.reading",
    "metadata_list": "oid_async.api.lookups",
    "metadata_pull": "oid_async.api.lookups",
    "open": "oid_async.api.reading",
    "plan": "oid_async.api.runs",
    "prune": "oid_async.api.folders",
    "repeat": "oid_async.api.folders",
    "resolve": "oid_async.api.lookups",
    "stats": "oid_async.api.looking",
    "stream": "oid_async.api.runs",
    "verify": "oid_async.api.reading",
}


def __getattr__(name: str) -> Any:
    if name in ("errors", "events"):
        return import_module(f"oid_async.{name}")
    if name in _HOME:
        from contextlib import nullcontext

        from oid_async.system.interrupts import kept_interrupt_handler

        # Names are looked up at each use: only the first one may import Polars.
        with nullcontext() if "polars" in sys.modules else kept_interrupt_handler():
            return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'oid_async' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
