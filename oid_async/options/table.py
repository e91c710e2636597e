"""The table of options: a dataclass whose fields describe how each option is read, offered and documented."""

import os
from dataclasses import Field, field, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from oid_async.options.readers import SIZE, Reader, compact_size

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Heading = Literal["which images", "annotations", "tables and sources", "transfer", "failures", "export", "output"]
HEADINGS: tuple[Heading, ...] = get_args(Heading)


def option(
    default: Any,
    reader: Reader,
    *flags: str,
    heading: Heading,
    help: str,
    metavar: str | None = None,
    default_text: str | None = None,
) -> Any:
    """Return a dataclass field for one option, with all that the command line and the pages need as metadata."""
    default_text = _default_text(default, reader) if default_text is None else default_text
    ending = f"; default{':' if ' ' in default_text else ''} {default_text}" if default_text else ""
    metadata = {
        "flags": flags,
        "reader": reader,
        "heading": heading,
        "meaning": help,
        "default_text": default_text,
        "help": help + ending,
        "metavar": metavar or reader.metavar or "|".join(reader.choices),
    }
    return field(default=default, metadata=metadata)


def _default_text(default: Any, reader: Reader) -> str:
    if reader is SIZE and default is not None:
        return compact_size(default)
    if default is None or isinstance(default, bool | tuple):
        return f"${reader.environment}" if reader.environment else ""
    return f"{default:g}" if isinstance(default, float) else str(default)


def label_of(option: Field[Any]) -> str:
    """Return an option's name as both the command line and Python know it: 'limit (--ndata)'."""
    flag: str = option.metadata["flags"][0]
    return flag if flag == f"--{option.name}" else f"{option.name} ({flag})"


def read_values(options: "DataclassInstance") -> None:
    """Let the reader of each option replace its value, but for a None that is the default. Raises UsageError."""
    for option in fields(options):
        reader: Reader = option.metadata["reader"]
        value = getattr(options, option.name)
        if value is not None or option.default is not None:
            value = reader.read(label_of(option), value)
        if value is None and reader.environment and (given := os.environ.get(reader.environment)):
            value = reader.read(f"{label_of(option)} ({reader.environment})", given)
        object.__setattr__(options, option.name, value)
