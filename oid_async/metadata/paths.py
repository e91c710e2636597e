"""The paths in the cache folder and of mirrors. Light to import: the command line needs it before anything else.

    CACHE/<site>/<bucket>/<key>.table/      one published object (see `metadata.entry`)
    CACHE/<site>/<bucket>/<key>.directory/  the members of an archive of masks (see `masks.archive`)
    CACHE/given/<digest>.table/             a table that the user gave by URL
    CACHE/earlier_runs.json                 how fast the user's own runs were (see `jobs.planning.earlier_runs`)
    CACHE/whole/<digest>                    empty: a large table of the user's was found to have no damaged row

<site> is `published`, or a name made from the mirror's address.
"""

import hashlib
import os
import stat
from pathlib import Path

from oid_async.errors import UsageError
from oid_async.openimages.catalogue_tables import PublishedTable
from oid_async.options.paths import file_url_path
from oid_async.redaction import is_http, redacted
from oid_async.system.users import is_for_others, is_mine, user_mark

SUFFIX = ".table"
WHOLE = "whole"
_CHOOSE = "choose another with --cache-dir or OID_ASYNC_CACHE"


def cache_root(cache_dir: Path | None) -> Path:
    """Return the cache folder: the given one, else the user's. Raises UsageError where neither can be."""
    return cache_dir or default_cache()[0]


def default_cache() -> tuple[Path, str | None]:
    """Return the user's cache folder, or one below the temporary folder and why. Raises UsageError.

    In a container a user may have no home, or one that others own. What is below the temporary folder anybody may have
    made before us, to have their tables taken for the published ones: it must be the user's own.
    """
    from platformdirs import user_cache_path

    try:
        usual = user_cache_path("oid-async")
    except RuntimeError:
        reason = "there is no home folder"
    else:
        if _can_be_used(usual):
            return usual, None
        reason = f"{usual} cannot be made or read"
    import tempfile

    try:
        folder = Path(tempfile.gettempdir(), f"oid-async-cache-{user_mark()}")
        folder.mkdir(mode=0o700, exist_ok=True)
        state = folder.lstat()
        is_own = stat.S_ISDIR(state.st_mode) and is_mine(state) is not False and not is_for_others(state)
    except OSError:
        is_own = False
    if not is_own:
        raise UsageError(f"{reason}, and no folder of your own below the temporary one: {_CHOOSE}")
    return folder, f"{reason}: tables are kept in {folder}; {_CHOOSE}"


def _can_be_used(folder: Path) -> bool:
    """Return whether a folder is there and readable, or can be made."""
    if os.path.exists(folder):
        return os.access(folder, os.R_OK | os.X_OK)
    parent = next(above for above in folder.parents if os.path.exists(above))
    return os.access(parent, os.W_OK | os.X_OK)


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
    if mirror is None or is_http(mirror):
        return None
    return (file_url_path(mirror) or Path(mirror)).absolute()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
