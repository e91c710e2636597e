"""Decide which images are selected. Pure: no table is read here.

`choose` is the order of operations: rows that match (class, flags, area, point answer), in images of the image table ->
the number of matching boxes -> union or intersection -> without excluded classes -> other restrictions (--where and
similar) -> id lists -> the first N of each class -> the first N -> negatives beside them ->
one part of several.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from oid_async.openimages.classes import Category
from oid_async.select.images import Images
from oid_async.select.label_sets import LabelSets
from oid_async.select.limits import NO_TOP_UP, Limits, TopUpState
from oid_async.select.negatives import LabelEvidence, Negatives
from oid_async.select.query import ResolvedQuery


@dataclass(frozen=True, slots=True)
class Selection:
    """The selected images, and counts for messages.

    `keys` is sorted ascending and unique; `candidates` counts the images that match each category alone, before limits
    and exclusions, `classes` the selected ones of each category, `splits` those of each split; `added` counts the
    images that each category's subclasses would add to its candidates; `rows` counts the matching box rows of the
    selected images; `unlisted` counts annotated images without a row in the image table; `unknown_lines` are those of
    the id list that name no image of the tables, `unboxed` counts listed images without a box; `waiting` counts the
    images that are selected if none of `keys` fails, and are not in `keys` because another failure may push them out.
    `negatives` are those among `keys`, None if the query asks for none; no category counts them.
    """

    keys: pl.Series
    candidates: dict[str, int]
    classes: dict[str, int]
    added: dict[str, int]
    splits: dict[str, int]
    rows: int
    unlisted: int
    unknown_lines: pl.Series
    unboxed: int
    waiting: int
    negatives: Negatives | None

    @property
    def selected(self) -> int:
        """How many of `keys` are no negatives."""
        return len(self.keys) - (0 if self.negatives is None else len(self.negatives.keys))


def choose(
    pairs: pl.DataFrame,
    images: pl.DataFrame,
    query: ResolvedQuery,
    state: TopUpState = NO_TOP_UP,
    among: pl.Series | None = None,
    evidence: LabelEvidence | None = None,
) -> Selection:
    """Decide which images are selected, in the order of operations above.

    `pairs` comes from `read_label_counts` (or is empty when no rows are read), `images` from `read_image_keys`, `among`
    from `restricted_keys`, `evidence` from `read_evidence` of a query with negatives. `state` counts only for a query
    with `top_up`.
    """
    every = Images.of(images)
    labelled = LabelSets(every, pairs, query)
    limits = Limits(every, query, state)
    matching = labelled.matching()
    listed = _listed(every, query, matching)
    allowed = (
        listed.images
        & every.fitting
        & ~labelled.having(label for category in query.excluded for label in category.labels)
    )
    candidates = matching & allowed
    if query.min_boxes is not None or query.max_boxes is not None:
        candidates = candidates & labelled.within_counts()
    if among is not None:
        candidates = candidates & every.having(among)
    keep, waiting = limits.selected(candidates, labelled.members())
    others, asked = every.mask([]), 0
    if query.negatives is not None and evidence is not None:
        whole = keep
        if query.top_up:
            # A share is one of what is selected if nothing fails: it stays the same while failures are replaced.
            whole, _ = Limits(every, query, NO_TOP_UP).selected(candidates, labelled.members())
        asked = query.negatives.number(int(whole.sum()))
        others = limits.first(evidence.free & allowed & ~keep, asked)
    chosen = limits.part_of(keep | others)
    selected = chosen & keep
    return Selection(
        keys=every.keys.filter(chosen),
        candidates=_named(query.categories, map(len, labelled.members())),
        classes=_named(query.categories, (every.count(selected, members) for members in labelled.members())),
        added=_named(query.categories, labelled.added_by_subclasses()),
        splits=every.splits(chosen),
        rows=labelled.rows(selected),
        unlisted=labelled.unlisted,
        unknown_lines=listed.unknown_lines,
        unboxed=listed.unboxed,
        waiting=waiting,
        negatives=evidence.of(every, chosen & others, found=int(others.sum()), asked=asked)
        if evidence is not None
        else None,
    )


@dataclass(frozen=True, slots=True)
class _Listed:
    """The set of the images that the id lists allow, and what `Selection` says of the lines."""

    images: pl.Series
    unknown_lines: pl.Series
    unboxed: int


def _listed(every: Images, query: ResolvedQuery, matching: pl.Series) -> _Listed:
    """Return what the id lists of a query leave."""
    images = pl.repeat(True, len(every.keys), dtype=pl.Boolean, eager=True)
    unknown_lines, unboxed = pl.Series("line", [], pl.UInt32), 0
    if query.image_ids is not None:
        images, unknown_lines = every.named(query.image_ids)
        if query.by_boxes and not query.categories:
            unboxed = int((images & ~matching).sum())
    if query.exclude_ids is not None:
        images = images & ~every.named(query.exclude_ids)[0]
    return _Listed(images, unknown_lines, unboxed)


def _named(categories: Sequence[Category], counts: Iterable[int]) -> dict[str, int]:
    """Return a count for each category by its name; none without categories."""
    if not categories:
        return {}
    names = [category.class_name for category in categories]
    # Two MIDs may have one name; named apart in a query, they are counted apart.
    titles = [
        category.class_name
        if names.count(category.class_name) == 1
        else f"{category.class_name} ({', '.join(category.labels)})"
        for category in categories
    ]
    return dict(zip(titles, counts, strict=True))
