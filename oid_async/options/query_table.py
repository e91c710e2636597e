"""The table of options: every option of a query once, with its spellings, default, reader, help and heading.

The command line builds its parser from this table, docs/options.md is generated from it, and the Python functions take
the field names as keywords; `options.keywords` repeats these for type checkers, and a test keeps the two together.
"""

import math
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from oid_async.openimages.kinds import NAMES, KindName
from oid_async.openimages.vocabulary import (
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
from oid_async.options.places import Bucket, Place
from oid_async.options.table import option
from oid_async.quick_values import frozen

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

# The options that take a list, and the file in SAVEPATH that keeps one that came by a pipe or as a sequence.
KEPT_LISTS = {"image_ids": "image_ids.txt", "exclude_ids": "exclude_ids.txt", "category_file": "categories.txt"}
STDIN = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
# Repeatable options that leave images or annotations out: given and empty is a mistake, as an empty file is.
FILTERS = frozenset(("categories", "splits", "kinds", "triplet", "verified_absent"))
_MATCH_WORDS: dict[str, Match] = {"any": "any", "sum": "any", "all": "all", "inter": "all"}


def _flag_option(flag: str, box: str) -> Any:
    help = f"only boxes {box} (yes) or not (no); such boxes alone match and are saved; unknown (-1) is neither"
    return _which_images(None, read.YES_OR_NO, flag, help=help)


@frozen(kw_only=True)
class QueryTable(ExportOptions):
    """The options of one query and how to carry it out, as fields; `options.query.Options` checks what they hold."""

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

    @property
    def is_distributed(self) -> bool:
        """Return whether images go by parts straight into shards, past this process: to a cluster, or to a bucket."""
        return self.cluster is not None or isinstance(self.savepath, Bucket)

    @property
    def packs(self) -> bool:
        """Return whether images are written into shards only, not as files, by this process alone."""
        return self.format == "webdataset" and self.no_files and not self.is_distributed
