"""What a user may ask for: every option once, with its flags, default, meaning and validation.

`Options` is the single source: the command line builds its parser from the fields' metadata, the Python doors take the
field names as keywords (`QueryOptions` repeats them for type checkers; a test keeps the two together).
"""

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import Field, asdict, dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Self, TypedDict, Unpack, get_args

from oid_async.errors import UsageError
from oid_async.openimages.vocabulary import FLAGS, RELEASES, SOURCES, SPLITS, LabelSource, Release, Source, Split
from oid_async.options import readers as values
from oid_async.options.export import ExportOptions
from oid_async.options.readers import option as _option

Match = Literal["any", "all"]
Names = Literal["url", "id"]
Kind = Literal["bbox", "segmentation", "relationship", "narrative", "label", "point", "all", "none"]
SelectBy = Literal["bbox", "segmentation", "relationship", "narrative", "label", "point"]
MaskSize = Literal["original", "image"]

_MATCH_WORDS: dict[str, Match] = {"any": "any", "sum": "any", "all": "all", "inter": "all"}
_SWITCHES = (
    "with_subclasses",
    "shuffle",
    "all_boxes",
    "offline",
    "retry_failed",
    "top_up",
    "no_hash",
    "traces",
    "voice",
)
# Options that name a file, a folder or a URL, as text.
_PLACES = ("label", "annotation", "image_url", "mirror", "category_file", "image_ids", "exclude_ids")


class QueryOptions(TypedDict, total=False):
    """The keywords of `download`, `plan` and `stream`; see `Options` for what each means."""

    categories: Sequence[str]
    category_file: str | os.PathLike[str] | None
    with_subclasses: bool
    match: str
    exclude: Sequence[str]
    is_occluded: bool | str | None
    is_truncated: bool | str | None
    is_group_of: bool | str | None
    is_depiction: bool | str | None
    is_inside: bool | str | None
    image_ids: str | os.PathLike[str] | None
    exclude_ids: str | os.PathLike[str] | None
    limit: int | None
    limit_per_class: int | None
    shuffle: bool
    seed: int
    splits: Sequence[str]
    kinds: Sequence[str]
    select_by: str | None
    where: str | None
    caption: str | None
    triplet: Sequence[str]
    label_source: str
    min_confidence: float | None
    verified_absent: Sequence[str]
    traces: bool
    voice: bool
    mask_size: str
    only_matching: bool | None
    all_boxes: bool
    release: str
    label: str | os.PathLike[str] | None
    annotation: str | os.PathLike[str] | None
    image_url: str | os.PathLike[str] | None
    savepath: str | os.PathLike[str]
    source: Sequence[str] | None
    names: str
    mirror: str | os.PathLike[str] | None
    cache_dir: str | os.PathLike[str] | None
    offline: bool
    max_bad_rows: int
    concurrency: int | None
    rate: float | None
    period: float
    processes: int | str | None
    allow_hosts: Sequence[str]
    retries: int
    timeout: float
    max_wait: float
    max_image_bytes: int | str
    limit_rate: int | str | None
    retry_failed: bool
    top_up: bool
    max_failures: int | str
    no_hash: bool
    shard: str | None
    format: str | None
    out: str | os.PathLike[str] | None
    export_splits: str | None
    max_side: int | None
    copy: bool
    min_box_area: float | str
    group_boxes: str
    no_masks: bool
    class_map: str | os.PathLike[str] | None
    shard_size: int | str
    no_files: bool


def _flag_option(flag: str, what: str) -> Any:
    doc = f"only boxes {what} (yes) or not (no); such boxes alone match and are saved; unknown (-1) is neither"
    return _option(None, flag, choices=("yes", "no"), metavar="yes|no", doc=doc)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(ExportOptions):
    """One query and how to carry it out. Values are checked and normalised when the object is made.

    Raises UsageError, naming the option, for a value that cannot be used.
    """

    categories: tuple[str, ...] = _option(
        (),
        "--category",
        many=True,
        metavar="NAME",
        doc="a class, repeatable: display name (any case, _ for space) or MID; default: every image with a box",
    )
    category_file: str | None = _option(
        None, "--category-file", metavar="FILE", doc="more categories: one name or MID a line"
    )
    with_subclasses: bool = _option(
        False, "--with-subclasses", kind=bool, doc="with every class below a category or an excluded class, too"
    )
    match: Match = _option(
        "any",
        "--type",
        "--match",
        choices=_MATCH_WORDS,
        metavar="sum|inter|any|all",
        doc="sum (any): images with any of the categories; inter (all): with every one of them; default sum",
    )
    exclude: tuple[str, ...] = _option(
        (), "--exclude", many=True, metavar="NAME", doc="a class that no image may have, repeatable"
    )
    is_occluded: bool | None = _flag_option("--is-occluded", "partly hidden by another object")
    is_truncated: bool | None = _flag_option("--is-truncated", "reaching past the edge of the image")
    is_group_of: bool | None = _flag_option("--is-group-of", "around a group of more than five")
    is_depiction: bool | None = _flag_option("--is-depiction", "of a drawing or a statue, not of the real thing")
    is_inside: bool | None = _flag_option("--is-inside", "taken from the inside of the object")
    image_ids: str | None = _option(
        None,
        "--image-ids",
        metavar="FILE",
        doc="only these images: one ImageID or split/ImageID a line; meets the categories",
    )
    exclude_ids: str | None = _option(
        None, "--exclude-ids", metavar="FILE", doc="none of these images: one ImageID or split/ImageID a line"
    )
    limit: int | None = _option(
        None,
        "--ndata",
        "--limit",
        kind=int,
        metavar="N",
        doc="the first N selected images in order; -1 for all, the default",
    )
    limit_per_class: int | None = _option(
        None,
        "--limit-per-class",
        kind=int,
        metavar="N",
        doc="of each category the first N selected images in order, before --ndata; -1 for all, the default",
    )
    shuffle: bool = _option(
        False, "--shuffle", kind=bool, doc="count in a shuffled order, the same for the same seed, not by ImageID"
    )
    seed: int = _option(0, "--seed", kind=int, metavar="N", doc="which shuffled order; default 0")
    splits: tuple[Split, ...] = _option(
        (),
        "--split",
        many=True,
        choices=(*SPLITS, "all"),
        metavar="train|validation|test|all",
        doc="repeatable; default train, or what the given tables or id lists say",
    )
    kinds: tuple[Kind, ...] = _option(
        ("bbox",),
        "--kind",
        many=True,
        choices=get_args(Kind),
        metavar="bbox|segmentation|relationship|narrative|label|point|all|none",
        doc="annotations to save, repeatable; none: images alone; default bbox",
    )
    select_by: SelectBy | None = _option(
        None,
        "--select-by",
        choices=get_args(SelectBy),
        metavar="KIND",
        doc="annotations that say which images match; default bbox if it is saved, else the first kind with classes",
    )
    where: str | None = _option(
        None,
        "--where",
        metavar="EXPR",
        doc='images that an expression of classes fits: "(Dog & Person) - Cat", | for either, Vehicle/ with subclasses,'
        " label:Dog of another kind, absent:Cat verified absent, names with signs in quotes; meets the categories",
    )
    caption: str | None = _option(
        None,
        "--caption",
        metavar="REGEX",
        doc="images with a narrative whose caption matches, case and all; (?i) in front for any case",
    )
    triplet: tuple[str, ...] = _option(
        (),
        "--triplet",
        many=True,
        metavar="A,REL,B",
        doc="images with such a relationship, names or MIDs, * for any part, repeatable for any of them; "
        "such relationships alone are saved",
    )
    label_source: LabelSource = _option(
        "human",
        "--label-source",
        choices=get_args(LabelSource),
        metavar="human|machine",
        doc="which image-level labels are meant; default human",
    )
    min_confidence: float | None = _option(
        None,
        "--min-confidence",
        kind=float,
        metavar="X",
        doc="labels below this confidence, 0 to 1, do not select; those of 0 never do, but are saved",
    )
    verified_absent: tuple[str, ...] = _option(
        (),
        "--verified-absent",
        many=True,
        metavar="NAME",
        doc="images of which a person has verified that this class is not there, repeatable",
    )
    traces: bool = _option(
        False,
        "--traces",
        kind=bool,
        doc="narratives with their mouse traces, not the captions alone: for train 16.7 GB are read through",
    )
    voice: bool = _option(
        False, "--voice", kind=bool, doc="the recordings of the saved narratives; what names them may need --traces"
    )
    mask_size: MaskSize = _option(
        "original",
        "--mask-size",
        choices=get_args(MaskSize),
        metavar="original|image",
        doc="masks as published, or brought to their image's size in pixels; default original",
    )
    only_matching: bool | None = _option(
        None,
        "--only-matching",
        kind=bool,
        doc="save boxes of the categories alone, which is the default",
    )
    all_boxes: bool = _option(
        False, "--all-boxes", kind=bool, doc="save the boxes of every class in the selected images"
    )
    release: Release = _option(
        "v7",
        "--release",
        choices=RELEASES,
        metavar="v4|v5|v6|v7",
        doc="the release of Open Images whose tables are asked; default v7",
    )
    label: str | None = _option(
        None,
        "--label",
        "--classes-file",
        metavar="PATH_OR_URL",
        doc="class table (MID, name) in place of the published one: .csv, .csv.gz or .parquet",
    )
    annotation: str | None = _option(
        None,
        "--annotation",
        "--boxes-file",
        metavar="PATH_OR_URL",
        doc="box table in place of the published one; needs ImageID and LabelName",
    )
    image_url: str | None = _option(
        None,
        "--imageURL",
        "--image-url",
        metavar="PATH_OR_URL",
        doc="image table in place of the published one; needs ImageID and OriginalURL",
    )
    savepath: Path = _option(
        Path("train_data"), "--savepath", metavar="DIR", doc="where everything lands; default train_data"
    )
    source: tuple[Source, ...] | None = _option(
        None,
        "--source",
        commas=True,
        metavar="cvdf,original,thumbnail",
        doc="order of sources for one image; default cvdf,original; cvdf alone with a mirror",
    )
    names: Names = _option(
        "url",
        "--names",
        choices=get_args(Names),
        metavar="url|id",
        doc="file names: last part of OriginalURL, or <ImageID>.jpg; default url",
    )
    mirror: str | None = _option(
        None,
        "--mirror",
        metavar="URL_OR_DIR",
        doc="read every published object from URL/<bucket>/<key>; also a folder; default $OID_ASYNC_MIRROR",
    )
    cache_dir: Path | None = _option(
        None,
        "--cache-dir",
        kind=Path,
        metavar="DIR",
        doc="where fetched tables are kept; default $OID_ASYNC_CACHE or the user's cache folder",
    )
    offline: bool = _option(
        False, "--offline", kind=bool, doc="make no request at all: tables from the cache, images that are there"
    )
    max_bad_rows: int = _option(
        1000,
        "--max-bad-rows",
        kind=int,
        metavar="N",
        doc="damaged table rows are left out and named in bad_rows.csv; more than N stop the run; default 1000",
    )
    concurrency: int | None = _option(
        None,
        "--concurrency",
        kind=int,
        metavar="N",
        doc="at most N transfers at once; default: as many as the line can use",
    )
    rate: float | None = _option(
        None,
        "--rate",
        kind=float,
        metavar="R",
        doc="at most R requests per period and host, re-sends counted; 0: no cap; default 10 for Flickr, else no cap",
    )
    period: float = _option(1.0, "--period", kind=float, metavar="S", doc="the period of --rate in seconds; default 1")
    processes: int | str = _option(
        1,
        "--processes",
        metavar="auto|N",
        doc="share the work among N processes; auto: as many as are worth it; default auto, in Python 1",
    )
    allow_hosts: tuple[str, ...] = _option(
        (),
        "--allow-host",
        many=True,
        metavar="HOST:PORT",
        doc="a non-global address that may be connected to, repeatable; default the mirror's own",
    )
    retries: int = _option(
        4, "--retries", kind=int, metavar="N", doc="attempts after the first for what may pass; default 4"
    )
    timeout: float = _option(
        30.0,
        "--timeout",
        kind=float,
        metavar="S",
        doc="seconds without a byte, or with less than 1 KiB each, that end an attempt; default 30",
    )
    max_wait: float = _option(
        900.0,
        "--max-wait",
        kind=float,
        metavar="S",
        doc="seconds in all to wait for a host that is down or asks us to wait; then its images fail; default 900",
    )
    max_image_bytes: int = _option(
        64 << 20, "--max-image-bytes", metavar="SIZE", doc="the largest image that is taken, such as 64M, the default"
    )
    limit_rate: int | None = _option(
        None,
        "--limit-rate",
        metavar="SIZE",
        doc="at most so many bytes a second for all images, such as 2M; default none",
    )
    retry_failed: bool = _option(
        False, "--retry-failed", kind=bool, doc="ask again for images whose final failure is remembered"
    )
    top_up: bool = _option(
        False,
        "--top-up",
        kind=bool,
        doc="in place of each failure take the next image in order, of --ndata and of each class of --limit-per-class",
    )
    max_failures: int | str = _option(
        0,
        "--max-failures",
        metavar="N|P%",
        doc="that many failures, or P% of the selected images, still exit 0; the exit code alone: in Python it is "
        "checked and has no effect; default 0",
    )
    no_hash: bool = _option(
        False,
        "--no-hash",
        kind=bool,
        doc="compute no MD5 for the manifest: saves CPU time; gives up the check of copies against an ETag that is an "
        "MD5 (their length, start and end are checked), and lets verify check size, start and end alone; an original "
        "is held against its published MD5 all the same",
    )
    shard: str | None = _option(
        None,
        "--shard",
        metavar="K/N",
        doc="the K-th of N disjoint parts of the selection, K from 1 to N (0 is N); default everything; the command "
        "line reads it from the environment of a Slurm array, a Slurm step or an Indexed Job",
    )

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "categories", values.words(self, "categories"))
        put(self, "match", values.one_of(self, "match", _MATCH_WORDS))
        put(self, "splits", _splits(self, values.words(self, "splits")))
        put(
            self,
            "kinds",
            tuple(values.member(self, "kinds", word, get_args(Kind)) for word in values.words(self, "kinds")),
        )
        for name in ("exclude", "triplet", "verified_absent"):
            put(self, name, values.words(self, name))
        for name in ("where", "caption"):
            values.text(self, name)
        put(self, "label_source", values.member(self, "label_source", self.label_source, get_args(LabelSource)))
        put(self, "mask_size", values.member(self, "mask_size", self.mask_size, get_args(MaskSize)))
        if self.select_by is not None:
            put(self, "select_by", values.member(self, "select_by", self.select_by, get_args(SelectBy)))
        put(self, "release", values.member(self, "release", self.release, RELEASES))
        for name in FLAGS:
            put(self, name, values.yes_or_no(self, name))
        for name in _SWITCHES:
            values.check_switch(self, name)
        put(self, "names", values.one_of(self, "names", {name: name for name in get_args(Names)}))
        put(self, "allow_hosts", values.words(self, "allow_hosts"))
        for name in _PLACES:
            put(self, name, values.place(self, name) or None)
        put(self, "mirror", self.mirror or os.environ.get("OID_ASYNC_MIRROR") or None)
        if not values.place(self, "savepath"):
            raise UsageError("--savepath is empty")
        put(self, "savepath", Path(self.savepath))
        values.place(self, "cache_dir")
        cache_dir = self.cache_dir or os.environ.get("OID_ASYNC_CACHE") or None
        put(self, "cache_dir", Path(cache_dir) if cache_dir else None)
        if self.source is not None:
            put(self, "source", _sources(self))
        values.check_numbers(self)
        for name in ("limit", "limit_per_class"):
            put(self, name, None if getattr(self, name) == -1 else getattr(self, name))
        put(self, "max_failures", values.count_or_share(self, "max_failures"))
        put(self, "processes", values.processes(self))
        if self.match == "all" and not (self.categories or self.category_file):
            raise UsageError(f"{values.called(self, 'match')} inter needs at least one --category to intersect")
        for name in ("max_image_bytes", "limit_rate"):
            put(self, name, values.size(self, name))
        self._settle_kinds()
        put(self, "shard", values.shard(self))
        self._settle_export()
        if self.packs and self.top_up:
            raise UsageError(
                "--top-up replaces what failed before; with --no-files shards are filled already: leave one out"
            )
        if self.shard and self.top_up and self.limit_per_class is not None:
            raise UsageError(
                "--top-up cannot fill --limit-per-class in one part of --shard, which knows nothing of the others; "
                "leave one of the three out"
            )
        for host in self.allow_hosts:
            name, _, port = host.rpartition(":")
            if not (name and "/" not in name and port.isdecimal() and 0 < int(port) < 65536):
                raise UsageError(
                    f"{values.called(self, 'allow_hosts')} takes HOST:PORT, such as 127.0.0.1:8080, not {host!r}"
                )

    def _settle_kinds(self) -> None:
        """Refuse what contradicts itself in what is to be saved; afterwards `only_matching` is `not all_boxes`."""
        if "none" in self.kinds and len(set(self.kinds)) > 1:
            raise UsageError("--kind none stands alone: it saves no annotations")
        if self.only_matching is not None:
            values.check_switch(self, "only_matching")
        if self.only_matching and self.all_boxes:
            raise UsageError("--only-matching and --all-boxes contradict each other")
        object.__setattr__(self, "all_boxes", self.all_boxes or self.only_matching is False)
        object.__setattr__(self, "only_matching", not self.all_boxes)
        if self.all_boxes and "none" in self.kinds:
            raise UsageError("--all-boxes has nothing to save with --kind none")
        if (self.traces or self.voice) and not {"narrative", "all"} & set(self.kinds):
            raise UsageError(f"--{'traces' if self.traces else 'voice'} are of narratives: say --kind narrative, too")
        if self.min_confidence is not None and not 0 <= self.min_confidence <= 1:
            raise UsageError(
                f"{values.called(self, 'min_confidence')} is a number from 0 to 1, not {self.min_confidence}"
            )

    @property
    def packs(self) -> bool:
        """Whether images go straight into shards and are no files."""
        return self.format == "webdataset" and self.no_files

    @property
    def restricts(self) -> bool:
        """Whether more is asked of an image than its categories."""
        return bool(self.where is not None or self.caption is not None or self.triplet or self.verified_absent)

    @property
    def flags(self) -> dict[str, bool]:
        """What boxes must be: the columns of the box table that were asked about, and the wanted answer."""
        asked = {column: getattr(self, name) for name, column in FLAGS.items()}
        return {column: wanted for column, wanted in asked.items() if wanted is not None}

    @classmethod
    def of(cls, **query: Unpack[QueryOptions]) -> Self:
        """Make Options from what a person passes: lists, paths or strings, and the words of either door."""
        for name in query:
            if name not in QueryOptions.__annotations__:
                near = difflib.get_close_matches(name, QueryOptions.__annotations__, n=1)
                raise TypeError(f"no option {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        return cls(**query)  # type: ignore[arg-type]

    def allows(self, failed: int, selected: int) -> bool:
        """Return whether so many failures are within --max-failures.

        >>> Options(max_failures="0.5%").allows(1, 200), Options(max_failures="0.5%").allows(1, 199)
        (True, False)
        """
        if isinstance(self.max_failures, int):
            return failed <= self.max_failures
        return failed * 100 <= Fraction(self.max_failures.rstrip("%")) * selected

    def as_json(self) -> dict[str, Any]:
        """Return the options as plain JSON values, for query.json: paths are absolute, but for the savepath's own."""
        plain = {name: _plain(value) for name, value in asdict(self).items()}
        return plain | {name: _absolute(plain[name]) for name in (*_PLACES, "cache_dir")}

    @classmethod
    def from_json(cls, query: Mapping[str, Any], *, savepath: Path) -> Self:
        """Make the options of a query.json again, for the folder that it was found in.

        Raises UsageError for what they cannot be. Where the images came from is the query's, whatever the environment
        says today.
        """
        if unknown := query.keys() - {option.name for option in fields(cls)}:
            raise UsageError(f"no option {min(unknown)!r} in this version")
        options = cls(**{**query, "savepath": savepath})
        object.__setattr__(options, "mirror", query.get("mirror"))
        return options


def option_fields() -> tuple[Field[Any], ...]:
    """Return the fields of Options with their command line metadata, in the order of the help page."""
    every = fields(Options)
    exports = ExportOptions.__dataclass_fields__
    return (*(option for option in every if option.name not in exports), *(every[: len(exports)]))


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def _absolute(place: str | None) -> str | None:
    """Return a path from the root of the disk on: a query is repeated from wherever; a URL stays what it is."""
    is_url = place is None or re.match(r"(https?|file):", place, re.IGNORECASE)
    return place if is_url or place is None else os.path.abspath(place)


def _splits(options: Options, words: tuple[str, ...]) -> tuple[str, ...]:
    for word in words:
        if word not in (*SPLITS, "all"):
            raise UsageError(f"{values.called(options, 'splits')} is one of {', '.join(SPLITS)}, all, not {word!r}")
    return tuple(split for split in SPLITS if split in words or "all" in words)


def _sources(options: Options) -> tuple[str, ...]:
    words = tuple(part.strip() for word in values.words(options, "source") for part in word.split(","))
    if not words:
        raise UsageError(
            f"{values.called(options, 'source')} names no source; it is one or more of {', '.join(SOURCES)}"
        )
    for word in words:
        values.member(options, "source", word, SOURCES)
    if len(set(words)) != len(words):
        raise UsageError(f"{values.called(options, 'source')} names a source twice: {','.join(words)}")
    return words
