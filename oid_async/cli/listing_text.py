"""The text of `oid-async classes`, `metadata` and `resolve`: lines that a person reads."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from oid_async.jobs.listed import ClassList, ClassRow, TableRow
from oid_async.jobs.resolve import Resolution
from oid_async.openimages.hierarchy import Hierarchy
from oid_async.openimages.kinds import KINDS
from oid_async.report import counted, size_text

_SINGULAR = {"boxes": "box"}


def class_lines(classes: ClassList, *, tree: bool) -> list[str]:
    """Return the list as a person reads it: a line a class, or the branches of the tree that hold them."""
    if classes.nothing is not None:
        return [classes.nothing]
    rows = {row.label: row for row in classes.rows}
    with_kinds = classes.kinds != ("bbox",)
    lines = []
    if tree and classes.hierarchy is not None:
        for row, depth in _branches(classes.hierarchy, (classes.hierarchy.root,), dict(rows)):
            lines.append(_class_line(row, depth, with_kinds=with_kinds))
            rows.pop(row.label, None)
    lines += [_class_line(row, 0, with_kinds=with_kinds) for row in rows.values()]
    for sides, title in (
        (classes.predicates, "relationships, as in --triplet '*,NAME,*':"),
        (classes.attributes, "attributes, as in --triplet '*,is,NAME':"),
    ):
        lines += [title, *(_class_line(row, 0, with_kinds=False) for row in sides)] if sides else []
    if (uncounted := classes.uncounted) == ("bbox",):
        lines.append("no box table is cached yet: images and boxes are counted once one is (oid-async metadata pull)")
    elif uncounted:
        pull = "".join(f" --kind {kind}" for kind in uncounted)
        lines.append(f"not counted, as no table is cached: {', '.join(uncounted)} (oid-async metadata pull{pull})")
    return lines


def table_lines(tables: Sequence[TableRow], root: Path) -> list[str]:
    """Return the tables as a person reads them, a line each, and where they are kept."""
    lines = []
    for table in tables:
        size = size_text(table.bytes) if table.bytes is not None else "size unknown"
        cached = f"cached {_age(table.age_s or 0)} ago, {size_text(table.cached_bytes)} here" if table.cached else "-"
        lines.append(f"{table.kind:<14} {table.split or 'all':<10} {size:>12}  {cached:<32} {table.name}")
    return [*lines, f"cache folder: {root}"]


def resolved_rows(found: Resolution) -> Iterator[tuple[str, ...]]:
    """Yield the header and a row for each image; a column that is not known is empty."""
    names = ("given", "split", "image_id", "author", "license", "title", "landing_url")
    yield names
    for image in found.images:
        yield tuple(getattr(image, name) or "" for name in names)


def unknown_lines(found: Resolution) -> Iterator[str]:
    """Yield a line for each line that names no image, how many there are, and where was not looked for them."""
    yield from (f"unknown: {given}" for given in found.unknown)
    if found.unknown:
        yield f"{len(found.unknown)} of {found.lines} lines name no image of the cached image tables"
    if found.unknown and found.not_cached:
        pull = " ".join(("oid-async metadata pull --kind none", *(f"--split {split}" for split in found.not_cached)))
        yield f"not cached, so not looked in: {', '.join(found.not_cached)} ({pull})"


def _branches(hierarchy: Hierarchy, path: tuple[str, ...], rows: dict[str, ClassRow]) -> Iterator[tuple[ClassRow, int]]:
    """Yield the last class of a path from the root, and what is below it, each with its depth; a circle ends it."""
    label = path[-1]
    if label in rows:
        yield rows[label], sum(above in rows for above in path[:-1])
    for child in hierarchy.children.get(label, ()):
        if child not in path:
            yield from _branches(hierarchy, (*path, child), rows)


def _class_line(row: ClassRow, depth: int, *, with_kinds: bool) -> str:
    kinds = f"  [{', '.join(row.kinds)}]" if with_kinds else ""
    counts = [
        f"{split} {counted(count['images'], 'image')} {_rows(kind, count['rows'])}"
        for kind, of_split in row.annotations.items()
        for split, count in of_split.items()
    ]
    return f"{row.label:<12} {'  ' * depth}{row.class_name}{kinds}" + (f"  ({', '.join(counts)})" if counts else "")


def _rows(kind: str, count: int) -> str:
    what = KINDS[kind].what  # type: ignore[index]
    return f"1 {_SINGULAR.get(what, what.removesuffix('s'))}" if count == 1 else f"{count} {what}"


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
