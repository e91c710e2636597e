"""The query of a folder carried out again, by `verify --repair`.

query.json may come from anywhere, with a folder that somebody has sent. It says what to select and nothing else: no
folder to write to, no cache, no mirror, no private host and no local path that this call has not named. Lists that an
earlier run kept in SAVEPATH itself are taken, as plain files.
"""

import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from oid_async.dataset.query_file import read_query_file, unusable
from oid_async.errors import UsageError
from oid_async.events import Sink
from oid_async.http.address_guard import AddressGuard, endpoint, is_public, literal
from oid_async.http.retry import FetchError
from oid_async.http.urls import parse_url
from oid_async.jobs.demo import SITE, look_alike_run
from oid_async.jobs.download import Run
from oid_async.jobs.results import is_taken
from oid_async.options.query import KEPT_LISTS, Options
from oid_async.redaction import is_http, is_redacted, redacted
from oid_async.store.folder import Folder

_TABLES = ("label", "annotation", "image_url")


@dataclass(frozen=True, slots=True)
class Given:
    """The options of a call that repairs, and the names of those that it has given itself."""

    options: Options
    names: frozenset[str]

    @classmethod
    def of(cls, savepath: Path, values: Mapping[str, Any], *, repairs: bool) -> "Given | None":
        """Check the values (RepeatOptions) of a call; None for one that repairs nothing. Raises UsageError."""
        given = {name: value for name, value in values.items() if value not in (None, (), [], False)}
        if given and not repairs:
            flag = Options.__dataclass_fields__[min(given)].metadata["flags"][0]
            raise UsageError(f"{flag} says how to repair: it goes with --repair")
        options = Options(savepath=savepath, **given)
        return cls(options, frozenset(given)) if repairs else None


def repeated_run(folder: Folder, given: Given, sink: Sink, *, retry_failed: bool) -> Run:
    """Return the run of a folder's query. Blocking. Raises InputError for a query.json that cannot be repeated.

    Raises UsageError, naming the option, where query.json holds what this call must name itself.
    """
    content = read_query_file(folder.path)
    try:
        options = _options(content, folder, given, retry_failed=retry_failed)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise unusable(folder.path / "query.json", error) from error
    is_demo = content.get("site") == SITE and options.mirror is None
    run = look_alike_run(options, sink) if is_demo else Run(options, sink)
    run.repeats = content
    return run


def _options(content: Mapping[str, Any], folder: Folder, given: Given, *, retry_failed: bool) -> Options:
    stored, site = content["query"], content.get("site")
    if unknown := stored.keys() - {option.name for option in fields(Options)}:
        raise ValueError(f"no option {min(unknown)!r} in this version")
    values = {name: value for name, value in stored.items() if is_taken(name)}
    values |= {name: getattr(given.options, name) for name in (*given.names, "mirror", "cache_dir")}
    mirror = stored.get("mirror") or (site if site != SITE else None)
    if mirror and given.options.mirror is None:
        raise _must_be_named(folder, "mirror", mirror)
    if site is not None and site != SITE and given.options.mirror is None:
        raise _must_be_named(folder, "mirror", site)
    if values.get("source") is None and (site is None) != (given.options.mirror is None):
        # What the default would be now is not what it was.
        values["source"] = tuple(content["sources"])
    if hosts := set(stored.get("allow_hosts") or ()) - set(given.options.allow_hosts):
        raise _must_be_named(folder, "allow_hosts", min(hosts))
    for name in _unnamed(values, given, _TABLES):
        _check_table(folder, name, values[name])
    for name in _unnamed(values, given, tuple(KEPT_LISTS)):
        values[name] = str(_own_list(folder, name, values[name], stored.get("savepath")))
    for name, value in values.items():
        _check_type(name, value)
    try:
        return Options(**{**values, "savepath": folder.path, "retry_failed": retry_failed})
    except UsageError as error:
        raise ValueError(str(error)) from error


def _unnamed(values: Mapping[str, Any], given: Given, names: tuple[str, ...]) -> Iterator[str]:
    yield from (name for name in names if values.get(name) is not None and name not in given.names)


def _check_type(name: str, value: Any) -> None:
    """Refuse nested values: what an option takes is plain, or a list of plain values. Raises TypeError."""
    for each in value if isinstance(value, list | tuple) else (value,):
        if isinstance(each, list | dict):
            raise TypeError(f"{name} is no plain value")


def _check_table(folder: Folder, name: str, table: str) -> None:
    """Refuse a table of query.json that this call must name itself. Raises UsageError."""
    if is_redacted(table) or not is_http(table):
        raise _must_be_named(folder, name, table)
    with suppress(FetchError):  # a text that is no URL is refused when it is fetched
        url = parse_url(table)
        host, port = endpoint(url)
        if AddressGuard(()).refuse(url) is not None or not _is_public(host, port):
            raise _must_be_named(folder, name, table)


def _is_public(host: str, port: int) -> bool:
    """Return whether every address of a host is public; a name that is not known is not asked for either way."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return True
    addresses = [literal(str(info[4][0])) for info in found]
    return all(address is not None and is_public(address) for address in addresses)


def _own_list(folder: Folder, name: str, path: str, savepath: Any) -> Path:
    """Return a list that was kept in SAVEPATH; any other must be named. Raises UsageError."""
    own = folder.path / KEPT_LISTS[name]
    stored = Path(path)
    # A folder may have been moved since: its list has come with it.
    is_own = stored.name == own.name and str(stored.parent) in (str(folder.path), ".", str(savepath))
    if not is_own or own.is_symlink() or not own.is_file():
        raise _must_be_named(folder, name, path)
    return own


def _must_be_named(folder: Folder, name: str, value: Any) -> UsageError:
    flag = Options.__dataclass_fields__[name].metadata["flags"][0]
    text = redacted(str(value))
    return UsageError(
        f"{folder.path / 'query.json'}: it names {text}, which is taken from this call alone: repeat it with {flag}"
    )
