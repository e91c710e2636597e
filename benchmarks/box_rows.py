"""Select the images with a Football and a Person and write their box rows, as one process.

Usage:
    python benchmarks/box_rows.py LABEL ANNOTATION IMAGE_URL OUT.csv
    python benchmarks/box_rows.py --cache CACHE_DIR MIRROR OUT.csv

What a download does at its start and at its end, with no image in between: choose the images, copy their box rows, add
class name and address, sort them by ImageID.  The second form asks a filled cache.  The last word on stdout is the
number of images.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from oid_async.cli.polars_settings import set_up_polars
from oid_async.options.query import Options

QUESTION = {"categories": ["Football", "Person"], "match": "all"}


def main() -> None:
    *tables, out = sys.argv[1:]
    if tables[0] == "--cache":
        options = Options.of(**QUESTION, cache_dir=tables[1], mirror=tables[2], offline=True)  # type: ignore[arg-type]
    else:
        options = Options.of(**QUESTION, label=tables[0], annotation=tables[1], image_url=tables[2])  # type: ignore[arg-type]
    set_up_polars(options)
    print(asyncio.run(write_rows(options, Path(out))))


async def write_rows(options: Options, out: Path) -> int:
    import polars as pl

    from oid_async.events import ignore
    from oid_async.jobs.gathering.gather import gather_tables
    from oid_async.jobs.planning.selection import select_images
    from oid_async.jobs.site import open_site
    from oid_async.metadata.cache import MetadataCache
    from oid_async.metadata.paths import cache_root
    from oid_async.openimages.ids import KEY, ROW
    from oid_async.tables.reading import scan_keyed
    from oid_async.tables.rows import rows_of

    async with open_site(options.mirror, offline=True) as site:
        root = cache_root(options.cache_dir)
        async with MetadataCache(None, ignore, root=root, mirror=site.url, site=site.name) as cache:
            with tempfile.TemporaryDirectory() as scratch:
                inputs = await gather_tables(options, cache, ignore, Path(scratch))
            keys = select_images(inputs, False).selection.keys
            (source,), (images,) = inputs.saved, inputs.images
            labels = inputs.saved_labels(source, all_boxes=False)
            names = dict(source.class_names)
            urls = scan_keyed(images, inputs.ids, ["OriginalURL"], []).filter(pl.col(KEY).is_in(keys.implode()))
            rows = rows_of(source, source.tables[0], inputs.ids, keys, labels=labels)
            (
                rows.collect(engine="streaming")
                .sort(KEY, ROW)
                .join(urls.collect(engine="streaming"), on=KEY, how="left", maintain_order="left")
                .with_columns(Category=pl.col("LabelName").replace(names))
                .drop(KEY, ROW)
                .write_csv(out)
            )
    return len(keys)


if __name__ == "__main__":
    main()
