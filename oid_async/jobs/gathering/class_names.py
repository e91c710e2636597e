"""The names that a user types for classes, relationships and attributes, and what to say of one that is unknown.

An unknown name may be one of another kind: the tables of names tell, half a megabyte in all, which are fetched for it
in one attempt each if they are not in the cache. Where one cannot be had, the message names the command that looks.
"""

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from shlex import quote

import polars as pl

from oid_async.errors import InputError, UsageError
from oid_async.jobs.gathering.table_files import TableFiles
from oid_async.openimages.catalogue import lacking
from oid_async.openimages.catalogue_tables import TableKind
from oid_async.openimages.classes import Category, Classes
from oid_async.openimages.kinds import KINDS, Kind
from oid_async.openimages.vocabulary import SPLITS, Release
from oid_async.select.where import written
from oid_async.tables.rows import Triplet, TripletExamples, csv_field

_MOST_NAMES = 12
# Where categories and exclusions are typed: a message about these needs no option in front.
_OF_CLASSES = ("--category", "--exclude", "--category-file")
_OPERATOR = re.compile(r"(?:^|\s)(?:AND|OR|NOT)(?=\s|$)")


class ClassNames:
    """Finds what names stand for. Raises UsageError for an unknown one, in a line that says what it may be."""

    def __init__(self, files: TableFiles, release: Release) -> None:
        self._files = files
        self._release = release

    async def category(self, word: str, kind: Kind, *, option: str) -> Category:
        """Return the category that a name or MID stands for in a kind; `option` is where it was typed."""
        classes = await self._files.classes_of(kind)
        if (found := classes.find(word)) is not None:
            return found
        prefix = "" if option in _OF_CLASSES else f"{option}: "
        if option == "--where" and _OPERATOR.search(word):
            raise UsageError(f"{prefix}unknown class {word!r}; write & for AND, | for OR, - for AND NOT")
        several = classes.listed(word)
        if several:
            raise UsageError(f"{prefix}unknown class {word!r}; {_one_by_one(option, several)}")
        other = [text for table, text in self._others(word).items() if await self._is_in(table, word)]
        why = f"it {other[0]}" if other else await self._nearest(word, classes)
        raise UsageError(f"{prefix}unknown class {word!r}; {why}")

    async def predicate(self, word: str) -> Category:
        """Return what a name stands for between the objects of a relationship."""
        predicates = await self._files.side_names("predicates")
        if (found := predicates.find(word)) is not None:
            return found
        why = _or_all(word, predicates)
        if await self._is_in("classes", word):
            why = "it names a class, which stands first or last: A,REL,B"
        elif await self._is_in("attributes", word):
            why = f"it is an attribute, which stands last: *,is,{word}"
        raise UsageError(f"--triplet: unknown relationship {word!r}; {why}")

    async def side(self, word: str, *, is_second: bool) -> Category:
        """Return what a name stands for as the first or the second object of a relationship."""
        classes = await self._files.classes_of(KINDS["relationship"])
        attributes = await self._files.side_names("attributes")
        there = Classes(attributes.names | classes.names) if is_second else classes
        if (found := there.find(word)) is not None:
            return found
        why = there.nearest(word)
        if await self._is_in("predicates", word):
            why = f"it is a relationship, which stands in the middle: *,{word},*"
        elif await self._is_in("attributes", word):
            why = f"it is an attribute, which stands last: *,is,{word}"
        elif await self._is_in("all_classes", word):
            why = f"it names a class of {self._of_labels()}; relationships are between classes that have boxes"
        raise UsageError(f"--triplet: unknown name {word!r}; {why}")

    async def triplets_like(self, triplet: Triplet) -> str:
        """Return the part of a message that lists the most frequent triplets that fit; empty where none are cached."""
        called: dict[str, str] = {}
        for table in reversed(KINDS["relationship"].class_tables):
            names = await self._files.cached_names(table)
            called |= names.names if names is not None else {}
        found = await asyncio.to_thread(self._triplets_like, triplet, called)
        return f"; there are, for example, {' '.join(found)}" if found else ""

    def _triplets_like(self, triplet: Triplet, called: dict[str, str]) -> list[str]:
        # Another run may replace a version meanwhile: a hint is not worth an error.
        with suppress(InputError, OSError, pl.exceptions.PolarsError):
            examples = TripletExamples(self._files.cached_tables("relationships"), called)
            return examples.like(triplet) or examples.nearest(triplet)
        return []

    async def _nearest(self, word: str, classes: Classes) -> str:
        """Return the nearest names, and how to look at those of other kinds as long as not all of these are known."""
        text = classes.nearest(word)
        tables = self._others(word)
        if classes.is_close(word) or all([await self._files.cached_names(table) is not None for table in tables]):
            return text
        where, triplet = f"label:{written(word)} in --where", f"*,{csv_field(word)},* in --triplet"
        look = f"oid-async classes {quote(word)} --kind all"
        return f"{text}; other kinds have more names (--select-by label, {where}, {triplet}): {look} looks it up there"

    async def _is_in(self, table: TableKind, word: str) -> bool:
        names = await self._files.other_names(table)
        return names is not None and names.find(word) is not None

    def _others(self, word: str) -> dict[TableKind, str]:
        """Return what an unknown class is if it is in another table of names, and how to ask for that."""
        name = written(word)
        labels = f"names a class of {self._of_labels()}: --select-by label, or label:{name} in --where"
        return {
            "classes": f"names a class of boxes, masks and relationships: --select-by bbox, or bbox:{name} in --where",
            "all_classes": labels,
            "predicates": f"is a relationship: --triplet {quote(f'*,{csv_field(word)},*')}",
            "attributes": f"is an attribute of relationships: --triplet {quote(f'*,is,{csv_field(word)}')}",
        }

    def _of_labels(self) -> str:
        has_points = len(lacking("points", SPLITS, self._release)) < len(SPLITS)
        return "image-level labels and points" if has_points else "image-level labels"


def _one_by_one(option: str, words: Sequence[str]) -> str:
    """Return how to name several classes that were typed as one."""
    if option == "--category-file":
        return "one class a line: it names several"
    if option == "--where":
        names = [written(word) for word in words]
        return f"for images with all of them write {' & '.join(names)}, with any of them {' | '.join(names)}"
    return "repeat the option: " + " ".join(f"{option} {quote(word)}" for word in words)


def _or_all(word: str, names: Classes) -> str:
    """Return the names nearest to an unknown one; where none is near, the first of them."""
    near = names.nearest(word)
    if near.startswith("nearest"):
        return f"{near} (oid-async classes --kind relationship lists all)"
    called = list(dict.fromkeys(names.names.values()))
    return f"there are {', '.join(called[:_MOST_NAMES])}{', ...' if len(called) > _MOST_NAMES else ''}"
