"""The images that a query selects, their counts, and what of it is worth telling a person. Blocking."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import PurePath

import polars as pl

from oid_async.errors import InputError
from oid_async.jobs.gathering.gather import GatheredTables
from oid_async.openimages.classes import Category
from oid_async.openimages.ids import KEY
from oid_async.openimages.vocabulary import Split
from oid_async.quick_values import frozen
from oid_async.report import counted
from oid_async.select.alone import left_alone
from oid_async.select.choose import Selection, choose
from oid_async.select.images import Images
from oid_async.select.limits import NO_TOP_UP, TopUpState
from oid_async.select.negatives import LabelEvidence, read_evidence
from oid_async.select.query import (
    all_labels,
    answers,
    no_label_counts,
    read_image_keys,
    read_label_counts,
    restricted_images,
)
from oid_async.tables.reading import reading, scan_keyed
from oid_async.tables.rows import RowSource, count_classes, count_rows

_MOST_NAMED = 5
_LONGEST = 80


@frozen
class SelectionResult:
    """The selection; the lines of the id list that name no image; the annotation rows that the selected images bring,
    by kind; of each triplet that has subclasses the images, and how many --with-subclasses would add; of `candidates`
    images, where none is selected, how many each condition alone would leave, by its text, and `examples` of triplets
    that exist, where one was asked for that does not."""

    selection: Selection
    unknown_ids: pl.Series
    annotations: dict[str, int]
    wider: dict[str, tuple[int, int]]
    alone: dict[str, int]
    candidates: int
    examples: list[str]


def select_images(tables: GatheredTables, all_boxes: bool, top_up: TopUpState = NO_TOP_UP) -> SelectionResult:
    """Read the tables and decide; a topped up selection with what was given out so far. Raises InputError."""
    query, ids = tables.query, tables.ids
    if tables.selecting is not None and query.counts_every_label:
        query = replace(query, every_label=tuple(all_labels(tables.selecting)))
    annotations: dict[str, int] = {}
    images = tables.image_keys()
    pairs = no_label_counts(ids) if tables.selecting is None else read_label_counts(tables.selecting, ids, query)
    among = restricted_images(query.restriction, ids) if query.restriction is not None else None
    evidence = _read_evidence(tables, images, pairs)
    selection = choose(pairs, images, query, top_up, among, evidence)
    if tables.selecting is not None and query.every_label:
        selection = _with_names(selection, tables.selecting.class_names)
    if not selection.selected and tables.given and tables.selecting is not None:
        # Of any split: a query of another split than the tables' is well-formed, and selects nothing.
        everywhere = read_image_keys(tables.images, ids, ())
        _require_meeting(tables, tables.selecting, everywhere.get_column(KEY))
    for source in tables.saved:
        labels = tables.saved_labels(source, all_boxes=all_boxes)
        # Boxes that select are counted already; any other kind's rows may count twice there, or not at all.
        is_counted = source is tables.selecting and source.kind.name == "bbox" and query.by_boxes
        is_counted = is_counted and (not query.categories or not all_boxes) and query.restriction is None
        rows = selection.rows if is_counted else count_rows(source, ids, selection.keys, labels)
        annotations[source.kind.name] = rows
    unknown = pl.Series("text", [], pl.String)
    if query.image_ids is not None and len(selection.unknown_lines):
        unknown = query.image_ids.text_of(selection.unknown_lines)
    alone = {} if selection.selected or selection.before_limits else _left_alone(tables, images, pairs, selection)
    examples = _examples(tables, alone) if alone else []
    wider = _count_wider(tables, images)
    return SelectionResult(selection, unknown, annotations, wider, alone, len(images), examples)


def _left_alone(
    tables: GatheredTables, images: pl.DataFrame, pairs: pl.DataFrame, selection: Selection
) -> dict[str, int]:
    """Return how many images each condition alone would leave, by the words for it."""
    met: dict[str, pl.Series] = {}
    restriction = tables.query.restriction
    # A condition of --where may hold of no row at all, so its answers are asked apart from those of rows.
    asked = [
        (tuple(tables.row_terms.values()), {text: pl.col(f"t{at}") for at, text in enumerate(tables.row_terms)}),
        (restriction.terms, dict(restriction.parts)) if restriction is not None else ((), {}),
    ]
    for terms, conditions in asked:
        if terms:
            with reading(terms[0].tables[0]):
                found = answers(terms, tables.ids).collect(engine="streaming")
            met |= {text: found.filter(condition).get_column(KEY) for text, condition in conditions.items()}
    what = tables.selecting.kind.what if tables.selecting is not None else "annotation"
    # Without a category only rows that meet all conditions on rows were counted.
    rows = f"{what} that match" if tables.row_terms else f"any {what}"
    titles = tuple(selection.candidates) if tables.query.categories else ()
    return left_alone(images, pairs, tables.query, met, (titles, rows))


def _with_names(selection: Selection, names: Mapping[str, str]) -> Selection:
    """Return a selection whose counts by label are by the names of the classes."""
    titles = _titles(filter(None, selection.classes), names)

    def named(counts: dict[str, int]) -> dict[str, int]:
        return {title: counts[label] for label, title in titles.items() if label in counts}

    return replace(
        selection,
        candidates=named(selection.candidates),
        classes=named(selection.classes),
        balanced=named(selection.balanced),
    )


def _titles(labels: Iterable[str], names: Mapping[str, str]) -> dict[str, str]:
    """Return what these classes are called, by label; two of one name are told apart by it.

    >>> _titles(["/m/a", "/m/b", "/m/c"], {"/m/a": "Bat", "/m/b": "Bat"})
    {'/m/a': 'Bat (/m/a)', '/m/b': 'Bat (/m/b)', '/m/c': '/m/c'}
    """
    called = {label: names.get(label, label) for label in labels}
    often = Counter(called.values())
    return {label: name if often[name] == 1 else f"{name} ({label})" for label, name in called.items()}


def _count_wider(tables: GatheredTables, images: pl.DataFrame) -> dict[str, tuple[int, int]]:
    """Return of each triplet that has subclasses the images, and how many more it would have with these."""
    if tables.triplets is None or not (wider := tables.triplets.wider):
        return {}
    terms = tuple(term for pair in wider.values() for term in pair)
    with reading(terms[0].tables[0]):
        there = answers(terms, tables.ids).filter(pl.col(KEY).is_in(images.get_column(KEY).implode()))
        counts = there.select(pl.col(f"t{number}").sum() for number in range(len(terms))).collect(engine="streaming")
    row = counts.row(0)
    return {text: (row[at], row[at + 1] - row[at]) for at, text in zip(range(0, len(row), 2), wider, strict=True)}


def _examples(tables: GatheredTables, alone: Mapping[str, int]) -> list[str]:
    """Return triplets that exist and are like the first of those that no image has."""
    asked = tables.triplets.asked if tables.triplets is not None else {}
    wrong = next((triplet for text, triplet in asked.items() if not alone.get(text)), None)
    return tables.triplets.examples.nearest(wrong) if tables.triplets is not None and wrong is not None else []


def count_by_class(tables: GatheredTables, selected: SelectionResult, all_boxes: bool) -> dict[str, int]:
    """Return how many of the selected images each category has; without categories, each class of what selects.

    Where nothing with classes selects, it is that of the first kind that is saved.
    """
    selection, sources = selected.selection, (tables.selecting, *tables.saved)
    source = next((each for each in sources if each is not None and each.kind.has_classes), None)
    if tables.query.categories or source is None or not len(selection.keys):
        return selection.classes
    labels = tables.saved_labels(source, all_boxes=all_boxes)
    counts = count_classes(source, tables.ids, selection.keys, labels)
    return {title: counts[label] for label, title in _titles(counts, source.class_names).items()}


def _read_evidence(tables: GatheredTables, images: pl.DataFrame, pairs: pl.DataFrame) -> LabelEvidence | None:
    """Read what tells negatives, if the query asks for any; of boxes that select, `pairs` tell all that boxes can."""
    rule = tables.query.negatives
    if rule is None:
        return None
    boxed = None
    if tables.selecting is not None and tables.selecting.kind.name == "bbox":
        codes = [code for code, label in enumerate(tables.query.labels) if label in set(rule.present)]
        boxed = pairs.filter(pl.col("label").is_in(codes)).get_column(KEY)
    return read_evidence(rule, Images.of(images), tables.ids, boxed)


def remarks(
    tables: GatheredTables, selected: SelectionResult, elsewhere: Mapping[Split, int] | None = None
) -> Iterator[str]:
    """Yield what a user should know of a selection, a line each; `elsewhere` counts unknown ids by split."""
    selection, query = selected.selection, tables.query
    if count := len(tables.bad_rows):
        file, line, reason = tables.bad_rows.row(0)
        what = "1 damaged table row is left out:" if count == 1 else f"{count} damaged table rows are left out, first"
        yield f"{what} {file} line {line}: {reason}; a download lists them in bad_rows.csv"
    if selection.unlisted:
        among = f" of {', '.join(tables.splits)}" if tables.splits else ""
        have = "1 annotated image has" if selection.unlisted == 1 else f"{selection.unlisted} annotated images have"
        yield f"{have} no row in the image table{among}: not selected"
    for category, (name, added) in zip(query.categories, selection.added.items(), strict=True):
        if category.below:
            has = selection.candidates[name]
            yield f"{name}: {_subclasses(category)}; --with-subclasses adds {counted(added, 'image')} to its {has}"
    for text, (count, added) in selected.wider.items():
        yield f"--triplet {text}: --with-subclasses adds {counted(added, 'image')} to its {count}"
    for category in query.excluded:
        if category.below:
            yield f"{category.class_name}: {_subclasses(category)}; --with-subclasses excludes them too"
    if selection.unboxed:
        asks = tables.selecting is not None and tables.selecting.conditions.columns
        # Where no boxes are saved it is a limit by class, or a number of boxes, that asks for them.
        do = "; --kind none takes them too" if tables.saved else ""
        what = "box that fits: not selected" if asks else f"box: not selected{do}"
        have = "1 listed image has" if selection.unboxed == 1 else f"{selection.unboxed} listed images have"
        yield f"{have} no {what}"
    if (negatives := selection.negatives) is not None and negatives.found < negatives.asked:
        yield f"{negatives.found} negatives, not {negatives.asked}: no more are verified to be without the categories"
    yield from _unknown(tables, selected, elsewhere or {})
    counted_splits = query.limit if isinstance(query.limit, Mapping) and tables.looked_in else ()
    if outside := [split for split in counted_splits if split not in tables.looked_in]:
        yield f"--ndata counts images of {', '.join(outside)}, which are not looked in: say --split {outside[0]}, too"
    if query.balanced is not None:
        yield from _balance(selection.balanced, query.balanced)
    if not selection.selected:
        counted_names = selection.candidates.items() if query.categories else ()
        counts = ", ".join(f"{name} {count}" for name, count in counted_names)
        where = f" in part {query.part.number} of {query.part.count}" if query.part is not None else ""
        yield f"nothing selected{where}; images of each category: {counts or 'none asked for'}{_why_none(selected)}"


def _why_none(selected: SelectionResult) -> str:
    """Return what explains that nothing is selected: the limits, or which of several conditions leaves how much."""
    if met := selected.selection.before_limits:
        return f"; {counted(met, 'image')} meet{'s' if met == 1 else ''} every condition, none is left by limit or part"
    such = f"; there are, for example, {' '.join(selected.examples)}" if selected.examples else ""
    if len(selected.alone) < 2:
        return such
    alone = "; ".join(f"{_short(text)} {count}" for text, count in selected.alone.items())
    return f"; each condition alone would leave, of {counted(selected.candidates, 'image')}: {alone}{such}"


def _balance(taken: Mapping[str, int], count: int) -> Iterator[str]:
    """Yield which classes have fewer or more images than --balanced asks for; `taken` are those of each class."""
    fewer = sorted((number, name) for name, number in taken.items() if number < count)
    more = sorted(((number, name) for name, number in taken.items() if number > count), reverse=True)
    for classes, text in (
        (fewer, "fewer images, all of which are taken"),
        (more, "more images, which other classes bring"),
    ):
        if classes:
            named = ", ".join(f"{name} {number}" for number, name in classes[:_MOST_NAMED])
            rest = ", ..." if len(classes) > _MOST_NAMED else ""
            have = "has" if len(classes) == 1 else "have"
            yield f"--balanced {count}: {len(classes)} of {len(taken)} classes {have} {text}: {named}{rest}"
    if taken and not fewer and not more:
        yield f"--balanced {count}: exactly so many images for every class"


def _unknown(tables: GatheredTables, selected: SelectionResult, elsewhere: Mapping[Split, int]) -> Iterator[str]:
    """Yield what the lists name that is not there."""
    unknown = selected.unknown_ids
    if len(unknown):
        more = f"{', ...' if len(unknown) > _MOST_NAMED else ''}; a download names them in unknown_ids.txt"
        where = f"in no image table of {', '.join(tables.looked_in)}" if tables.looked_in else "not to be had"
        named = ", ".join(map(_short, unknown.head(_MOST_NAMED)))
        yield f"{len(unknown)} listed image{'s' if len(unknown) > 1 else ''} {where}: {named}{more}"
    for ids in (tables.query.image_ids, tables.query.exclude_ids):
        if ids is not None and (count := len(ids.odd)):
            named = ", ".join(f"line {line} {_short(text)!r}" for line, text in ids.odd.head(_MOST_NAMED).iter_rows())
            are = "entry is" if count == 1 else "entries are"
            yield f"{ids.name}: {count} {are} no ImageID: {named}{', ...' if count > _MOST_NAMED else ''}"
    if len(unknown) and not elsewhere and not tables.splits and tables.looked_in == ("train",):
        yield "ids without a split are searched in train; --split says where else"
    for split, count in elsewhere.items():
        is_asked = split in tables.looked_in or split in tables.splits
        say = f"list them as {split}/ImageID" if is_asked else f"say --split {split}"
        yield f"{count} of these {'is' if count == 1 else 'are'} in {split}: {say}"


def _short(text: str) -> str:
    """Return a text for a message: cut, and without what a terminal would obey."""
    return "".join(sign if sign.isprintable() else "?" for sign in text[:_LONGEST]) + ("..." * (len(text) > _LONGEST))


def _require_meeting(tables: GatheredTables, annotations: RowSource, images: pl.Series) -> None:
    """Raise InputError if no annotated image has a row in the image table: one of the two is another than was meant."""
    sample = None
    for table in annotations.tables:
        rows = scan_keyed(table, tables.ids, [], [])
        with reading(table):
            if len(rows.filter(pl.col(KEY).is_in(images.implode())).head(1).collect(engine="streaming")):
                return
            first = rows.head(1).collect(engine="streaming").get_column(KEY).to_list()
        sample = sample if sample is not None else next(iter(first), None)
    if sample is None or not len(images):
        return
    names = [", ".join(table.name for table in some) for some in (annotations.tables, tables.images)]
    ids = [f"{key:016x}" if isinstance(key, int) else key for key in (sample, images[0])]
    raise InputError(
        f"{names[0]}: no image of it has a row in the image table {names[1]} (ids such as {ids[0]!r} and "
        f"{ids[1]!r}); {_why_not(*ids)}"
    )


def _why_not(annotated: str, image: str) -> str:
    """Return the hint why two ids belong to tables that never meet."""
    suffixes = [PurePath(name).suffix.lower() for name in (annotated, image)]
    if suffixes[0] != suffixes[1] and {*suffixes} <= {"", ".jpg", ".jpeg", ".png"}:
        return "the ids of one table end in a suffix such as .jpg, those of the other do not"
    if annotated.isupper() != image.isupper():
        return "one table has its ids in upper case"
    return "are they of different splits or releases?"


def _subclasses(category: Category) -> str:
    count = len(category.below)
    return f"{count} subclass{'es' if count > 1 else ''}"
