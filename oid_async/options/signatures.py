"""What takes some options as keywords: its signature and docstring, made of the option table, and their check."""

import inspect
from collections.abc import Collection, Mapping
from dataclasses import Field
from itertools import groupby
from typing import Any

from oid_async.errors import UsageError
from oid_async.options.keywords import RunOptions
from oid_async.options.query import option_fields
from oid_async.options.query_table import FILTERS


def check_keywords(function: str, given: Mapping[str, Any], known: type) -> None:
    """Raise TypeError for a keyword that a function does not know; `known` is a TypedDict of those it does."""
    for keyword in given:
        if keyword not in known.__annotations__:
            raise TypeError(f"{function}() got an unexpected keyword argument {keyword!r}")


def signature(function: Any, names: Collection[str], returns: Any) -> inspect.Signature:
    """Return the signature that help() shows: these options with their defaults, then the function's own keywords."""
    hints, keyword = RunOptions.__annotations__, inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(option.name, keyword, default=_default(option), annotation=hints[option.name])
        for option in _options(names)
    ]
    own = inspect.signature(function).parameters.values()
    first = [parameter for parameter in own if parameter.kind == inspect.Parameter.POSITIONAL_OR_KEYWORD]
    parameters = [*first, *parameters, *(parameter for parameter in own if parameter.kind == keyword)]
    return inspect.Signature(parameters, return_annotation=returns)


def check_switch(name: str, value: object) -> None:
    """Raise UsageError for a value that is neither True nor False: a text is likely a mistake."""
    if not isinstance(value, bool):
        raise UsageError(f"{name} is True or False, not {value!r}")


def documented(text: str | None, names: Collection[str]) -> str:
    """Return a docstring with the meaning of each of these keywords, by heading."""
    parts = [inspect.cleandoc(text or "")]
    for heading, options in groupby(_options(names), lambda option: option.metadata["heading"]):
        lines = [f"    {option.name}: {option.metadata['help']}" for option in options]
        parts.append("\n".join([f"Keywords, {heading}:", *lines]))
    return "\n\n".join(parts)


def _options(names: Collection[str]) -> list[Field[Any]]:
    return [option for option in option_fields() if option.name in names]


def _default(option: Field[Any]) -> Any:
    """Return what the signature shows: None where the default is no filter, as an empty one is refused."""
    return None if option.default == () and option.name in FILTERS else option.default
