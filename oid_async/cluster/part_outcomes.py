"""What became of the images of a part, as its record has it: from its plan, its journal and its shard. Pure."""

import polars as pl

from oid_async.cluster.part_file import NEXT
from oid_async.cluster.part_shard import PartShard
from oid_async.cluster.published import Part
from oid_async.cluster.record import RECORD_SCHEMA, Record, ShardNote
from oid_async.masks.fetch import MaskReport
from oid_async.openimages.ids import KEY
from oid_async.report import FINAL_KINDS, OPTED_OUT
from oid_async.store.results import ROLE_SCHEMA

_OF_BYTES = ("FileName", "Bytes", "MD5", "Width", "Height")
_OF_FAILURE = ("Reason", "Source", "URL")


def part_outcomes(images: pl.DataFrame, shard: PartShard) -> pl.DataFrame:
    """Return the rows of a record: RECORD_SCHEMA, and ROLE_SCHEMA where images have roles.

    `images` are as `store.results.Results.outcomes` returns them, with Next. One that has failed for good is pending
    while it has sources left; one that got into no shard has failed.
    """
    refused = pl.DataFrame(
        list(shard.refused.items()), schema={"FileName": pl.String, "__why": pl.String}, orient="row"
    )
    frame = images.join(refused, on="FileName", how="left", maintain_order="left")
    frame = frame.join(shard.places, on="FileName", how="left", maintain_order="left")
    is_refused, why = pl.col("__why").is_not_null(), pl.concat_str("Source", pl.lit(":"), "__why")
    frame = frame.with_columns(
        Status=pl.when(is_refused | ((pl.col("Action") == "failed") & (pl.col("Status") == "pending")))
        .then(pl.lit("failed"))
        .otherwise("Status"),
        Reason=pl.coalesce(pl.col("__why").str.extract(r"^(\w+)"), "Reason"),
        Detail=pl.when(is_refused)
        .then(pl.concat_str("Known", why, separator="; ", ignore_nulls=True))
        .otherwise("Detail"),
        **{name: pl.when(~is_refused).then(name) for name in _OF_BYTES},
    )
    # After what ends an image no source is asked, a waiting one neither.
    moves_on = [kind for kind in FINAL_KINDS if kind != OPTED_OUT]
    is_saved, is_final = pl.col("Status") == "ok", pl.col("Reason").is_in(moves_on)
    frame = frame.with_columns(Known=pl.when(~is_saved).then(pl.coalesce("Detail", "Known")))
    # A passing failure is not the last word of its source: that is asked again, before any other.
    waits = pl.col(NEXT).is_not_null() & ((pl.col("Status") == "pending") | ((pl.col("Status") == "failed") & is_final))
    frame = frame.with_columns(
        Status=pl.when(waits).then(pl.lit("pending")).otherwise("Status"),
        Next=pl.when(waits).then(NEXT),
        **{name: pl.when(~waits).then(name) for name in _OF_FAILURE},
    )
    roles = [name for name in ROLE_SCHEMA if name in frame.columns]
    types = RECORD_SCHEMA | {KEY: frame.schema[KEY]}
    return frame.select(*(pl.col(name).cast(dtype) for name, dtype in types.items()), *roles)


def part_record(
    part: Part, outcomes: pl.DataFrame, shard: PartShard, note: ShardNote | None, masks: MaskReport | None
) -> Record:
    """Return the record of a part, whose shard was put as noted; requests and seconds are not in it yet."""
    saved = outcomes.filter(Status="ok")
    counted = ("selected", "present", "downloaded", "failed", "bytes")
    return Record(
        generation=part.generation,
        name=part.name,
        plan_md5=part.md5,
        shard=note,
        images=len(outcomes),
        saved=len(saved),
        failures=_counts(outcomes.filter(Status="failed"), "Reason"),
        sources=_counts(saved, "Source"),
        pending=len(outcomes.filter(Status="pending")),
        rows=shard.rows,
        left_out=shard.left_out,
        masks={} if masks is None else {name: getattr(masks, name) for name in counted},
        failed_masks=() if masks is None else tuple(sorted(masks.failures)),
        saved_bytes=int(saved.get_column("Bytes").sum()),
    )


def _counts(images: pl.DataFrame, column: str) -> dict[str, int]:
    return dict(images.drop_nulls(column).group_by(column).len().sort(column).iter_rows())
