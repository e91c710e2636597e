"""The options of a query, checked: what the command line and the Python functions make of what they are given.

The options are in `options.query_table`, what contradicts what in `options.contradictions`.
"""

import os
from collections.abc import Iterable
from dataclasses import Field, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, Self, Unpack

from oid_async.errors import UsageError
from oid_async.openimages.catalogue_tables import TableKind
from oid_async.openimages.vocabulary import FLAGS
from oid_async.options.contradictions import check_filled, refuse_contradictions
from oid_async.options.keywords import RunOptions
from oid_async.options.paths import url_scheme
from oid_async.options.places import Bucket, as_folder
from oid_async.options.query_table import FILTERS, QueryTable
from oid_async.options.table import HEADINGS, label_of, read_values
from oid_async.quick_values import frozen
from oid_async.redaction import redacted

# What `stream` takes in addition: how it hands images out.
OF_STREAMS = frozenset(("annotations", "keep_files"))


@frozen(kw_only=True)
class Options(QueryTable):
    """One query and how to carry it out, checked and normalised when made. Raises UsageError, naming the option."""

    def __post_init__(self) -> None:
        read_values(self)
        refuse_contradictions(self)
        object.__setattr__(self, "all_boxes", self.all_boxes or self.only_matching is False)
        object.__setattr__(self, "only_matching", not self.all_boxes)

    def check_filled(self) -> None:
        """Raise UsageError if this is a query that cannot fill its place: what goes by parts ends in shards alone."""
        check_filled(self)

    @property
    def folder(self) -> Path:
        """The folder of `savepath`. Raises UsageError for a bucket."""
        return self.folder_for("this")

    def folder_for(self, who: str) -> Path:
        """Return the folder of `savepath`. Raises UsageError for a bucket, which `who` cannot take."""
        return as_folder(self.savepath, who)

    @property
    def image_tables(self) -> TableKind:
        """Return the kind of the published tables that say which images there are."""
        return "all_images" if self.images == "all" else "images"

    @property
    def restricts(self) -> bool:
        """Return whether an image must meet more than its categories."""
        return bool(self.where is not None or self.caption is not None or self.triplet or self.verified_absent)

    @property
    def flags(self) -> dict[str, bool]:
        """Return the flag columns of the box table that restrict the boxes, and the wanted value of each."""
        wanted = {column: getattr(self, name) for name, column in FLAGS.items()}
        return {column: value for column, value in wanted.items() if value is not None}

    @property
    def bounds_area(self) -> bool:
        """Return whether boxes must be of some area."""
        return self.min_area is not None or self.max_area is not None

    @property
    def box_options(self) -> tuple[str, ...]:
        """Return the options in use, as typed, that choose among boxes and so are of no other kind."""
        names = (*FLAGS, "min_area", "max_area", "min_boxes", "max_boxes")
        return tuple(f"--{name.replace('_', '-')}" for name in names if getattr(self, name) is not None)

    @classmethod
    def of(cls, **query: Unpack[RunOptions]) -> Self:
        """Make Options from keywords as `RunOptions` types them.

        Raises UsageError for keywords of a stream alone, TypeError for an unknown one.
        """
        for name in query:
            if name in OF_STREAMS:
                raise UsageError(f"{name} is of oid_async.stream, which hands images out; leave it out here")
            if name not in RunOptions.__annotations__:
                raise unknown_keyword(name, RunOptions.__annotations__)
        given: dict[str, Any] = dict(query)
        for each in fields(cls):
            if each.name in FILTERS and isinstance(value := given.get(each.name), Iterable):
                given[each.name] = value if isinstance(value, str) else tuple(value)
                if not given[each.name]:
                    raise UsageError(f"{label_of(each)} names nothing, which is not everything; leave it out for all")
        return cls(**given)

    def allows(self, failed: int, selected: int) -> bool:
        """Return whether `failed` of `selected` images is within --max-failures; unknown ids count as both.

        >>> Options(max_failures="0.5%").allows(1, 200), Options(max_failures="0.5%").allows(1, 199)
        (True, False)
        """
        if isinstance(self.max_failures, int):
            return failed <= self.max_failures
        return failed * 100 <= Fraction(self.max_failures.rstrip("%")) * selected

    def as_json(self) -> dict[str, Any]:
        """Return the options as plain JSON values, for query.json; paths are absolute and without `..`."""
        return {
            option.name: _plain(getattr(self, option.name), is_path=option.metadata["reader"].is_path)
            for option in fields(self)
        }


def option_fields() -> tuple[Field[Any], ...]:
    """Return the fields of Options, in the order of the help page: by heading, then as in the table."""
    return tuple(sorted(fields(Options), key=lambda option: HEADINGS.index(option.metadata["heading"])))


def unknown_keyword(name: str, known: Iterable[str]) -> TypeError:
    """Return the error of a keyword that is none of those known, with what it is called here, or the nearest.

    A spelling of the command line is what its option is called in Python; others are compared by their letters.

    >>> unknown_keyword("type", ["match", "limit"]), unknown_keyword("imageURL", ["images", "image_url"])
    (TypeError("no option 'type'; did you mean 'match'?"), TypeError("no option 'imageURL'; did you mean 'image_url'?"))
    """
    import difflib

    spelled = name.lower().replace("_", "-")
    called = [each.name for each in fields(Options) if f"--{spelled}" in map(str.lower, each.metadata["flags"])]
    near = [each for each in called if each in known] or difflib.get_close_matches(name, known, n=1)
    return TypeError(f"no option {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))


def _plain(value: Any, *, is_path: bool) -> Any:
    if isinstance(value, tuple):
        return list(value)
    text = str(value) if isinstance(value, Path | Bucket) else value
    if not is_path or text is None or text == "-":
        return text
    # The query of a URL may hold a secret. Paths are normalised as 0.1.0 did, which hashed them.
    return os.path.normpath(text) if url_scheme(text) is None else redacted(text)
