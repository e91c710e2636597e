"""What DuckDB counts in the tables of a saved folder: another reading of the same files, in the form of `Statistics`.

An image is told apart by its FileName. The edges of histograms are those of the value that is compared.
"""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import duckdb

FLAGS = ("IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside")
_FILES = {
    "bbox": "bbox/bbox.csv",
    "segmentation": "segmentation/segmentation.csv",
    "relationship": "relationship/relationship.csv",
    "label": "label/labels.csv",
    "point": "point/points.csv",
}
_ROWS = {
    "bbox": "boxes",
    "segmentation": "masks",
    "relationship": "relationships",
    "label": "labels",
    "point": "points",
}
# What names a class as there: the table, the image, MID, name; a relationship once for a class on both sides.
_PAIRS = {
    "bbox": "select FileName as image, LabelName as label, Category as name from bbox",
    "segmentation": "select FileName as image, LabelName as label, Category as name from segmentation",
    "relationship": """select FileName as image, LabelName1 as label, Category1 as name from relationship union all
        select FileName, LabelName2, Category2 from relationship
        where RelationshipLabel is distinct from 'is' and LabelName2 is distinct from LabelName1""",
    "label": """select FileName as image, LabelName as label, Category as name from label
        where Confidence::float > 0""",
    "point": "select FileName as image, Label as label, Category as name from point",
}
_ABSENT = """select FileName as image, LabelName as label, Category as name from label
    where Confidence::float = 0 and Source is distinct from 'machine'"""
_BOXES = """create view boxes as with sides as (
    select FileName, Width::double as Width, Height::double as Height,
        least(greatest(XMin::double, 0), 1) as x0, least(greatest(XMax::double, 0), 1) as x1,
        least(greatest(YMin::double, 0), 1) as y0, least(greatest(YMax::double, 0), 1) as y1 from bbox)
    select FileName, (x1 - x0) * (y1 - y0) as share,
        case when x1 > x0 and y1 > y0 then ((x1 - x0) * Width) / ((y1 - y0) * Height) end as aspect,
        least(floor((y0 + y1) / 2 * 24), 23)::int as field_row,
        least(floor((x0 + x1) / 2 * 24), 23)::int as field_column
    from sides"""


class Asked:
    """Answers of DuckDB about one folder."""

    def __init__(self, savepath: Path) -> None:
        self._duck = duckdb.connect()
        manifest = f"select * from read_parquet('{savepath / 'manifest.parquet'}')"
        columns = [row[0] for row in self._duck.execute(f"describe {manifest}").fetchall()]
        roles = "" if "Role" in columns else ", 'selected' as Role, []::varchar[] as VerifiedAbsent"
        self._duck.execute(f"create view images as select *{roles} from ({manifest})")
        self.kinds = [kind for kind, file in _FILES.items() if (savepath / file).exists()]
        for kind in self.kinds:
            file = savepath / _FILES[kind]
            self._duck.execute(
                f"create table {kind} as select * from read_csv('{file}', header=true, all_varchar=true)"
            )
        if "bbox" in self.kinds:
            self._duck.execute(_BOXES)
        parts = [f"select *, '{kind}' as kind from ({_PAIRS[kind]})" for kind in self.kinds]
        self._duck.execute(f"create table pairs as select * from ({' union all '.join(parts)}) where label is not null")
        absent = (
            "select FileName as image, unnest(VerifiedAbsent) as label, null as name, 'negative' as kind from images"
        )
        if "label" in self.kinds:
            absent += f" union all select *, 'label' from ({_ABSENT})"
        self._duck.execute(f"create table absent as {absent}")

    def rows(self, question: str) -> list[tuple[Any, ...]]:
        """Return the rows of an answer."""
        return self._duck.execute(question).fetchall()

    def counts(self, column: str, where: str = "true") -> dict[str, int]:
        """Return how many images have each text of a column."""
        return dict(self.rows(f"select coalesce({column}, ''), count(*) from images where {where} group by 1"))

    def classes(self) -> dict[str, dict[str, Any]]:
        """Return the counts of each class, by MID."""
        found: dict[str, dict[str, Any]] = {}
        names = "select label, max(name) from (select * from pairs union all select * from absent) group by label"
        for label, name in self.rows(names):
            numbers = dict.fromkeys(
                ("images", *_ROWS.values(), "verified_absent", "absent_labels", "absent_negatives"), 0
            )
            found[label] = {"label": label, "class_name": name, **numbers, "flags": {}, "images_by_kind": {}}
        for label, images in self.rows("select label, count(distinct image) from pairs group by 1"):
            found[label]["images"] = images
        for label, kind, images in self.rows("select label, kind, count(distinct image) from pairs group by 1, 2"):
            found[label]["images_by_kind"][kind] = images
        for label, kind, count in self.rows("select label, kind, count(*) from pairs group by 1, 2"):
            found[label][_ROWS[kind]] = count
        for label, images in self.rows("select label, count(distinct image) from absent group by 1"):
            found[label]["verified_absent"] = images
        for label, kind, count in self.rows("select label, kind, count(*) from absent group by 1, 2"):
            found[label]["absent_labels" if kind == "label" else "absent_negatives"] = count
        if "bbox" in self.kinds:
            sums = ", ".join(f"count_if(try_cast({flag} as double) = 1)" for flag in FLAGS)
            for label, *counts in self.rows(
                f"select LabelName, {sums} from bbox where LabelName is not null group by 1"
            ):
                found[label]["flags"] = dict(zip(FLAGS, counts, strict=True))
        return found

    def flags(self) -> dict[str, dict[str, int]]:
        """Return of each flag the boxes with each value."""
        found = {}
        for flag in FLAGS:
            number = f"try_cast({flag} as double)"
            ((total, yes, no),) = self.rows(
                f"select count(*), count_if({number} = 1), count_if({number} = 0) from bbox"
            )
            found[flag] = {"yes": yes, "no": no, "unknown": total - yes - no}
        return found

    def boxes_per_image(self) -> dict[str, Any]:
        """Return how many boxes saved images have, those without one too."""
        each = """select count(bbox.FileName) as boxes from images left join bbox using (FileName)
            where Status = 'ok' group by images.FileName"""
        ((mean, median, most),) = self.rows(f"select avg(boxes), median(boxes), max(boxes) from ({each})")
        counts = self.rows(f"select boxes, count(*) from ({each}) group by 1 order by 1")
        return {"counts": [list(row) for row in counts], "mean": mean, "median": median, "max": most}

    def histogram(self, table: str, value: str, edges: Sequence[float]) -> dict[str, Any]:
        """Return the histogram between these edges; the first and the last bar have what is beyond them."""
        lines = [f"count_if(x >= {edge!r}::double)" for edge in edges[1:-1]]
        question = f"select count(x), {', '.join([*lines, 'median(x)'])} from (select {value} as x from {table})"
        ((total, *above, median),) = self.rows(question)
        ends = [total, *above, 0]
        return {
            "edges": list(edges),
            "counts": [ends[at] - ends[at + 1] for at in range(len(ends) - 1)],
            "median": median,
        }

    def positions(self) -> list[list[int]]:
        """Return how many centres of boxes are in each of 24 x 24 fields."""
        fields = [[0] * 24 for _ in range(24)]
        for row, column, count in self.rows("select field_row, field_column, count(*) from boxes group by 1, 2"):
            fields[row][column] = count
        return fields

    def together(self, labels: Sequence[str]) -> list[list[int]]:
        """Return how many images have two of these classes."""
        pairs = """select one.label, other.label, count(distinct one.image)
            from pairs one join pairs other using (image) group by 1, 2"""
        found = {(one, other): images for one, other, images in self.rows(pairs)}
        flat = [found.get(pair, 0) for pair in product(labels, labels)]
        return [flat[start : start + len(labels)] for start in range(0, len(flat), len(labels))]
