"""The failures of earlier runs that are still true: of the addresses that this run would ask, and what it expects."""

import re
from collections.abc import Mapping, Sequence

import polars as pl

from oid_async.http.opt_out import lifted
from oid_async.openimages.catalogue import IMAGE_BUCKET, object_url
from oid_async.openimages.vocabulary import SPLITS, Source
from oid_async.options.readers import RespectOptOut
from oid_async.quick_values import frozen
from oid_async.report import FINAL_KINDS, OPTED_OUT, kind_of, parse_detail
from oid_async.store.failure_memory import hashed

# What a `forget` line cancels: it is written when a limit was raised, or a host allowed, that had refused an image.
_FORGOTTEN = ("too_large", "blocked")


def remembered_end(kinds: Mapping[str, str], sources: Sequence[Source]) -> tuple[str, Source] | None:
    """Return how an image ends without a request, as failure kind and source; None if a source is to be asked.

    `kinds` are what is remembered, by source. All `sources` have failed for good, or one of them ends the image when
    its turn comes.

    >>> remembered_end({"cvdf": "not_found", "original": "gone"}, ["cvdf", "original"])
    ('gone', 'original')
    >>> remembered_end({"cvdf": "opted_out (noai)"}, ["cvdf", "original"])
    ('opted_out', 'cvdf')
    >>> remembered_end({"cvdf": "timeout", "original": "opted_out (noai)"}, ["cvdf", "original"])
    """
    end = None
    for source in sources:
        kind = kind_of(kinds.get(source, ""))
        if kind not in FINAL_KINDS:
            return None
        end = kind, source
        if kind == OPTED_OUT:
            break
    return end


def still_failed(
    texts: Mapping[str, str],
    detail: str | None,
    asked: str | None,
    *,
    is_cancelled: bool,
    respect_opt_out: RespectOptOut = True,
) -> dict[str, str]:
    """Return the final failures of one journal line that still count, by source.

    `texts` are the memory texts (`failure_memory.memory_text`) of the sources that the image would be asked of now;
    `is_cancelled`: a later line forgets what limits and the address guard have refused.
    """
    pattern = lifted(respect_opt_out)
    kinds = {
        source: said
        for source, said in parse_detail(detail).items()
        if kind_of(said) in FINAL_KINDS and (pattern is None or re.match(pattern, said) is None)
    }
    hashes = dict(part.partition(":")[::2] for part in (asked or "").split())
    return {
        source: kinds[source]
        for source, text in texts.items()
        if source in kinds
        and hashes.get(source) == hashed(text)
        and not (is_cancelled and kind_of(kinds[source]) in _FORGOTTEN)
    }


@frozen
class FailureMemory:
    """Judges remembered failures for the sources of one run, whose mirror has this lasting name (None: none).

    Images whose host has said that they are not for AI are remembered as far as `respect_opt_out` obeys that.
    """

    sources: tuple[Source, ...]
    mirror: str | None
    respect_opt_out: RespectOptOut = True

    def address(self, source: Source) -> pl.Expr:
        """Return where a source has an image of the plan, null if it has none."""
        if source == "cvdf":
            folder = pl.lit(object_url(IMAGE_BUCKET, "", self.mirror))
            copy = pl.concat_str(folder, "Subset", pl.lit("/"), "ImageID", pl.lit(".jpg"))
            return pl.when(pl.col("Subset").is_in(SPLITS)).then(copy)
        return pl.col("OriginalURL" if source == "original" else "Thumbnail300KURL")

    def still_true(self, frame: pl.DataFrame, last_forget: int) -> pl.DataFrame:
        """Cut Known (a Detail) to the final failures that still count, in the run's order; null where none does.

        The frame has the plan's columns, and of an image's last line in the journal KnownURL, KnownSource, Asked and
        `line`; `last_forget` is the last line that cancels failures.
        """
        failed = frame.filter(pl.col("Known").is_not_null())
        if not len(failed):
            return frame
        parts = [self._part(failed, source, last_forget).alias(source) for source in self.sources]
        known = failed.select("line", Judged=pl.concat_str(*parts, separator="; ", ignore_nulls=True))
        known = known.with_columns(Judged=pl.when(pl.col("Judged") != "").then("Judged"))
        # A line of the journal is of one image.
        return frame.join(known, on="line", how="left", maintain_order="left").with_columns(Known="Judged")

    def _part(self, failed: pl.DataFrame, source: Source, last_forget: int) -> pl.Series:
        """Return `source:kind` of the failures that still count at one source."""
        said = pl.col("Known").str.extract(rf"(?:^|; )({source}:.*?)(?:; [a-z]+:|$)")
        kind = said.str.extract(r":([a-z_]+)")
        now = failed.select(_memory_text(source, self.address(source))).to_series()
        hashes = pl.Series("now", [hashed(text) for text in now], pl.String)
        asked = pl.col("Asked").str.extract(rf"\b{source}:([0-9a-f]+)")
        # A line of version 0.1.0 speaks for its URL alone.
        url = self.address(source).fill_null("").replace("", "-")
        is_old = pl.col("Asked").is_null()
        is_same = pl.when(is_old).then((pl.col("KnownSource") == source) & (pl.col("KnownURL") == url))
        is_kept = (pl.col("line") > last_forget) | (~is_old & ~kind.is_in(_FORGOTTEN))
        counts = kind.is_in(list(FINAL_KINDS)) & is_kept & is_same.otherwise(asked == pl.col("now"))
        if (pattern := lifted(self.respect_opt_out)) is not None:
            counts &= ~said.str.strip_prefix(f"{source}:").str.contains(pattern)
        return failed.with_columns(hashes).select(pl.when(counts).then(said)).to_series()


def _memory_text(source: Source, address: pl.Expr) -> pl.Expr:
    """Return `failure_memory.memory_text` of a source of the plan's images."""
    size, md5 = pl.lit(""), pl.lit("")
    if source == "cvdf":
        size = pl.col("CopyBytes").cast(pl.String).fill_null("")
    elif source == "original":
        size, md5 = _published_size(), _published_md5()
    return pl.concat_str(address.fill_null(""), size, md5, separator="\n")


def _published_size() -> pl.Expr:
    """Return OriginalSize as `Expected.published` reads it, as text."""
    digits = pl.col("OriginalSize").str.strip_chars().str.strip_suffix(".0")
    number = pl.when(digits.str.contains(r"^\d+$")).then(digits).cast(pl.Int64, strict=False)
    return number.cast(pl.String).fill_null("")


def _published_md5() -> pl.Expr:
    """Return OriginalMD5 as `Expected.published` reads it: in base64, also where the table has hex."""
    md5 = pl.col("OriginalMD5").fill_null("")
    in_hex = pl.when(md5.str.contains("^[0-9a-fA-F]{32}$")).then(md5)
    return pl.coalesce(in_hex.str.decode("hex", strict=False).bin.encode("base64"), md5)
