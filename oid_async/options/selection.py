"""`Query`: what to select and which annotations to save, as a value of its own. Light to import."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self, Unpack, cast

from oid_async.errors import InputError, UsageError
from oid_async.options.keywords import QueryOptions, SelectOptions
from oid_async.options.paths import read_path
from oid_async.options.query import Options, unknown_keyword
from oid_async.options.query_table import FILTERS, KEPT_LISTS
from oid_async.options.signatures import document
from oid_async.redaction import redacted
from oid_async.version import __version__

SELECTING = frozenset(SelectOptions.__annotations__)
# Made of `all_boxes` when Options are.
_DERIVED = "only_matching"


@dataclass(frozen=True, init=False, repr=False)
class Query:
    """What to select and which annotations to save: a frozen value that `download`, `plan`, `stats`, `stream` take.

    Examples:
        >>> dogs = Query(categories=["Dog"], splits=["validation"], limit=100)
        >>> dogs
        Query(categories=('Dog',), limit=100, splits=('validation',))
        >>> dogs.replace(limit=10).limit, dogs == Query.from_json(dogs.to_json())
        (10, True)

    The keywords are those of `download` that say which images, which annotations and from which tables; how to fetch
    them, and where to, is said beside `query=`. Each is checked when the value is made: UsageError names the option.
    Every option is an attribute, read as it was understood: sequences as tuples, paths absolute. Two queries of
    the same options are equal, and have the same hash. `repr` shows what differs from the default.

    The query of a table's URL may hold a secret: `repr` and `to_json` write `?REDACTED` in its place, and no Query can
    be made of that without the URL; `==` and pickle have all of it.
    """

    _given: tuple[tuple[str, Any], ...]

    def __init__(self, **select: Unpack[SelectOptions]) -> None:
        _check_names(select)
        # As in the signature: None is no filter.
        given: Any = {name: value for name, value in select.items() if value is not None or name not in FILTERS}
        options, usual = Options.of(**given), Options()
        values = ((name, getattr(options, name)) for name in _names())
        differing = tuple((name, value) for name, value in values if value != getattr(usual, name))
        object.__setattr__(self, "_given", differing)

    def __getattr__(self, name: str) -> Any:
        if name not in SELECTING:
            raise AttributeError(f"Query has no option {name!r}")
        if name == _DERIVED:
            return not self.all_boxes
        return dict(self._given).get(name, Options.__dataclass_fields__[name].default)

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *SELECTING})

    def __repr__(self) -> str:
        return f"Query({', '.join(f'{name}={_public(name, value)!r}' for name, value in self._given)})"

    def replace(self, **changes: Unpack[SelectOptions]) -> Self:
        """Return this query with some options changed. Raises UsageError as the constructor does."""
        select: Any = {**self.keywords, **changes}
        return type(self)(**select)

    @property
    def keywords(self) -> SelectOptions:
        """The options that differ from their default, as keywords of `download`."""
        keywords: Any = dict(self._given)
        return cast("SelectOptions", keywords)

    def to_json(self) -> str:
        """Return the query as JSON text, in the form of a query.json: {"program": ..., "query": {option: value}}.

        Only what differs from the default is in it. `from_json` takes it.
        """
        query = {name: _public(name, value) for name, value in self._given}
        return json.dumps({"program": f"oid-async {__version__}", "query": query}, indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, source: str | os.PathLike[str] | Mapping[str, Any], **instead: Unpack[SelectOptions]) -> Self:
        """Return the query of a query.json: its path, the folder that it is in, its text, or its parsed object.

        Of a run's query.json, of 0.1.0's too, what says how to fetch and where to is left out: savepath, mirror,
        source, names, rates, exports. `instead` are options to take in place of those that are stored. A list that the
        run kept beside query.json is found there, also after the folder was moved; text and object know of no folder.

        The tables and lists that it names are taken as they stand, and read once the query is used. Of a file that is
        not your own look at `repr` first, and name them `instead`: they may be any file of this disk, or any address.
        `verify --repair` and `open` are stricter: they take no such place without its name in the call.

        Raises InputError for what is no query.json, UsageError, naming the option, for a value that cannot be used.
        Reads the file at once: blocking.
        """
        _check_names(instead)
        document, path = _document_of(source)
        where = str(path) if path is not None else "query.json"
        stored = document.get("query", document)
        if not isinstance(stored, Mapping) or not document:
            raise InputError(f'{where}: it is no query.json, which holds {{"query": {{...}}}}')
        if unknown := [name for name in stored if name not in QueryOptions.__annotations__]:
            raise InputError(f"{where}: this version knows no option {unknown[0]!r}")
        values = {name: value for name, value in stored.items() if name in SELECTING and not _is_usual(name, value)}
        if "all_boxes" in stored:
            values.pop(_DERIVED, None)
        if path is not None:
            values |= _lists_beside(path, stored)
        try:
            return cls(**{**values, **instead})
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(f"{where}: its query cannot be used ({error})") from error


document(Query, SelectOptions, None)


def options_of(query: Query | None, given: QueryOptions) -> Options:
    """Return the options of a call that may have a Query in place of the keywords that select. Raises UsageError."""
    if query is None:
        return Options.of(**given)
    if not isinstance(query, Query):
        raise UsageError(f"query takes an oid_async.Query, not {query!r:.80}")
    if twice := [name for name in given if name in SELECTING]:
        raise UsageError(
            f"{twice[0]} is a part of the query: give it in query= alone, as query.replace({twice[0]}=...) does"
        )
    both: Any = {**query.keywords, **given}
    return Options.of(**both)


def _names() -> Iterator[str]:
    """Yield the options of a Query in the order of the table."""
    return (each.name for each in fields(Options) if each.name in SELECTING and each.name != _DERIVED)


def _check_names(given: Mapping[str, Any]) -> None:
    """Raise TypeError for a keyword that is no option of a Query."""
    for name in given:
        if name in SELECTING:
            continue
        if name in QueryOptions.__annotations__:
            raise TypeError(f"Query() takes no {name!r}: it is no part of what is selected; give it beside query=")
        raise unknown_keyword(name, SELECTING)


def _public(name: str, value: Any) -> Any:
    """Return a value without the query of a table's URL."""
    is_path: bool = Options.__dataclass_fields__[name].metadata["reader"].is_path
    return redacted(value) if is_path and isinstance(value, str) else value


def _is_usual(name: str, value: Any) -> bool:
    """Return whether a value of a query.json is the default of its option."""
    default = Options.__dataclass_fields__[name].default
    return bool((tuple(value) if isinstance(value, list) else value) == default)


def _document_of(source: object) -> tuple[Mapping[str, Any], Path | None]:
    """Return a parsed query.json, and its path if it was read from a file."""
    if isinstance(source, Mapping):
        return source, None
    if isinstance(source, str) and source.lstrip("\ufeff \t\r\n").startswith("{"):
        return _parsed(source.lstrip("\ufeff"), "query.json"), None
    path = Path(read_path("query.json", source))
    try:
        path = path / "query.json" if path.is_dir() else path
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise InputError(f"{path}: cannot be read as a query.json ({reason})") from error
    return _parsed(text, str(path)), path


def _parsed(text: str, where: str) -> Mapping[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: it is no JSON ({error})") from error
    if not isinstance(document, dict):
        raise InputError(f"{where}: it is no JSON object")
    return document


def _lists_beside(path: Path, stored: Mapping[str, Any]) -> dict[str, str]:
    """Return the lists that a run kept beside its query.json, by their options."""
    lists = {}
    for name, kept in KEPT_LISTS.items():
        there = os.path.split(value) if isinstance(value := stored.get(name), str) else ("", "")
        if there[1] == kept and there[0] in ("", str(stored.get("savepath"))) and path.with_name(kept).is_file():
            lists[name] = str(path.with_name(kept))
    return lists
