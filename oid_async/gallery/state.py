"""What the gallery shows: the filters and the order that an address holds, read from its query parameters."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, TypeVar, cast, get_args

from oid_async.errors import UsageError
from oid_async.openimages.kinds import NAMES, KindName
from oid_async.openimages.vocabulary import FLAGS, OTHER_SPLITS, SOURCES, SPLITS
from oid_async.redaction import printable

Value = TypeVar("Value")
Match = Literal["any", "all"]
Status = Literal["ok", "failed", "pending"]
Sort = Literal["image_id", "boxes", "area", "bytes", "file_name", "status"]
Order = Literal["asc", "desc"]
Role = Literal["selected", "negative"]

# Longer ones no class, caption or reason has; and an address of 8,000 characters is refused by many programs.
_MOST_CHARACTERS = 1000
_MOST_VALUES = 50
_YES_NO: Final = MappingProxyType({"yes": 1, "no": 0})


@dataclass(frozen=True, slots=True)
class State:
    """Which images are shown, and in which order. Equal states show the same; a state without filters shows all.

    Values of one filter are alternatives (`split=train&split=test`), different filters hold together. What is said of
    a box (`flags`, areas) holds for one and the same box, that has one of the `classes` if there are any.

    classes     display names or MIDs; `match`: whether an image has any or all of them
    without     classes that an image must not have, in rows of any kind
    kind        where classes are looked for; alone: images that have rows of this kind; None: any kind
    flags       (column, 1 or 0)
    caption     text that a caption holds, any case
    min_area, max_area      percent of the image, both included
    """

    classes: tuple[str, ...] = ()
    match: Match = "any"
    without: tuple[str, ...] = ()
    kind: KindName | None = None
    flags: tuple[tuple[str, int], ...] = ()
    splits: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    statuses: tuple[Status, ...] = ()
    reasons: tuple[str, ...] = ()
    roles: tuple[Role, ...] = ()
    caption: str = ""
    min_area: float | None = None
    max_area: float | None = None
    sort: Sort = "image_id"
    order: Order = "asc"

    @classmethod
    def read(cls, parameters: Iterable[tuple[str, str]]) -> "State":
        """Return the state of query parameters, decoded (name, value) pairs. Raises UsageError for an unusable value.

        Empty values count as absent; parameters of other names are the page's own, and left alone.

        >>> State.read([("class", "Dog"), ("flag", "IsOccluded:yes"), ("theme", "dark")])
        State(classes=('Dog',), flags=(('IsOccluded', 1),))
        """
        given: dict[str, list[str]] = {}
        for name, value in parameters:
            if value.strip():
                given.setdefault(name, []).append(_checked(name, value.strip()))
        for name, values in given.items():
            if len(values) > _MOST_VALUES:
                raise UsageError(f"{name} is given {len(values)} times; {_MOST_VALUES} are the most")
        state = cls(
            classes=_distinct(given.get("class", ())),
            match=cast("Match", _one_of(given, "match", get_args(Match), "any")),
            without=_distinct(given.get("without", ())),
            kind=cast("KindName | None", _one_of(given, "kind", NAMES, "") or None),
            flags=_distinct(map(_flag, given.get("flag", ()))),
            splits=_each_of(given, "split", SPLITS, OTHER_SPLITS),
            sources=_each_of(given, "source", SOURCES),
            statuses=cast("tuple[Status, ...]", _each_of(given, "status", get_args(Status))),
            reasons=_distinct(given.get("reason", ())),
            roles=cast("tuple[Role, ...]", _each_of(given, "role", get_args(Role))),
            caption=_last(given, "caption"),
            min_area=_percent(given, "min_area"),
            max_area=_percent(given, "max_area"),
            sort=cast("Sort", _one_of(given, "sort", get_args(Sort), "image_id")),
            order=cast("Order", _one_of(given, "order", get_args(Order), "asc")),
        )
        if state.min_area is not None and state.max_area is not None and state.min_area > state.max_area:
            raise UsageError(f"min_area={state.min_area:g} is more than max_area={state.max_area:g}")
        return state

    def __repr__(self) -> str:
        given = {name: getattr(self, name) for name in self.__dataclass_fields__}
        usual = {name: each.default for name, each in self.__dataclass_fields__.items()}
        said = (f"{name}={value!r}" for name, value in given.items() if value != usual[name])
        return f"State({', '.join(said)})"


def read_number(given: Iterable[tuple[str, str]], name: str, default: int, most: int) -> int:
    """Return a whole number of 0 to `most` among parameters, such as offset and limit. Raises UsageError."""
    text = next((value for key, value in given if key == name and value.strip()), None)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,12}", text, re.ASCII):
        raise UsageError(f"{name} takes a whole number, not {_shown(text)}")
    return min(int(text), most)


def _checked(name: str, value: str) -> str:
    if len(value) > _MOST_CHARACTERS:
        raise UsageError(f"{name[:40]} has {len(value)} characters; {_MOST_CHARACTERS} are the most")
    return value


def _distinct(values: Iterable[Value]) -> tuple[Value, ...]:
    return tuple(dict.fromkeys(values))


def _last(given: Mapping[str, list[str]], name: str) -> str:
    """Return the value of a parameter that makes sense once; the last one wins, as in any form."""
    return given[name][-1] if name in given else ""


def _one_of(given: Mapping[str, list[str]], name: str, words: Iterable[str], default: str) -> str:
    word = _last(given, name).lower() or default
    if word != default and word not in words:
        raise UsageError(f"{name} takes {_listed(words)}, not {_shown(word)}")
    return word


def _each_of(
    given: Mapping[str, list[str]], name: str, words: Iterable[str], others: Mapping[str, str] = MappingProxyType({})
) -> tuple[str, ...]:
    found = [others.get(value.lower(), value.lower()) for value in given.get(name, ())]
    for word in found:
        if word not in words:
            raise UsageError(f"{name} takes {_listed(words)}, not {_shown(word)}")
    return _distinct(found)


def _flag(value: str) -> tuple[str, int]:
    column, _, answer = value.partition(":")
    if column not in FLAGS.values() or answer not in _YES_NO:
        raise UsageError(f"flag takes {_listed(FLAGS.values())}, then :yes or :no, not {_shown(value)}")
    return column, _YES_NO[answer]


def _percent(given: Mapping[str, list[str]], name: str) -> float | None:
    text = _last(given, name).removesuffix("%").strip()
    if not text:
        return None
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 100:
        raise UsageError(f"{name} takes a percentage of the image, 0 to 100, not {_shown(text)}")
    return share


def _listed(words: Iterable[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} or {last}"


def _shown(text: str) -> str:
    return f"'{printable(text[:60])}'"
