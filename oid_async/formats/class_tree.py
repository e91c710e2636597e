"""The hierarchy of classes among those of an export, with their names: what evaluation expands boxes and labels by.

    {"LabelName": "Entity", "Subcategory": [{"LabelName": "Person", "Subcategory": [{"LabelName": "Man"}]}, ...]}

It has the form that FiftyOne's Open Images evaluation takes (fiftyone.utils.eval.openimages, 1.22, 2026-11-29). A class
that is not exported stands aside for what is below it. A class below two others is there twice, in full. Each class is
in it, those that the hierarchy does not know under the root: the evaluation refuses a box of a class that is not.
"""

from collections.abc import Mapping
from typing import Any

from oid_async.formats.classes import ExportClasses
from oid_async.openimages.hierarchy import Hierarchy

ROOT = "Entity"
# The published one has some 700. One of a mirror may be anything.
_MOST_NODES = 20_000
_MOST_DEEP = 50

# The name of a class -> the classes below it.
_Tree = dict[str, Any]


class _TooLargeError(Exception):
    """The tree has more nodes, or is deeper, than a hierarchy of classes."""


def class_tree(classes: ExportClasses, hierarchy: Hierarchy | None) -> dict[str, Any]:
    """Return the tree of the classes of an export; without a hierarchy, or with an absurd one, it is flat.

    >>> classes = ExportClasses.of([("/m/p", "Person"), ("/m/m", "Man"), ("/m/c", "Cat")])
    >>> hierarchy = Hierarchy("/m/e", {"/m/e": ("/m/p",), "/m/p": ("/m/x",), "/m/x": ("/m/m",)})
    >>> class_tree(classes, hierarchy)["Subcategory"]
    [{'LabelName': 'Person', 'Subcategory': [{'LabelName': 'Man'}]}, {'LabelName': 'Cat'}]
    """
    tree: _Tree = {}
    if hierarchy is not None:
        try:
            tree = _Builder(classes, hierarchy).below(hierarchy.root, (), ())
        except _TooLargeError:
            tree = {}
    found = set(_names(tree))
    return {"LabelName": ROOT, **_nodes(tree | {name: {} for name in classes.names if name not in found})}


class _Builder:
    def __init__(self, classes: ExportClasses, hierarchy: Hierarchy) -> None:
        self._names = {label: classes.names[number] for label, number in classes.numbers.items()}
        self._children = hierarchy.children
        self._left = _MOST_NODES

    def below(self, label: str, labels: tuple[str, ...], names: tuple[str, ...]) -> _Tree:
        """Return the exported classes below a label; `labels` and `names` are those above it: a circle ends."""
        found: _Tree = {}
        for child in self._children.get(label, ()):
            if child in labels or child == label:
                continue
            self._left -= 1
            if not self._left or len(labels) > _MOST_DEEP:
                raise _TooLargeError
            name = self._names.get(child)
            if name is None or name in names:
                _merge(found, self.below(child, (*labels, label), names))
            else:
                _merge(found, {name: self.below(child, (*labels, label), (*names, name))})
        return found


def _merge(tree: _Tree, other: Mapping[str, Any]) -> None:
    for name, below in other.items():
        _merge(tree.setdefault(name, {}), below)


def _names(tree: _Tree) -> list[str]:
    return [each for name, below in tree.items() for each in (name, *_names(below))]


def _nodes(tree: _Tree) -> dict[str, Any]:
    return {"Subcategory": [{"LabelName": name, **_nodes(below)} for name, below in tree.items()]} if tree else {}
