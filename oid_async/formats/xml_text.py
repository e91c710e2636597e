"""Texts for XML 1.0: what it cannot hold, not even escaped (its production Char), is left out.

Titles and names have control characters. https://www.w3.org/TR/xml/#charsets
"""

import re
from collections.abc import Iterable
from xml.sax.saxutils import escape

import polars as pl

_NOT_XML = "[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]"
_NOT_XML_TEXT = re.compile(f"{_NOT_XML}|[\ud800-\udfff]")
# A reader makes a blank of a bare line end or tab in an attribute (section 3.3.3).
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\t": "&#9;", "\n": "&#10;", "\r": "&#13;"}


def in_xml(value: str) -> str:
    """Return what XML can hold of a text, not escaped."""
    return _NOT_XML_TEXT.sub("", value)


def distinct_in_xml(names: Iterable[str]) -> list[str]:
    """Return what XML can hold of names, no two the same, none empty: readers know a class by its name.

    >>> distinct_in_xml(["Dog", "Do\\x07g", "\\x07"])
    ['Dog', 'Dog (2)', 'class']
    """
    found: dict[str, None] = {}
    for name in names:
        plain = each = in_xml(name) or "class"
        number = 1
        while each in found:
            number += 1
            each = f"{plain} ({number})"
        found[each] = None
    return list(found)


def element_text(value: str) -> str:
    """Return a text as the content of an element."""
    # A reader takes a bare CR for LF (section 2.11).
    return escape(in_xml(value), {"\r": "&#13;"})


def attribute_text(value: pl.Expr) -> pl.Expr:
    """Return texts as values of an attribute in double quotes; they may be the content of an element, too."""
    return value.str.replace_all(_NOT_XML, "").str.replace_many(list(_ESCAPES), list(_ESCAPES.values()))
