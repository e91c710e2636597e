"""The classes of an export: their numbers, their names, and which published MIDs count as each."""

import csv
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from oid_async.errors import UsageError
from oid_async.openimages.classes import fold_name
from oid_async.tables.reading import TableFile
from oid_async.tables.text_lists import opened_list

# As bbox/label_data.csv has it, which is a class map to begin with.
_HEADER = ["labelname", "category"]


@dataclass(frozen=True, slots=True)
class ExportClasses:
    """`names` in the order of their numbers, from 0; `numbers` of the MIDs; `labels`, the first MID of each name."""

    names: tuple[str, ...]
    numbers: Mapping[str, int]
    labels: tuple[str, ...]

    @classmethod
    def of(cls, named: Iterable[tuple[str, str]]) -> Self:
        """Number the names of (MID, name) in their order; MIDs of one name are one class.

        >>> ExportClasses.of([("/m/1", "Cat"), ("/m/2", "Dog"), ("/m/3", "Cat")]).numbers
        {'/m/1': 0, '/m/2': 1, '/m/3': 0}
        """
        names: dict[str, int] = {}
        numbers: dict[str, int] = {}
        labels: list[str] = []
        for label, name in named:
            if label in numbers:
                continue
            if name not in names:
                names[name] = len(names)
                labels.append(label)
            numbers[label] = names[name]
        return cls(tuple(names), numbers, tuple(labels))

    @classmethod
    def saved(cls, chosen: Iterable[tuple[str, str]], found: Iterable[tuple[str, str | None]]) -> Self:
        """Number the `chosen` (MID, name) of label_data.csv in their order, then others that are `found` by MID.

        >>> ExportClasses.saved([("/m/9", "Dog")], [("/m/2", "Cat"), ("/m/1", None), ("/m/9", "Dog")]).names
        ('Dog', '/m/1', 'Cat')
        """
        chosen = list(chosen)
        order = {label: place for place, (label, _) in enumerate(chosen)}
        named = [(label, name or label) for label, name in (*chosen, *found)]
        return cls.of(sorted(named, key=lambda row: (order.get(row[0], len(order)), row[0])))

    def mapped(self, path: Path) -> "ExportClasses":
        """Return the classes of a file, `NAME` or `NAME,NEW NAME` a line, numbered in its order.

        Raises UsageError, or InputError for a file that cannot be read; each names the line.
        """
        new_names: dict[str, tuple[str, int]] = {}
        labels_of: dict[str, list[str]] = {}
        for label, number in self.numbers.items():
            labels_of.setdefault(fold_name(self.names[number]), []).append(label)
        for line, old, new in _lines(path):
            labels = [old] if old in self.numbers else labels_of.get(fold_name(old))
            if labels is None:
                raise UsageError(f"--class-map {path}, line {line}: {self._unknown(old)}")
            for label in labels:
                name = new or self.names[self.numbers[label]]
                before, its_line = new_names.setdefault(label, (name, line))
                if before != name:
                    raise UsageError(
                        f"--class-map {path}, line {line}: {old!r} is to be {name!r}, and {before!r} by line "
                        f"{its_line}; leave one of them out"
                    )
        if not new_names:
            raise UsageError(f"--class-map {path} names no class")
        return ExportClasses.of((label, name) for label, (name, _) in new_names.items())

    def _unknown(self, word: str) -> str:
        """Return what to say of a word that is no class."""
        known = {fold_name(name): name for name in self.names}
        near = difflib.get_close_matches(fold_name(word), known, n=3)
        hint = f"; nearest: {', '.join(known[name] for name in near)}" if near else ""
        return f"no class {word[:60]!r} among the saved ones{hint}"


def _lines(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield line, class and new name (empty: as it is) of a class map, without its comments."""
    with opened_list(TableFile(path, f"--class-map {path}")) as file:
        rows = csv.reader(file)
        for row in rows:
            words = [word.strip() for word in row]
            if not any(words) or words[0].startswith("#") or [word.lower() for word in words] == _HEADER:
                continue
            where = f"--class-map {path}, line {rows.line_num}"
            *words, last = words
            words.append(re.sub(r"(?:^|\s)#.*$", "", last, flags=re.DOTALL).strip())
            if any(words[2:]) or not words[0]:
                raise UsageError(f"{where}: it takes NAME or NAME,NEW NAME (names with a comma in quotes)")
            new = words[1] if len(words) > 1 else ""
            if new.isdecimal():
                raise UsageError(f"{where}: {new[:20]!r} is a number; classes are numbered in the order of the lines")
            yield rows.line_num, words[0], new
