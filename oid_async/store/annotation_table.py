"""The saved table of one kind of annotations: its columns, and how published rows become its lines."""

from collections.abc import Iterator, Mapping, Sequence
from typing import IO

import polars as pl

from oid_async.openimages.ids import KEY
from oid_async.openimages.kinds import Kind
from oid_async.quick_values import frozen

# Added to the columns as published, after the names of their classes.
IMAGE_FIELDS = ("FileName", "OriginalURL", "Width", "Height")


@frozen
class AnnotationTable:
    """The table of one kind, from rows with these `published` columns.

    A row is as published, then come the names of its classes and IMAGE_FIELDS. Narratives are written as their JSON
    objects, a line each.
    """

    kind: Kind
    published: Sequence[str]
    class_names: Mapping[str, str]

    @property
    def renamed(self) -> dict[str, str]:
        """The published columns and the names that they get.

        A table of a user's own may have columns of our names already; ours keep the name, theirs are marked.
        """
        return dict(zip(self.published, _renamed(self.published, self._added), strict=True))

    @property
    def columns(self) -> list[str]:
        """All columns, in order."""
        return [*self.renamed.values(), *self._added]

    def completed(self, rows: pl.LazyFrame, saved: pl.LazyFrame) -> pl.LazyFrame:
        """Return the rows (KEY, columns under their new names) of saved images (KEY, IMAGE_FIELDS), all `columns`.

        The order of the rows stays.
        """
        return (
            rows.join(saved, on=KEY, how="inner", maintain_order="left")
            .with_columns(
                pl.col(label).replace(dict(self.class_names)).alias(category)
                for label, category in zip(self.kind.labels, self.kind.categories, strict=True)
            )
            .select(self.columns)
        )

    def write_header(self, file: IO[bytes]) -> None:
        """Write what comes before the first row."""
        if not self.kind.is_json:
            pl.DataFrame(schema=dict.fromkeys(self.columns, pl.String)).write_csv(file)

    def write_rows(self, rows: pl.DataFrame, file: IO[bytes]) -> None:
        """Write rows with all `columns`."""
        if not self.kind.is_json:
            rows.write_csv(file, include_header=False)
            return
        for line in rows.get_column("line"):
            file.write(f"{line}\n".encode())

    @property
    def _added(self) -> tuple[str, ...]:
        return () if self.kind.is_json else (*self.kind.categories, *IMAGE_FIELDS)


def label_data(labels: Sequence[str] | None, class_names: Mapping[str, str]) -> pl.DataFrame:
    """Return LabelName, Category of the labels whose boxes are saved, None for all."""
    labels = tuple(class_names) if labels is None else labels
    return pl.DataFrame(
        {"LabelName": labels, "Category": [class_names.get(label, label) for label in labels]},
        schema={"LabelName": pl.String, "Category": pl.String},
    )


def _renamed(published: Sequence[str], ours: Sequence[str]) -> Iterator[str]:
    """Yield the published column names, with a suffix where one is taken by ours."""
    taken = {*published, *ours}
    for name in published:
        fresh = name
        while fresh in ours or (fresh != name and fresh in taken):
            fresh = f"{fresh}_published"
        taken.add(fresh)
        yield fresh
