"""What is taken of a query.json: what to select and save, and nothing else.

It may come from anywhere, with a folder that somebody has sent. So no folder to write to, no cache, no mirror, no
private host and no local path is taken of it that this call has not named. Lists that an earlier run kept in SAVEPATH
itself are taken, as plain files; a reader, which requests nothing, also takes the places that are known to be the
user's own (`jobs.own_places`).
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from oid_async.dataset.query_digest import TABLES
from oid_async.dataset.query_file import unusable
from oid_async.errors import UsageError
from oid_async.jobs.own_places import own_places
from oid_async.jobs.query_document import is_taken
from oid_async.options.keywords import PlaceOptions
from oid_async.options.places import Place
from oid_async.options.query import Options
from oid_async.options.query_table import KEPT_LISTS
from oid_async.redaction import is_http, is_redacted, redacted
from oid_async.store.disk import is_plain
from oid_async.store.folder import Folder, packed_in

_MOST_SHOWN = 300
_MOST_BYTES = 64 << 10
# What reading a value of the wrong type or size raises.
WRONG_VALUES = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True, slots=True)
class Given:
    """The options of a call that reads or repairs a folder, and the names of those that it has given itself."""

    options: Options
    names: frozenset[str]

    @classmethod
    def of(cls, savepath: Place, values: Mapping[str, Any], *, repairs: bool = False) -> "Given":
        """Check the values (VerifyOptions, or PlaceOptions of a call that repairs nothing). Raises UsageError."""
        given = {name: value for name, value in values.items() if _is_given(name, value)}
        if (of_repair := given.keys() - PlaceOptions.__annotations__.keys()) and not repairs:
            raise UsageError(f"{flag_of(min(of_repair))} says how to repair: it goes with --repair")
        options = Options(savepath=savepath, **given)
        for name in KEPT_LISTS if not repairs else ():
            if (value := getattr(options, name)) is not None and (value == "-" or not isinstance(value, str)):
                raise UsageError(f"{flag_of(name)} takes the file that the download had, nothing else")
        return cls(options, frozenset(given))

    @classmethod
    def to_repeat(cls, savepath: str | os.PathLike[str] | None, values: Mapping[str, Any]) -> "Given":
        """Check the values (FetchAgainOptions) and the savepath of a call that repeats a set. Raises UsageError."""
        if savepath is None:
            return cls.of(Options().savepath, values, repairs=True)
        given = cls.of(Options.of(savepath=savepath).folder_for("repeat"), values, repairs=True)
        return replace(given, names=given.names | {"savepath"})


def _is_given(name: str, value: Any) -> bool:
    """Return whether a keyword says anything: 0 is a number, and does, as does False where True is usual."""
    if value is False:
        field = Options.__dataclass_fields__.get(name)
        return field is not None and field.default is True
    return value is not None and value not in ((), [])


def read_options(content: Mapping[str, Any], folder: Folder, given: Given) -> Options:
    """Return the options of a query.json, to read what its run has saved; nothing is requested. Blocking.

    `cache_dir` is that of the call; `own_places` may know another. Raises InputError for a query.json that cannot be
    used, UsageError, naming the option, where it holds what this call must name itself.
    """
    try:
        values = taken_values(content, folder, given, own_places(folder))
        try:
            return Options(**{**values, "savepath": folder.path, "offline": True})
        except UsageError as error:
            raise ValueError(str(error)) from error
    except WRONG_VALUES as error:
        raise unusable(folder.path / "query.json", error) from error


def taken_values(content: Mapping[str, Any], folder: Folder, given: Given, own: Mapping[str, str]) -> dict[str, Any]:
    """Return what is taken of a query.json, by the options' names, with the options that the call has given.

    `own` are places that need not be named. Raises UsageError for what must be, WRONG_VALUES.
    """
    stored = content["query"]
    if unknown := stored.keys() - {option.name for option in fields(Options)}:
        raise ValueError(f"no option {min(unknown)!r} in this version")
    values = {name: value for name, value in stored.items() if is_taken(name)}
    values |= {name: getattr(given.options, name) for name in (*given.names, "mirror", "cache_dir")}
    for name, value in values.items():
        if name not in given.names:
            _check_type(name, value)
    missing: list[tuple[str, Any]] = []
    for name in unnamed(values, given, TABLES):
        table = values[name]
        if own.get(name) != table and (is_redacted(table) or not is_http(table)):
            missing.append((name, table))
    for name in unnamed(values, given, tuple(KEPT_LISTS)):
        if is_kept(folder, name, values[name], stored.get("savepath")) and is_plain(folder.path / KEPT_LISTS[name]):
            values[name] = str(folder.path / KEPT_LISTS[name])
        elif own.get(name) != values[name] or is_kept(folder, name, values[name], stored.get("savepath")):
            missing.append((name, values[name]))
    if missing:
        raise must_be_named(folder, *missing)
    return values


def unnamed(values: Mapping[str, Any], given: Given, names: tuple[str, ...]) -> Iterator[str]:
    """Yield those of the names that have a value which the call has not given."""
    yield from (name for name in names if values.get(name) is not None and name not in given.names)


class NotNamedError(UsageError):
    """What query.json names and this call has not, by option, in `missing`."""

    missing: tuple[tuple[str, Any], ...] = ()


def must_be_named(folder: Folder, *missing: tuple[str, Any]) -> NotNamedError:
    """Return the error for what query.json names and this call has not: options with their values there."""
    texts = [redacted(str(value)) for _, value in missing]
    texts = [text if text.isprintable() and len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]!a}" for text in texts]
    flags = [flag_of(name) for name, _ in missing]
    error = NotNamedError(
        f"{folder.path / 'query.json'}: it names {_listed(texts)}, which {'is' if len(missing) == 1 else 'are'} taken "
        f"from this call alone: repeat it with {_listed(flags)}"
    )
    error.missing = missing
    return error


def _listed(texts: list[str]) -> str:
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def flag_of(name: str) -> str:
    """Return an option as it is typed."""
    flag: str = Options.__dataclass_fields__[name].metadata["flags"][0]
    return flag


def shards_of(folder: Folder) -> Path | None:
    """Return where the shards of a folder without image files are, as far as its own user's runs say; else None."""
    own = own_places(folder).get("out")
    return Path(own) if own is not None and own == packed_in(folder) else None


def _check_type(name: str, value: Any) -> None:
    """Refuse nested values: what an option takes is plain, or a list of plain values. Raises TypeError.

    A text that is longer than any word, path or expression is no value either, nor one that is no Unicode.
    """
    for each in value if isinstance(value, list | tuple) else (value,):
        if isinstance(each, list | dict):
            raise TypeError(f"{name} is no plain value")
        if isinstance(each, str) and len(each.encode()) > _MOST_BYTES:
            raise TypeError(f"{name} has {len(each)} characters")


def is_kept(folder: Folder, name: str, path: str, savepath: Any) -> bool:
    """Return whether a list is the one that was kept in SAVEPATH. It may have been moved since, with its list."""
    stored = Path(path)
    return stored.name == KEPT_LISTS[name] and str(stored.parent) in (str(folder.path), ".", str(savepath))
