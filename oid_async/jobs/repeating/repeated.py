"""The query of a folder carried out again, by `verify --repair`; `jobs.stored_query` says what is taken of it."""

import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from oid_async.dataset.query_digest import TABLES
from oid_async.dataset.query_file import read_query_file, unusable
from oid_async.errors import UsageError
from oid_async.events import Sink
from oid_async.http.address_guard import AddressGuard, endpoint, is_public, literal
from oid_async.http.retry import FetchError
from oid_async.http.urls import parse_url
from oid_async.jobs.demo import SITE, look_alike_run
from oid_async.jobs.download import Run
from oid_async.jobs.stored_query import WRONG_VALUES, Given, NotNamedError, must_be_named, taken_values, unnamed
from oid_async.options.query import Options
from oid_async.store.folder import Folder


def repeated_run(
    folder: Folder,
    given: Given,
    sink: Sink,
    *,
    retry_failed: bool,
    savepath: Path | None = None,
    content: Mapping[str, Any] | None = None,
    own_loop: bool = False,
) -> Run:
    """Return the run of a folder's query. Blocking. Raises InputError for a query.json that cannot be repeated.

    It fills `savepath`, by default the folder itself; `content` is that of its query.json, if it was read already.
    Raises UsageError, naming the option, where query.json holds what this call must name itself.
    """
    content = read_query_file(folder.path) if content is None else content
    try:
        options = _options(content, folder, given, retry_failed=retry_failed)
    except WRONG_VALUES as error:
        raise unusable(folder.path / "query.json", error) from error
    if savepath is not None:
        options = replace(options, savepath=savepath)
    is_demo = content.get("site") == SITE and options.mirror is None
    run = look_alike_run(options, sink) if is_demo else Run(options, sink, own_loop=own_loop)
    if options.savepath == folder.path:
        run.repeats = content
    return run


def _options(content: Mapping[str, Any], folder: Folder, given: Given, *, retry_failed: bool) -> Options:
    stored, site = content.get("query"), content.get("site")
    if not isinstance(stored, Mapping):
        raise ValueError("it holds no query")
    mirror = stored.get("mirror") or (site if site != SITE else None)
    missing: list[tuple[str, Any]] = []
    if (mirror or (site is not None and site != SITE)) and given.options.mirror is None:
        missing.append(("mirror", mirror or site))
    if hosts := set(stored.get("allow_hosts") or ()) - set(given.options.allow_hosts):
        missing.append(("allow_hosts", min(hosts)))
    try:
        values = taken_values(content, folder, given, {})
    except NotNamedError as error:
        raise must_be_named(folder, *missing, *error.missing) from error
    missing += ((name, values[name]) for name in unnamed(values, given, TABLES) if not _is_public_table(values[name]))
    if missing:
        raise must_be_named(folder, *missing)
    if values.get("source") is None and (site is None) != (given.options.mirror is None) and "sources" in content:
        # What the default would be now is not what it was. A Query written as JSON has asked no source yet.
        values["source"] = tuple(content["sources"])
    try:
        return Options(**{**values, "savepath": folder.path, "retry_failed": retry_failed})
    except UsageError as error:
        raise ValueError(str(error)) from error


def _is_public_table(table: str) -> bool:
    """Return whether a table of query.json is on a host that this call need not name itself."""
    with suppress(FetchError):  # a text that is no URL is refused when it is fetched
        url = parse_url(table)
        return AddressGuard(()).refuse(url) is None and _is_public(*endpoint(url))
    return True


def _is_public(host: str, port: int) -> bool:
    """Return whether every address of a host is public; a name that is not known is not asked for either way."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return True
    addresses = [literal(str(info[4][0])) for info in found]
    return all(address is not None and is_public(address) for address in addresses)
