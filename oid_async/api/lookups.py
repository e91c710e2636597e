"""`await classes(...)`, `await metadata_list(...)`, `await metadata_pull(...)`: what there is, and what is cached."""

from typing import Any, Unpack

from oid_async.errors import UsageError
from oid_async.events import Sink, ignore
from oid_async.jobs.listings import ClassList, Listings, TableList
from oid_async.options.query import ClassesOptions, MetadataOptions, Options
from oid_async.options.signatures import check_keywords, documented, signature


async def classes(
    pattern: str | None = None,
    *,
    tree: bool = False,
    on_event: Sink | None = None,
    **options: Unpack[ClassesOptions],
) -> ClassList:
    """Return the classes whose name holds `pattern`, or all: names, MIDs, and what each has in the cached box tables.

    `rows` are in order of name; each has `images` and `boxes` per split. With `tree` every class below them in the
    hierarchy is among them, and `hierarchy` says how they hang together. The table of names and the hierarchy are
    fetched if they are not cached. Raises a subclass of `oid_async.errors.OidError`.
    """
    if not isinstance(pattern, str | None):
        raise UsageError(f"pattern takes a text, not {pattern!r}")
    _check_switch("tree", tree)
    check_keywords("classes", options, ClassesOptions)
    return await Listings(Options.of(**options), on_event or ignore).classes(pattern, tree=tree)


async def metadata_list(
    *, sizes: bool = False, on_event: Sink | None = None, **options: Unpack[MetadataOptions]
) -> TableList:
    """Return the published tables of a release: size, whether each is cached, its age. Nothing is requested.

    With `sizes` the server is asked for the sizes of all. Without `splits` those of every split are listed. Raises a
    subclass of `oid_async.errors.OidError`.
    """
    listings = _listings("metadata_list", sizes, on_event, options)
    return TableList(listings.root, tuple(await listings.tables(ask=sizes)))


async def metadata_pull(
    *, sizes: bool = False, on_event: Sink | None = None, **options: Unpack[MetadataOptions]
) -> TableList:
    """Fetch the tables that a download of these splits and kinds reads into the cache, and return them.

    With `sizes` the bucket's list of image sizes in their place. What is cached is checked, and fetched again if it is
    damaged or has changed. When cancelled, what has come stays, and the next call goes on from there. Raises a subclass
    of `oid_async.errors.OidError`.
    """
    listings = _listings("metadata_pull", sizes, on_event, options)
    return TableList(listings.root, tuple(await (listings.pull_sizes() if sizes else listings.pull())))


def _listings(function: str, sizes: bool, on_event: Sink | None, options: MetadataOptions) -> Listings:
    _check_switch("sizes", sizes)
    check_keywords(function, options, MetadataOptions)
    return Listings(Options.of(**options), on_event or ignore)


def _check_switch(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise UsageError(f"{name} is True or False, not {value!r}")


def _document(function: Any, options: type, returns: Any) -> None:
    """Add the signature and the meaning of each keyword to a public function from the option table."""
    function.__signature__ = signature(function, options.__annotations__, returns)
    function.__doc__ = documented(function.__doc__, options.__annotations__)


_document(classes, ClassesOptions, ClassList)
_document(metadata_list, MetadataOptions, TableList)
_document(metadata_pull, MetadataOptions, TableList)
