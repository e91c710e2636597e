"""Readers of option values: each returns the normalised value, or raises one line that names the option. Pure."""

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from oid_async.errors import UsageError
from oid_async.openimages.vocabulary import SPLITS, Split
from oid_async.options.endpoints import read_endpoint_url
from oid_async.options.paths import TABLE_SCHEMES, read_path, refuse_login
from oid_async.options.places import read_place
from oid_async.quick_values import frozen

_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([BKMGTbkmgt]?)(?:i?[Bb])?")
_SHARD = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")
_COUNT_OR_SHARE = re.compile(r"([0-9]{1,18})|([0-9]{1,3}(?:\.[0-9]{1,18})?)%")
_SHARE = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,18})?%")
_CLUSTER = re.compile(r"(local):([0-9]{1,9})|(tcp|tls)://([^/?#@\s]+):([0-9]{1,5})/?|(array)")
_MAX_PROCESSES = 256
# Which rules of an answer are respected that an image is not for AI: the usual ones, none, those for indexing, too.
RespectOptOut = bool | Literal["noindex"]
# A shard goes into a bucket by one request, which S3 takes up to 5 GiB; a shard is a little larger than its images.
_MAX_PART_BYTES = 4 << 30


@frozen
class Reader:
    """How the value of an option is read.

    `read` takes the option's label, such as `limit (--ndata)`, and a value of any type; it returns the normalised value
    or raises UsageError. `metavar` stands for the value in the help, `accepts` describes it in docs/options.md, and
    `choices` lists the values of a closed set. `parse` converts the text of the command line; bool makes a switch
    without a value. `environment` is the variable that is read if the option is not given; empty it is as not set.
    `is_path` is of what may be a path; `is_comma_list` of several choices with commas between. Of an option with
    `words` the value, one of these, may be left out: then it is True, and its flag that begins with --no- says False.
    """

    read: Callable[[str, Any], Any]
    metavar: str = ""
    accepts: str = ""
    parse: Callable[[str], Any] = str
    choices: tuple[str, ...] = ()
    is_repeatable: bool = False
    is_comma_list: bool = False
    environment: str = ""
    is_path: bool = False
    words: tuple[str, ...] = ()


def read_member(label: str, word: object, allowed: Iterable[str]) -> str:
    """Return a word that is one of those allowed."""
    if not isinstance(word, str) or word not in allowed:
        raise UsageError(f"{label} is one of {', '.join(allowed)}, not {word!r}")
    return word


def _refuse_list(label: str, words: Iterable[object], allowed: Iterable[str]) -> None:
    """Raise UsageError for words of a closed set that are given as one, separated by commas or blanks."""
    for word in words:
        parts = re.split(r"[,;\s]+", word.strip()) if isinstance(word, str) else []
        if len(parts) > 1 and all(part in allowed for part in parts):
            flag = label[label.find("--") :].rstrip(")")
            raise UsageError(
                f"{label}: {word!r} are several; repeat the option: {' '.join(f'{flag} {part}' for part in parts)}"
            )


def read_words(label: str, value: object) -> tuple[str, ...]:
    """Return the words of a repeatable option; a bare string is one word, None is no word."""
    if not isinstance(value, str | Iterable | None):
        raise UsageError(f"{label} takes names, not {value!r}")
    words = (value,) if isinstance(value, str) else tuple(value) if value is not None else ()
    for word in words:
        if not isinstance(word, str) or not word.strip():
            raise UsageError(f"{label} takes names, not {word!r}")
    return words


def read_list(label: str, value: object) -> str | tuple[str, ...] | None:
    """Return the path of a list as text, `-` for stdin, or the lines that are given in place of a file."""
    if value is None:
        return None
    if isinstance(value, str | os.PathLike):
        return "-" if value == "-" else read_path(label, value)
    if isinstance(value, bytes | bytearray | Mapping) or not isinstance(value, Iterable):
        raise UsageError(f"{label} takes a path or a sequence of lines, not {value!r}")
    lines = tuple(value)
    for line in lines:
        if not isinstance(line, str):
            raise UsageError(f"{label} takes lines of text, not {line!r}")
    if not any(line.strip() for line in lines):
        raise UsageError(f"{label}: the sequence names nothing; leave it out to take everything")
    return lines


def _read_exclusions(label: str, value: object) -> str | tuple[str, ...] | None:
    """Return what `read_list` does; a sequence that names nothing excludes nothing, as an empty file does."""
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | bytearray | Mapping | os.PathLike):
        value = tuple(value)
        if all(isinstance(line, str) and not line.strip() for line in value):
            return None
    return read_list(label, value)


def one_of(allowed: Iterable[str]) -> Reader:
    """Return a reader of one word of a closed set."""
    choices = tuple(allowed)
    return Reader(lambda label, value: read_member(label, value, choices), choices=choices)


def mapped(meanings: Mapping[str, Any]) -> Reader:
    """Return a reader of one word that returns its meaning."""
    return Reader(lambda label, value: meanings[read_member(label, value, meanings)], choices=tuple(meanings))


def several_of(choices: tuple[str, ...], order: Callable[[tuple[str, ...]], Iterable[str]] = tuple) -> Reader:
    """Return a reader of words of a closed set; `order` makes the final sequence of them."""

    def read(label: str, value: object) -> tuple[str, ...]:
        words = read_words(label, value)
        _refuse_list(label, words, choices)
        return tuple(order(tuple(read_member(label, word, choices) for word in words)))

    return Reader(read, choices=choices, is_repeatable=True)


def comma_list_of(choices: tuple[str, ...], noun: str) -> Reader:
    """Return a reader of one or more different words of a closed set, in order, separated by commas or repeated."""

    def read(label: str, value: object) -> tuple[str, ...]:
        words = tuple(part.strip() for word in read_words(label, value) for part in word.split(","))
        if not words:
            raise UsageError(f"{label} names no {noun}; it is one or more of {', '.join(choices)}")
        for word in words:
            read_member(label, word, choices)
        if len(set(words)) != len(words):
            raise UsageError(f"{label} names a {noun} twice: {','.join(words)}")
        return words

    return Reader(read, choices=choices, is_repeatable=True, is_comma_list=True)


def number(parse: type, rule: str, least: float = -math.inf, most: float = math.inf) -> Reader:
    """Return a reader of a finite number from `least` to `most`; `rule` describes the range, as `is 0 or more`."""
    allowed_types = int if parse is int else (int, float)

    def read(label: str, value: object) -> Any:
        if isinstance(value, bool) or not isinstance(value, allowed_types) or value != value:
            raise UsageError(f"{label} takes a number, not {value!r}")
        if not least <= value <= most or value == math.inf:
            raise UsageError(f"{label} {rule}, not {value}")
        return value

    return Reader(read, "N" if parse is int else "X", rule.removeprefix("takes ").removeprefix("is "), parse)


def _read_count_or_all(label: str, value: object) -> int | None:
    count: int = _COUNT_OR_MINUS_ONE.read(label, value)
    return None if count == -1 else count


def amount(value: int | str | None) -> int | Fraction | dict[Split, int | None] | None:
    """Return what an option that `AMOUNT` has read means: a number, a share, or numbers by split; None is all.

    >>> amount("2.5%"), amount("train=100,test=-1")
    (Fraction(1, 40), {'train': 100, 'test': None})
    """
    if value is None or isinstance(value, int):
        return value
    if value.endswith("%"):
        return share(value)
    named = [part.partition("=") for part in value.split(",")]
    counts = {name: int(count) for name, _, count in named}
    return {split: None if counts[split] == -1 else counts[split] for split in SPLITS if split in counts}


def _read_amount(label: str, value: object) -> int | str | None:
    """Return a number of images, None for all, a share as 'P%', or numbers of splits as 'train=100,validation=20'."""
    if isinstance(value, Mapping):
        value = ",".join(f"{split}={count}" for split, count in value.items())
    text = value.strip() if isinstance(value, str) else ""
    if _SHARE.fullmatch(text):
        if not 0 < share(text) <= 1:
            raise UsageError(f"{label} takes a share above 0% and at most 100%, not {text}")
        return text
    if "=" in text:
        return _read_splits(label, text)
    try:
        number = int(text) if text else value
    except ValueError:
        raise UsageError(
            f"{label} takes a count, -1 for all, a share such as 10%, or numbers of splits such as "
            f"train=1000,validation=100, not {value!r}"
        ) from None
    return _read_count_or_all(label, number)


def _read_splits(label: str, text: str) -> str:
    counts: dict[str, int] = {}
    for part in text.split(","):
        split, _, number = (word.strip() for word in part.partition("="))
        read_member(f"{label}: a split", split, SPLITS)
        if split in counts:
            raise UsageError(f"{label} names {split} twice: {text}")
        if not re.fullmatch("-1|[0-9]{1,18}", number):
            raise UsageError(f"{label} takes a count for each split, or -1 for all, not {part.strip()!r}")
        counts[split] = int(number)
    return ",".join(f"{split}={counts[split]}" for split in SPLITS if split in counts)


def _read_text(label: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{label} takes text, not {value!r}")
    return value


def _read_switch(label: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{label} is True or False, not {value!r}")
    return value


def _read_opt_out(label: str, value: object) -> RespectOptOut:
    if isinstance(value, bool):
        return value
    if value == "noindex":
        return "noindex"
    raise UsageError(f"{label} takes no value, or noindex (in Python True, False or 'noindex'), not {value!r}")


def _read_yes_or_no(label: str, value: object) -> bool:
    if not isinstance(value, str | bool) or value not in ("yes", "no", True, False):
        raise UsageError(f"{label} is yes or no, not {value!r}")
    return value in ("yes", True)


def read_folder(label: str, value: object) -> Path:
    """Return the absolute path of a folder."""
    return Path(read_path(label, value))


def _read_table(label: str, value: object) -> str:
    return read_path(label, value, TABLE_SCHEMES)


def _or_default(read: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    """Return a reader that takes the empty text for nothing given, as an environment variable is taken."""
    return lambda label, value: None if value == "" else read(label, value)


def _read_size(label: str, value: object) -> int:
    """Return a number of bytes from a number or from text such as 500K, 64M, 1.5G (units of 1024)."""
    is_given = isinstance(value, int | str) and not isinstance(value, bool)
    parts = _SIZE.fullmatch(str(value).strip()) if is_given else None
    size_bytes = int(float(parts[1]) * 1024 ** "BKMGT".index((parts[2] or "B").upper())) if parts is not None else 0
    if size_bytes < 1:
        raise UsageError(f"{label} takes a size in bytes such as 500K, 64M or 1.5G, not {value!r}")
    return size_bytes


def _read_count_or_share(label: str, value: object) -> int | str:
    """Return a count as a number, a share as 'P%'."""
    parts = _COUNT_OR_SHARE.fullmatch(str(value)) if isinstance(value, int | str) else None
    if parts is None or isinstance(value, bool) or (parts[2] and Fraction(parts[2]) > 100):
        raise UsageError(f"{label} takes a count such as 5 or a share such as 2%, not {value!r}")
    return int(parts[1]) if parts[1] else parts[0]


def share(text: str) -> Fraction:
    """Return a share as options hold it, 'P%', as a number from 0 to 1.

    >>> share("2.5%")
    Fraction(1, 40)
    """
    return Fraction(text.rstrip("%")) / 100


def _read_share(label: str, value: object) -> str:
    """Return a share as 'P%'."""
    if not isinstance(value, str) or not _SHARE.fullmatch(value.strip()) or share(value.strip()) > 1:
        raise UsageError(f"{label} takes a share such as 1%, at most 100%, not {value!r}")
    return value.strip()


def _read_margin(label: str, value: object) -> str:
    """Return a share as 'P%', which may be more than the whole."""
    if not isinstance(value, str) or not _SHARE.fullmatch(value.strip()):
        raise UsageError(f"{label} takes a share of the box such as 10%, not {value!r}")
    return value.strip()


def _read_negatives(label: str, value: object) -> int | str | None:
    """Return a number of images as such, a share as 'P%'; None for 0 images."""
    parts = _COUNT_OR_SHARE.fullmatch(str(value)) if isinstance(value, int | str) else None
    if parts is None or isinstance(value, bool) or (parts[2] and not 0 < Fraction(parts[2]) < 100):
        raise UsageError(
            f"{label} takes a number of images such as 500, or their share of all images, such as 10%, above 0% and "
            f"below 100%, not {value!r}"
        )
    return parts[0] if parts[2] else int(parts[1]) or None


def _read_processes(label: str, value: object) -> int | str:
    """Return a number of processes, or 'auto'; None is 1, the caller's own process alone."""
    if value is None:
        return 1
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if text == "auto":
        return text
    if not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= _MAX_PROCESSES:
        raise UsageError(f"{label} is auto or a number from 1 to {_MAX_PROCESSES}, not {value!r}")
    return int(text)


def _read_shard(label: str, value: object) -> str | None:
    """Return a part as 'K/N' with K from 1 to N; None for the only one."""
    parts = _SHARD.fullmatch(value.strip()) if isinstance(value, str) else None
    index, count = (int(parts[1]), int(parts[2])) if parts is not None else (1, 0)
    if index > count or not count:
        raise UsageError(f"{label} takes K/N such as 3/8, with K from 1 to N (0 is N), not {value!r}")
    return f"{index or count}/{count}" if count > 1 else None


def _read_cluster(label: str, value: object) -> str | None:
    """Return `local:N`, the address of a scheduler, or `array`; None for no cluster."""
    if value is None:
        return None
    text = value.strip() if isinstance(value, str) else ""
    refuse_login(label, text)
    parts = _CLUSTER.fullmatch(text)
    if parts is None:
        raise UsageError(
            f"{label} takes local:N (N workers on this machine), tcp://HOST:PORT or tls://HOST:PORT (the scheduler of "
            f"a Dask cluster that is up), or array (a Slurm array, a Kubernetes Indexed Job), not {value!r}"
        )
    if parts[1] and not 1 <= int(parts[2]) <= _MAX_PROCESSES:
        raise UsageError(f"{label} local:N takes from 1 to {_MAX_PROCESSES} workers, not {parts[2]}")
    if parts[3] and not 0 < int(parts[5]) < 65536:
        raise UsageError(f"{label} {text!r}: the port is from 1 to 65535")
    return f"local:{int(parts[2])}" if parts[1] else text.rstrip("/")


def _read_part_size(label: str, value: object) -> int:
    """Return the bytes of a part, from 1 to 4 GiB."""
    size_bytes = _read_size(label, value)
    if size_bytes > _MAX_PART_BYTES:
        raise UsageError(
            f"{label} takes at most {compact_size(_MAX_PART_BYTES)}, as a shard is put by one request, not {value!r}"
        )
    return size_bytes


def _read_report(label: str, value: object) -> Path | None:
    """Return the path of a report, whose ending says what it is."""
    path = None if value is None else Path(read_path(label, value))
    if path is not None and path.suffix.lower() not in (".html", ".json"):
        raise UsageError(
            f"{label} takes a name that ends in .html (a page with plots) or .json (numbers), not {value!r}"
        )
    return path


def _read_hosts(label: str, value: object) -> tuple[str, ...]:
    addresses = read_words(label, value)
    for address in addresses:
        refuse_login(label, address if "//" in address else f"http://{address}")
        host, _, port = address.rpartition(":")
        if not (host and "/" not in host and port.isdecimal() and 0 < int(port) < 65536):
            raise UsageError(f"{label} takes HOST:PORT, such as 127.0.0.1:8080, not {address!r}")
    return addresses


def compact_size(size_bytes: int) -> str:
    """Return a number of bytes as an option takes it.

    >>> compact_size(64 << 20), compact_size(1536)
    ('64M', '1536')
    """
    units = [unit for power, unit in enumerate("KMGT", 1) if size_bytes and size_bytes % 1024**power == 0]
    return f"{size_bytes >> 10 * len(units)}{units[-1]}" if units else str(size_bytes)


_COUNT_OR_MINUS_ONE = number(int, "takes a count, or -1 for all", -1)
COUNT_OR_ALL = replace(_COUNT_OR_MINUS_ONE, read=_read_count_or_all)
AMOUNT = Reader(
    _read_amount,
    "N|P%|SPLIT=N,...",
    "a count, -1 for all; a share such as 10%; numbers of splits such as train=1000,validation=100 (in Python also a "
    "mapping)",
)
TEXT = Reader(_read_text)
WORDS = Reader(read_words, "NAME", is_repeatable=True)
COUNT = number(int, "takes a count, 0 or more", 0)
SWITCH = Reader(_read_switch, parse=bool)
OPT_OUT = Reader(_read_opt_out, "noindex", "no value, or noindex; in Python True, False, 'noindex'", words=("noindex",))
YES_OR_NO = Reader(_read_yes_or_no, choices=("yes", "no"))
FILE = Reader(read_path, "FILE", is_path=True)
LIST = Reader(read_list, "FILE|-", "a file, - for stdin, a pipe; in Python also a sequence of lines", is_path=True)
EXCLUSIONS = replace(LIST, read=_read_exclusions)
TABLE = Reader(_read_table, "PATH_OR_URL", is_path=True)
MIRROR = Reader(_or_default(_read_table), "URL_OR_DIR", is_path=True, environment="OID_ASYNC_MIRROR")
REPORT = Reader(_read_report, "FILE.html|FILE.json", "a file whose name ends in .html or .json", is_path=True)
FOLDER = Reader(read_folder, "DIR", is_path=True)
PLACE = Reader(
    read_place, "DIR", "a folder; s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX", is_path=True
)
ENDPOINT_URL = Reader(read_endpoint_url, "URL", "such as https://minio.example.org:9000")
CACHE_DIR = replace(FOLDER, read=_or_default(read_folder), environment="OID_ASYNC_CACHE")
SIZE = Reader(_read_size, "SIZE", "bytes, such as 500K, 64M or 1.5G (units of 1024)")
COUNT_OR_SHARE = Reader(_read_count_or_share, "N|P%", "a count such as 5, or a share such as 2%, at most 100%")
MARGIN = Reader(_read_margin, "P%", "a share of the box such as 10%, below 1000%")
SHARE = Reader(_read_share, "P%", "a share such as 1% or 0.5%, at most 100%")
NEGATIVES = Reader(
    _read_negatives, "N|P%", "a number of images such as 500, or their share of all, such as 10%, below 100%"
)
PROCESSES = Reader(_read_processes, "auto|N", f"auto, or from 1 to {_MAX_PROCESSES}")
SHARD = Reader(_read_shard, "K/N", "such as 3/8")
HOSTS = Reader(_read_hosts, "HOST:PORT", "such as 127.0.0.1:8080", is_repeatable=True)
CLUSTER = Reader(
    _read_cluster,
    "local:N|tcp://HOST:PORT|tls://HOST:PORT|array",
    "local:N, the address of a Dask scheduler, or array",
)
PART_SIZE = Reader(_read_part_size, "SIZE", "bytes, such as 64M, 512M or 1G (units of 1024), at most 4G")
