"""The numbers of each class, and which classes are in an image together.

How many images have a class is counted a run of classes at a time, so that few rows are held at once; which classes
are together by one number an image, a bit for each of the classes that most images have.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from oid_async.openimages.kinds import KINDS, KindName
from oid_async.openimages.vocabulary import FLAGS
from oid_async.statistics.tables import IMAGE, Workplace
from oid_async.statistics.value import ClassCounts, Cooccurrence

MOST_TOGETHER = 25
# Rows of which images are told apart at once: some 100 bytes each.
_ROWS_AT_ONCE = 3_000_000
_ROWS_OF: Mapping[KindName, str] = {name: kind.what for name, kind in KINDS.items() if kind.has_classes}
_LABEL, _NAME, _PREDICATE = "LabelName", "Category", "RelationshipLabel"
# A label says that a class is there, that a person has verified that it is not, or neither (a machine's 0).
PRESENT, ABSENT, NEITHER = 1, 0, -1


def with_state(labels: pl.LazyFrame) -> pl.LazyFrame:
    """Return IMAGE, LabelName, Category, state of image-level labels."""
    # Of a user's own table nothing may say who has looked; a machine's labels say that they are.
    by_person = pl.col("Source").ne_missing(pl.lit("machine"))
    confidence = pl.col("Confidence").cast(pl.Float32)
    state = (
        pl.when(confidence > 0)
        .then(PRESENT)
        .when((confidence == 0) & by_person)
        .then(ABSENT)
        .otherwise(NEITHER)
        .cast(pl.Int8)
    )
    return labels.select(IMAGE, _LABEL, _NAME, state=state)


def present(kind: KindName, rows: pl.LazyFrame) -> pl.LazyFrame:
    """Return IMAGE, LabelName, Category of the classes that rows of a kind find in their images."""
    if kind == "label":
        rows = rows.filter(pl.col("state") == PRESENT)
    if kind != "relationship":
        return rows.select(IMAGE, _LABEL, _NAME).drop_nulls(_LABEL)
    # With one class on both sides it is one relationship of that class; what an object `is` is an attribute, no class.
    is_other = pl.col("LabelName1").ne_missing(pl.col("LabelName2")) & pl.col(_PREDICATE).ne_missing(pl.lit("is"))
    second = rows.filter(is_other)
    sides = (
        each.select(IMAGE, pl.col(label).alias(_LABEL), pl.col(name).alias(_NAME))
        for each, label, name in zip((rows, second), KINDS[kind].labels, KINDS[kind].categories, strict=True)
    )
    return pl.concat(sides).drop_nulls(_LABEL)


@dataclass(frozen=True, slots=True)
class _Found:
    """What the rows of one kind say of classes, by MID: their name, rows and images, the boxes with each flag."""

    pairs: pl.LazyFrame
    names: dict[str, str | None]
    rows: dict[str, int]
    images: dict[str, int]
    flags: dict[str, dict[str, int]]


def class_counts(
    rows: Mapping[KindName, pl.LazyFrame],
    negatives: pl.LazyFrame | None,
    called: Mapping[str, str],
    work: Workplace,
) -> tuple[ClassCounts, ...]:
    """Return the counts of every class that a row names, most images first, then by name and MID.

    `rows` are those of each kind, labels `with_state`; `negatives` have IMAGE and LabelName of what is verified to be
    absent in them; `called` are the names of classes whose rows have none.
    """
    found = {kind: _find(present(kind, frame), frame, work) for kind, frame in rows.items() if kind in _ROWS_OF}
    images = _in_any(list(found.values()), work)
    labels = rows["label"].filter(pl.col("state") == ABSENT) if "label" in rows else None
    absent = [None if each is None else _find(each.drop_nulls(_LABEL), None, work) for each in (labels, negatives)]
    not_there = _in_any([each for each in absent if each is not None], work)
    names: dict[str, str] = {}
    for each in (*found.values(), *absent):
        if each is not None:
            names |= {label: name or names.get(label) or called.get(label, label) for label, name in each.names.items()}
    of_labels, of_negatives = ({} if each is None else each.rows for each in absent)
    classes = (
        ClassCounts(
            label,
            name,
            images=images.get(label, 0),
            **{_ROWS_OF[kind]: each.rows.get(label, 0) for kind, each in found.items()},
            verified_absent=not_there.get(label, 0),
            absent_labels=of_labels.get(label, 0),
            absent_negatives=of_negatives.get(label, 0),
            flags=found["bbox"].flags.get(label, {}) if "bbox" in found else {},
            images_by_kind={kind: each.images[label] for kind, each in found.items() if label in each.images},
        )
        for label, name in names.items()
    )
    return tuple(sorted(classes, key=lambda each: (-each.images, each.class_name.casefold(), each.label)))


def _find(pairs: pl.LazyFrame, boxes: pl.LazyFrame | None, work: Workplace) -> _Found:
    """Count the rows of each class; `boxes` are those with flags, or the rows of another kind."""
    flags = [flag for flag in FLAGS.values() if boxes is not None and flag in boxes.collect_schema()]
    counted = boxes.drop_nulls(_LABEL) if boxes is not None and flags else pairs
    sums = [(pl.col(flag) == 1).sum() for flag in flags]
    by_label = counted.group_by(_LABEL).agg(pl.col(_NAME).max(), *sums, rows=pl.len())
    each = work.collect(by_label).sort(_LABEL)
    labels = each.get_column(_LABEL).to_list()
    rows = dict(zip(labels, each.get_column("rows").to_list(), strict=True))
    names = dict(zip(labels, each.get_column(_NAME).to_list(), strict=True))
    set_flags = dict(zip(labels, each.select(flags).to_dicts(), strict=True)) if flags else {}
    return _Found(pairs, names, rows, distinct_images([pairs], rows, work), set_flags)


def _in_any(found: Sequence[_Found], work: Workplace) -> dict[str, int]:
    """Return how many images have each class by any of several kinds."""
    images: dict[str, int] = {}
    often: Counter[str] = Counter()
    for each in found:
        images |= each.images
        often.update(each.images.keys())
    shared = {label for label, kinds in often.items() if kinds > 1}
    rows = {label: sum(each.rows.get(label, 0) for each in found) for label in sorted(shared)}
    return images | (distinct_images([each.pairs for each in found], rows, work) if rows else {})


def distinct_images(pairs: Sequence[pl.LazyFrame], rows: Mapping[str, int], work: Workplace) -> dict[str, int]:
    """Return how many images have each of these classes; `rows` says how many rows a class has, in order of MID."""
    images: dict[str, int] = {}
    for first, last in _runs(rows):
        of_run = [each.filter(pl.col(_LABEL).is_between(pl.lit(first), pl.lit(last))) for each in pairs]
        some = pl.concat([each.select(IMAGE, _LABEL) for each in of_run]).group_by(_LABEL)
        images.update(work.collect(some.agg(pl.col(IMAGE).n_unique())).iter_rows())
    return {label: images[label] for label in rows if label in images}


def _runs(rows: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Yield the first and the last of neighbouring classes that have so many rows together.

    >>> list(_runs({"/m/a": 2_000_000, "/m/b": 900_000, "/m/c": 5_000_000, "/m/d": 1}))
    [('/m/a', '/m/b'), ('/m/c', '/m/c'), ('/m/d', '/m/d')]
    """
    run: list[str] = []
    total = 0
    for label, count in rows.items():
        if run and total + count > _ROWS_AT_ONCE:
            yield run[0], run[-1]
            run, total = [], 0
        run.append(label)
        total += count
    if run:
        yield run[0], run[-1]


def cooccurrence(
    rows: Mapping[KindName, pl.LazyFrame], classes: Sequence[ClassCounts], work: Workplace
) -> Cooccurrence:
    """Return how many images have two classes, of those classes that most images have; `classes` are in that order."""
    most = [each for each in classes[:MOST_TOGETHER] if each.images]
    if not most:
        return Cooccurrence()
    bits = {each.label: 1 << place for place, each in enumerate(most)}
    # Polars' own replace_strict holds all rows at once.
    bit = pl.lit(0, pl.UInt32)
    for label, value in bits.items():
        bit = pl.when(pl.col(_LABEL) == label).then(pl.lit(value, pl.UInt32)).otherwise(bit)
    pairs = [present(kind, frame).select(IMAGE, _LABEL) for kind, frame in rows.items() if kind in _ROWS_OF]
    of_most = pl.concat(pairs).filter(pl.col(_LABEL).is_in(list(bits))).select(IMAGE, bit=bit)
    by_image = of_most.group_by(IMAGE).agg(pl.col("bit").bitwise_or())
    sets = work.collect(by_image.group_by("bit").agg(images=pl.len()))
    both = [(one | other) for one in bits.values() for other in bits.values()]
    sums = (
        pl.col("images").filter((pl.col("bit") & wanted) == wanted).sum().alias(str(place))
        for place, wanted in enumerate(both)
    )
    counts = sets.select(sums).row(0)
    often = Counter(each.class_name for each in classes)
    return Cooccurrence(
        tuple(bits),
        tuple(each.class_name if often[each.class_name] == 1 else f"{each.class_name} ({each.label})" for each in most),
        tuple(tuple(counts[start : start + len(most)]) for start in range(0, len(counts), len(most))),
    )
