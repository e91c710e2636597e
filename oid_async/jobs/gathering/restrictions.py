"""Restrictions on images in addition to categories: --where, --caption, --triplet, --verified-absent.

Every name is resolved. Each restriction becomes questions about rows, of any kind of annotation, and one condition on
the answers; `select.query.restricted_images` evaluates them all in one lazy query.
"""

import csv
import math
from collections.abc import Mapping
from dataclasses import field, replace
from functools import reduce
from operator import and_

import polars as pl

from oid_async.errors import UsageError
from oid_async.jobs.gathering.class_names import ClassNames
from oid_async.jobs.gathering.table_files import TableFiles
from oid_async.openimages.catalogue_tables import TableKind
from oid_async.openimages.classes import Category
from oid_async.openimages.hierarchy import Hierarchy
from oid_async.openimages.kinds import KINDS, Kind, KindName, table_of
from oid_async.openimages.vocabulary import FLAGS
from oid_async.options import readers as read
from oid_async.options.query import Options
from oid_async.quick_values import define, frozen
from oid_async.select.query import Restriction, Term
from oid_async.select.where import Both, Either, Name, Where, names, parse
from oid_async.tables.reading import TableFile
from oid_async.tables.rows import (
    ANY_TRIPLET,
    CONFIDENCE,
    TRIPLET_COLUMNS,
    RowConditions,
    RowSource,
    Triplet,
    TripletExamples,
    absent,
)

_ANY = "*"
_TRIPLET = "--triplet "


@frozen
class AskedTriplets:
    """What --triplet asks for: each triplet by its option as typed; what those that have subclasses ask for, by their
    text, without and with these; where examples of existing ones are."""

    asked: Mapping[str, Triplet]
    wider: Mapping[str, tuple[Term, Term]]
    examples: TripletExamples


@define
class RestrictionTerms:
    """The questions, by the tables that answer them, and the conditions on the answers t0, t1, ..., all to be met.

    `parts` are these conditions as they were typed, each with its text; of several triplets one is enough.
    `labels` are those of the classes that --where names without a minus, by kind; `wider` are the triplets that
    --with-subclasses would make match more, each with what it would then be, by their text. `classes` are the
    conditions of the classes that --where names, neither behind a minus nor absent.
    """

    questions: list[tuple[TableKind, tuple[str, ...], pl.Expr]] = field(default_factory=list)
    conditions: list[pl.Expr] = field(default_factory=list)
    parts: list[tuple[str, pl.Expr]] = field(default_factory=list)
    labels: dict[KindName, tuple[str, ...]] = field(default_factory=dict)
    triplets: tuple[Triplet, ...] = ()
    wider: dict[str, tuple[Triplet, Triplet]] = field(default_factory=dict)
    classes: dict[Name, pl.Expr] = field(default_factory=dict)

    @property
    def tables(self) -> set[TableKind]:
        """Return which tables are asked."""
        return {table for table, _, _ in self.questions}

    def ask(self, table: TableKind, columns: tuple[str, ...], condition: pl.Expr) -> pl.Expr:
        """Add a question and return what stands for its answer."""
        self.questions.append((table, columns, condition))
        return pl.col(f"t{len(self.questions) - 1}")

    def restriction(self, tables: Mapping[TableKind, tuple[TableFile, ...]]) -> Restriction:
        """Return what these tables are to be asked."""
        terms = tuple(Term(tables[table], columns, condition) for table, columns, condition in self.questions)
        return Restriction(terms, reduce(and_, self.conditions), tuple(self.parts), tuple(self.classes.values()))

    def asked_triplets(
        self, tables: Mapping[TableKind, tuple[TableFile, ...]], files: TableFiles
    ) -> AskedTriplets | None:
        """Return what --triplet asks of these tables, None for a query without."""
        if not self.triplets:
            return None
        rows, wider = tables["relationships"], {}
        for text, pair in self.wider.items():
            narrow, wide = (Term(rows, TRIPLET_COLUMNS, triplet.fits()) for triplet in pair)
            wider[text] = (narrow, wide)
        asked = {text: triplet for (text, _), triplet in zip(self._triplet_parts(), self.triplets, strict=True)}
        return AskedTriplets(asked, wider, TripletExamples(rows, files.class_names(KINDS["relationship"])))

    def _triplet_parts(self) -> list[tuple[str, pl.Expr]]:
        return [part for part in self.parts if part[0].startswith(_TRIPLET)]


class RestrictionReader:
    """Reads the options of one query. `selecting` is the kind that names without a kind are of."""

    def __init__(self, files: TableFiles, options: Options, selecting: Kind) -> None:
        self._files = files
        self._options = options
        self._selecting = selecting
        self._names = ClassNames(files, options.release)
        self._terms = RestrictionTerms()

    async def read(self) -> RestrictionTerms | None:
        """Return what is asked, None for nothing. Raises UsageError, naming the option and what it cannot mean."""
        options, terms = self._options, self._terms
        if not options.restricts:
            return None
        if options.where is not None:
            self._require(f"--where {options.where}", await self._where(parse(options.where)))
        if options.caption is not None:
            condition = pl.col("caption").str.contains(_readable(options.caption))
            self._require(f"--caption {options.caption}", terms.ask("captions", ("caption",), condition))
        if options.triplet:
            hierarchy = await self._files.hierarchy(needed=options.with_subclasses)
            terms.triplets = tuple([await self._triplet(text, hierarchy) for text in options.triplet])
            fits = [terms.ask("relationships", TRIPLET_COLUMNS, triplet.fits()) for triplet in terms.triplets]
            terms.conditions.append(pl.any_horizontal(fits))
            terms.parts += zip((f"{_TRIPLET}{text}" for text in options.triplet), fits, strict=True)
        for word in options.verified_absent:
            category = await self._names.category(word, KINDS["label"], option="--verified-absent")
            self._require(f"--verified-absent {word}", self._absent(category.labels))
        return terms

    def _require(self, text: str, condition: pl.Expr) -> None:
        self._terms.conditions.append(condition)
        self._terms.parts.append((text, condition))

    async def _where(self, where: Where) -> pl.Expr:
        kinds: dict[KindName, list[str]] = {}
        meant = {name: (await self._named(name)) for name in names(where)}
        for name in names(where, wanted=True):
            kind, category = meant[name]
            # Like a category, a name without a kind selects the rows to save of every kind.
            meant_kinds = [kind] if name.kind is not None else [each for each in KINDS.values() if each.has_classes]
            for each in meant_kinds if name.kind != "absent" else ():
                kinds.setdefault(each.name, []).extend(category.labels)
        self._terms.labels = {kind: tuple(dict.fromkeys(labels)) for kind, labels in kinds.items()}
        return self._condition(where, meant, flagged=True)

    def _condition(self, where: Where, meant: Mapping[Name, tuple[Kind, Category]], *, flagged: bool) -> pl.Expr:
        """Return the condition of an expression. Behind a minus any box will do, whatever its flags."""
        if isinstance(where, Name):
            kind, category = meant[where]
            if where.kind == "absent":
                return self._absent(category.labels)
            condition = self._has(kind, category.labels, flagged=flagged)
            if flagged:
                self._terms.classes.setdefault(where, condition)
            return condition
        left = self._condition(where.left, meant, flagged=flagged)
        if isinstance(where, Both):
            return left & self._condition(where.right, meant, flagged=flagged)
        if isinstance(where, Either):
            return left | self._condition(where.right, meant, flagged=flagged)
        return left & ~self._condition(where.right, meant, flagged=False)

    def _has(self, kind: Kind, labels: tuple[str, ...], *, flagged: bool) -> pl.Expr:
        conditions = row_conditions(self._options, kind) if flagged else RowConditions()
        source = RowSource(kind, (), {}, conditions, least=self._options.min_confidence)
        condition = source.named(labels) & source.present() & source.saved()
        table = table_of(kind, self._options.label_source)
        return self._terms.ask(table, (*kind.labels, *source.columns), condition)

    def _absent(self, labels: tuple[str, ...]) -> pl.Expr:
        condition = pl.col("LabelName").is_in(list(labels)) & absent()
        return self._terms.ask("human_labels", ("LabelName", CONFIDENCE), condition)

    async def _named(self, name: Name) -> tuple[Kind, Category]:
        """Return what a name of an expression means. Raises UsageError with the nearest names."""
        kind_name = "label" if name.kind == "absent" else name.kind
        kind = next((kind for kind in KINDS.values() if kind.name == kind_name), self._selecting)
        if not kind.has_classes:
            raise UsageError(f"--where: {kind.what} name no class; write bbox:{name.word}, for example")
        category = await self._names.category(name.word, kind, option="--where")
        if name.below:
            hierarchy = await self._files.hierarchy(needed=True)
            assert hierarchy is not None
            category = category.with_subclasses(hierarchy, included=True)
        return kind, category

    async def _triplet(self, text: str, hierarchy: Hierarchy | None) -> Triplet:
        """Return what a triplet means: its objects with their subclasses, if these are asked for."""
        try:
            parts = [part.strip() for part in next(csv.reader([text], skipinitialspace=True), [])]
        except csv.Error:  # it holds line ends
            parts = []
        if len(parts) != 3 or not all(parts):
            some = await self._names.triplets_like(ANY_TRIPLET)
            raise UsageError(
                f"--triplet takes three parts, A,REL,B, such as Man,holds,* (* for any), not {text!r}{some}"
            )
        await self._files.read_class_names(KINDS["relationship"])
        triplet = ANY_TRIPLET
        for place, (part, word) in enumerate(zip(("first", "predicates", "second"), parts, strict=True)):
            if word == _ANY:
                continue
            try:
                is_predicate = part == "predicates"
                found = self._names.predicate(word) if is_predicate else self._names.side(word, is_second=place == 2)
                triplet = replace(triplet, **{part: (await found).labels})
            except UsageError as error:
                raise UsageError(f"{error}{await self._names.triplets_like(triplet)}") from error
        if hierarchy is None:
            return triplet
        wider = replace(
            triplet, first=_with_below(triplet.first, hierarchy), second=_with_below(triplet.second, hierarchy)
        )
        if self._options.with_subclasses:
            return wider
        if wider != triplet:
            self._terms.wider[text] = (triplet, wider)
        return triplet


def _with_below(labels: tuple[str, ...] | None, hierarchy: Hierarchy) -> tuple[str, ...] | None:
    """Return labels, and those of every class below them; an attribute has none."""
    if labels is None:
        return None
    return tuple(dict.fromkeys([*labels, *(under for label in labels for under in hierarchy.below(label))]))


def row_conditions(options: Options, kind: Kind) -> RowConditions:
    """Return what the options ask of the rows of a kind."""
    if kind.name == "bbox":
        least, most = (read.share(text) if text is not None else None for text in (options.min_area, options.max_area))
        return RowConditions(
            options.flags, float(least) if least is not None else 0.0, float(most) if most is not None else math.inf
        )
    return RowConditions(answer=options.point_answer) if kind.name == "point" else RowConditions()


def row_terms(options: Options, kind: Kind, tables: tuple[TableFile, ...]) -> dict[str, Term]:
    """Return each condition on the rows of a kind as a question of its own, by its option as typed."""
    whole = row_conditions(options, kind)
    apart = {}
    for name, column in FLAGS.items():
        if (value := whole.flags.get(column)) is not None:
            apart[f"--{name.replace('_', '-')} {'yes' if value else 'no'}"] = RowConditions({column: value})
    if whole.least_area > 0:
        apart[f"--min-area {options.min_area}"] = RowConditions(least_area=whole.least_area)
    if whole.most_area < math.inf:
        apart[f"--max-area {options.max_area}"] = RowConditions(most_area=whole.most_area)
    if whole.answer is not None:
        apart[f"--point-answer {whole.answer}"] = RowConditions(answer=whole.answer)
    sources = {text: RowSource(kind, (), {}, conditions) for text, conditions in apart.items()}
    if kind.name == "label" and options.min_confidence is not None:
        sources[f"--min-confidence {options.min_confidence}"] = RowSource(kind, (), {}, least=options.min_confidence)
    return {text: Term(tables, tuple(each.columns), each.saved() & each.present()) for text, each in sources.items()}


def _readable(pattern: str) -> str:
    """Return a pattern that Polars can read. Raises UsageError for one that it cannot."""
    try:
        pl.select(pl.lit("").str.contains(pattern))
    except pl.exceptions.PolarsError as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"--caption is no regular expression: {reason}") from error
    return pattern
