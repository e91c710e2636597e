"""Classes: what a category name means. Keyed on MIDs, because display names changed between releases and may repeat."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from oid_async.errors import UsageError
from oid_async.openimages.catalogue import CLASS_COLUMNS
from oid_async.openimages.tables import TableFile, reading, scan_headless


@dataclass(frozen=True, slots=True)
class Category:
    """A category as asked for: the class_name it resolved to and every label (MID) that bears it."""

    class_name: str
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Classes:
    """A class table: label (MID) to class_name, in the table's order. Files before V6 have no header, V6 and V7 do."""

    names: dict[str, str]

    @classmethod
    def read(cls, table: TableFile) -> Self:
        """Read a class table: mid and name in the first two columns, header or not. Raises InputError."""
        with reading(table):
            rows = scan_headless(table, CLASS_COLUMNS).collect()
        names = ((label.strip(), (name or label).strip()) for label, name in rows.iter_rows() if label)
        return cls({label: name for label, name in names if label})

    def resolve(self, word: str) -> Category:
        """Return what a display name (any case, _ for space) or a MID means. Raises UsageError with nearest names."""
        if word.strip() in self.names:
            label = word.strip()
            return Category(self.names[label], (label,))
        wanted = _fold(word)
        labels = tuple(label for label, name in self.names.items() if _fold(name) == wanted)
        if labels:
            return Category(self.names[labels[0]], labels)
        raise UsageError(f"unknown class {word!r}; {self._nearest(wanted)}")

    def resolve_all(self, words: Iterable[str]) -> tuple[Category, ...]:
        """Return the categories of all words, each set of labels once, in the order first asked for."""
        found: dict[tuple[str, ...], Category] = {}
        for word in words:
            category = self.resolve(word)
            found.setdefault(category.labels, category)
        return tuple(found.values())

    def _nearest(self, wanted: str) -> str:
        by_fold = {_fold(name): name for name in self.names.values()}
        near = difflib.get_close_matches(wanted, by_fold, n=3, cutoff=0.5)
        near += [name for name in by_fold if wanted in name.split() and name not in near][: 5 - len(near)]
        if not near:
            return f"no class of the {len(self.names)} has a name like it"
        return f"nearest: {', '.join(by_fold[name] for name in near)}"


def _fold(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())
