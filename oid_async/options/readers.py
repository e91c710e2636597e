"""What may stand for the value of an option: each is read, or refused in one line that names the option. Pure."""

import os
import re
from collections.abc import Iterable
from dataclasses import field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from oid_async.errors import UsageError

if TYPE_CHECKING:
    from oid_async.options.export import ExportOptions
    from oid_async.options.query import Options

_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([BKMGTbkmgt]?)(?:i?[Bb])?")
_YES_NO: dict[Any, bool] = {"yes": True, "no": False, True: True, False: False}
_SHARD = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")
_MOST_PROCESSES = 256
_COUNT_OR_SHARE = re.compile(r"([0-9]{1,18})|([0-9]{1,3}(?:\.[0-9]{1,18})?)%")


_REAL = ("rate", "period", "timeout", "max_wait", "min_confidence")


def option(
    default: Any,
    *flags: str,
    doc: str,
    metavar: str | None = None,
    kind: type = str,
    choices: Iterable[str] | None = None,
    many: bool = False,
    commas: bool = False,
) -> Any:
    """Make one field of a class of options; the metadata is all the command line needs to offer it."""
    metadata = {"flags": flags, "help": doc, "metavar": metavar, "type": kind, "choices": choices}
    return field(default=default, metadata=metadata | {"many": many, "commas": commas})


def called(options: "ExportOptions", name: str) -> str:
    """Name an option the way both doors know it: 'limit (--ndata)'."""
    flag = options.__dataclass_fields__[name].metadata["flags"][0]
    return flag if flag == f"--{name}" else f"{name} ({flag})"


def words(options: "ExportOptions", name: str) -> tuple[str, ...]:
    """Return a repeatable option as a tuple of words; one bare string is one word, not its letters."""
    value: object = getattr(options, name)
    if not isinstance(value, str | Iterable | None):
        raise UsageError(f"{called(options, name)} takes names, not {value!r}")
    words = (value,) if isinstance(value, str) else tuple(value) if value is not None else ()
    for word in words:
        if not isinstance(word, str) or not word.strip():
            raise UsageError(f"{called(options, name)} takes names, not {word!r}")
    return words


def place(options: "ExportOptions", name: str) -> str | None:
    """Return a path or URL as text. Raises UsageError for what is neither."""
    value = getattr(options, name)
    if value is not None and not isinstance(value, str | os.PathLike):
        raise UsageError(f"{called(options, name)} takes a path, not {value!r}")
    text = None if value is None else str(os.fspath(value))
    if text is not None and "\0" in text:
        raise UsageError(f"{called(options, name)}: a path holds no NUL byte")
    return text


def member(options: "ExportOptions", name: str, word: object, allowed: Iterable[str]) -> str:
    """Return a word that is one of those allowed."""
    if not isinstance(word, str) or word not in allowed:
        raise UsageError(f"{called(options, name)} is one of {', '.join(allowed)}, not {word!r}")
    return word


def text(options: "ExportOptions", name: str) -> None:
    """Refuse what is no text, or empty, where text may be given."""
    value = getattr(options, name)
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise UsageError(f"{called(options, name)} takes text, not {value!r}")


def yes_or_no(options: "ExportOptions", name: str) -> bool | None:
    """Return yes as True and no as False; None for neither."""
    value = getattr(options, name)
    if value is None:
        return None
    if not isinstance(value, str | bool) or value not in _YES_NO:
        raise UsageError(f"{called(options, name)} is yes or no, not {value!r}")
    return _YES_NO[value]


def shard(options: "Options") -> str | None:
    """Return a part as 'K/N' with K from 1 to N; None for the only one."""
    value: object = options.shard
    if value is None:
        return None
    written = _SHARD.fullmatch(value.strip()) if isinstance(value, str) else None
    number, count = (int(written[1]), int(written[2])) if written is not None else (1, 0)
    if number > count or not count:
        raise UsageError(f"--shard takes K/N such as 3/8, with K from 1 to N (0 is N), not {value!r}")
    return f"{number or count}/{count}" if count > 1 else None


def check_switch(options: "ExportOptions", name: str) -> None:
    """Refuse what is neither True nor False."""
    value = getattr(options, name)
    if not isinstance(value, bool):
        raise UsageError(f"{called(options, name)} is True or False, not {value!r}")


def count_or_share(options: "ExportOptions", name: str) -> int | str:
    """Return a count as a number, a share as 'P%'."""
    value: object = getattr(options, name)
    written = _COUNT_OR_SHARE.fullmatch(str(value)) if isinstance(value, int | str) else None
    if written is None or isinstance(value, bool) or (written[2] and Fraction(written[2]) > 100):
        raise UsageError(f"{called(options, name)} takes a count such as 5 or a share such as 2%, not {value!r}")
    return int(written[1]) if written[1] else written[0]


def processes(options: "Options") -> int | str:
    """Return a number of processes, or 'auto'; None asks for none beside the caller's own."""
    value: object = options.processes
    if value is None:
        return 1
    told = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if told == "auto":
        return told
    if not re.fullmatch("[0-9]{1,9}", told) or not 1 <= int(told) <= _MOST_PROCESSES:
        raise UsageError(
            f"{called(options, 'processes')} is auto or a number from 1 to {_MOST_PROCESSES}, not {value!r}"
        )
    return int(told)


def one_of(options: "ExportOptions", name: str, allowed: dict[str, Any]) -> Any:
    """Return what the word that was given stands for."""
    return allowed[member(options, name, getattr(options, name), allowed)]


def check_numbers(options: "Options") -> None:
    """Refuse numbers that are none, or out of their range."""
    whole, real = int, (int, float)
    numbers = dict.fromkeys(("limit", "limit_per_class", "seed", "concurrency", "retries", "max_bad_rows"), whole)
    for name, kind in (numbers | dict.fromkeys(_REAL, real)).items():
        value = getattr(options, name)
        if value is None and options.__dataclass_fields__[name].default is not None:
            raise UsageError(f"{called(options, name)} takes a number, not None")
        if value is not None and (isinstance(value, bool) or not isinstance(value, kind) or value != value):
            raise UsageError(f"{called(options, name)} takes a number, not {value!r}")
    for name in ("limit", "limit_per_class"):
        value = getattr(options, name)
        if value is not None and value < -1:
            raise UsageError(f"{called(options, name)} takes a count, or -1 for all, not {value}")
    if options.max_bad_rows < 0:
        raise UsageError(f"{called(options, 'max_bad_rows')} takes a count, 0 or more, not {options.max_bad_rows}")
    if options.concurrency is not None and not 1 <= options.concurrency <= 1024:
        raise UsageError(f"{called(options, 'concurrency')} is from 1 to 1024, not {options.concurrency}")
    if options.rate is not None and not 0 <= options.rate < float("inf"):
        raise UsageError(f"{called(options, 'rate')} is 0 (no cap) or more requests, not {options.rate}")
    if not 0 < options.period < float("inf"):
        raise UsageError(f"{called(options, 'period')} is a positive number of seconds, not {options.period}")
    for name, least in (("retries", 0), ("timeout", 0.001), ("max_wait", 0)):
        if not least <= getattr(options, name) < float("inf"):
            raise UsageError(f"{called(options, name)} is {least:g} or more, not {getattr(options, name)}")


def size(options: "ExportOptions", name: str) -> int | None:
    """Return a number of bytes from a number or from text such as 500K, 64M, 1.5G (units of 1024)."""
    value = getattr(options, name)
    if value is None and options.__dataclass_fields__[name].default is None:
        return None
    told = _SIZE.fullmatch(str(value).strip()) if isinstance(value, int | str) and not isinstance(value, bool) else None
    size = int(float(told[1]) * 1024 ** "BKMGT".index((told[2] or "B").upper())) if told is not None else 0
    if size < 1:
        raise UsageError(f"{called(options, name)} takes a size in bytes such as 500K, 64M or 1.5G, not {value!r}")
    return size
