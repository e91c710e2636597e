"""The class hierarchy: the subclasses of each class. A directed acyclic graph that is published as a tree.

    {"LabelName": "/m/0bl9f", "Subcategory": [{"LabelName": ..., "Subcategory": [...], "Part": [...]}, ...]}

A class below several others is repeated in full or in part, so everything here is sets. Only `Subcategory`
is descent: a Part of a class (a Human face of a Person) is no subclass of it.
"""

import json
from collections.abc import Iterator
from typing import Any, Self

from oid_async.quick_values import frozen

_KEYS = ("Subcategory", "Part")


@frozen
class Hierarchy:
    """`children` gives each label's direct subclasses, in published order and each once; `root` has no name."""

    root: str
    children: dict[str, tuple[str, ...]]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the published JSON. Raises ValueError, TypeError, KeyError or RecursionError for any other text."""
        tree = json.loads(text)
        found: dict[str, dict[str, None]] = {}
        for label, child in _edges(tree):
            found.setdefault(label, {})[child] = None
        return cls(str(tree["LabelName"]), {label: tuple(below) for label, below in found.items()})

    def below(self, label: str) -> tuple[str, ...]:
        """Return every class below a label at any depth, once each, breadth first; () for a leaf.

        >>> Hierarchy("e", {"e": ("a", "b"), "a": ("c",), "b": ("c", "d")}).below("e")
        ('a', 'b', 'c', 'd')
        """
        seen: dict[str, None] = {}
        todo = [label]
        while todo:
            fresh = [child for parent in todo for child in self.children.get(parent, ()) if child not in seen]
            seen.update(dict.fromkeys(fresh))
            todo = list(dict.fromkeys(fresh))
        seen.pop(label, None)
        return tuple(seen)


def _edges(node: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (label, direct subclass) of a node and everything under it; a Part's own subclasses are classes too."""
    label = str(node["LabelName"])
    for key in _KEYS:
        for child in node.get(key, ()):
            if key == "Subcategory":
                yield label, str(child["LabelName"])
            yield from _edges(child)
