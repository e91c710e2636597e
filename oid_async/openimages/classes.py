"""Classes by name. Keyed on MIDs, because display names changed between releases and may repeat."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Self

from oid_async.errors import UsageError
from oid_async.openimages.hierarchy import Hierarchy
from oid_async.quick_values import frozen

# Names of V4, and the names of the same classes in V5 and later (from a V4 and a later class table).
_RENAMED = (
    ("asparagus", "garden asparagus"),
    ("bat", "bat (animal)"),
    ("dairy", "dairy product"),
    ("doughnut", "donut"),
    ("drill", "drill (tool)"),
    ("egg", "egg (food)"),
    ("horn", "french horn"),
    ("jaguar", "jaguar (animal)"),
    ("lavender", "lavender (plant)"),
    ("lifejacket", "personal flotation device"),
    ("nail", "nail (construction)"),
    ("organ", "organ (musical instrument)"),
    ("pitcher", "pitcher (container)"),
    ("ratchet", "ratchet (device)"),
    ("squash", "squash (plant)"),
    ("sunflower", "common sunflower"),
    ("volleyball", "volleyball (ball)"),
)
_OTHER_NAME = dict(_RENAMED) | {new: old for old, new in _RENAMED}
# So like a name that it was meant (difflib's ratio).
_SURELY_MEANT = 0.85
# The most commas within one name ("Sky, cloudy").
_MOST_COMMAS = 4


@frozen
class Category:
    """A category of a query: its class_name, the labels (MIDs) that count as it, and subclasses `below` that do not.

    Of `labels` the last `added` ones are subclasses, too; those before are the category's own.
    """

    class_name: str
    labels: tuple[str, ...]
    below: tuple[str, ...] = ()
    added: int = 0

    @property
    def own(self) -> tuple[str, ...]:
        """The category's own labels, those of its name."""
        return self.labels[: len(self.labels) - self.added]

    def with_subclasses(self, hierarchy: Hierarchy, *, included: bool) -> Self:
        """Return this category with its subclasses among its labels, or apart in `below`.

        >>> person = Category("Person", ("p",)).with_subclasses(Hierarchy("e", {"p": ("m", "w")}), included=True)
        >>> person.labels, person.own
        (('p', 'm', 'w'), ('p',))
        """
        below = [label for own in self.labels for label in hierarchy.below(own) if label not in self.labels]
        below = list(dict.fromkeys(below))
        if included:
            return replace(self, labels=(*self.labels, *below), added=len(below))
        return replace(self, below=tuple(below))


@frozen
class Classes:
    """The classes of one table: label (MID) to class_name, in the table's order."""

    names: dict[str, str]

    def resolve(self, word: str) -> Category:
        """Return what `find` does. Raises UsageError with the nearest names for an unknown one."""
        found = self.find(word)
        if found is None:
            raise UsageError(f"unknown class {word!r}; {self.nearest(word)}")
        return found

    def find(self, word: str) -> Category | None:
        """Return the category of a display name (any case, _ for space) or a MID, None for an unknown one.

        The name of the class in another release is accepted.
        """
        if word.strip() in self.names:
            label = word.strip()
            return Category(self.names[label], (label,))
        wanted = fold_name(word)
        labels = self._labels_named(wanted) or self._labels_named(_OTHER_NAME.get(wanted))
        return Category(self.names[labels[0]], labels) if labels else None

    def listed(self, word: str) -> tuple[str, ...]:
        """Return the names that a word lists, separated by commas, as typed; () if it is no such list.

        A name may have a comma itself, so as many parts as make one are taken as it.

        >>> Classes({"/m/a": "Dog", "/m/b": "Sky, cloudy"}).listed("sky, cloudy,dog")
        ('sky, cloudy', 'dog')
        """
        known = {*self.names, *map(fold_name, self.names.values())}
        known |= {other for name, other in _OTHER_NAME.items() if name in known}
        parts, found = word.split(","), []
        while parts:
            for count in range(min(len(parts), _MOST_COMMAS + 1), 0, -1):
                name = ",".join(parts[:count]).strip()
                if name in known or fold_name(name) in known:
                    found.append(name)
                    del parts[:count]
                    break
            else:
                return ()
        return tuple(found) if len(found) > 1 else ()

    def matching(self, pattern: str) -> tuple[str, ...]:
        """Return the labels whose name contains a pattern (any case, _ for space) or whose MID it is, in order."""
        wanted = fold_name(pattern)
        found = (label for label, name in self.names.items() if wanted in fold_name(name) or pattern.strip() == label)
        return tuple(found) or self._labels_named(_OTHER_NAME.get(wanted))

    def nearest(self, word: str) -> str:
        """Return the part of a message that lists the names nearest to an unknown one."""
        wanted = fold_name(word)
        by_fold = {fold_name(name): name for name in self.names.values()}
        from difflib import get_close_matches

        near = get_close_matches(wanted, by_fold, n=3, cutoff=0.5)
        near += [name for name in by_fold if wanted in name.split() and name not in near][: 5 - len(near)]
        if not near:
            return f"no class of the {len(self.names)} has a name like it"
        return f"nearest: {', '.join(by_fold[name] for name in near)}"

    def is_close(self, word: str) -> bool:
        """Return whether an unknown name is so like one of these that it is a slip of the finger."""
        names = {fold_name(name) for name in self.names.values()}
        from difflib import get_close_matches

        return bool(get_close_matches(fold_name(word), names, n=1, cutoff=_SURELY_MEANT))

    def _labels_named(self, wanted: str | None) -> tuple[str, ...]:
        return tuple(label for label, name in self.names.items() if fold_name(name) == wanted)


def distinct(categories: Iterable[Category]) -> tuple[Category, ...]:
    """Return the categories with different labels, each set of labels once, in order."""
    found: dict[frozenset[str], Category] = {}
    for category in categories:
        found.setdefault(frozenset(category.labels), category)
    return tuple(found.values())


def is_other_name(word: str, category: Category) -> bool:
    """Return whether a word for this category is neither its name nor its MID: the class was renamed."""
    return word.strip() not in category.labels and fold_name(word) != fold_name(category.class_name)


def fold_name(name: str) -> str:
    """Return the form in which two names are the same: any case, `_` for a space."""
    return " ".join(name.replace("_", " ").casefold().split())
