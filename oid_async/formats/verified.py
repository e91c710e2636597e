"""Which classes of an export a person has verified in an image, as being there or not: what LVIS calls them.

Evaluation counts a detection of a class that nobody has verified in its image neither as right nor as wrong. A label is
verified unless a machine has made it; Confidence 0 says that the class is not there.
"""

from collections.abc import Mapping, Sequence

import polars as pl

from oid_async.formats.source import Span

POSITIVE, NEGATIVE = "pos_category_ids", "neg_category_ids"
_MACHINE = "machine"
_SCHEMA = {"ImageID": pl.String, "__id": pl.Int64, "__there": pl.Boolean}


def verified_classes(span: Span, numbers: Mapping[str, int]) -> pl.DataFrame:
    """Return ImageID and lists of numbers, ascending, of the images of a span that have any: POSITIVE, NEGATIVE.

    Of labels, and of what is absent in negatives. Where MIDs are one class, one that is there counts.
    """
    frames = [pl.DataFrame(schema=_SCHEMA)]
    if "label" in span.rows:
        rows = span.rows["label"]
        source = pl.col("Source") if "Source" in rows.columns else pl.lit(None, pl.String)
        rows = rows.filter(source.ne_missing(_MACHINE)).with_columns(confidence=confidence(rows.columns))
        rows = rows.drop_nulls("confidence")
        frames.append(rows.select("ImageID", _number("LabelName", numbers), __there=pl.col("confidence") > 0))
    if "VerifiedAbsent" in span.images.columns:
        rows = span.images.select("ImageID", label="VerifiedAbsent").explode("label").drop_nulls("label")
        frames.append(rows.select("ImageID", _number("label", numbers), __there=pl.lit(False)))
    found = pl.concat(frames).drop_nulls("__id").group_by("ImageID", "__id").agg(pl.col("__there").any())
    is_there = pl.col("__there")
    return found.group_by("ImageID").agg(
        pl.col("__id").filter(is_there).sort().alias(POSITIVE), pl.col("__id").filter(~is_there).sort().alias(NEGATIVE)
    )


def confidence(columns: Sequence[str]) -> pl.Expr:
    """Return the Confidence of labels as a number; a table of a user's own without it says what is there."""
    return pl.col("Confidence").cast(pl.Float64, strict=False) if "Confidence" in columns else pl.lit(1.0)


def _number(label: str, numbers: Mapping[str, int]) -> pl.Expr:
    return pl.col(label).replace_strict(dict(numbers), default=None, return_dtype=pl.Int64).alias("__id")
