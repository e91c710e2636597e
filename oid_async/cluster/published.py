"""What is published before any image is asked for: the query, and the generations of its plan."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self

from oid_async.cluster.layout import part_name, plan_key, record_key
from oid_async.openimages.vocabulary import Source
from oid_async.options.readers import RespectOptOut

_FORM = 1


# What reading one of these files raises that is another one.
DAMAGED = (ValueError, LookupError, TypeError, AttributeError)


def _values(text: bytes) -> dict[str, Any]:
    """Return what a file says. Raises one of DAMAGED for another form, such as that of a later version."""
    values: dict[str, Any] = json.loads(text)
    if (form := values.pop("form")) != _FORM:
        raise ValueError(form)
    return values


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a generation: so many `images` of a split, with about so many bytes.

    `md5` is that of its file, hexadecimal.
    """

    generation: int
    split: str
    number: int
    images: int
    bytes: int
    md5: str

    @property
    def name(self) -> str:
        """Its name, such as train-000003."""
        return part_name(self.split, self.number)

    @property
    def plan_key(self) -> str:
        """The key of its file."""
        return plan_key(self.generation, self.name)

    @property
    def record_key(self) -> str:
        """The key of its record."""
        return record_key(self.generation, self.name)


@dataclass(frozen=True, slots=True)
class Generation:
    """One round of asking: its parts, in order of split and number.

    `capped`: a host with a rate cap is asked, so one task alone does all parts, one after the other. `job` names the
    cluster's job that published it, if it has one.
    """

    number: int
    parts: Sequence[Part]
    capped: bool = False
    job: str | None = None

    def to_json(self) -> bytes:
        """Return its file."""
        parts = [[part.split, part.number, part.images, part.bytes, part.md5] for part in self.parts]
        values = {"form": _FORM, "generation": self.number, "capped": self.capped, "job": self.job, "parts": parts}
        return json.dumps(values, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Read its file. Raises one of DAMAGED for one that is none."""
        values = _values(text)
        parts = [Part(values["generation"], *part) for part in values["parts"]]
        return cls(values["generation"], parts, values["capped"], values["job"])


Cause = Literal["query", "waiting", "passing", "failed"]


@dataclass(frozen=True, slots=True)
class Begun:
    """How a generation is made: put before its first part, so that all who make it make the same.

    `cause` says which images it has: those of the `query`; those that were `waiting` for it; those that have failed in
    a way that is `passing`, or in any (`failed`). `rate` is --rate, by which hosts are capped; `capped` is the
    generation's. `respect_opt_out` says which answers still end an image: those that do no more are passing ones.
    """

    cause: Cause
    rate: float | None
    capped: bool
    respect_opt_out: RespectOptOut = True

    def to_json(self) -> bytes:
        """Return its file."""
        return json.dumps({"form": _FORM, **asdict(self)}).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Read its file. Raises one of DAMAGED for one that is none."""
        return cls(**_values(text))


@dataclass(frozen=True, slots=True)
class PublishedQuery:
    """The query of a place: plan.json.

    `digest` is that of query.json and of the manifest, `samples` tells in addition how samples are made: both must be
    those of who works there. `query` is the content of query.json; `sources` are asked in this order. `kinds` has of
    each kind to save, in order: `labels` whose rows are saved (None: all), `class_names` of labels, the published
    `columns` of its rows. `hexadecimal`, `by_split` say how ImageIDs become keys; `max_side` is the longest side, in
    pixels, of the images in shards, None: they are as they were fetched.
    """

    digest: str
    format: str
    part_size: int
    sources: Sequence[Source]
    query: Mapping[str, Any]
    kinds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    hexadecimal: bool = True
    by_split: bool = False
    samples: str = ""
    max_side: int | None = None

    @property
    def ending(self) -> str:
        """The ending of shards: tar or parquet."""
        return "tar" if self.format == "webdataset" else "parquet"

    def to_json(self) -> bytes:
        """Return its file."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return json.dumps({"form": _FORM, **values}, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Read its file. Raises one of DAMAGED for one that is none."""
        return cls(**_values(text))
