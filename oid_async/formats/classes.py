"""The classes of an export: their numbers, their names, and which published MIDs count as each."""

import csv
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from oid_async.errors import UsageError
from oid_async.openimages.classes import fold_name


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

    def mapped(self, path: Path) -> "ExportClasses":
        """Return the classes of a file, `NAME` or `NAME,NEW NAME` a line, numbered in its order. Raises UsageError."""
        known = {fold_name(name): name for name in self.names}
        by_name: dict[str, list[str]] = {}
        for label, number in self.numbers.items():
            by_name.setdefault(self.names[number], []).append(label)
        named: list[tuple[str, str]] = []
        for line, row in enumerate(_rows(path), 1):
            if not row or not row[0].strip():
                continue
            old = row[0].strip()
            new = row[1].strip() if len(row) > 1 and row[1].strip() else ""
            if old in self.numbers:
                named.append((old, new or self.names[self.numbers[old]]))
            elif (name := known.get(fold_name(old))) is not None:
                named += [(label, new or name) for label in by_name[name]]
            else:
                near = difflib.get_close_matches(fold_name(old), known, n=3)
                hint = f"; nearest: {', '.join(known[name] for name in near)}" if near else ""
                raise UsageError(f"--class-map {path}, line {line}: no class {old!r} among the saved ones{hint}")
        if not named:
            raise UsageError(f"--class-map {path} names no class")
        return ExportClasses.of(named)


def _rows(path: Path) -> Sequence[Sequence[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"--class-map {path} cannot be read ({error})") from error
