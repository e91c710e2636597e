"""What takes some options as keywords: its signature and docstring, made of the option table, and their check."""

import inspect
from collections.abc import Collection, Mapping
from dataclasses import Field
from itertools import groupby
from types import MappingProxyType
from typing import Any

from oid_async.errors import UsageError
from oid_async.options.query import option_fields
from oid_async.options.query_table import FILTERS


def check_keywords(function: str, given: Mapping[str, Any], known: type) -> None:
    """Raise TypeError for a keyword that a function does not know; `known` is a TypedDict of those it does."""
    for keyword in given:
        if keyword not in known.__annotations__:
            raise TypeError(f"{function}() got an unexpected keyword argument {keyword!r}")


def document(
    function: Any,
    options: type,
    returns: Any,
    *,
    own: Collection[str] = (),
    called: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Add what help() shows of options to a public function: its signature, and the meaning of each, by heading.

    `options` is a TypedDict of those it takes; `own` are options that are written as keywords of the function itself,
    `called` says which of these have another name there.
    """
    hints = options.__annotations__
    function.__signature__ = signature(function, hints, returns)
    function.__doc__ = documented(function.__doc__, {name: called.get(name, name) for name in (*hints, *own)})


def signature(function: Any, hints: Mapping[str, Any], returns: Any) -> inspect.Signature:
    """Return the signature that help() shows: these options with their defaults, then the function's own keywords.

    What must be given stands first.
    """
    keyword = inspect.Parameter.KEYWORD_ONLY
    options = [
        inspect.Parameter(option.name, keyword, default=_default(option), annotation=hints[option.name])
        for option in option_fields()
        if option.name in hints
    ]
    given = inspect.signature(function).parameters.values()
    first = [parameter for parameter in given if parameter.kind == inspect.Parameter.POSITIONAL_OR_KEYWORD]
    own = [parameter for parameter in given if parameter.kind == keyword]
    needed = [parameter for parameter in own if parameter.default is inspect.Parameter.empty]
    others = [parameter for parameter in own if parameter not in needed]
    return inspect.Signature([*first, *needed, *options, *others], return_annotation=returns)


def check_switch(name: str, value: object) -> None:
    """Raise UsageError for a value that is neither True nor False: a text is likely a mistake."""
    if not isinstance(value, bool):
        raise UsageError(f"{name} is True or False, not {value!r}")


def documented(text: str | None, names: Mapping[str, str]) -> str:
    """Return a docstring with the meaning of each of these options under its name in the function, by heading."""
    known = [option for option in option_fields() if option.name in names]
    parts = [inspect.cleandoc(text or "")]
    for heading, options in groupby(known, lambda option: option.metadata["heading"]):
        lines = [f"    {names[option.name]}: {option.metadata['help']}" for option in options]
        parts.append("\n".join([f"Keywords, {heading}:", *lines]))
    return "\n\n".join(parts)


def _default(option: Field[Any]) -> Any:
    """Return what the signature shows: None where the default is no filter, as an empty one is refused."""
    return None if option.default == () and option.name in FILTERS else option.default
