"""`oid-async resolve`: which images Flickr addresses, file names and ids mean, by the image tables in the cache.

Nothing is requested. A table is read as often as there are ways to name an image by one of its columns, cheapest first,
and only for what is not known yet; what meets the list is joined in Polars, and never more than that is in memory.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import polars as pl

from oid_async.concurrency import in_thread, until_stopped
from oid_async.errors import InputError, UnavailableError
from oid_async.events import Note, Sink
from oid_async.jobs.context import open_cache
from oid_async.jobs.gathering.given_lists import given_lists
from oid_async.metadata.cache import MetadataCache
from oid_async.openimages.catalogue import published
from oid_async.openimages.catalogue_tables import PublishedTable, TableKind
from oid_async.openimages.flickr import photo_of_page, photo_of_picture
from oid_async.openimages.ids import KEY, hexadecimal
from oid_async.openimages.vocabulary import SPLITS, Split
from oid_async.options.query import Options
from oid_async.options.readers import read_list
from oid_async.redaction import is_http
from oid_async.select.references import address_of, name_of, read_references
from oid_async.tables.damage import StoppedError
from oid_async.tables.reading import TableFile, columns_of, reading
from oid_async.tables.text_lists import what_it_seems

_ROW_COLUMNS = ("Subset", "Author", "License", "Title", "AuthorProfileURL", "OriginalLandingURL", "OriginalURL")
_TABLES: tuple[TableKind, ...] = ("images", "all_images")
_URLS = ("OriginalURL", "OriginalLandingURL", "Thumbnail300KURL")
# How a reference meets a row: the reference's column, the row's, and what of that must be equal to it. The later ways
# are for what the first ones do not find.
_Way = tuple[str, str, Callable[[pl.Expr], pl.Expr]]
_FIRST_WAYS: tuple[_Way, ...] = ((KEY, KEY, lambda key: key), ("photo", "OriginalURL", photo_of_picture))
_LATER_WAYS: tuple[_Way, ...] = (
    ("photo", "OriginalLandingURL", photo_of_page),
    ("photo", "Thumbnail300KURL", photo_of_picture),
    *(("address", column, address_of) for column in _URLS),
    ("name", "OriginalURL", name_of),
)


@dataclass(frozen=True, slots=True)
class ResolvedImage:
    """An image that a line means: `given` is the line, the rest is of its row; None where that is empty."""

    given: str
    split: Split
    image_id: str
    author: str | None
    license: str | None
    title: str | None
    author_profile_url: str | None
    landing_url: str | None
    original_url: str | None

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Resolution:
    """What was found: `images` in order of the lines, several of a line that means several; `unknown` lines as given.

    `lines` is how many there were, blank ones and comments not counted; `not_cached` are the splits whose image table
    was not there to be looked in.
    """

    images: tuple[ResolvedImage, ...]
    unknown: tuple[str, ...]
    not_cached: tuple[Split, ...]
    lines: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return plain values: {"images": [...], "unknown": [...], "not_cached": [...], "lines": ...}."""
        images = [image.as_json() for image in self.images]
        more = {"not_cached": list(self.not_cached), "lines": self.lines}
        return {"images": images, "unknown": list(self.unknown), **more}


class Resolve:
    """Resolves one list: a file, `-`, a pipe, a sequence of lines, or one http(s) address."""

    def __init__(self, given: str | os.PathLike[str] | Sequence[str], options: Options, sink: Sink) -> None:
        self._lines = _lines(given)
        self._options = options
        self._sink = sink

    async def run(self) -> Resolution:
        """Return what the lines mean. Raises UnavailableError if no image table is cached, InputError, UsageError."""
        options = Options(
            image_ids=self._lines or None,
            release=self._options.release,
            mirror=self._options.mirror,
            cache_dir=self._options.cache_dir,
            offline=True,
        )
        async with open_cache(options, self._sink) as (_, cache, _):
            tables, not_cached = await self._tables(cache, options)
            async with given_lists(options) as lists:
                found = Resolution((), (), not_cached)
                if (table := await in_thread(lists.file, "image_ids")) is not None:
                    found = replace(await until_stopped(_resolve, table, tables), not_cached=not_cached)
        return found

    async def _tables(self, cache: MetadataCache, options: Options) -> tuple[list[TableFile], tuple[Split, ...]]:
        """Return the image tables that are cached, pinned, and the splits that none of them has.

        The table of all images, which has those of every split, comes last: what the others say is there already.
        """
        here = [table for kind in _TABLES for table in published(kind, SPLITS, options.release)]
        files = {table: file for table in here if (file := await self._cached(cache, table)) is not None}
        tables = [replace(file, split=table.split) for table, file in files.items()]
        splits = {table.split for table in files}
        missing = [split for split in SPLITS if not {split, None} & splits]
        if not tables:
            raise UnavailableError(
                f"no image table is in the cache ({cache.cache.root}), and resolve requests nothing: "
                "oid-async metadata pull --kind none --split all fetches them"
            )
        return tables, tuple(missing)

    async def _cached(self, cache: MetadataCache, table: PublishedTable) -> TableFile | None:
        if await in_thread(cache.cache.entry(table).current_version) is None:
            return None
        try:
            file, _ = await cache.published(table)
        except UnavailableError as error:
            self._sink(Note(str(error)))
            return None
        return file


def _lines(given: str | os.PathLike[str] | Sequence[str]) -> str | tuple[str, ...]:
    """Return a path, `-`, or the lines themselves. Raises UsageError."""
    if isinstance(given, str):
        return (given,) if is_http(given.strip()) else read_list("FILE", given) or ()
    if isinstance(given, list | tuple) and all(isinstance(line, str) and not line.strip() for line in given):
        return ()
    return read_list("lines", given) or ()


def _resolve(given: TableFile, tables: Sequence[TableFile], stopped: Callable[[], bool]) -> Resolution:
    """Return what a list means, without `not_cached`. Blocking; looks at `stopped` before each look into a table."""
    references = read_references(given).with_row_index("at")
    named = pl.any_horizontal(pl.col(KEY, "photo", "address", "name").is_not_null())
    if len(references) and not references.select(named.any()).item() and (seems := what_it_seems(given)):
        raise InputError(f"{given.name}: it is {seems}; no line of it names a photo, a file or an image")
    found = pl.DataFrame(schema={"at": pl.UInt32, KEY: pl.UInt64, "table": pl.UInt8})
    for ways in (_FIRST_WAYS, _LATER_WAYS):
        rest = references.join(found, on="at", how="anti")
        for number, table in enumerate(tables):
            for way in ways:
                if stopped():
                    raise StoppedError
                found.extend(_meet(rest, table, way).with_columns(table=pl.lit(number, pl.UInt8)))
    rows = [_rows(table, found.filter(table=number)) for number, table in enumerate(tables)]
    of_split = pl.col("split").is_null() | (pl.col("split") == pl.col("place"))
    images = references.select("at", "text", "split").join(pl.concat(rows), on="at").filter(of_split)
    images = images.unique(("at", KEY, "place"), keep="first")
    images = images.sort("at", KEY, "place")
    unknown = references.join(images, on="at", how="anti", maintain_order="left").get_column("text")
    columns = ("text", "place", "ImageID", *_ROW_COLUMNS[1:])
    split = pl.col("place").replace_strict(range(len(SPLITS)), list(SPLITS), return_dtype=pl.String)
    return Resolution(
        tuple(ResolvedImage(*row) for row in images.with_columns(place=split).select(columns).iter_rows()),
        tuple(unknown),
        (),
        len(references),
    )


def _meet(references: pl.DataFrame, table: TableFile, way: _Way) -> pl.DataFrame:
    """Return at and KEY of the references and rows that meet."""
    of_reference, column, made = way
    wanted = references.select("at", wanted=of_reference).drop_nulls()
    if not len(wanted) or column not in (KEY, *columns_of(table)):
        return pl.DataFrame(schema={"at": pl.UInt32, KEY: pl.UInt64})
    there = pl.concat(_rows_that_meet(table, [], wanted.select("wanted"), wanted=made(pl.col(column))))
    return wanted.join(there, on="wanted").select("at", KEY)


def _rows(table: TableFile, found: pl.DataFrame) -> pl.DataFrame:
    """Return what a table says of images that were found in it: at, KEY, ImageID, `place` of the split, the texts."""
    columns = columns_of(table)
    here = [name for name in _ROW_COLUMNS if name in columns]
    texts = [pl.when(pl.col(name) != "").then(name).alias(name) for name in here]
    texts += [pl.lit(None, pl.String).alias(name) for name in _ROW_COLUMNS if name not in here]
    there = pl.concat(_rows_that_meet(table, here, found.select(wanted=KEY), wanted=pl.col(KEY)))
    there = there.select(KEY, hexadecimal().alias("ImageID"), *texts)
    code = pl.lit(SPLITS.index(table.split) if table.split is not None else None, pl.UInt8)
    codes = list(range(len(SPLITS)))
    place = pl.col("Subset").replace_strict(list(SPLITS), codes, default=None, return_dtype=pl.UInt8)
    there = there.with_columns(place=pl.coalesce(place, code)).drop_nulls("place")
    return found.select("at", KEY).join(there, on=KEY)


def _rows_that_meet(
    table: TableFile, columns: Sequence[str], values: pl.DataFrame, *, wanted: pl.Expr
) -> list[pl.DataFrame]:
    """Return KEY, these columns and `wanted` of the rows whose `wanted` is among the values, a part of the table each.

    The texts are copied: Polars would keep whole columns for the sake of some rows, 1.7 GB of all images (measured).
    """
    copied = [pl.concat_str(name, pl.lit("")).alias(name) for name in columns]
    found = []
    with reading(table):
        for part in table.parts:
            rows = pl.scan_parquet(part, glob=False).select(KEY, *columns, wanted=wanted)
            met = rows.join(values.lazy(), on="wanted", how="semi").with_columns(copied)
            found.append(met.collect(engine="streaming"))
    return found
