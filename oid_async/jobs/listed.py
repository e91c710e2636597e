"""What the listings return: classes, and published tables. Plain values."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from oid_async.openimages.hierarchy import Hierarchy
from oid_async.openimages.kinds import KindName


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class, or what a relationship or an attribute is called.

    `kinds` are those whose class table has it. `images` counts per split, for the splits whose table is cached: images
    with a box, or where boxes were not asked for with an annotation of the first kind that was; `boxes` counts boxes.
    `annotations` has, of each kind asked for and each split, its {"images": n, "rows": n}; of human labels those above
    Confidence 0, of relationships those that have the class on either side.
    """

    label: str
    class_name: str
    kinds: tuple[str, ...]
    images: dict[str, int]
    boxes: dict[str, int]
    subclasses: tuple[str, ...] = ()
    annotations: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self) | {"kinds": list(self.kinds), "subclasses": list(self.subclasses)}


@dataclass(frozen=True, slots=True)
class ClassList:
    """The classes that were asked for, in order of name; `hierarchy` is None where none is published or cached.

    `kinds` are those that were asked for, `uncounted` those of them of which no table is cached. `predicates` are what
    relationships are called, `attributes` what `is` may be followed by: both are empty unless relationships were asked
    for. `nothing` says why nothing was found.
    """

    rows: tuple[ClassRow, ...]
    hierarchy: Hierarchy | None
    nothing: str | None = None
    kinds: tuple[KindName, ...] = ("bbox",)
    predicates: tuple[ClassRow, ...] = ()
    attributes: tuple[ClassRow, ...] = ()
    uncounted: tuple[KindName, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return plain values: {"classes": [...]}, of relationships also "predicates" and "attributes"."""
        lists = {"classes": self.rows}
        if "relationship" in self.kinds:
            lists |= {"predicates": self.predicates, "attributes": self.attributes}
        return {name: [row.as_json() for row in rows] for name, rows in lists.items()}


@dataclass(frozen=True, slots=True)
class TableRow:
    """One published table: `bytes` as published (None if unknown), `age_s` since it was fetched.

    `place` is its `<bucket>/<key>`, where a mirror has it: `openimages/v5/validation-annotations-bbox.csv`. It is the
    same wherever the table is read from; `url` is its address there, of a mirror the mirror's. Of `sizes`, the list of
    a split's images, both are of the images themselves, and end in `/`.
    """

    kind: str
    split: str | None
    releases: tuple[str, ...]
    name: str
    url: str
    bytes: int | None
    cached: bool
    cached_bytes: int
    age_s: float | None
    place: str

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self) | {"releases": list(self.releases), "age_s": round(self.age_s) if self.age_s else None}


@dataclass(frozen=True, slots=True)
class TableList:
    """The published tables that were asked for, and the cache folder."""

    cache_dir: Path
    tables: tuple[TableRow, ...]

    def as_json(self) -> dict[str, Any]:
        """Return plain values: {"cache_dir": ..., "tables": [...]}."""
        return {"cache_dir": str(self.cache_dir), "tables": [table.as_json() for table in self.tables]}
