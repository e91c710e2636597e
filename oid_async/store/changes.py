"""What was done to an image before it came to lie here, in the words of ATTRIBUTION.csv: CC BY asks to say so.

An original is as its author has published it. The bucket has copies whose longer side has at most 1024 pixels; a
thumbnail is Flickr's size `z`, whose longer side has at most 640 (https://www.flickr.com/services/api/misc.urls.html),
if its name says so. Where a file that was found comes from is not known.
"""

import polars as pl

CHANGES = "Changes"
_COPY, _THUMBNAIL, _SMALLER = "copy of at most 1024 px", "copy of at most 640 px", "a smaller copy"
_UNKNOWN = "not known"
_IS_Z = r"_z\.jpg(?:\?|$)"


def made_changes(side: int | None = None) -> pl.Expr:
    """Return Changes of saved images: an expression of Source, URL, Width, Height; null where nothing was changed.

    `side`: images whose longer side has more pixels than that were made smaller.
    """
    source, url = pl.col("Source"), pl.col("URL")
    thumbnail = pl.when(url.str.contains(_IS_Z)).then(pl.lit(_THUMBNAIL)).otherwise(pl.lit(_SMALLER))
    copied = (
        pl.when(source.is_null())
        .then(pl.lit(_UNKNOWN))
        .when(source == "cvdf")
        .then(pl.lit(_COPY))
        .when(source == "thumbnail")
        .then(thumbnail)
    )
    if side is None:
        return copied.alias(CHANGES)
    is_larger = pl.max_horizontal("Width", "Height") > side
    resized = pl.when(is_larger).then(pl.lit(f"resized to at most {side} px"))
    return and_also(copied, resized).alias(CHANGES)


def and_also(*changes: pl.Expr) -> pl.Expr:
    """Return several changes in one text, in their order; null where there is none.

    >>> pl.select(and_also(pl.lit("copy of at most 1024 px"), pl.lit(None, pl.String), pl.lit("cropped"))).item()
    'copy of at most 1024 px; cropped'
    """
    text = pl.concat_str(changes, separator="; ", ignore_nulls=True)
    return pl.when(text != "").then(text)
