"""File names for the images of a plan: the name that an image has, else the one of its URL, else one with its id.

Names are compared without regard to case and composition, by their hashes: 8 bytes a name of any length.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import islice

import polars as pl

from oid_async.openimages.ids import HEX_ID, KEY
from oid_async.options.query_table import NameStyle
from oid_async.quick_values import frozen
from oid_async.report import Outcome
from oid_async.store.journal_index import JournalIndex
from oid_async.store.naming import PLAIN_NAME, clash_name, fold, id_name, url_name

_LISTED_AT_ONCE = 65536

Adopt = Callable[[str, str, str | None, str | None], Outcome | None]
"""(image_id, file_name, original_size, original_md5) -> the Outcome of a file that exists and passes its check."""

_NONE = pl.Series("hash", [], pl.UInt64)
_GIVEN = pl.when(pl.col("Status") == "ok").then("FileName")


@frozen
class NameHashes:
    """The names of existing files, as hashes (u64) in no order: as they are, and without regard to case.

    `links` are those of them that are links, and so no saved images.
    """

    exact: pl.Series
    folded: pl.Series
    links: pl.Series

    @classmethod
    def of(cls, names: Iterable[str], links: Sequence[str] = ()) -> "NameHashes":
        """Hash names, a batch at a time: a million of them are never held as text."""
        exact, folded = [_NONE], [_NONE]
        rest = iter(names)
        while batch := list(islice(rest, _LISTED_AT_ONCE)):
            texts = pl.Series("hash", batch, pl.String)
            exact.append(texts.hash())
            folded.append(folded_hashes(texts))
        return cls(pl.concat(exact), pl.concat(folded), pl.Series("hash", links, pl.String).hash())


class NameAssigner:
    """Gives images their file names; those in the journal and those of existing files are taken.

    `present` are the keys, sorted, of the saved images whose file exists. When all of `keys` (sorted, unique) have
    names, no new name can clash, and the hashes for that are not computed.
    """

    def __init__(self, existing: NameHashes, index: JournalIndex, keys: pl.Series) -> None:
        given = index.all_latest(name=pl.when(_GIVEN.is_not_null()).then(_GIVEN.hash())).drop_nulls("name")
        is_fresh = not keys.is_in(given.get_column(KEY).implode()).all()
        name = pl.col("name")
        is_there = name.is_in(existing.exact.implode()) & ~name.is_in(existing.links.implode())
        self.present = given.filter(is_there).get_column(KEY)
        self._keys = keys
        given_folded = _NONE
        if is_fresh:
            folds = _GIVEN.map_batches(folded_hashes, return_dtype=pl.UInt64)
            known = index.all_latest(is_given=_GIVEN.is_not_null(), folded=folds)
            given_folded = known.filter("is_given").get_column("folded")
        self._existing = _Hashes(existing.exact if is_fresh else _NONE)
        self._given = _Hashes(given_folded)
        self._folded = _Hashes(existing.folded if is_fresh else _NONE, given_folded)

    @property
    def unselected(self) -> int:
        """How many saved images are not selected."""
        return int((~self.present.is_in(self._keys.implode())).sum())

    def take(self, folded: pl.Series) -> None:
        """Take names, as their folded hashes, that images have without being given them here."""
        self._folded.add(folded)

    def assign(self, frame: pl.DataFrame, names: NameStyle, adopt: Adopt) -> tuple[pl.DataFrame, list[Outcome]]:
        """Add FileName and `present` to the images of a span; return also the Outcomes of adopted files.

        The frame has KEY, ImageID, Subset, IsTwin (of an image of another split), OriginalURL, OriginalSize,
        OriginalMD5, Given. Call it in order of ImageID: of two images with one name the lower id keeps it; a name once
        given is taken for lower ids too.
        """
        is_there = pl.col(KEY).is_in(_part(self.present, frame.get_column(KEY)).implode())
        # The saved image of another split is another one.
        frame = frame.with_columns(present=is_there & pl.col("Given").is_not_null())
        fresh = frame.get_column("Given").is_null()
        if not fresh.any():
            return frame.with_columns(FileName="Given"), []
        unnamed = frame.filter(fresh)
        unnamed = unnamed.with_columns(_natural(unnamed, names).alias("FileName"))
        unnamed = unnamed.with_columns(folded_hashes(unnamed.get_column("FileName")).alias("folded"))
        is_taken = self._folded.contains(unnamed.get_column("folded"))
        unnamed = unnamed.with_columns(clash=is_taken | ~unnamed.get_column("folded").is_first_distinct())
        outcomes: list[Outcome] = []
        if unnamed.get_column("clash").any():
            unnamed, outcomes = self._resolve_clashes(unnamed, adopt)
        self._folded.add(unnamed.get_column("folded"))
        named = frame.join(unnamed.select(KEY, "FileName", "present"), on=KEY, how="left", maintain_order="left")
        return (
            named.with_columns(
                FileName=pl.coalesce("Given", "FileName"),
                present=pl.col("present") | pl.col("present_right").fill_null(False),
            ),
            outcomes,
        )

    def _resolve_clashes(self, frame: pl.DataFrame, adopt: Adopt) -> tuple[pl.DataFrame, list[Outcome]]:
        """Find names for images whose own is taken: adopt the file if it is this image, else add the id to the name."""
        taken = set(frame.get_column("folded"))
        adopted: set[int] = set()
        outcomes: list[Outcome] = []
        resolved: list[tuple[int, str, bool]] = []
        clashing = frame.with_row_index("at").filter("clash")
        exists = self._existing.contains(clashing.get_column("FileName").hash())
        given = self._given.contains(clashing.get_column("folded"))
        mark = pl.when("IsTwin").then(pl.concat_str("ImageID", "Subset", separator="_", ignore_nulls=True))
        columns = clashing.select(
            *("at", "ImageID", "Subset", mark.otherwise("ImageID").alias("mark")),
            *("FileName", "OriginalSize", "OriginalMD5", "folded"),
        )
        for (at, image_id, subset, mark_text, name, size, md5, folded), is_there, is_given in zip(
            columns.iter_rows(), exists, given, strict=True
        ):
            while True:
                outcome = (
                    adopt(image_id, name, size, md5) if is_there and not is_given and folded not in adopted else None
                )
                if outcome is not None:
                    outcomes.append(replace(outcome, subset=subset))
                    adopted.add(folded)
                    break
                name = clash_name(name, mark_text)
                text = pl.Series([name], dtype=pl.String)
                folds = folded_hashes(text)
                folded = folds[0]
                is_there, is_given = self._existing.contains(text.hash())[0], self._given.contains(folds)[0]
                if folded not in taken and not self._folded.contains(folds)[0]:
                    break
            taken.add(folded)
            resolved.append((at, name, outcome is not None))
        schema = {"at": pl.UInt32, "Resolved": pl.String, "Adopted": pl.Boolean}
        frame = frame.with_row_index("at").join(
            pl.DataFrame(resolved, schema=schema, orient="row"), on="at", how="left", maintain_order="left"
        )
        frame = frame.with_columns(
            FileName=pl.coalesce("Resolved", "FileName"), present=pl.col("Adopted").fill_null(False)
        )
        return frame.with_columns(folded_hashes(frame.get_column("FileName")).alias("folded")), outcomes


class _Hashes:
    """A growing set of hashes, in sorted runs, each longer than all later ones together.

    A set that Polars makes for one look-up costs more than the look-up, at a million names and one look-up a span.
    """

    def __init__(self, *hashes: pl.Series) -> None:
        self._runs: list[pl.Series] = []
        self.add(pl.concat([run.cast(pl.UInt64).alias("hash") for run in hashes]).unique())

    def add(self, hashes: pl.Series) -> None:
        run = hashes.alias("hash").sort()
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = pl.concat([self._runs.pop(), run]).sort()
        if len(run):
            self._runs.append(run)

    def contains(self, hashes: pl.Series) -> pl.Series:
        """Return for each hash whether it is in the set."""
        found = pl.repeat(False, len(hashes), dtype=pl.Boolean, eager=True)
        for run in self._runs:
            found |= run.gather(run.search_sorted(hashes).clip(0, len(run) - 1)) == hashes
        return found


def folded_hashes(names: pl.Series) -> pl.Series:
    """Return the hash of each file name without regard to case and composition; plain ASCII stays inside Polars."""
    if (names.str.len_bytes() == names.str.len_chars()).all():
        return names.str.to_lowercase().hash()
    return names.map_elements(fold, return_dtype=pl.String).hash()


def _part(keys: pl.Series, span: pl.Series) -> pl.Series:
    """Return those of sorted keys that are within a span of sorted keys."""
    first, last = keys.search_sorted(span[0], "left"), keys.search_sorted(span[-1], "right")
    return keys.slice(first, last - first)


def _natural(frame: pl.DataFrame, names: NameStyle) -> pl.Series:
    """Return the names of images without regard to clashes; only odd URLs and ids cost a Python call."""
    image_id, url = frame.get_column("ImageID"), frame.get_column("OriginalURL")
    if names == "id":
        plain = image_id.str.contains(HEX_ID)
        if plain.all():
            return image_id + ".jpg"
        return image_id.map_elements(id_name, return_dtype=pl.String)
    last = url.str.extract(r"^https?://[^?#%]+/([^/?#%]+)(?:\?[^#]*)?$", 1)
    plain = last.str.contains(PLAIN_NAME).fill_null(False)
    if plain.all():
        return last
    odd = [
        name if is_plain else url_name(link, image)
        for name, is_plain, link, image in zip(last, plain, url, image_id, strict=True)
    ]
    return pl.Series(odd, dtype=pl.String)
