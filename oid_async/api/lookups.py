"""`await classes(...)`, `resolve(...)`, `metadata_list(...)`, `metadata_pull(...)`: what there is, what is cached."""

import os
from collections.abc import Sequence
from typing import Unpack

from oid_async.errors import UsageError
from oid_async.events import Sink
from oid_async.jobs.listed import ClassList, TableList
from oid_async.jobs.listings import Listings
from oid_async.jobs.resolve import Resolution, Resolve
from oid_async.options.keywords import ClassesOptions, MetadataOptions, ResolveOptions
from oid_async.options.query import Options
from oid_async.options.signatures import check_keywords, check_switch, document
from oid_async.screen.progress import shown


async def classes(
    pattern: str | None = None,
    *,
    tree: bool = False,
    on_event: Sink | None = None,
    progress: bool = False,
    **options: Unpack[ClassesOptions],
) -> ClassList:
    """Return the classes whose name holds `pattern`, or all: names, MIDs, and what each has in the cached box tables.

    `rows` are in order of name; each has `images` and `boxes` per split. With `tree` every class below them in the
    hierarchy is among them, and `hierarchy` says how they hang together. The table of names and the hierarchy are
    fetched if they are not cached. Raises a subclass of `oid_async.errors.OidError`.

    `on_event` and `progress` are as in `download`.
    """
    if not isinstance(pattern, str | None):
        raise UsageError(f"pattern takes a text, not {pattern!r}")
    check_switch("tree", tree)
    check_keywords("classes", options, ClassesOptions)
    with shown(on_event, progress=progress) as sink:
        return await Listings(Options.of(**options), sink).classes(pattern, tree=tree)


async def resolve(
    given: str | os.PathLike[str] | Sequence[str],
    *,
    on_event: Sink | None = None,
    progress: bool = False,
    **options: Unpack[ResolveOptions],
) -> Resolution:
    """Say which images Flickr addresses, file names and ids mean, by the image tables in the cache; requests nothing.

    `given` is a file, `-` for stdin, a sequence of lines, or one http(s) address: pages and pictures of Flickr in any
    size, its short links and photo ids, names of saved files, ImageID, split/ImageID, paths and URLs that end in them;
    as lines, a JSON list, or a CSV with a column of one of them. `images` has all images that a line means, in order of
    the lines; `unknown` the lines that mean none; both is data. `max_failures` has no effect in Python.

    Raises UnavailableError where no image table is cached, InputError for what is no list, UsageError.

    `on_event` and `progress` are as in `download`.
    """
    check_keywords("resolve", options, ResolveOptions)
    with shown(on_event, progress=progress) as sink:
        return await Resolve(given, Options.of(**options), sink).run()


async def metadata_list(
    *,
    sizes: bool = False,
    on_event: Sink | None = None,
    progress: bool = False,
    **options: Unpack[MetadataOptions],
) -> TableList:
    """Return the published tables of a release: size, whether each is cached, its age. Nothing is requested.

    With `sizes` the server is asked for the sizes of all. Without `splits` those of every split are listed. Raises a
    subclass of `oid_async.errors.OidError`.

    `on_event` and `progress` are as in `download`.
    """
    with shown(on_event, progress=progress) as sink:
        listings = _listings("metadata_list", sizes, sink, options)
        return listings.listed(await listings.tables(ask=sizes))


async def metadata_pull(
    *,
    sizes: bool = False,
    on_event: Sink | None = None,
    progress: bool = False,
    **options: Unpack[MetadataOptions],
) -> TableList:
    """Fetch the tables that a download of these splits and kinds reads into the cache, and return them.

    With `sizes` the bucket's list of image sizes in their place. What is cached is checked, and fetched again if it is
    damaged or has changed. When cancelled, what has come stays, and the next
    call goes on from there. Raises a subclass of `oid_async.errors.OidError`.

    `on_event` and `progress` are as in `download`.
    """
    with shown(on_event, progress=progress) as sink:
        listings = _listings("metadata_pull", sizes, sink, options)
        return listings.listed(await (listings.pull_sizes() if sizes else listings.pull()))


def _listings(function: str, sizes: bool, sink: Sink, options: MetadataOptions) -> Listings:
    check_switch("sizes", sizes)
    check_keywords(function, options, MetadataOptions)
    return Listings(Options.of(**options), sink)


document(classes, ClassesOptions, ClassList)
document(resolve, ResolveOptions, Resolution)
document(metadata_list, MetadataOptions, TableList)
document(metadata_pull, MetadataOptions, TableList)
