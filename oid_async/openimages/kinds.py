"""The six kinds of annotations: the tables of each, the columns that name a class, the file where it is saved.

One table for all code that fetches, selects, counts or saves annotations. A kind has code of its own only for its
nature: a narrative is a JSON object, a mask has a picture.
"""

from collections.abc import Collection, Sequence
from typing import Literal, get_args

from oid_async.openimages.catalogue_tables import MASK_SIDES, PAIR_SIDES, SIDES, VOTES, TableKind
from oid_async.openimages.vocabulary import LabelSource
from oid_async.quick_values import frozen

KindName = Literal["bbox", "segmentation", "relationship", "narrative", "label", "point"]


@frozen
class Kind:
    """One kind of annotations.

    `labels` are the columns that name a class, by MID; `categories` are the added columns with the readable names.
    `class_tables` give the names of these MIDs; categories are looked up in the first one. `numbers` are the columns
    that must hold a number, `maybe` those that may be empty instead. `what` is the kind in messages. `is_sorted`: large
    tables of it are kept sorted by class, because queries are by class.
    """

    name: KindName
    table: TableKind
    labels: tuple[str, ...]
    categories: tuple[str, ...]
    class_tables: tuple[TableKind, ...]
    file: str
    what: str
    numbers: tuple[str, ...] = ()
    maybe: tuple[str, ...] = ()
    is_sorted: bool = False

    @property
    def has_classes(self) -> bool:
        """Whether its rows name classes."""
        return bool(self.labels)

    @property
    def side_tables(self) -> tuple[TableKind, ...]:
        """The other small tables about it: what relationships are called, which classes of boxes have masks."""
        others: dict[KindName, tuple[TableKind, ...]] = {
            "relationship": ("predicates",),
            "segmentation": ("mask_classes",),
        }
        return others.get(self.name, ())

    @property
    def folder(self) -> str:
        """The folder under SAVEPATH."""
        return self.file.partition("/")[0]

    @property
    def is_json(self) -> bool:
        """Whether it is published as JSON Lines, not as CSV."""
        return not self.labels


_LABEL, _NAME = ("LabelName",), ("Category",)
_BOXABLE: tuple[TableKind, ...] = ("classes",)
_ALL: tuple[TableKind, ...] = ("all_classes",)
KINDS: dict[KindName, Kind] = {
    kind.name: kind
    for kind in (
        Kind("bbox", "boxes", _LABEL, _NAME, _BOXABLE, "bbox/bbox.csv", "boxes", SIDES, is_sorted=True),
        Kind(
            "segmentation",
            "masks",
            _LABEL,
            _NAME,
            _BOXABLE,
            "segmentation/segmentation.csv",
            "masks",
            MASK_SIDES,
            ("PredictedIoU",),
            is_sorted=True,
        ),
        Kind(
            "relationship",
            "relationships",
            ("LabelName1", "LabelName2"),
            ("Category1", "Category2"),
            ("classes", "attributes"),
            "relationship/relationship.csv",
            "relationships",
            PAIR_SIDES,
        ),
        Kind("narrative", "captions", (), (), (), "narrative/narratives.jsonl", "narratives"),
        Kind(
            "label", "human_labels", _LABEL, _NAME, _ALL, "label/labels.csv", "labels", ("Confidence",), is_sorted=True
        ),
        Kind("point", "points", ("Label",), ("Category",), _ALL, "point/points.csv", "points", ("X", "Y"), VOTES),
    )
}
NAMES: tuple[KindName, ...] = get_args(KindName)


# The kinds whose classes stand in the hierarchy: in the folder of the first one that is saved a download keeps it.
_IN_HIERARCHY: tuple[KindName, ...] = ("bbox", "segmentation", "label")
HIERARCHY_FILES = tuple(f"{KINDS[name].folder}/hierarchy.json" for name in _IN_HIERARCHY)


def hierarchy_file(saved: Collection[str]) -> str | None:
    """Return where the hierarchy of classes is kept by a download that saves these kinds, None: of them is none.

    >>> hierarchy_file(["point", "segmentation"])
    'segmentation/hierarchy.json'
    """
    return next((f"{KINDS[name].folder}/hierarchy.json" for name in _IN_HIERARCHY if name in saved), None)


def named(words: Sequence[str]) -> tuple[Kind, ...]:
    """Return the kinds with these names, in the order of KINDS; `all` names every one, `none` none.

    >>> [kind.name for kind in named(["label", "bbox"])], len(named(["all"])), named(["none"])
    (['bbox', 'label'], 6, ())
    """
    return tuple(kind for name, kind in KINDS.items() if name in words or "all" in words)


def table_of(kind: Kind, source: LabelSource) -> TableKind:
    """Return the table that a kind is read from: image-level labels come from people or from a machine."""
    return "machine_labels" if kind.name == "label" and source == "machine" else kind.table
