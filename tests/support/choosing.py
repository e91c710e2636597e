"""What a query selects and saves, read from the contract in plain Python: sets and loops, no table library.

`Query` is a query as a user types it, `Reading` its answer on a `World`. Nothing here is taken from the program but the
names of kinds, flags and splits.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

from oid_async.openimages.catalogue_tables import TableKind
from oid_async.openimages.vocabulary import FLAGS, SPLITS, Split
from support.random_queries import Line, below, plain_name, splitmix64, written
from support.small_world import ATTRIBUTES, PREDICATES, Fields, Row, World

# The kinds in the order of the contract's option, and their tables.
TABLE_OF: dict[str, TableKind] = {
    "bbox": "boxes",
    "segmentation": "masks",
    "relationship": "relationships",
    "narrative": "captions",
    "label": "human_labels",
    "point": "points",
}
WITH_CLASSES = tuple(kind for kind in TABLE_OF if kind != "narrative")
Condition = Callable[[Fields], bool]


@dataclass(frozen=True)
class Where:
    """An expression: an operator (& | -) on two others, or a name with its kind (None, a kind, absent)."""

    sign: str = ""
    left: "Where | None" = None
    right: "Where | None" = None
    kind: str | None = None
    word: str = ""
    with_subclasses: bool = False

    def __str__(self) -> str:
        if self.sign:
            return f"({self.left}) {self.sign} ({self.right})"
        name = f'"{self.word}"' if " " in self.word else self.word
        return f"{self.kind}:{name}{'/' * self.with_subclasses}" if self.kind else f"{name}{'/' * self.with_subclasses}"

    def wanted(self) -> "list[Where]":
        """Return the names of classes that are not behind a minus, from left to right, without `absent:` ones."""
        if not self.sign:
            return [] if self.kind == "absent" else [self]
        assert self.left is not None
        assert self.right is not None
        return [*self.left.wanted(), *(self.right.wanted() if self.sign != "-" else ())]


@dataclass(frozen=True)
class Query:
    """A query as a user types it. `image_where` is an SQL condition and what it means; `seed` None is no shuffling."""

    words: tuple[str, ...] = ()
    file_words: tuple[str, ...] = ()
    with_subclasses: bool = False
    match_all: bool = False
    exclude: tuple[str, ...] = ()
    flags: tuple[tuple[str, bool], ...] = ()
    min_area: str | None = None
    max_area: str | None = None
    point_answer: str | None = None
    min_boxes: int | None = None
    max_boxes: int | None = None
    where: Where | None = None
    caption: str | None = None
    triplets: tuple[tuple[str, str, str], ...] = ()
    verified_absent: tuple[str, ...] = ()
    machine: bool = False
    min_confidence: float | None = None
    image_where: tuple[str, Condition] | None = None
    image_ids: tuple[Line, ...] | None = None
    exclude_ids: tuple[Line, ...] | None = None
    limit_per_class: int | None = None
    balanced: int | None = None
    limit: int | str | None = None
    negatives: int | str | None = None
    shard: tuple[int, int] | None = None
    seed: int | None = None
    splits: tuple[Split, ...] = ()
    kinds: tuple[str, ...] = ("bbox",)
    select_by: str | None = None
    all_boxes: bool = False
    every_image: bool = False

    def keywords(self, folder: Path) -> dict[str, Any]:
        """Return the query for the Python door; its lists are written into a folder."""
        given: dict[str, Any] = {
            "categories": self.words,
            "with_subclasses": self.with_subclasses,
            "match": "all" if self.match_all else "",
            "exclude": self.exclude,
            "where": str(self.where) if self.where else None,
            "triplet": tuple(",".join(f'"{part}"' if "," in part else part for part in each) for each in self.triplets),
            "verified_absent": self.verified_absent,
            "label_source": "machine" if self.machine else None,
            "image_where": self.image_where[0] if self.image_where else None,
            "shard": f"{self.shard[0]}/{self.shard[1]}" if self.shard else None,
            "shuffle": self.seed is not None,
            "seed": self.seed or 0,
            "splits": self.splits,
            "kinds": self.kinds,
            "all_boxes": self.all_boxes,
            "images": "all" if self.every_image else None,
            **dict(self.flags),
        }
        same: tuple[str, ...] = (
            "min_area",
            "max_area",
            "point_answer",
            "min_boxes",
            "max_boxes",
            "caption",
            "min_confidence",
        )
        same += ("limit_per_class", "balanced", "limit", "negatives", "select_by")
        given |= {name: getattr(self, name) for name in same}
        # What is not asked for is left out.
        given = {name: value for name, value in given.items() if value is not None and value not in ((), "")}
        if self.file_words:
            given["category_file"] = written(folder / "categories.txt", "\r\n\r\n".join(self.file_words))
        for name, lines in (("image_ids", self.image_ids), ("exclude_ids", self.exclude_ids)):
            if lines is not None:
                given[name] = written(folder / f"{name}.list", "\n".join(line.text for line in lines))
        return given

    @property
    def every_word(self) -> tuple[str, ...]:
        """The categories as typed."""
        return (*self.words, *self.file_words)

    @property
    def selecting(self) -> str:
        """The kind that selects: as asked, else boxes if they are saved, else the first one with classes."""
        if self.select_by is not None:
            return self.select_by
        if {"bbox", "all", "none"}.intersection(self.kinds):
            return "bbox"
        return next((kind for kind in TABLE_OF if kind in self.kinds and kind in WITH_CLASSES), "narrative")

    @property
    def restricts(self) -> bool:
        """Whether annotations besides those of the categories are asked."""
        return bool(self.where or self.caption or self.triplets or self.verified_absent)

    @property
    def asks_rows(self) -> bool:
        """Whether an image needs a matching row to be selected, whatever kinds are saved."""
        answer = self.point_answer if self.selecting == "point" else None
        numbers = (self.min_area, self.max_area, answer, self.min_boxes, self.max_boxes, self.balanced)
        by_class = self.limit_per_class is not None and not (self.where and self.where.wanted())
        return bool(self.every_word or self.flags or by_class or any(each is not None for each in numbers))


def greedy(candidates: Sequence[Sequence[str]], count: int, names: Sequence[str] | None = None) -> set[str]:
    """Return what --balanced chooses of the candidates of each category, each in order.

    From the category with the fewest on, ties as they are given or, with `names`, by name, the first are added until
    `count` of those chosen have it.
    """
    turns = sorted(range(len(candidates)), key=lambda at: (len(candidates[at]), names[at] if names else "", at))
    chosen: set[str] = set()
    for at in turns:
        for image_id in candidates[at]:
            if len(chosen.intersection(candidates[at])) >= count:
                break
            chosen.add(image_id)
    return chosen


@dataclass(frozen=True)
class Reading:
    """The answer to a query on a world."""

    world: World
    query: Query

    # --- names ---

    def classes(self, kind: str) -> Sequence[tuple[str, str]]:
        """Return the classes that names of a kind are looked up in."""
        world = self.world
        return [*world.boxable, *world.others] if kind in ("label", "point") else world.boxable

    def meaning(self, word: str, kind: str) -> tuple[str, ...]:
        """Return every MID that a word means by itself."""
        classes = self.classes(kind)
        if word in dict(classes):
            return (word,)
        return tuple(label for label, name in classes if plain_name(name) == plain_name(word))

    def subclasses(self, labels: Iterable[str]) -> set[str]:
        """Return what stands below labels in the hierarchy."""
        return below(labels, [(above, child) for above, child, how in self.world.edges if how == "Sub"])

    def counted(self, labels: Iterable[str]) -> set[str]:
        """Return labels, with their subclasses if these were asked for."""
        labels = set(labels)
        return labels | (self.subclasses(labels) if self.query.with_subclasses else set())

    @cached_property
    def plain_categories(self) -> list[tuple[str, ...]]:
        """What each category means by itself; what counts the same labels is one category."""
        found: dict[frozenset[str], tuple[str, ...]] = {}
        for word in self.query.every_word:
            labels = self.meaning(word, self.query.selecting)
            found.setdefault(frozenset(self.counted(labels)), labels)
        return list(found.values())

    @cached_property
    def categories(self) -> list[set[str]]:
        """The labels that count as each category."""
        return [self.counted(labels) for labels in self.plain_categories]

    @cached_property
    def wanted(self) -> set[str]:
        """The labels of all categories."""
        return set().union(*self.categories)

    # --- images and rows ---

    @cached_property
    def asked(self) -> tuple[Split, ...]:
        """The splits whose tables count: as asked, else those that every line of a list names, or that --ndata counts,
        or train, too."""
        limit = self.query.limit
        counted = {part.split("=")[0] for part in limit.split(",")} if isinstance(limit, str) and "=" in limit else None
        said = {line.split for line in self.query.image_ids or () if line.image_id}
        said = said if said and None not in said else {*said, *(counted or ("train",))}
        return tuple(split for split in SPLITS if split in (self.query.splits or said))

    @cached_property
    def images(self) -> dict[str, Split]:
        """The images there are to choose from, with their splits, in the order of the limits."""
        there = [each for each in self.world.pictures if each.boxable or self.query.every_image]
        found = {each.image_id: each.split for each in there if each.split in self.asked}
        return {image_id: found[image_id] for image_id in sorted(found, key=self.place)}

    def place(self, image_id: str) -> int:
        """Return where an image stands in the order."""
        number = int(image_id, 16)
        return number if self.query.seed is None else splitmix64(number, self.query.seed)

    def rows(self, kind: str) -> list[Row]:
        """Return the rows of a kind that count, in published order."""
        table: TableKind = "machine_labels" if kind == "label" and self.query.machine else TABLE_OF[kind]
        return self.of_table(table)

    def of_table(self, table: TableKind) -> list[Row]:
        """Return the rows of a table of the asked splits."""
        return [row for split in self.asked for row in self.world.rows if (row.table, row.split) == (table, split)]

    def present(self, row: Row) -> bool:
        """Return whether the row says that its class is there: Confidence 0 never does, nor one that is too low."""
        if row.table not in ("human_labels", "machine_labels"):
            return True
        confidence = float(row.fields["Confidence"])
        return confidence > 0 and confidence >= (self.query.min_confidence or 0)

    def fits(self, row: Row) -> bool:
        """Return whether a row is one of those that match and are saved, whatever its class."""
        query = self.query
        if row.table == "boxes":
            answers = {"1": True, "1.0": True, "0": False, "0.0": False}
            flags = all(answers.get(row.fields[FLAGS[name]]) is wanted for name, wanted in query.flags)
            area = self.area(row)
            low, high = self.share(query.min_area or "0%"), self.share(query.max_area or "1000%")
            return flags and low <= area <= high
        if row.table == "points" and query.point_answer is not None:
            return row.fields["EstimatedYesNo"] == query.point_answer
        return True

    @staticmethod
    def share(text: str) -> Fraction:
        """Return what P% means."""
        return Fraction(text.rstrip("%")) / 100

    @staticmethod
    def area(row: Row) -> Fraction:
        """Return the share of its image that a box takes, by the published numbers."""
        side = {name: Fraction(row.fields[name]) for name in ("XMin", "XMax", "YMin", "YMax")}
        return (side["XMax"] - side["XMin"]) * (side["YMax"] - side["YMin"])

    def matches(self, row: Row) -> bool:
        """Return whether a row of the selecting kind matches, whatever its class."""
        is_related = row.table != "relationships" or not self.query.triplets or self.is_triplet(row)
        return self.present(row) and self.fits(row) and is_related

    @cached_property
    def matching_rows(self) -> list[Row]:
        """The rows of the selecting kind that match."""
        rows = [row for row in self.rows(self.query.selecting) if self.matches(row)]
        return [row for row in rows if not self.categories or self.wanted.intersection(row.labels)]

    def having(self, labels: Iterable[str]) -> set[str]:
        """Return the images with a matching row of any of these labels."""
        labels = set(labels)
        rows = (row for row in self.rows(self.query.selecting) if self.matches(row))
        return {row.image_id for row in rows if labels.intersection(row.labels)} & self.images.keys()

    # --- conditions ---

    def where(self, where: Where, *, behind_minus: bool = False) -> set[str]:
        """Return the images that an expression fits. Behind a minus any row will do, whatever its flags."""
        if where.sign:
            assert where.left is not None
            assert where.right is not None
            left = self.where(where.left, behind_minus=behind_minus)
            right = self.where(where.right, behind_minus=behind_minus or where.sign == "-")
            return {"&": left & right, "|": left | right, "-": left - right}[where.sign]
        labels = self.named(where)
        if where.kind == "absent":
            return self.verified_absent(labels)
        rows = self.rows(where.kind or self.query.selecting)
        rows = [row for row in rows if self.present(row) and (behind_minus or self.fits(row))]
        return {row.image_id for row in rows if labels.intersection(row.labels)}

    def named(self, name: Where) -> set[str]:
        """Return the labels that a name of an expression means."""
        kind = {None: self.query.selecting, "absent": "label"}.get(name.kind, name.kind)
        assert kind is not None
        labels = set(self.meaning(name.word, kind))
        return labels | (self.subclasses(labels) if name.with_subclasses else set())

    def verified_absent(self, labels: Iterable[str]) -> set[str]:
        """Return the images for which a person has said that one of these classes is not there."""
        labels = set(labels)
        rows = (row for row in self.of_table("human_labels") if float(row.fields["Confidence"]) == 0)
        return {row.image_id for row in rows if labels.intersection(row.labels)}

    def is_triplet(self, row: Row) -> bool:
        """Return whether a relationship is one of those asked for."""
        return any(all(self._fits_part(row, at, part) for at, part in enumerate(each)) for each in self.query.triplets)

    def _fits_part(self, row: Row, at: int, word: str) -> bool:
        if word == "*":
            return True
        if at == 1:
            tokens = [token for token, text in PREDICATES if plain_name(word) in map(plain_name, (token, text))]
            return row.fields["RelationshipLabel"] in tokens
        labels = set(self.meaning(word, "relationship"))
        if at == 2:
            labels |= {label for label, name in ATTRIBUTES if word == label or plain_name(name) == plain_name(word)}
        return row.fields["LabelName1" if at == 0 else "LabelName2"] in self.counted(labels)

    @cached_property
    def restricted(self) -> set[str]:
        """The images that meet where, caption, triplet and verified-absent."""
        query, found = self.query, set(self.images)
        if query.where is not None:
            found &= self.where(query.where)
        if query.caption is not None:
            rows = self.of_table("captions")
            found &= {row.image_id for row in rows if re.search(query.caption, row.fields["caption"])}
        if query.triplets:
            found &= {row.image_id for row in self.of_table("relationships") if self.is_triplet(row)}
        for word in query.verified_absent:
            found &= self.verified_absent(self.meaning(word, "label"))
        return found

    @cached_property
    def allowed(self) -> set[str]:
        """The images that --exclude, --image-where and the id lists leave: negatives obey these too."""
        query = self.query
        banned = self.counted([label for word in query.exclude for label in self.meaning(word, query.selecting)])
        rows = (row for row in self.rows(query.selecting) if self.present(row))
        found = self.images.keys() - {row.image_id for row in rows if banned.intersection(row.labels)}
        if query.image_where is not None:
            pictures = {picture.image_id: picture.fields for picture in self.world.pictures}
            found = {image_id for image_id in found if query.image_where[1](pictures[image_id])}
        if query.image_ids is not None:
            found = {image_id for image_id in found if self.listed(query.image_ids, image_id)}
        if query.exclude_ids is not None:
            found = {image_id for image_id in found if not self.listed(query.exclude_ids, image_id)}
        return found

    def listed(self, lines: Iterable[Line], image_id: str) -> bool:
        """Return whether any of the lines names this image."""
        return any(line.names(image_id, self.images[image_id]) for line in lines)

    # --- the order of operations ---

    @cached_property
    def matching(self) -> set[str]:
        """The images whose rows match, in the right number, of any or of all categories."""
        query = self.query
        if not query.asks_rows and (query.kinds == ("none",) or query.restricts):
            return set(self.images)
        rows = [row.image_id for row in self.matching_rows]
        found = self.images.keys() & set(rows)
        if query.match_all:
            found = found.intersection(*(self.having(labels) for labels in self.categories))
        low, high = query.min_boxes or 0, query.max_boxes
        return {each for each in found if low <= rows.count(each) <= (high if high is not None else len(rows))}

    @cached_property
    def candidates(self) -> set[str]:
        """The images that every condition leaves, before limits."""
        return self.matching & self.restricted & self.allowed

    def in_order(self, ids: Iterable[str]) -> list[str]:
        """Return images in the order of the limits."""
        ids = set(ids)
        return [image_id for image_id in self.images if image_id in ids]

    @cached_property
    def limited(self) -> list[str]:
        """The selected images in order, before negatives and parts."""
        query, ids = self.query, self.candidates
        if query.limit_per_class is not None:
            ids = {each for some in self.limited_classes for each in self.in_order(some)[: query.limit_per_class]}
        if query.balanced is not None:
            labels = sorted({label for row in self.matching_rows for label in row.labels})
            classes = self.categories or [{label} for label in labels]
            candidates = [self.in_order(self.having(each) & ids) for each in classes]
            ids = greedy(candidates, query.balanced, None if self.categories else labels)
        order = self.in_order(ids)
        if query.limit is None or query.limit == -1:
            return order
        if isinstance(query.limit, int):
            return order[: query.limit]
        if query.limit.endswith("%"):
            return order[: max(1, int(len(order) * self.share(query.limit)))]
        counts = {split: int(number) for split, number in (part.split("=") for part in query.limit.split(","))}
        return self.in_order(
            each
            for split, count in counts.items()
            for each in [image_id for image_id in order if self.images[image_id] == split][:count]
        )

    @cached_property
    def limited_classes(self) -> list[set[str]]:
        """The candidates of each class that --limit-per-class counts: categories, and what --where names."""
        named = self.query.where.wanted() if self.query.where else []
        sets = [self.having(labels) for labels in self.categories]
        sets += [self.where(name) for name in named]
        if not self.categories and not named:
            sets = [self.having([label]) for label in {label for row in self.matching_rows for label in row.labels}]
        return [some & self.candidates for some in sets]

    @cached_property
    def negatives(self) -> dict[str, list[str]]:
        """The images beside the selected ones, in order, with the MIDs of the categories verified to be absent."""
        asked = self.query.negatives
        if asked is None:
            return {}
        plain = {label for labels in self.plain_categories for label in labels}
        every = plain | self.subclasses(plain)
        human = self.of_table("human_labels")
        there = {row.image_id for row in self.of_table("boxes") if every.intersection(row.labels)}
        there |= {row.image_id for row in human if row.labels[0] in every and float(row.fields["Confidence"]) > 0}
        ids = self.in_order(self.verified_absent(plain) & self.allowed - there - set(self.limited))
        ids = ids[: self._negative_count(asked, len(self.limited))]
        absent = {label: self.verified_absent([label]) for label in sorted(plain)}
        return {image_id: [label for label in absent if image_id in absent[label]] for image_id in ids}

    @staticmethod
    def _negative_count(asked: int | str, selected: int) -> int:
        if isinstance(asked, int):
            return asked
        share = Fraction(asked.rstrip("%"))
        # Half a picture counts as one.
        return int(selected * share / (100 - share) + Fraction(1, 2))

    @cached_property
    def roles(self) -> dict[str, str]:
        """The images of this part by ascending id, each `selected` or `negative`."""
        every = self.in_order([*self.limited, *self.negatives])
        if self.query.shard is not None:
            number, count = self.query.shard
            every = every[number - 1 :: count]
        return {image_id: "negative" if image_id in self.negatives else "selected" for image_id in sorted(every)}

    @property
    def selected(self) -> list[str]:
        """The selected images of this part by ascending id, without negatives."""
        return [image_id for image_id, role in self.roles.items() if role == "selected"]

    # --- what is said and saved ---

    @property
    def split_counts(self) -> dict[str, int]:
        """The images of each split that has any, negatives among them."""
        splits = [self.images[image_id] for image_id in self.roles]
        return {split: splits.count(split) for split in SPLITS if split in splits}

    @property
    def candidate_counts(self) -> list[int]:
        """The images of each category alone."""
        return [len(self.having(labels)) for labels in self.categories]

    @property
    def class_counts(self) -> list[int]:
        """The images of each category among those selected in the end."""
        return [len(self.having(labels) & set(self.selected)) for labels in self.categories]

    @property
    def saved_kinds(self) -> list[str]:
        """The kinds that are saved."""
        return [kind for kind in TABLE_OF if kind in self.query.kinds or "all" in self.query.kinds]

    def saved_labels(self, kind: str) -> set[str] | None:
        """Return the classes whose rows of a kind are saved, None for every one."""
        labels = set(self.wanted)
        for name in self.query.where.wanted() if self.query.where else ():
            if name.kind in (None, kind):
                labels |= self.named(name)
        return None if self.query.all_boxes or not labels or kind == "narrative" else labels

    def saved(self, kind: str) -> list[Row]:
        """Return the rows of a kind that are saved: by ImageID, then in published order."""
        labels = self.saved_labels(kind)
        rows = [row for row in self.rows(kind) if row.image_id in self.roles and self.fits(row)]
        if kind == "relationship" and self.query.triplets:
            rows = [row for row in rows if self.is_triplet(row)]
        rows = [row for row in rows if labels is None or labels.intersection(row.labels)]
        return sorted(rows, key=lambda row: row.image_id)
