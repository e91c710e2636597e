"""The options of a query, each once: its spellings, default, reader, help and the heading it is shown under.

The command line builds its parser from this table, docs/options.md is generated from it, and the Python functions take
the field names as keywords; `options.keywords` repeats these for type checkers, and a test keeps the two together.
"""

import math
import os
import re
from collections.abc import Iterable
from dataclasses import Field, dataclass, fields
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, Unpack, get_args

from oid_async.errors import UsageError
from oid_async.openimages.catalogue_tables import TableKind
from oid_async.openimages.kinds import NAMES, KindName
from oid_async.openimages.vocabulary import (
    FLAGS,
    RELEASES,
    SOURCES,
    SPLITS,
    ImageSet,
    LabelSource,
    Release,
    Source,
    Split,
)
from oid_async.options import readers as read
from oid_async.options.defaults import MAX_IMAGE_BYTES, MAX_WAIT_S, PERIOD_S, RETRIES, TIMEOUT_S
from oid_async.options.export import ExportOptions
from oid_async.options.keywords import RunOptions
from oid_async.options.paths import url_scheme
from oid_async.options.places import Bucket, Place, as_folder
from oid_async.options.table import HEADINGS, label_of, option, read_values
from oid_async.redaction import is_http, is_redacted, redacted

Match = Literal["any", "all"]
NameStyle = Literal["url", "id"]
KindWord = Literal[KindName, "all", "none"]
MaskSize = Literal["original", "image"]
PointAnswer = Literal["yes", "no", "unsure"]

_which_images = partial(option, heading="which images")
_annotations = partial(option, heading="annotations")
_tables_and_sources = partial(option, heading="tables and sources")
_transfer = partial(option, heading="transfer")
_failures = partial(option, heading="failures")
_output = partial(option, heading="output")

# What `stream` takes in addition: how it hands images out.
OF_STREAMS = frozenset(("annotations", "keep_files"))
# The options that take a list, and the file in SAVEPATH that keeps one that came by a pipe or as a sequence.
KEPT_LISTS = {"image_ids": "image_ids.txt", "exclude_ids": "exclude_ids.txt", "category_file": "categories.txt"}
STDIN = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
# What a download past one machine cannot do, and why or what does it instead.
_NOT_DISTRIBUTED = {
    "shard": "parts share the selection already",
    "top_up": "which images fail is known only when all parts are there",
    "traces": "workers save captions alone",
    "voice": "workers save no recordings",
    "out": "shards are written under --savepath",
    "shard_size": "there is one shard a part; say --part-size",
    "export_splits": "each shard is of one published split",
}
_MATCH_WORDS: dict[str, Match] = {"any": "any", "sum": "any", "all": "all", "inter": "all"}


# Repeatable options that leave images or annotations out: given and empty is a mistake, as an empty file is.
FILTERS = frozenset(("categories", "splits", "kinds", "triplet", "verified_absent"))


def _flag_option(flag: str, box: str) -> Any:
    help = f"only boxes {box} (yes) or not (no); such boxes alone match and are saved; unknown (-1) is neither"
    return _which_images(None, read.YES_OR_NO, flag, help=help)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(ExportOptions):
    """One query and how to carry it out, checked and normalised when made. Raises UsageError, naming the option."""

    categories: tuple[str, ...] = _which_images(
        (),
        read.WORDS,
        "--category",
        help="a class, repeatable: display name (any case, _ for space) or MID",
        default_text="every image with a box",
    )
    category_file: str | tuple[str, ...] | None = _which_images(
        None, read.LIST, "--category-file", help="more categories: one name or MID a line, or a JSON list"
    )
    with_subclasses: bool = _which_images(
        False,
        read.SWITCH,
        "--with-subclasses",
        help="with every class below a category, an excluded class or an object of --triplet, too",
    )
    match: Match = _which_images(
        "any",
        read.mapped(_MATCH_WORDS),
        "--type",
        "--match",
        metavar="sum|inter|any|all",
        help="sum (any): images with any of the categories; inter (all): with every one of them",
        default_text="sum",
    )
    exclude: tuple[str, ...] = _which_images(
        (), read.WORDS, "--exclude", help="a class that no image may have, repeatable; flags are ignored"
    )
    is_occluded: bool | None = _flag_option("--is-occluded", "partly hidden by another object")
    is_truncated: bool | None = _flag_option("--is-truncated", "reaching past the edge of the image")
    is_group_of: bool | None = _flag_option("--is-group-of", "around a group of more than five")
    is_depiction: bool | None = _flag_option("--is-depiction", "of a drawing or a statue, not of the real thing")
    is_inside: bool | None = _flag_option("--is-inside", "taken from the inside of the object")
    min_area: str | None = _which_images(
        None,
        read.SHARE,
        "--min-area",
        help="only boxes that cover at least P% of their image, by published numbers; such boxes alone match and are "
        "saved",
    )
    max_area: str | None = _which_images(
        None, read.SHARE, "--max-area", help="only boxes that cover at most P% of their image"
    )
    min_boxes: int | None = _which_images(
        None,
        read.COUNT,
        "--min-boxes",
        help="images with at least N boxes that match, those of all categories together",
    )
    max_boxes: int | None = _which_images(
        None, read.COUNT, "--max-boxes", help="images with at most N boxes that match, those of all categories together"
    )
    image_ids: str | tuple[str, ...] | None = _which_images(
        None,
        read.LIST,
        "--image-ids",
        help="only these images: one ImageID, split/ImageID, path or URL a line, a JSON list, or a CSV with ImageID; "
        "meets the categories",
    )
    exclude_ids: str | tuple[str, ...] | None = _which_images(
        None, read.EXCLUSIONS, "--exclude-ids", help="none of these images: a list as of --image-ids"
    )
    limit: int | str | None = _which_images(
        None,
        read.AMOUNT,
        "--ndata",
        "--limit",
        help="the first N selected images in order, -1 for all; P% of them, rounded down, at least one; or numbers of "
        "the named splits, of which the others get none",
        default_text="all",
    )
    limit_per_class: int | None = _which_images(
        None,
        read.COUNT_OR_ALL,
        "--limit-per-class",
        help="of each category, and of each class that --where names, the first N selected images in order, before "
        "--ndata; images of none of them are left out; -1 for all",
        default_text="all",
    )
    balanced: int | None = _which_images(
        None,
        read.COUNT,
        "--balanced",
        help="at least N images of each category that has so many: from the rarest category on, the first images in "
        "order are added until N of those chosen have it; not with --limit-per-class or --top-up",
    )
    negatives: int | str | None = _which_images(
        None,
        read.NEGATIVES,
        "--negatives",
        help="beside the selected images N others, or P% of them all, of which a person has verified that one of the "
        "categories is not there, while nobody has boxed or labelled a category or subclass of one; images that are "
        "merely unlabelled are not taken: the class may well be in them",
        default_text="none",
    )
    shuffle: bool = _which_images(
        False, read.SWITCH, "--shuffle", help="count in a shuffled order, the same for the same seed, not by ImageID"
    )
    seed: int = _which_images(0, read.number(int, "takes a whole number"), "--seed", help="which shuffled order")
    splits: tuple[Split, ...] = _which_images(
        (),
        read.several_of((*SPLITS, "all"), lambda words: (each for each in SPLITS if each in words or "all" in words)),
        "--split",
        help="splits to select from, repeatable",
        default_text="train, or what the given tables, id lists or --ndata say",
    )
    kinds: tuple[KindWord, ...] = _annotations(
        ("bbox",),
        read.several_of(get_args(KindWord)),
        "--kind",
        help="annotations to save, or whose classes to list, repeatable; none: images alone",
        default_text="bbox",
    )
    select_by: KindName | None = _which_images(
        None,
        read.one_of(NAMES),
        "--select-by",
        metavar="KIND",
        help="annotations that say which images match",
        default_text="bbox if it is saved, else the first kind with classes",
    )
    where: str | None = _which_images(
        None,
        read.TEXT,
        "--where",
        metavar="EXPR",
        help='images that an expression of classes fits: "(Dog & Person) - Cat", | for either, Vehicle/ with '
        "subclasses, label:Dog of another kind, absent:Cat verified absent, names with signs in quotes; "
        "meets the categories",
    )
    caption: str | None = _which_images(
        None,
        read.TEXT,
        "--caption",
        metavar="REGEX",
        help="images with a narrative whose caption matches, case and all; (?i) in front for any case",
    )
    triplet: tuple[str, ...] = _which_images(
        (),
        read.WORDS,
        "--triplet",
        metavar="A,REL,B",
        help="images with such a relationship, names or MIDs, * for any part, repeatable for any of them; "
        "such relationships alone are saved",
    )
    image_where: str | None = _which_images(
        None,
        read.TEXT,
        "--image-where",
        metavar="EXPR",
        help="images whose row in the image table meets a Polars SQL condition: "
        "\"(Author IS DISTINCT FROM 'X') AND Rotation = 0\"; OriginalSize and Rotation are numbers, other columns text",
    )
    label_source: LabelSource = _annotations(
        "human", read.one_of(get_args(LabelSource)), "--label-source", help="which image-level labels are meant"
    )
    min_confidence: float | None = _which_images(
        None,
        read.number(float, "is a number from 0 to 1", 0, 1),
        "--min-confidence",
        help="labels below this confidence, 0 to 1, do not select; those of 0 never do, but are saved",
    )
    verified_absent: tuple[str, ...] = _which_images(
        (),
        read.WORDS,
        "--verified-absent",
        help="images of which a person has verified that this class is not there, repeatable",
    )
    point_answer: PointAnswer | None = _which_images(
        None,
        read.one_of(get_args(PointAnswer)),
        "--point-answer",
        help="only points that were answered so; such points alone match and are saved",
    )
    traces: bool = _annotations(
        False,
        read.SWITCH,
        "--traces",
        help="narratives with their mouse traces, not the captions alone: for train 16.7 GB are read through",
    )
    voice: bool = _annotations(
        False, read.SWITCH, "--voice", help="the recordings of the saved narratives; what names them may need --traces"
    )
    mask_size: MaskSize = _annotations(
        "original",
        read.one_of(get_args(MaskSize)),
        "--mask-size",
        help="masks as published, or brought to their image's size in pixels",
    )
    only_matching: bool | None = _annotations(
        None, read.SWITCH, "--only-matching", help="save boxes of the categories alone", default_text="on"
    )
    all_boxes: bool = _annotations(
        False, read.SWITCH, "--all-boxes", help="save the boxes of every class in the selected images"
    )
    release: Release = _tables_and_sources(
        "v7", read.one_of(RELEASES), "--release", help="the release of Open Images whose tables are read"
    )
    images: ImageSet = _tables_and_sources(
        "boxable",
        read.one_of(get_args(ImageSet)),
        "--images",
        help="the image table: of the 1.9M images of the splits with boxes, or of all 9.2M (3.3 GB), most of which are "
        "not in the image bucket",
    )
    label: str | None = _tables_and_sources(
        None,
        read.TABLE,
        "--label",
        "--classes-file",
        help="class table (MID, name) in place of the published one: .csv, .csv.gz or .parquet",
    )
    annotation: str | None = _tables_and_sources(
        None,
        read.TABLE,
        "--annotation",
        "--boxes-file",
        help="box table in place of the published one; needs ImageID and LabelName",
    )
    image_url: str | None = _tables_and_sources(
        None,
        read.TABLE,
        "--imageURL",
        "--image-url",
        help="image table in place of the published one; needs ImageID and OriginalURL",
    )
    savepath: Place = _output(
        Path("train_data"),
        read.PLACE,
        "--savepath",
        help="the folder that everything is written to; with --format webdataset or parquet and --no-files also a "
        "bucket, as s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX",
    )
    endpoint_url: str | None = _output(
        None,
        read.ENDPOINT_URL,
        "--endpoint-url",
        help="where the storage of the bucket is, if it is not its provider's own: MinIO, Ceph, R2, an emulator",
        default_text="for s3:// what AWS_ENDPOINT_URL or the profile says",
    )
    source: tuple[Source, ...] | None = _tables_and_sources(
        None,
        read.comma_list_of(SOURCES, "source"),
        "--source",
        metavar="cvdf,original,thumbnail",
        help="order of sources for one image",
        default_text="cvdf,original; cvdf alone with a mirror",
    )
    names: NameStyle = _output(
        "url",
        read.one_of(get_args(NameStyle)),
        "--names",
        help="file names: last part of OriginalURL, or <ImageID>.jpg",
    )
    report: Path | None = _output(
        None,
        read.REPORT,
        "--report",
        help="write how the run went when it ends, however it does: throughput over time, and of each host times, "
        "retries, waits and failures; .html is a page with plots that opens offline, .json has the numbers",
    )
    mirror: str | None = _tables_and_sources(
        None, read.MIRROR, "--mirror", help="read every published object from URL/<bucket>/<key>; also a folder"
    )
    cache_dir: Path | None = _tables_and_sources(
        None,
        read.CACHE_DIR,
        "--cache-dir",
        help="where fetched tables are kept",
        default_text="$OID_ASYNC_CACHE or the user's cache folder",
    )
    offline: bool = _tables_and_sources(
        False, read.SWITCH, "--offline", help="make no request at all: tables from the cache, images that are there"
    )
    max_bad_rows: int = _failures(
        1000,
        read.number(int, "takes a count, 0 or more", 0),
        "--max-bad-rows",
        help="damaged table rows are left out and named in bad_rows.csv; more than N stop the run",
    )
    concurrency: int | None = _transfer(
        None,
        read.number(int, "is from 1 to 1024", 1, 1024),
        "--concurrency",
        help="at most N transfers at once",
        default_text="as many as host and line can use, 64 to 512",
    )
    rate: float | None = _transfer(
        None,
        read.number(float, "is 0 (no cap) or more requests", 0),
        "--rate",
        metavar="R",
        help="at most R requests per period and host, re-sends counted; 0: no cap",
        default_text="10 for Flickr, else no cap",
    )
    period: float = _transfer(
        PERIOD_S,
        read.number(float, "is a positive number of seconds", math.ulp(0.0)),  # the least number above 0
        "--period",
        metavar="S",
        help="the period of --rate in seconds",
    )
    processes: int | str = _transfer(
        1,
        read.PROCESSES,
        "--processes",
        help="share the work among N processes; auto: as many as are worth it",
        default_text="auto, in Python 1",
    )
    cluster: str | None = _transfer(
        None,
        read.CLUSTER,
        "--cluster",
        help="share the work among local:N workers of this machine, or those of a Dask cluster that is up, by the "
        "address of its scheduler; array: this is one task of a Slurm array or a Kubernetes Indexed Job, of which "
        "every task runs the same command; with --format webdataset|parquet --no-files, to a folder that all can reach "
        "or a bucket",
    )
    part_size: int = _output(
        512 << 20,
        read.PART_SIZE,
        "--part-size",
        help="the most bytes of images in one part, and so in one shard, with --cluster or in a bucket; a worker takes "
        "twice as much in TMPDIR",
        default_text="512M",
    )
    allow_hosts: tuple[str, ...] = _transfer(
        (),
        read.HOSTS,
        "--allow-host",
        help="a non-global address that may be connected to, repeatable",
        default_text="the mirror's own",
    )
    retries: int = _failures(
        RETRIES, read.number(int, "is 0 or more", 0), "--retries", help="attempts after the first for what may pass"
    )
    timeout: float = _failures(
        TIMEOUT_S,
        read.number(float, "is 0.001 or more", 0.001),
        "--timeout",
        metavar="S",
        help="seconds without a byte, or with less than 1 KiB each, that end an attempt",
    )
    max_wait: float = _failures(
        MAX_WAIT_S,
        read.number(float, "is 0 or more", 0),
        "--max-wait",
        metavar="S",
        help="seconds in all to wait for a host that is down or asks us to wait; then its images fail",
    )
    max_image_bytes: int = _transfer(
        MAX_IMAGE_BYTES, read.SIZE, "--max-image-bytes", help="the largest image that is taken, such as 500K or 64M"
    )
    limit_rate: int | None = _transfer(
        None,
        read.SIZE,
        "--limit-rate",
        help="at most so many bytes a second for all images, such as 2M; with --cluster tcp://, tls:// or array for "
        "each worker",
        default_text="none",
    )
    retry_failed: bool = _failures(
        False, read.SWITCH, "--retry-failed", help="request images again whose final failure is remembered"
    )
    respect_opt_out: bool | Literal["noindex"] = _failures(
        True,
        read.OPT_OUT,
        "--respect-opt-out",
        "--no-respect-opt-out",
        help="an image whose answer says noai, noimageai or tdm-reservation: 1 is not taken, and no other source of it "
        "is asked; with noindex also one that is not to be indexed by search engines",
        default_text="on",
    )
    top_up: bool = _failures(
        False,
        read.SWITCH,
        "--top-up",
        help="in place of each failure take the next image in order, of --ndata, --limit-per-class and --negatives",
    )
    max_failures: int | str = _failures(
        0,
        read.COUNT_OR_SHARE,
        "--max-failures",
        help="that many failures, or P% of the selected images, still exit 0, unknown ids of --image-ids counted among "
        "both; the exit code alone: in Python it is checked and has no effect",
    )
    no_hash: bool = _transfer(
        False,
        read.SWITCH,
        "--no-hash",
        help="compute no MD5 for the manifest: saves CPU time; gives up the check of copies against an ETag that is an "
        "MD5 (their length, start and end are checked), and lets verify check size, start and end alone; an original "
        "is held against its published MD5 all the same",
    )
    shard: str | None = _which_images(
        None,
        read.SHARD,
        "--shard",
        help="the K-th of N disjoint parts of the selection (every N-th image in order), K from 1 to N (0 is N); the "
        "command line reads it from the environment of a Slurm array, a Slurm step or a Kubernetes Indexed Job",
        default_text="everything",
    )

    def __post_init__(self) -> None:
        read_values(self)
        self._check_addresses()
        self._check_selection()
        self._check_amounts()
        self._check_ranges()
        self._check_annotations()
        self._check_export()
        self._check_distributed()

    def _check_addresses(self) -> None:
        """Refuse URLs whose query was not stored, and a mirror to which no key can be added."""
        for each in fields(self):
            url = getattr(self, each.name)
            if not isinstance(url, str) or each.metadata["reader"] not in (read.TABLE, read.MIRROR):
                continue
            if is_redacted(url):
                raise UsageError(f"{label_of(each)}: the query of {url} was not stored, as it may be a secret: give it")
        if self.mirror is not None and is_http(self.mirror) and re.search("[?#]", self.mirror):
            raise UsageError(f"--mirror {redacted(self.mirror)}: a query or fragment is not supported: keys are added")

    def _check_selection(self) -> None:
        """Refuse options of a selection that contradict each other."""
        if self.match == "all" and not (self.categories or self.category_file):
            raise UsageError("match (--type) inter needs at least one --category to intersect")
        if self.negatives is not None and not (self.categories or self.category_file):
            raise UsageError("--negatives are images without the categories: name at least one --category")
        if self.images == "all" and self.image_url is not None:
            raise UsageError(
                "--images all is the published table of all images, --imageURL one of yours: leave one out"
            )
        from_stdin = [name for name in KEPT_LISTS if getattr(self, name) in STDIN]
        if len(from_stdin) > 1:
            flags = " and ".join(f"--{name.replace('_', '-')}" for name in from_stdin)
            raise UsageError(f"{flags} both read stdin, which can be read once; give one of them as a file")
        if self.packs and self.top_up:
            raise UsageError(
                "--top-up replaces what failed before; with --no-files shards are filled already: leave one out"
            )
        if self.shard and self.top_up and self.limit_per_class is not None:
            raise UsageError(
                "--top-up cannot fill --limit-per-class in one part of --shard, which knows nothing of the others; "
                "leave one of the three out"
            )
        if self.shard and self.top_up and self.negatives is not None:
            raise UsageError(
                "--top-up cannot replace --negatives in one part of --shard, which knows nothing of the others; "
                "leave one of the three out"
            )

    def _check_annotations(self) -> None:
        """Refuse options of annotations that contradict each other; afterwards `only_matching` is `not all_boxes`."""
        if "none" in self.kinds and len(set(self.kinds)) > 1:
            raise UsageError("--kind none stands alone: it saves no annotations")
        if self.only_matching and self.all_boxes:
            raise UsageError("--only-matching and --all-boxes contradict each other")
        object.__setattr__(self, "all_boxes", self.all_boxes or self.only_matching is False)
        object.__setattr__(self, "only_matching", not self.all_boxes)
        if self.all_boxes and "none" in self.kinds:
            raise UsageError("--all-boxes has nothing to save with --kind none")
        if (self.traces or self.voice) and not {"narrative", "all"} & set(self.kinds):
            raise UsageError(f"--{'traces' if self.traces else 'voice'} are of narratives: say --kind narrative, too")

    def _check_amounts(self) -> None:
        """Refuse a --balanced beside what it excludes, and an --ndata by split that cannot be topped up."""
        if self.balanced is not None and (self.limit_per_class is not None or self.top_up):
            other = "--limit-per-class" if self.limit_per_class is not None else "--top-up"
            raise UsageError(f"--balanced cannot stand with {other}; leave one of the two out")
        by_split = isinstance(read.amount(self.limit), dict)
        if by_split and self.top_up and (self.shard or self.limit_per_class is not None):
            with_what = "one part of --shard" if self.shard else "the classes of --limit-per-class"
            raise UsageError(
                f"--top-up cannot fill the splits of --ndata {self.limit} and {with_what}, of which each replaces "
                "failures by itself; leave one of the three out"
            )

    def _check_ranges(self) -> None:
        """Refuse a least number that is larger than the most."""
        if self.min_boxes is not None and self.max_boxes is not None and self.min_boxes > self.max_boxes:
            raise UsageError(
                f"--min-boxes {self.min_boxes} is more than --max-boxes {self.max_boxes}: no image has both"
            )
        if self.min_area and self.max_area and read.share(self.min_area) > read.share(self.max_area):
            raise UsageError(f"--min-area {self.min_area} is more than --max-area {self.max_area}: no box has both")

    def _check_distributed(self) -> None:
        """Refuse options that a download past one machine cannot keep to, and those that are of such a one alone."""
        if self.endpoint_url is not None and not isinstance(self.savepath, Bucket):
            raise UsageError(
                f"--endpoint-url is of a bucket, and {self.savepath} is a folder: write s3://BUCKET/PREFIX, gs:// or az://"
            )
        if not self.is_distributed:
            if self.part_size != Options.__dataclass_fields__["part_size"].default:
                raise UsageError("--part-size is of a download by parts: say --cluster, or name a bucket as --savepath")
            return
        if self.cluster is None and self.format is None:
            return  # a bucket that is read; a download asks `check_filled`
        self.check_filled()
        why = self._why_distributed
        for name, reason in _NOT_DISTRIBUTED.items():
            field = Options.__dataclass_fields__[name]
            if getattr(self, name) != field.default:
                flag = field.metadata["flags"][0]
                raise UsageError(f"{flag} does not go with {why}: {reason}")
        is_folder = self.mirror is not None and url_scheme(self.mirror) in (None, "file")
        if is_folder and not (self.cluster is None or self.cluster.startswith("local:")):
            raise UsageError(
                f"--mirror {self.mirror} is a folder, which goes with --cluster local:N alone: serve it by http, so "
                "that workers elsewhere can reach it"
            )

    def check_filled(self) -> None:
        """Raise UsageError if this is a query that cannot fill its place: what goes by parts ends in shards alone."""
        if self.is_distributed and (self.format not in ("webdataset", "parquet") or not self.no_files):
            raise UsageError(
                f"{self._why_distributed} brings shards alone: say --format webdataset (or parquet) --no-files, too"
            )

    @property
    def folder(self) -> Path:
        """The folder of `savepath`. Raises UsageError for a bucket."""
        return self.folder_for("this")

    def folder_for(self, who: str) -> Path:
        """Return the folder of `savepath`. Raises UsageError for a bucket, which `who` cannot take."""
        return as_folder(self.savepath, who)

    @property
    def _why_distributed(self) -> str:
        return f"--cluster {self.cluster}" if self.cluster is not None else f"--savepath {self.savepath}"

    @property
    def is_distributed(self) -> bool:
        """Return whether images go by parts straight into shards, past this process: to a cluster, or to a bucket."""
        return self.cluster is not None or isinstance(self.savepath, Bucket)

    @property
    def packs(self) -> bool:
        """Return whether images are written into shards only, not as files, by this process alone."""
        return self.format == "webdataset" and self.no_files and not self.is_distributed

    @property
    def image_tables(self) -> TableKind:
        """Return the kind of the published tables that say which images there are."""
        return "all_images" if self.images == "all" else "images"

    @property
    def restricts(self) -> bool:
        """Return whether an image must meet more than its categories."""
        return bool(self.where is not None or self.caption is not None or self.triplet or self.verified_absent)

    @property
    def flags(self) -> dict[str, bool]:
        """Return the flag columns of the box table that restrict the boxes, and the wanted value of each."""
        wanted = {column: getattr(self, name) for name, column in FLAGS.items()}
        return {column: value for column, value in wanted.items() if value is not None}

    @property
    def bounds_area(self) -> bool:
        """Return whether boxes must be of some area."""
        return self.min_area is not None or self.max_area is not None

    @property
    def box_options(self) -> tuple[str, ...]:
        """Return the options in use, as typed, that choose among boxes and so are of no other kind."""
        names = (*FLAGS, "min_area", "max_area", "min_boxes", "max_boxes")
        return tuple(f"--{name.replace('_', '-')}" for name in names if getattr(self, name) is not None)

    @classmethod
    def of(cls, **query: Unpack[RunOptions]) -> Self:
        """Make Options from keywords as `RunOptions` types them.

        Raises UsageError for keywords of a stream alone, TypeError for an unknown one.
        """
        for name in query:
            if name in OF_STREAMS:
                raise UsageError(f"{name} is of oid_async.stream, which hands images out; leave it out here")
            if name not in RunOptions.__annotations__:
                import difflib

                near = difflib.get_close_matches(name, RunOptions.__annotations__, n=1)
                raise TypeError(f"no option {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        given: dict[str, Any] = dict(query)
        for each in fields(cls):
            if each.name in FILTERS and isinstance(value := given.get(each.name), Iterable):
                given[each.name] = value if isinstance(value, str) else tuple(value)
                if not given[each.name]:
                    raise UsageError(f"{label_of(each)} names nothing, which is not everything; leave it out for all")
        return cls(**given)

    def allows(self, failed: int, selected: int) -> bool:
        """Return whether `failed` of `selected` images is within --max-failures; unknown ids count as both.

        >>> Options(max_failures="0.5%").allows(1, 200), Options(max_failures="0.5%").allows(1, 199)
        (True, False)
        """
        if isinstance(self.max_failures, int):
            return failed <= self.max_failures
        return failed * 100 <= Fraction(self.max_failures.rstrip("%")) * selected

    def as_json(self) -> dict[str, Any]:
        """Return the options as plain JSON values, for query.json; paths are absolute and without `..`."""
        return {
            option.name: _plain(getattr(self, option.name), is_path=option.metadata["reader"].is_path)
            for option in fields(self)
        }


def option_fields() -> tuple[Field[Any], ...]:
    """Return the fields of Options, in the order of the help page: by heading, then as in the table."""
    return tuple(sorted(fields(Options), key=lambda option: HEADINGS.index(option.metadata["heading"])))


def _plain(value: Any, *, is_path: bool) -> Any:
    if isinstance(value, tuple):
        return list(value)
    text = str(value) if isinstance(value, Path | Bucket) else value
    if not is_path or text is None or text == "-":
        return text
    # The query of a URL may hold a secret. Paths are normalised as 0.1.0 did, which hashed them.
    return os.path.normpath(text) if url_scheme(text) is None else redacted(text)
