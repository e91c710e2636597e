"""The results of a run: one Outcome for each image, one Plan before, one Report after. Plain values, no I/O."""

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from oid_async.errors import UsageError
from oid_async.measures.run import RunMeasures
from oid_async.quick_values import define, frozen, maker_of

# Of the `;` in a Detail those that end a source's part.
_NEXT_SOURCE = re.compile(r"; (?=[a-z]+:)")

Status = Literal["present", "downloaded", "failed"]
# The class has a field of the name.
_Bytes = bytes
# Rows of one kind of annotations: dicts by column.
Rows = list[dict[str, Any]]

# The final kind that ends an image: no other source is asked.
OPTED_OUT = "opted_out"
# The closed set of failure kinds, each with what a person reads. The first group is final for the object and, but for
# OPTED_OUT, moves on to the next source; the second passes, ends as failed and is asked for again by the next run.
FINAL_KINDS: Mapping[str, str] = {
    "not_found": "404",
    "gone": "410",
    "forbidden": "401 or 403",
    OPTED_OUT: "its host says that it is not for AI",
    "placeholder": "another picture in its place; only JPEG is saved",
    "not_image": "no JPEG that can be read",
    "checksum": "size or MD5 differ",
    "too_large": "larger than it may be",
    "empty": "no bytes",
    "redirect": "redirects that lead nowhere, in circles or too far",
    "blocked": "scheme, host or address not allowed",
    "bad_response": "not an HTTP answer",
    "bad_url": "no usable URL",
}
PASSING_KINDS: Mapping[str, str] = {
    "network": "refused, reset or no answer",
    "timeout": "took too long",
    "rate_limited": "429 to the end",
    "server_error": "5xx to the end",
    "truncated": "the bytes stop early",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result for one image.

    `file` is the saved file as text, or None, and `path` the same as a Path; `reason` is the last source's failure kind
    or None; `detail` names every source that was tried (`cvdf:not_found; original:gone`); `attempts` counts requests
    for a body; `md5` is base64, None with --no-hash; `subset` is the image's split where it is known; `asked` says what
    final failures are about: of each source a hash of address, size and MD5.

    A stream with annotations=True or keep_files=False hands out the bytes of the JPEG as `image`, None of an image that
    failed. With annotations=True `boxes`, `masks`, `relationships`, `narratives`, `labels` and `points` are the rows
    that the saved tables have of the image: lists of dicts by column, as `SavedDataset` describes them; coordinates are
    fractions, 0 to 1. Of a kind that is not saved, and of an image that failed, there are none.
    """

    image_id: str
    status: Status
    file: str | None
    reason: str | None = None
    detail: str | None = None
    source: str | None = None
    url: str | None = None
    bytes: int | None = None
    md5: str | None = None
    width: int | None = None
    height: int | None = None
    attempts: int = 0
    subset: str | None = None
    asked: str | None = None
    image: _Bytes | None = field(default=None, repr=False)
    # By kind; None where nobody asked for them.
    rows: Mapping[str, Rows] | None = field(default=None, repr=False, hash=False)

    @property
    def path(self) -> Path | None:
        """The saved file, None if there is none. Made when it is asked for: of a million images hardly any is."""
        return None if self.file is None else Path(self.file)

    @property
    def file_name(self) -> str | None:
        """The name of the saved file, None if there is none."""
        return None if self.file is None else os.path.basename(self.file)

    @property
    def boxes(self) -> Rows:
        """The rows of its boxes. Raises UsageError without annotations=True, as all of these do."""
        return self._rows("bbox", "boxes")

    @property
    def masks(self) -> Rows:
        """The rows of its masks; their pictures are fetched at the end of a run that keeps files."""
        return self._rows("segmentation", "masks")

    @property
    def relationships(self) -> Rows:
        """The rows of its relationships."""
        return self._rows("relationship", "relationships")

    @property
    def narratives(self) -> Rows:
        """The rows of its narratives; `traces` and `timed_caption`, which are fetched at the end of a run, are None."""
        return self._rows("narrative", "narratives")

    @property
    def labels(self) -> Rows:
        """The rows of its labels."""
        return self._rows("label", "labels")

    @property
    def points(self) -> Rows:
        """The rows of its point labels."""
        return self._rows("point", "points")

    def _rows(self, kind: str, name: str) -> Rows:
        if self.rows is None:
            raise UsageError(f"outcome.{name} is of stream(..., annotations=True)")
        return self.rows.get(kind, [])


outcome_of = maker_of(Outcome)


class _Measured:
    """What is measured of a run, beside its counts: no field, so that `asdict` of a report is plain values."""

    __slots__ = ("measures",)

    def __post_init__(self) -> None:
        self.measures = RunMeasures()


@define
class Report(_Measured):
    """The counts of a run: selected = present + downloaded + failed + pending.

    `bytes` and `requests` are those of this run's images (re-sends and redirect hops counted); `seconds` is the whole
    run; `failures` counts by kind; `sources` says where this run's downloads came from; `unselected` counts saved
    images of earlier queries that this query does not select; `bad_rows` counts table rows left out as damaged; `masks`
    and `recordings` count those of the saved images (selected = present + downloaded + failed) and their bytes, and are
    empty where none were asked for; `export` is what was exported, empty without --format; `unknown_ids` counts the
    entries of --image-ids that name no image of the tables; `negatives` counts those among the selected images;
    `left_to_others` are those pending images that another task of an array asks for.
    `hosts` has what was measured of each host.
    """

    selected: int = 0
    present: int = 0
    downloaded: int = 0
    failed: int = 0
    pending: int = 0
    unselected: int = 0
    bad_rows: int = 0
    bytes: int = 0
    requests: int = 0
    seconds: float = 0.0
    masks: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    sources: dict[str, int] = field(default_factory=dict)
    savepath: str = ""
    interrupted: bool = False
    recordings: dict[str, int] = field(default_factory=dict)
    export: dict[str, Any] = field(default_factory=dict)
    unknown_ids: int = 0
    shard: str | None = None
    negatives: int = 0
    left_to_others: int = 0

    @property
    def hosts(self) -> dict[str, dict[str, Any]]:
        """What was measured of each host of this run so far, those with the most requests first.

        By host and port (all of staticflickr.com is one host; beyond 100 they are summed as `others`): `requests`,
        `images`, `bytes` and `connections` of images; `first_byte_ms` and `total_ms` of requests, `dns_ms` of look-ups,
        `connect_ms` of connections (TCP and TLS), each with `p50`, `p90`, `p99`, `max` in milliseconds and `count`,
        right within 3 %; `retries` and `failures`, which count attempts by failure kind; `waits`, which have `count`
        and `seconds` by reason (rate_cap, limit_rate, retry_after, backoff, paused), waits at the same time counted
        once; `other`: requests, bytes and connections for tables, masks and recordings. It is not in `as_json`.
        """
        return self.measures.hosts()

    @property
    def failed_attachments(self) -> int:
        """How many masks and recordings failed."""
        return self.masks.get("failed", 0) + self.recordings.get("failed", 0)

    def as_json(self) -> dict[str, Any]:
        """Return the report as one JSON object's worth of plain values.

        Masks, recordings, export, negatives and left_to_others are in it only if there are any.
        """
        counts = {name: dict(sorted(getattr(self, name).items())) for name in ("failures", "sources")}
        values = asdict(self) | counts | {"seconds": round(self.seconds, 3)}
        optional = ("masks", "recordings", "export", "negatives", "left_to_others")
        return {name: value for name, value in values.items() if value or name not in optional}


@frozen
class Plan:
    """The size of a run, known before its first image request.

    `requests` is exact when every first answer is 200, else a minimum; `bytes` is the sum of the sizes that are known
    and a mean for each of the `bytes_unknown` images whose size is not, `bytes_exact` when there are none of those;
    `metadata_bytes` counts the table bytes fetched to know this; `seconds` is the least a rate cap allows, None when
    nothing is capped; `splits`, `classes` and `roles` (selected, negative) count the selected images after all limits,
    `classes` by category, without one by every class of the annotations that select or are saved; `candidates` are the
    images of each category alone, before limits; `sources` is the first source's share, `annotations` the annotation
    rows the selected images bring, by kind; `unknown_ids` counts the entries of --image-ids that name no image of the
    tables.

    `masks` has `count`, `present`, `archives`, `requests`, `bytes` to fetch and `bytes_exact`: of the `bytes_unknown`
    masks in the `archives_unknown` whose directory is not in the cache a mean is taken. `narratives` has `count` and
    the `bytes` of the captions, with --traces the `traces` (files and bytes to be read through), with --voice how many
    `recordings` there are at most; both are empty if none are saved. `disk_needed` are the bytes that are known to be
    written, copies of an export included; `too_little_disk` is the line that a download would stop with at once.

    `not_in_bucket` counts the images to fetch that the image bucket lacks, and `not_in_bucket_by` says how that is
    known: by its `listing`, by the table of the `boxable` images, because `boxes` select, or by the published `counts`;
    both are None where nothing is known of it. `requests`, `bytes` and `seconds` are with those of their next source.

    `seconds_estimated` is how long the images take at the speed of this user's own latest run of the same hosts,
    `earlier_run` has its `bytes_per_s`, `images_per_s`, `images` and `day`; None and empty where there was none.

    `parts`, of a download past one machine that begins, has the `count` of the latest generation and how many are
    `left`, the `place`, the `engine` in words, and whether one task does them all (`capped`); of a mere plan it has
    about how many parts there will be, the `place`, and `capped` of the first generation. Otherwise it is empty.
    """

    selected: int
    present: int
    to_download: int
    requests: int
    bytes: int
    bytes_exact: bool
    metadata_bytes: int
    seconds: float | None
    disk_free: int
    splits: dict[str, int]
    classes: dict[str, int]
    sources: dict[str, int]
    annotations: dict[str, int]
    unknown_ids: int = 0
    shard: str | None = None
    not_in_bucket: int | None = None
    not_in_bucket_by: str | None = None
    bytes_unknown: int = 0
    roles: dict[str, int] = field(default_factory=dict)
    candidates: dict[str, int] = field(default_factory=dict)
    masks: dict[str, Any] = field(default_factory=dict)
    narratives: dict[str, Any] = field(default_factory=dict)
    disk_needed: int = 0
    too_little_disk: str | None = None
    seconds_estimated: float | None = None
    earlier_run: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the plan as one JSON object's worth of plain values."""
        return asdict(self)


def parse_detail(detail: str | None) -> dict[str, str]:
    """Return source to failure kind from a Detail; a kind may have words behind it, which `kind_of` takes off.

    >>> parse_detail("cvdf:not_found; original:gone")
    {'cvdf': 'not_found', 'original': 'gone'}
    >>> parse_detail("original:not_image (a PNG; only JPEG is saved); thumbnail:gone")
    {'original': 'not_image (a PNG; only JPEG is saved)', 'thumbnail': 'gone'}
    """
    if not detail:
        return {}
    pairs = (part.partition(":") for part in _NEXT_SOURCE.split(detail) if part)
    return {source: kind for source, _, kind in pairs}


def kind_of(text: str) -> str:
    """Return the failure kind without the words behind it.

    >>> kind_of("not_image (a PNG; only JPEG is saved)"), kind_of("gone")
    ('not_image', 'gone')
    """
    return text.partition(" ")[0]


def write_detail(kinds: Mapping[str, str]) -> str:
    """Return the Detail that names every source and its failure kind, in the order they were asked.

    >>> write_detail({"cvdf": "not_found", "original": "gone"})
    'cvdf:not_found; original:gone'
    """
    return "; ".join(f"{source}:{kind}" for source, kind in kinds.items())


def size_text(count: int) -> str:
    """Return a number of bytes as a person reads it.

    >>> size_text(1), size_text(999), size_text(2_500), size_text(7_100_000_000_000)
    ('1 byte', '999 bytes', '2.5 kB', '7.1 TB')
    """
    if count < 1000:
        return f"{count} byte{'' if count == 1 else 's'}"
    power = min((len(str(count)) - 1) // 3, 5)
    return f"{count / 1000**power:.1f} {'kMGTP'[power - 1]}B"


def counted(count: int, noun: str) -> str:
    """Return a count and its noun.

    >>> counted(1, "field"), counted(2, "field")
    ('1 field', '2 fields')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"
