"""The selected images as a list that --image-ids reads: `plan --ids`. Blocking.

A line an image, in order of ImageID, then of the splits: `split/ImageID`, or the id alone where no split is known.
"""

from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO

import polars as pl

from oid_async.jobs.gathering.gather import GatheredTables
from oid_async.openimages.ids import KEY, id_of_key
from oid_async.openimages.vocabulary import SPLITS
from oid_async.select.query import read_image_keys
from oid_async.store.named_file import write_named

_LINES_AT_ONCE = 1 << 16
_FOUR_DIGITS = 1 << 16


def write_ids(
    keys: pl.Series, tables: GatheredTables, target: Path | BinaryIO, stopped: Callable[[], bool] = lambda: False
) -> None:
    """Write the line of each key (sorted). Raises StorageError, or BrokenPipeError when the reader has gone.

    Once `stopped`, nothing more is written, and no reader of a pipe is waited for.
    """
    lines = _lines(keys, tables)
    if isinstance(target, Path):
        write_named(target, lines, stopped)
    else:
        target.writelines(takewhile(lambda block: not stopped(), lines))


def _lines(keys: pl.Series, tables: GatheredTables) -> Iterator[bytes]:
    """Yield the lines of these images, some ten thousand at a time."""
    if not len(keys):
        return
    images = read_image_keys(tables.images, tables.ids, tables.splits)
    if not images.get_column(KEY).is_sorted():
        images = images.sort(KEY, maintain_order=True)
    # Of an image with more than one row the first one counts, as in the selection.
    places = images.get_column(KEY).search_sorted(keys, side="left")
    selected = pl.DataFrame({KEY: keys, "split": images.get_column("split").gather(places)})
    split = pl.col("split").replace_strict(range(len(SPLITS)), list(SPLITS), return_dtype=pl.String)
    line = pl.concat_str(split, "ImageID", separator="/", ignore_nulls=True)
    of_four = pl.Series([f"{number:04x}" for number in range(_FOUR_DIGITS)])
    for some in selected.iter_slices(_LINES_AT_ONCE):
        image_id = id_of_key(pl.col(KEY)) if keys.dtype == pl.String else _hexadecimal(some.get_column(KEY), of_four)
        yield some.with_columns(ImageID=image_id).select(line.str.join("\n") + "\n").item().encode()


def _hexadecimal(keys: pl.Series, of_four: pl.Series) -> pl.Series:
    """Return keys in 16 digits: twenty times as fast as `openimages.ids.hexadecimal`, of millions of them (measured).

    `of_four` are the texts of all numbers of four digits.
    """
    numbers = [(keys // _FOUR_DIGITS**place) % _FOUR_DIGITS for place in (3, 2, 1, 0)]
    digits = [of_four.gather(number).alias(str(place)) for place, number in enumerate(numbers)]
    return pl.DataFrame(digits).select(pl.concat_str(pl.all())).to_series()
