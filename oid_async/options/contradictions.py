"""Options of a query that contradict each other: each check raises UsageError, naming them and what to leave out.

Each is a sentence about values that their readers have taken already. The first one that holds is what a caller reads,
so their order is part of what the program says.
"""

import re
from dataclasses import fields

from oid_async.errors import UsageError
from oid_async.options import readers as read
from oid_async.options.paths import url_scheme
from oid_async.options.places import Bucket
from oid_async.options.query_table import KEPT_LISTS, STDIN, QueryTable
from oid_async.options.table import label_of
from oid_async.redaction import is_http, is_redacted, redacted

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


def refuse_contradictions(options: QueryTable) -> None:
    """Raise UsageError for the first contradiction; the order is that in which a caller reads them."""
    _check_addresses(options)
    _check_selection(options)
    _check_amounts(options)
    _check_ranges(options)
    _check_annotations(options)
    options.check_export()
    _check_distributed(options)


def _check_addresses(options: QueryTable) -> None:
    """Refuse URLs whose query was not stored, and a mirror to which no key can be added."""
    for each in fields(options):
        url = getattr(options, each.name)
        if not isinstance(url, str) or each.metadata["reader"] not in (read.TABLE, read.MIRROR):
            continue
        if is_redacted(url):
            raise UsageError(f"{label_of(each)}: the query of {url} was not stored, as it may be a secret: give it")
    if options.mirror is not None and is_http(options.mirror) and re.search("[?#]", options.mirror):
        raise UsageError(f"--mirror {redacted(options.mirror)}: a query or fragment is not supported: keys are added")


def _check_selection(options: QueryTable) -> None:
    """Refuse options of a selection that contradict each other."""
    if options.match == "all" and not (options.categories or options.category_file):
        raise UsageError("match (--type) inter needs at least one --category to intersect")
    if options.negatives is not None and not (options.categories or options.category_file):
        raise UsageError("--negatives are images without the categories: name at least one --category")
    if options.images == "all" and options.image_url is not None:
        raise UsageError("--images all is the published table of all images, --imageURL one of yours: leave one out")
    from_stdin = [name for name in KEPT_LISTS if getattr(options, name) in STDIN]
    if len(from_stdin) > 1:
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in from_stdin)
        raise UsageError(f"{flags} both read stdin, which can be read once; give one of them as a file")
    if options.packs and options.top_up:
        raise UsageError(
            "--top-up replaces what failed before; with --no-files shards are filled already: leave one out"
        )
    if options.shard and options.top_up and options.limit_per_class is not None:
        raise UsageError(
            "--top-up cannot fill --limit-per-class in one part of --shard, which knows nothing of the others; "
            "leave one of the three out"
        )
    if options.shard and options.top_up and options.negatives is not None:
        raise UsageError(
            "--top-up cannot replace --negatives in one part of --shard, which knows nothing of the others; "
            "leave one of the three out"
        )


def _check_amounts(options: QueryTable) -> None:
    """Refuse a --balanced beside what it excludes, and an --ndata by split that cannot be topped up."""
    if options.balanced is not None and (options.limit_per_class is not None or options.top_up):
        other = "--limit-per-class" if options.limit_per_class is not None else "--top-up"
        raise UsageError(f"--balanced cannot stand with {other}; leave one of the two out")
    by_split = isinstance(read.amount(options.limit), dict)
    if by_split and options.top_up and (options.shard or options.limit_per_class is not None):
        with_what = "one part of --shard" if options.shard else "the classes of --limit-per-class"
        raise UsageError(
            f"--top-up cannot fill the splits of --ndata {options.limit} and {with_what}, of which each replaces "
            "failures by itself; leave one of the three out"
        )


def _check_ranges(options: QueryTable) -> None:
    """Refuse a least number that is larger than the most."""
    if options.min_boxes is not None and options.max_boxes is not None and options.min_boxes > options.max_boxes:
        raise UsageError(
            f"--min-boxes {options.min_boxes} is more than --max-boxes {options.max_boxes}: no image has both"
        )
    if options.min_area and options.max_area and read.share(options.min_area) > read.share(options.max_area):
        raise UsageError(f"--min-area {options.min_area} is more than --max-area {options.max_area}: no box has both")


def _check_annotations(options: QueryTable) -> None:
    """Refuse options of annotations that contradict each other."""
    if "none" in options.kinds and len(set(options.kinds)) > 1:
        raise UsageError("--kind none stands alone: it saves no annotations")
    if options.only_matching and options.all_boxes:
        raise UsageError("--only-matching and --all-boxes contradict each other")
    if (options.all_boxes or options.only_matching is False) and "none" in options.kinds:
        raise UsageError("--all-boxes has nothing to save with --kind none")
    if (options.traces or options.voice) and not {"narrative", "all"} & set(options.kinds):
        raise UsageError(f"--{'traces' if options.traces else 'voice'} are of narratives: say --kind narrative, too")


def _check_distributed(options: QueryTable) -> None:
    """Refuse options that a download past one machine cannot keep to, and those that are of such a one alone."""
    if options.endpoint_url is not None and not isinstance(options.savepath, Bucket):
        raise UsageError(
            f"--endpoint-url is of a bucket, and {options.savepath} is a folder: write s3://BUCKET/PREFIX, gs:// or az://"
        )
    if not options.is_distributed:
        if options.part_size != QueryTable.__dataclass_fields__["part_size"].default:
            raise UsageError("--part-size is of a download by parts: say --cluster, or name a bucket as --savepath")
        return
    if options.cluster is None and options.format is None:
        return  # a bucket that is read; a download asks `check_filled`
    check_filled(options)
    why = _why_distributed(options)
    for name, reason in _NOT_DISTRIBUTED.items():
        field = QueryTable.__dataclass_fields__[name]
        if getattr(options, name) != field.default:
            flag = field.metadata["flags"][0]
            raise UsageError(f"{flag} does not go with {why}: {reason}")
    is_folder = options.mirror is not None and url_scheme(options.mirror) in (None, "file")
    if is_folder and not (options.cluster is None or options.cluster.startswith("local:")):
        raise UsageError(
            f"--mirror {options.mirror} is a folder, which goes with --cluster local:N alone: serve it by http, so "
            "that workers elsewhere can reach it"
        )


def check_filled(options: QueryTable) -> None:
    """Raise UsageError if this is a query that cannot fill its place: what goes by parts ends in shards alone."""
    if options.is_distributed and (options.format not in ("webdataset", "parquet") or not options.no_files):
        raise UsageError(
            f"{_why_distributed(options)} brings shards alone: say --format webdataset (or parquet) --no-files, too"
        )


def _why_distributed(options: QueryTable) -> str:
    return f"--cluster {options.cluster}" if options.cluster is not None else f"--savepath {options.savepath}"
