"""The text of `oid-async classes`, `metadata` and `resolve`: lines that a person reads."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from oid_async.jobs.listings import ClassList, ClassRow, TableRow
from oid_async.jobs.resolve import Resolution
from oid_async.openimages.hierarchy import Hierarchy
from oid_async.report import size_text


def class_lines(classes: ClassList, *, tree: bool) -> list[str]:
    """Return the list as a person reads it: a line a class, or the branches of the tree that hold them."""
    if classes.nothing is not None:
        return [classes.nothing]
    rows = {row.label: row for row in classes.rows}
    if tree and classes.hierarchy is not None:
        shown: set[str] = set()
        lines = list(_branches(classes.hierarchy, (classes.hierarchy.root,), rows, shown))
        lines += [_class_line(row, 0) for row in classes.rows if row.label not in shown]
    else:
        lines = [_class_line(row, 0) for row in classes.rows]
    if not any(row.boxes for row in classes.rows):
        lines.append("no box table is cached yet: images and boxes are counted once one is (oid-async metadata pull)")
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


def _branches(hierarchy: Hierarchy, path: tuple[str, ...], rows: dict[str, ClassRow], shown: set[str]) -> Iterator[str]:
    """Yield the lines of the last class of a path from the root, and of what is below it; a circle ends the path."""
    label = path[-1]
    if label in rows:
        shown.add(label)
        yield _class_line(rows[label], sum(above in rows for above in path[:-1]))
    for child in hierarchy.children.get(label, ()):
        if child not in path:
            yield from _branches(hierarchy, (*path, child), rows, shown)


def _class_line(row: ClassRow, depth: int) -> str:
    counts = ", ".join(f"{split} {row.images[split]} images {row.boxes[split]} boxes" for split in row.boxes)
    return f"{row.label:<12} {'  ' * depth}{row.class_name}" + (f"  ({counts})" if counts else "")


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
