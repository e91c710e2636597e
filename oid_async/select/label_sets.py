"""Sets of a query's images by the labels of their rows, and counts of those rows."""

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from operator import and_

import polars as pl

from oid_async.openimages.ids import KEY, id_of_key
from oid_async.select.images import Images
from oid_async.select.query import ResolvedQuery


class LabelSets:
    """Sets of the images by their labels, from the pairs of a query; `unlisted` counts images without a row."""

    def __init__(self, images: Images, pairs: pl.DataFrame, query: ResolvedQuery) -> None:
        self._images = images
        self._query = query
        self._codes = {label: code for code, label in enumerate(query.labels)}
        wanted = self._codes_of(label for category in query.categories for label in category.labels)
        pairs = pairs.with_columns(images.positions(pairs.get_column(KEY)))
        matches = pl.col("rows") > 0
        if query.categories:
            matches &= pl.col("label").is_in(wanted)
        self.unlisted = _unlisted(pairs, matches) if query.by_boxes else 0
        there = pairs.select("label", "at", "rows").filter(pl.col("at").is_not_null())
        self._saved = there.filter(matches).select("at", "rows")
        codes = there.get_column("label").unique()
        # A million images of one label need no copy of their own.
        parts = {(codes[0],): there} if len(codes) == 1 else there.partition_by("label", as_dict=True)
        self._by_label = {int(code): frame for (code,), frame in parts.items()}

    def matching(self) -> pl.Series:
        """Return the set of the images that match, before exclusions and limits."""
        if not self._query.by_boxes:
            return pl.repeat(True, len(self._images.keys), dtype=pl.Boolean, eager=True)
        if self._query.match == "all":
            return reduce(and_, (self._images.mask([members]) for members in self.members()))
        return self._images.mask([self._saved.get_column("at")])

    def within_counts(self, least: int | None, most: int | None) -> pl.Series:
        """Return the set of the images with so many matching boxes, all categories together; None: any number."""
        counts = self._saved.group_by("at").agg(pl.col("rows").sum())
        fits = pl.col("rows") >= (least or 0)
        if most is not None:
            fits &= pl.col("rows") <= most
        return self._images.mask([counts.filter(fits).get_column("at")])

    def titles(self) -> list[str]:
        """Return the name of each of `members`: those of the categories, made to differ, or the labels."""
        if not self._query.categories:
            labels = dict(enumerate(self._query.labels))
            return [labels.get(code, "") for code in sorted(self._by_label)]
        names = [category.class_name for category in self._query.categories]
        # Two MIDs may have one name; named apart in a query, they are counted apart.
        return [
            name if names.count(name) == 1 else f"{name} ({', '.join(category.labels)})"
            for name, category in zip(names, self._query.categories, strict=True)
        ]

    def members(self) -> Iterator[pl.Series]:
        """Yield the positions of each category's images, in no order; without categories, of each label's, by code."""
        if self._query.categories:
            yield from (self._matching(self._codes_of(category.labels)) for category in self._query.categories)
        else:
            yield from (self._matching([code]) for code in sorted(self._by_label))

    def added_by_subclasses(self) -> Iterator[int]:
        """Yield how many images each category would gain with its subclasses."""
        for category, members in zip(self._query.categories, self.members(), strict=True):
            below = self._matching(self._codes_of(category.below))
            yield len(below) - self._images.count(self._images.mask([members]), below) if len(below) else 0

    def having(self, labels: Iterable[str]) -> pl.Series:
        """Return the set of the images with a box of any of these labels, whatever its flags."""
        frames = (self._by_label.get(code) for code in self._codes_of(labels))
        return self._images.mask(frame.get_column("at") for frame in frames if frame is not None)

    def rows(self, keep: pl.Series) -> int:
        """Return how many matching box rows a set of images has."""
        if not len(self._saved):
            return 0
        return int(self._saved.get_column("rows").filter(keep.gather(self._saved.get_column("at"))).sum())

    def _matching(self, codes: Sequence[int]) -> pl.Series:
        """Return the positions of the images with a row of these labels that matches, each once."""
        frames = [self._by_label[code] for code in codes if code in self._by_label]
        positions = [frame.filter(pl.col("rows") > 0).get_column("at") for frame in frames]
        if len(positions) == 1:
            return positions[0]
        return pl.concat(positions).unique() if positions else pl.Series("at", [], pl.UInt32)

    def _codes_of(self, labels: Iterable[str]) -> list[int]:
        return sorted({self._codes[label] for label in labels})


def _unlisted(pairs: pl.DataFrame, matches: pl.Expr) -> int:
    """Return how many images of these pairs that match have no row (`at` is null).

    One that has a row in any split is listed.
    """
    if pairs.schema[KEY] == pl.UInt64:
        return pairs.filter(matches, pl.col("at").is_null()).get_column(KEY).n_unique()
    images = pairs.filter(matches).select(pl.col("at").is_null().alias("is_absent"), image=id_of_key(pl.col(KEY)))
    listed = images.filter(~pl.col("is_absent")).get_column("image")
    absent = images.filter("is_absent").get_column("image").unique()
    return int((~absent.is_in(listed.implode())).sum())
