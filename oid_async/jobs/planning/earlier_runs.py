"""How fast this user's own runs were: noted at the end of a download, told by the plan of the next one. Blocking.

    CACHE/earlier_runs.json   {"fetched_by_group": {"bucket": {"bytes_per_s", "images_per_s", "images", "day"}, ...}}

A group of hosts is the public `bucket`, `flickr`, or a mirror by a hash of its address: nothing else of a run is noted.
The latest run counts that was large enough, and that no option slowed down. The file may be deleted at any time; one
that is damaged, or somebody else's, is as if it were not there.
"""

import json
import math
import os
import re
import secrets
from contextlib import suppress
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from oid_async.metadata.paths import site_folder
from oid_async.openimages.vocabulary import Source
from oid_async.options.query import Options
from oid_async.quick_values import frozen
from oid_async.report import Report
from oid_async.store.atomic import write_json
from oid_async.store.disk import plain_file

_NAME = "earlier_runs.json"
_KEY = "fetched_by_group"
_MOST_BYTES = 1 << 16
_MOST_GROUPS = 100
_DAY = re.compile(r"20[0-9]{2}-[01][0-9]-[0-3][0-9]")
# Of fewer images, or in less time, the start counts for more than the line.
_LEAST_IMAGES = 100
_LEAST_S = 1.0
# The share of images that must come from one group.
_MOST_OF = 0.9


@frozen
class EarlierRun:
    """How fast a run fetched so many images, and on which day (YYYY-MM-DD)."""

    bytes_per_s: float
    images_per_s: float
    images: int
    day: str


def host_group(site: str | None, source: Source, count: int, on_flickr: int) -> str | None:
    """Return the name of the hosts that so many images come from first, None if they are no one's in particular.

    `site` is the lasting name of a mirror, which has the bucket's copies.

    >>> host_group(None, "cvdf", 10, 0), host_group(None, "original", 10, 9), host_group(None, "original", 10, 5)
    ('bucket', 'flickr', None)
    """
    if source == "cvdf":
        return "bucket" if site is None else site_folder(Path(), site).name
    return "flickr" if count and on_flickr >= _MOST_OF * count else None


def earlier_run(cache: Path, group: str | None, options: Options) -> EarlierRun | None:
    """Return the latest run of a group of hosts that was noted, None if there is none that tells of these options."""
    if group is None or (group == "flickr" and options.rate is not None):
        # Runs that were noted obeyed the usual cap there.
        return None
    return _parse(_read(cache).get(group))


def note_run(cache: Path, group: str | None, source: Source, options: Options, report: Report, seconds: float) -> None:
    """Note how fast a run fetched its images in so many seconds, if it tells something of a group and its `source`.

    Where nothing can be written nothing is noted.
    """
    is_slowed = bool(options.rate) or options.limit_rate is not None
    if group is None or is_slowed or report.downloaded < _LEAST_IMAGES or seconds < _LEAST_S or report.bytes <= 0:
        return
    if report.sources.get(source, 0) < _MOST_OF * report.downloaded:
        return
    rates = (round(report.bytes / seconds, 1), round(report.downloaded / seconds, 3))
    run = EarlierRun(*rates, report.downloaded, date.today().isoformat())
    with suppress(OSError):
        path = cache / _NAME
        if os.path.lexists(path) and not _may_replace(path):
            return
        known = {name: asdict(kept) for name, value in _read(cache).items() if (kept := _parse(value)) is not None}
        known.pop(group, None)
        # The latest is the last: the oldest ones go.
        latest = [*known.items()][-_MOST_GROUPS + 1 :]
        content = {_KEY: {**dict(latest), group: asdict(run)}}
        cache.mkdir(parents=True, exist_ok=True)
        write_json(path, content, part=cache / f".{_NAME}.{secrets.token_hex(8)}.part", durable=True)


def _content(path: Path) -> Any:
    """Return what the file says, None for what is no JSON. Raises OSError for what is no plain file."""
    with plain_file(path) as file:
        text = file.read(_MOST_BYTES + 1)
    try:
        return json.loads(text) if len(text) <= _MOST_BYTES else {}
    except (ValueError, RecursionError):
        return None


def _may_replace(path: Path) -> bool:
    """Return whether a file is ours, or a damaged one of ours. Raises OSError for what is no plain file."""
    content = _content(path)
    return content is None or (isinstance(content, dict) and _KEY in content)


def _read(cache: Path) -> dict[str, Any]:
    """Return what is noted of each group, as it stands there."""
    try:
        groups = _content(cache / _NAME)[_KEY]
    except (OSError, KeyError, TypeError):
        return {}
    return groups if isinstance(groups, dict) else {}


def _parse(value: Any) -> EarlierRun | None:
    """Return the run that a note tells, None for nonsense."""
    try:
        run = EarlierRun(float(value["bytes_per_s"]), float(value["images_per_s"]), int(value["images"]), value["day"])
        rates = (run.bytes_per_s, run.images_per_s)
        is_run = all(math.isfinite(rate) and rate > 0 for rate in rates) and _DAY.fullmatch(run.day) is not None
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return run if is_run else None
