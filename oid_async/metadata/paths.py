"""The paths in the cache folder and of mirrors. Light to import: the command line needs it before anything else.

    CACHE/<site>/<bucket>/<key>.table/      one published object (see `metadata.entry`)
    CACHE/<site>/<bucket>/<key>.directory/  the members of an archive of masks (see `masks.archive`)
    CACHE/given/<digest>.table/             a table that the user gave by URL
    CACHE/whole/<digest>                    empty: a large table of the user's was found to have no damaged row

<site> is `published`, or a name made from the mirror's address.
"""

import hashlib
from pathlib import Path

from platformdirs import user_cache_path

from oid_async.openimages.catalogue_tables import PublishedTable
from oid_async.options.paths import file_url_path
from oid_async.redaction import redacted

SUFFIX = ".table"
WHOLE = "whole"


def cache_root(cache_dir: Path | None) -> Path:
    """Return the cache folder: the given one, else the user's."""
    return cache_dir or user_cache_path("oid-async")


def published_folder(root: Path, site: str | None, table: PublishedTable) -> Path:
    """Return the folder of a published table; `site` is the lasting name of a mirror, None for the public buckets."""
    return site_folder(root, site) / table.bucket / f"{table.key}{SUFFIX}"


def site_folder(root: Path, site: str | None) -> Path:
    """Return the folder of all objects of a site."""
    return root / ("published" if site is None else f"mirror-{_digest(site)}")


def given_folder(root: Path, url: str) -> Path:
    """Return the folder of a table that the user gave by URL."""
    return root / "given" / f"{_digest(url)}{SUFFIX}"


def recorded_url(url: str) -> str:
    """Return what is printed and stored of the URL of a table that the user gave; its folder tells queries apart."""
    return redacted(url)


def mirror_folder(mirror: str | None) -> Path | None:
    """Return the folder that a mirror is, None for an address or no mirror."""
    if mirror is None or mirror.lower().startswith(("http://", "https://")):
        return None
    return (file_url_path(mirror) or Path(mirror)).absolute()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
