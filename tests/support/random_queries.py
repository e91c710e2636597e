"""What random datasets and queries are made of, and the contract's words on it in plain Python."""

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oid_async.events import ignore
from oid_async.metadata.cache import MetadataCache
from oid_async.metadata.convert import convert
from oid_async.metadata.entry import Identity
from oid_async.openimages.catalogue_tables import PublishedTable
from oid_async.openimages.kinds import KINDS
from oid_async.openimages.vocabulary import Split
from oid_async.tables.reading import LINE_COLUMNS, TableFile
from support.published import columns_of, write_bytes

# Ids that sort otherwise as signed numbers, as floats or without their zeros.
IDS = (
    *("0000000000000000", "0000048549557964", "000004854955796a", "00e4060885034751"),
    *("7fffffffffffffff", "8000000000000000", "9e99999999999999", "ffffffffffffffff"),
)
NOWHERE = "123456789abcdef0"
LABELS = ("/m/0", "/m/01", "/m/02", "/m/03", "/m/04")
FLAG_TEXTS = ("1", "0", "1", "0", "-1", "1.0", "0.0", "-1.0", "")
SEEDS = (0, 1, 7, -1, -(2**64) - 5, 2**63, 2**64 + 1, 10**30)
ODD_LINES = ("0123", "train/", "dev/0000048549557964", "0000048549557964,train", "kitten")
# How a list may write ImageID or split/ImageID.
SPELLINGS = ("{}", "{}.jpg", "{}.JPG", "{}.jpeg", "{}.png", "  {} ", "{}\r", "\n\n{}\n \n")
Edge = tuple[str, str, str]


def splitmix64(number: int, seed: int) -> int:
    """Return the place of an image in the shuffled order, as the contract spells it."""
    most = 2**64 - 1
    z = (number + seed + 0x9E3779B97F4A7C15) & most
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & most
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & most
    return z ^ z >> 31


def plain_name(name: str) -> str:
    """Return the form in which two names are the same: any case, _ for space."""
    return name.replace("_", " ").casefold()


def below(labels: Iterable[str], edges: Iterable[tuple[str, str]]) -> set[str]:
    """Return what stands below labels at any depth, without themselves; edges are (label, direct subclass)."""
    edges, first = list(edges), set(labels)
    found = set(first)
    while more := {child for label, child in edges if label in found} - found:
        found |= more
    return found - first


def random_split(chance: random.Random) -> Split:
    return chance.choice(("train", "train", "validation", "test"))


def random_edges(chance: random.Random, labels: Sequence[str] = LABELS) -> list[Edge]:
    """Return what stands below what: no circles, several parents, a part that is a subclass elsewhere."""
    pairs = [(above, child) for at, above in enumerate(labels) for child in labels[at + 1 :]]
    return [
        (*pair, chance.choice(("Sub", "Sub", "Part"))) for pair in chance.sample(pairs, chance.choice((0, 3, 5, 8)))
    ]


def hierarchy_json(edges: Sequence[Edge], labels: Sequence[str] = LABELS, *, in_full: bool) -> str:
    """Return a hierarchy of (label, child, Subcategory or Part) as published: what has several parents is repeated.

    Not `in_full`, only the first mention of a class says what is below it.
    """
    told: set[str] = set()

    def node(label: str) -> dict[str, Any]:
        if label in told and not in_full:
            return {"LabelName": label}
        told.add(label)
        keys = {key: [child for above, child, how in edges if (above, how) == (label, key)] for key in ("Part", "Sub")}
        children = {key: [node(child) for child in some] for key, some in keys.items() if some}
        return {"LabelName": label, **{key.replace("Sub", "Subcategory"): some for key, some in children.items()}}

    tops = [label for label in labels if label not in {child for _, child, _ in edges}]
    return json.dumps({"LabelName": "/m/0bl9f", "Subcategory": [node(label) for label in tops]})


def random_word(chance: random.Random, classes: Sequence[tuple[str, str]]) -> str:
    """Return a class as a user may name it: (MID, name) by its name in any case, `_` for a space, or by its MID."""
    label, name = chance.choice(classes)
    return chance.choice((name, name.upper(), name.replace(" ", "_"), label, label, label))


def written(path: Path, text: str) -> Path:
    """Write a file and return its path."""
    write_bytes(path, text.encode())
    return path


@dataclass(frozen=True)
class Line:
    """A line of an id list: the image it names, or an empty `image_id` for one that names none."""

    image_id: str
    split: Split | None
    text: str

    def names(self, image_id: str, split: Split) -> bool:
        """Return whether it names an image of this split."""
        return self.image_id == image_id and self.split in (None, split)


def random_lines(
    chance: random.Random, home: Mapping[str, Split], ids: Sequence[str], length: int, *, in_splits: bool = False
) -> tuple[Line, ...]:
    """Return an id list: bare ids or split/ID, most of them right, in every tolerated spelling; some name nothing."""
    form = "split" if in_splits else chance.choice(("bare", "split", "mixed"))
    lines: list[Line] = []
    # One split for an id: two are two images, which tests/doors/test_two_splits.py has.
    named: dict[str, Split] = {}
    for _ in range(chance.choice((0, *[length // 2, length] * 4))):
        image_id = chance.choice([*home, *home, *home, *ids, NOWHERE])
        split = home.get(image_id) if chance.random() < 0.8 else None
        split = named.setdefault(image_id, split or random_split(chance))
        if form == "bare" or (form == "mixed" and chance.random() < 0.5):
            text, split_said = image_id, None
        else:
            text, split_said = f"{split}/{image_id}", split
        if chance.random() < 0.2:
            text = text.replace(image_id, image_id.upper())
        lines.append(Line(image_id, split_said, chance.choice(SPELLINGS).format(text)))
    if lines and chance.random() < 0.2:
        lines.insert(chance.randint(0, len(lines)), Line("", None, chance.choice(ODD_LINES)))
    return tuple(lines)


class MirrorTables(MetadataCache):
    """The published tables of a mirror folder, as they are or converted, without a server."""

    def __init__(self, mirror: Path, converted: Path | None) -> None:
        super().__init__(None, ignore, root=mirror, mirror=None, site=None)
        self._from = mirror
        self._converted = converted

    async def published(self, table: PublishedTable, **how: Any) -> tuple[TableFile, Identity]:
        raw = TableFile(self._from / table.bucket / table.key, table.name)
        identity = Identity(table.name, 0, None, None, None)
        kind = next((kind for kind in KINDS.values() if table.kind in (kind.table, f"machine_{kind.name}s")), None)
        # Narratives are read in no other form than the converted one.
        is_json = kind is not None and kind.is_json
        if (self._converted is None and not is_json) or (kind is None and "images" not in table.kind):
            return raw, identity
        folder = (self._converted or self._from) / f"{table.kind}-{table.split}"
        if not folder.exists():
            folder.mkdir(parents=True)
            convert(raw, folder, kind=kind, progress=lambda done, total: None, stopped=bool)
        return TableFile(folder, table.name, LINE_COLUMNS if is_json else tuple(columns_of(raw.path))), identity
