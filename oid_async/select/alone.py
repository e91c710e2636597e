"""What each condition of a query alone would leave: asked when all of them together leave nothing. Pure."""

from collections.abc import Iterator, Mapping
from functools import reduce
from operator import and_

import polars as pl

from oid_async.select.images import Images
from oid_async.select.label_sets import LabelSets
from oid_async.select.query import ResolvedQuery

# The titles of the categories, and what to call all annotations that match, whatever their class.
Words = tuple[tuple[str, ...], str]


def left_alone(
    images: pl.DataFrame, pairs: pl.DataFrame, query: ResolvedQuery, met: Mapping[str, pl.Series], words: Words
) -> dict[str, int]:
    """Return how many images each condition leaves by itself, by the words for it; of categories whatever their flags.

    `images` and `pairs` are those of `choose`; `met` has the keys of the images that meet the conditions on annotations
    and on rows, by their text. The limits and a part are no conditions.
    """
    every = Images.of(images)
    labelled = LabelSets(every, pairs, query)
    counts = {text: int(kept.sum()) for text, kept in _sets(every, labelled, query, words)}
    counts |= {text: int(every.having(keys).sum()) for text, keys in met.items()}
    if query.image_condition is not None:
        counts[f"--image-where {query.image_condition.text}"] = int(every.fitting.sum())
    if query.image_ids is not None:
        counts["--image-ids"] = int(every.named(query.image_ids)[0].sum())
    if query.exclude_ids is not None:
        counts["--exclude-ids"] = int((~every.named(query.exclude_ids)[0]).sum())
    return counts


def _sets(every: Images, labelled: LabelSets, query: ResolvedQuery, words: Words) -> Iterator[tuple[str, pl.Series]]:
    """Yield the sets of the conditions on labels and on numbers of boxes, each with the words for it."""
    having = [labelled.having(category.labels) for category in query.categories]
    titles, what = words
    yield from zip(titles, having, strict=True)
    if query.match == "all" and len(having) > 1:
        yield "all categories (--type inter)", reduce(and_, having)
    if query.by_boxes and not having:
        yield what, labelled.matching()
    for category in query.excluded:
        yield f"--exclude {category.class_name}", ~labelled.having(category.labels)
    if query.min_boxes is not None:
        yield f"--min-boxes {query.min_boxes}", labelled.within_counts(query.min_boxes, None)
    if query.max_boxes is not None:
        yield f"--max-boxes {query.max_boxes}", labelled.within_counts(None, query.max_boxes)
