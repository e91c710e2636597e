"""Decide which images are selected. Pure: no table is read here.

`choose` is the order of operations: rows that match (class, flags, area, point answer), in images of the image table ->
the number of matching boxes -> union or intersection -> without excluded classes -> other restrictions (--where and
similar, --image-where) -> id lists -> the first N of each class, or --balanced -> the first N -> negatives beside
them -> one part of several.
"""

from collections.abc import Iterator

import polars as pl

from oid_async.quick_values import frozen
from oid_async.select.images import Images
from oid_async.select.label_sets import LabelSets
from oid_async.select.limits import NO_TOP_UP, Limits, TopUpState
from oid_async.select.negatives import LabelEvidence, Negatives
from oid_async.select.query import ResolvedQuery, RestrictedImages


@frozen
class Selection:
    """The selected images, and counts for messages.

    `keys` is sorted ascending and unique; `candidates` counts the images that match each category alone, before limits
    and exclusions, `classes` the selected ones of each category, `splits` those of each split; `added` counts the
    images that each category's subclasses would add to its candidates; `rows` counts the matching box rows of the
    selected images; `unlisted` counts annotated images without a row in the image table; `unknown_lines` are those of
    the id list that name no image of the tables, `unboxed` counts listed images without a box; `waiting` counts the
    images that are selected if none of `keys` fails, and are not in `keys` because another failure may push them out.
    With --balanced there are counts without categories, too, by label; `balanced` counts what it took of each class.
    `negatives` are those among `keys`, None if the query asks for none; no category counts them. `before_limits` counts
    the images that meet every condition.
    """

    keys: pl.Series
    candidates: dict[str, int]
    classes: dict[str, int]
    balanced: dict[str, int]
    added: dict[str, int]
    splits: dict[str, int]
    rows: int
    unlisted: int
    unknown_lines: pl.Series
    unboxed: int
    waiting: int
    negatives: Negatives | None
    before_limits: int

    @property
    def selected(self) -> int:
        """How many of `keys` are no negatives."""
        return len(self.keys) - (0 if self.negatives is None else len(self.negatives.keys))


def choose(
    pairs: pl.DataFrame,
    images: pl.DataFrame,
    query: ResolvedQuery,
    state: TopUpState = NO_TOP_UP,
    among: RestrictedImages | None = None,
    evidence: LabelEvidence | None = None,
) -> Selection:
    """Decide which images are selected, in the order of operations above.

    `pairs` comes from `read_label_counts` (or is empty when no rows are read), `images` from `read_image_keys`, `among`
    from `restricted_images`, `evidence` from `read_evidence` of a query with negatives. `state` counts only for a query
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
        candidates = candidates & labelled.within_counts(query.min_boxes, query.max_boxes)
    if among is not None:
        candidates = candidates & every.having(among.keys)
    classes = list(_counted(every, labelled, query, among))
    firsts = limits.by_class(candidates, classes)
    keep, waiting = limits.by_count(firsts)
    others, asked = every.mask([]), 0
    if query.negatives is not None and evidence is not None:
        whole = keep
        if query.top_up:
            # A share is one of what is selected if nothing fails: it stays the same while failures are replaced.
            unfailed = Limits(every, query, NO_TOP_UP)
            whole, _ = unfailed.by_count(unfailed.by_class(candidates, classes))
        asked = query.negatives.number(int(whole.sum()))
        others = limits.first(evidence.free & allowed & ~keep, asked)
    chosen = limits.part_of(keep | others)
    selected = chosen & keep
    titles = labelled.titles() if query.categories or query.balanced is not None else []
    return Selection(
        keys=every.keys.filter(chosen),
        candidates=dict(zip(titles, map(len, labelled.members()), strict=False)),
        classes=dict(zip(titles, (every.count(selected, members) for members in labelled.members()), strict=False)),
        balanced=dict(zip(titles, firsts.counts, strict=False)),
        added=dict(zip(titles, labelled.added_by_subclasses(), strict=False)) if query.categories else {},
        splits=every.splits(chosen),
        rows=labelled.rows(selected),
        unlisted=labelled.unlisted,
        unknown_lines=listed.unknown_lines,
        unboxed=listed.unboxed,
        waiting=waiting,
        negatives=evidence.of(every, chosen & others, found=int(others.sum()), asked=asked)
        if evidence is not None
        else None,
        before_limits=int(candidates.sum()),
    )


def _counted(
    every: Images, labelled: LabelSets, query: ResolvedQuery, among: RestrictedImages | None
) -> Iterator[pl.Series]:
    """Yield the positions of the images of each class that a limit counts: of categories, of --where, else of any."""
    if query.limit_per_class is None and query.balanced is None:
        return
    if query.categories or query.counts_every_label:
        yield from labelled.members()
    if query.limit_per_class is not None and among is not None:
        yield from (every.positions(keys).drop_nulls() for keys in among.classes)


@frozen
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
