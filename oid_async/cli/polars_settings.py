"""Settings of Polars, put into the environment before it is imported. A user's own settings win.

Polars reads CSV in chunks of many MiB per core, keeps several in flight and keeps what it has freed. With small chunks,
and freed memory given back at once, 50,000 images peak 2 MiB above 5,000 (before: 80 MiB above, measured), but a CSV of
gigabytes takes twice as long. So it is done for small tables only; large ones take 0.3 GB anyway.

Only the command line does it, because the process is its own.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

from oid_async.metadata.paths import cache_root, mirror_folder, published_folder
from oid_async.openimages.catalogue import published
from oid_async.openimages.kinds import KINDS
from oid_async.options.paths import file_url_path
from oid_async.options.query import Options

_LARGE_BYTES = 256 << 20
_PROCESSORS = os.cpu_count() or 4
_SMALL = {
    "POLARS_CSV_CHUNK_SIZE": str(128 << 10),
    "POLARS_CSV_CHUNK_PREFETCH_LIMIT": "1",
    "POLARS_NUM_READERS_PRE_INIT": "1",
    "_RJEM_MALLOC_CONF": f"dirty_decay_ms:0,muzzy_decay_ms:0,narenas:{_PROCESSORS}",
}
_LARGE = {
    "POLARS_CSV_CHUNK_SIZE": str(1 << 20),
    "POLARS_CSV_CHUNK_PREFETCH_LIMIT": "2",
    "POLARS_NUM_READERS_PRE_INIT": "1",
    "_RJEM_MALLOC_CONF": f"dirty_decay_ms:3000,muzzy_decay_ms:0,narenas:{_PROCESSORS}",
}


def set_up_polars(options: Options | None, savepath: Path | None = None) -> None:
    """Put the settings for tables into the environment, before Polars is imported.

    They are those of a run, those saved in a folder, or small ones for neither.
    """
    sizes = chain(
        () if options is None else _known_sizes(options),
        () if savepath is None else (_size(savepath / kind.file) for kind in KINDS.values()),
    )
    large = any(size > _LARGE_BYTES for size in sizes)
    for name, value in (_LARGE if large else _SMALL).items():
        os.environ.setdefault(name, value)


def _known_sizes(options: Options) -> Iterator[int]:
    """Yield the sizes of the tables that are known without a request."""
    for given in (options.annotation, options.image_url):
        if given is not None:
            yield _size(file_url_path(given) or Path(given))
    root, folder = cache_root(options.cache_dir), mirror_folder(options.mirror)
    site = folder.as_uri() if folder is not None else options.mirror and options.mirror.rstrip("/")
    for kind, given in (("boxes", options.annotation), (options.image_tables, options.image_url)):
        if given is not None:
            continue
        for table in published(kind, options.splits or ("train",), options.release):  # type: ignore[arg-type]
            yield sum(map(_size, published_folder(root, site, table).glob("*/part-*.parquet")))
            if folder is not None:
                yield _size(folder / table.bucket / table.key)
            elif options.mirror is None:
                yield table.bytes or 0


def _size(path: Path) -> int:
    with suppress(OSError, ValueError):
        return path.stat().st_size
    return 0
