"""The keys of a download past one machine, below its place.

    .oid_async/plan.json                                the query: another one is refused
    .oid_async/plan/00/begun.json                       how a generation is made, before its first part is there
    .oid_async/plan/00.json                             a generation: its parts; from then on it is published
    .oid_async/plan/00/train-000000.parquet             a part: its images with all their annotation rows
    .oid_async/records/00/train-000000.parquet          its record: what became of each image; that is the commit
    shards/train-000000.tar                             its images, if there are any; .parquet with --format parquet
    shards/train-000000~3f9a12c4.tar                    the same made by somebody else, until the end decides
    .oid_async/plan/bad_rows.csv, unknown_ids.txt       what the query's tables and lists have of them, if anything
    .oid_async/plan/hierarchy.json                      the hierarchy of classes, if it is published
    .oid_async/finished.json                            what the end has written, of which records
    .oid_async/end/                                     which of many tasks writes it at the moment

`GG` are two digits or more. The numbers of parts go on through the generations, each split by itself.
"""

from collections.abc import Collection

from oid_async.openimages.kinds import hierarchy_file

PLAN = ".oid_async/plan.json"
PLANS = ".oid_async/plan"
RECORDS = ".oid_async/records"
# Published before plan/00.json; the end copies them to the top of the place. Absent where there is none.
BAD_ROWS = ".oid_async/plan/bad_rows.csv"
UNKNOWN_IDS = ".oid_async/plan/unknown_ids.txt"
HIERARCHY = ".oid_async/plan/hierarchy.json"
FINISHED = ".oid_async/finished.json"
ENDS = ".oid_async/end"
SHARDS = "shards"
MANIFEST = "manifest.parquet"
SHARD_LIST = "shards.json"


def copied_files(kinds: Collection[str]) -> dict[str, str]:
    """Return which keys the end copies to which names, for a download that saves these kinds."""
    tree = hierarchy_file(kinds)
    copies = {BAD_ROWS: "bad_rows.csv", UNKNOWN_IDS: "unknown_ids.txt"}
    return copies if tree is None else copies | {HIERARCHY: tree}


def generation_key(generation: int) -> str:
    """Return the key of the list of a generation's parts.

    >>> generation_key(1)
    '.oid_async/plan/01.json'
    """
    return f"{PLANS}/{generation:02}.json"


def begun_key(generation: int) -> str:
    """Return the key of what says how a generation is made."""
    return f"{PLANS}/{generation:02}/begun.json"


def part_name(split: str, number: int) -> str:
    """Return the name of a part, which its shard and its record have too.

    >>> part_name("train", 3)
    'train-000003'
    """
    return f"{split}-{number:06}"


def plan_key(generation: int, name: str) -> str:
    """Return the key of a part of the plan."""
    return f"{PLANS}/{generation:02}/{name}.parquet"


def record_key(generation: int, name: str) -> str:
    """Return the key of a part's record."""
    return f"{RECORDS}/{generation:02}/{name}.parquet"


def shard_key(name: str, ending: str, suffix: str = "") -> str:
    """Return the key of a part's shard; with a suffix of one that found the name taken.

    >>> shard_key("train-000003", "tar"), shard_key("train-000003", "tar", "3f9a12c4")
    ('shards/train-000003.tar', 'shards/train-000003~3f9a12c4.tar')
    """
    return f"{SHARDS}/{name}{'~' if suffix else ''}{suffix}.{ending}"
