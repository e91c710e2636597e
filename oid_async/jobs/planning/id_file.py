"""The selected images as a list that --image-ids reads: `plan --ids`. Blocking.

A line an image, in order of ImageID, then of the splits: `split/ImageID`, or the id alone where no split is known. A
file appears whole or not at all; what is no file (a pipe, a device, a descriptor such as /dev/stdout) is written to.
"""

import errno
import os
import re
import secrets
import select
import stat
import time
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO

import polars as pl

from oid_async.errors import StorageError, UsageError, storage_error
from oid_async.jobs.gathering.gather import GatheredTables
from oid_async.openimages.ids import KEY, id_of_key
from oid_async.openimages.vocabulary import SPLITS
from oid_async.select.query import read_image_keys
from oid_async.store.atomic import replacing
from oid_async.store.disk import write_all

_LINES_AT_ONCE = 1 << 16
_FOUR_DIGITS = 1 << 16
_WAIT_MS = 100
_DESCRIPTOR = re.compile(r"/dev/fd/([0-9]{1,6})|/proc/self/fd/([0-9]{1,6})")
_STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}


def descriptor_of(path: Path) -> int | None:
    """Return the open descriptor that a path names, None for any other path.

    >>> descriptor_of(Path("/dev/stdout")), descriptor_of(Path("/dev/fd/63")), descriptor_of(Path("/tmp/ids.txt"))
    (1, 63, None)
    """
    found = _DESCRIPTOR.fullmatch(str(path))
    return int(found[1] or found[2]) if found else _STREAMS.get(str(path))


def check_place(path: Path) -> None:
    """Raise UsageError or StorageError if no list can be written here, before anything is fetched for it."""
    if descriptor_of(path) is None:
        check_file_place("--ids", path)


def check_file_place(option: str, path: Path) -> None:
    """Raise UsageError or StorageError if no file, or stream, can be written here. Blocking."""
    try:
        if path.is_dir():
            raise UsageError(f"{option} {path}: it is a folder; name a file in it")
        folder = path.parent
        if not folder.is_dir():
            raise UsageError(f"{option} {path}: there is no folder {folder}; make it first")
        is_writable = os.access(path if _is_stream(path) else folder, os.W_OK)
    except OSError as error:
        raise storage_error(error, path) from error
    if not is_writable:
        raise StorageError(f"{option} {path}: no permission to write here; mend that or choose another file")


def write_ids(
    keys: pl.Series, tables: GatheredTables, target: Path | BinaryIO, stopped: Callable[[], bool] = lambda: False
) -> None:
    """Write the line of each key (sorted). Raises StorageError, or BrokenPipeError when the reader has gone.

    Once `stopped`, nothing more is written, and no reader of a pipe is waited for.
    """
    lines = _until(stopped, _lines(keys, tables))
    if not isinstance(target, Path):
        target.writelines(lines)
        return
    try:
        number = descriptor_of(target)
        if number is not None or _is_stream(target):
            _write_stream(target, number, lines, stopped)
            return
        with replacing(target, part=target.with_name(f".oid-async-{secrets.token_hex(8)}.part")) as part:
            with part.open("xb") as file:
                file.writelines(lines)
            if stopped():
                raise InterruptedError(f"{target} was not written to its end")
    except (BrokenPipeError, InterruptedError):
        raise
    except OSError as error:
        raise storage_error(error, target) from error


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


def _until(stopped: Callable[[], bool], blocks: Iterator[bytes]) -> Iterator[bytes]:
    return takewhile(lambda block: not stopped(), blocks)


def _write_stream(path: Path, number: int | None, blocks: Iterator[bytes], stopped: Callable[[], bool]) -> None:
    """Write to a pipe, a device or an open descriptor, and wait for its reader unless `stopped`. Raises OSError."""
    file = os.dup(number) if number is not None else _open_stream(path, stopped)
    if file is None:
        return
    try:
        ready = select.poll()
        ready.register(file, select.POLLOUT)
        for block in blocks:
            # A write of no more bytes than this does not block where some can be written.
            for start in range(0, len(block), select.PIPE_BUF):
                while not ready.poll(_WAIT_MS):
                    if stopped():
                        return
                write_all(file, memoryview(block)[start : start + select.PIPE_BUF])
    finally:
        os.close(file)


def _open_stream(path: Path, stopped: Callable[[], bool]) -> int | None:
    """Return a descriptor of a pipe once somebody reads it, None if `stopped` before. Raises OSError."""
    while not stopped():
        try:
            file = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            time.sleep(_WAIT_MS / 1000)
        else:
            os.set_blocking(file, True)
            return file
    return None


def _is_stream(path: Path) -> bool:
    """Return whether a path leads to something that is written to as it is, such as a pipe or a device."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)
