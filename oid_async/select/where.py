"""The expressions of `--where`, such as "(Dog & Person) - Cat", parsed into a tree. Pure.

    expression  = product { "|" product }                    images of either
    product     = operand { ("&" | "-") operand }            images of both; of the first and not of the second
    operand     = "(" expression ")" | [ kind ":" ] name [ "/" ]
    kind        = bbox | segmentation | relationship | label | point | absent
    name        = plain words, a MID, or anything in double quotes (a double quote in it is doubled)

`&` and `-` bind alike, from left to right, and tighter than `|`: `Dog | Cat - Person` is `Dog | (Cat - Person)`. A `-`
within a word belongs to it (`T-shirt`); names that hold `& | ( ) "` or ` - ` stand in quotes. A name is a display name
in any case (`_` for a space) or a MID; behind it `/` takes its subclasses too. Without a kind it is the one that
selects; `absent:Cat` are the images that a person has verified to show no cat.

Unlabelled is not verified absent. `Dog - Cat` are images with a dog and without the label cat, with or without a cat.
`Dog & absent:Cat` are those that were verified to show none.
"""

import re
from collections.abc import Iterator

from oid_async.errors import UsageError
from oid_async.quick_values import frozen

_SPACE = re.compile(r"\s*")
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')
# Plain words: everything up to an operator, a parenthesis or a quote; a minus only where it stands alone.
_PLAIN = re.compile(r'(?:[^\s&|()"-]|-(?=\S)(?<=\S-)|(?<=\S)\s+(?=[^\s&|()"-]))+')
_KIND = re.compile(r"(bbox|segmentation|relationship|label|point|absent)\s*:\s*", re.IGNORECASE)
_KIND_LIKE = re.compile(r"([A-Za-z]+)\s*:")
_DEEPEST = 100


@frozen
class Name:
    """A class in an expression: of which kind (None: the one that selects), and whether with its subclasses."""

    kind: str | None
    word: str
    below: bool


@frozen
class Both:
    """Images of both sides."""

    left: "Where"
    right: "Where"


@frozen
class Either:
    """Images of either side."""

    left: "Where"
    right: "Where"


@frozen
class Without:
    """Images of the left side and not of the right one."""

    left: "Where"
    right: "Where"


Where = Name | Both | Either | Without


def parse(text: str) -> Where:
    """Return the tree of an expression. Raises UsageError that marks the place of the fault.

    >>> parse("Dog | Cat - Person")
    Either(left=Name(kind=None, word='Dog', below=False), right=Without(left=Name(kind=None, word='Cat', \
below=False), right=Name(kind=None, word='Person', below=False)))
    """
    return _Parser(text).parse()


def names(where: Where, *, wanted: bool = False) -> Iterator[Name]:
    """Yield the names of an expression, from left to right, with repetitions; if `wanted`, none behind a minus."""
    if isinstance(where, Name):
        yield where
    else:
        yield from names(where.left, wanted=wanted)
        if not (wanted and isinstance(where, Without)):
            yield from names(where.right, wanted=wanted)


def written(word: str) -> str:
    """Return a name as it is written in an expression: in quotes if it has to be.

    >>> written("Dog"), written("Bat (Animal)")
    ('Dog', '"Bat (Animal)"')
    """
    name = word.strip()
    plain = _PLAIN.fullmatch(name) and not name.endswith("/") and not _KIND_LIKE.match(name)
    return name if plain else '"' + name.replace('"', '""') + '"'


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def parse(self) -> Where:
        where = self._expression()
        if self._peek():
            raise self._error("an operator (& | -) should stand before this")
        return where

    def _expression(self) -> Where:
        where = self._product()
        while self._takes("|"):
            where = Either(where, self._product())
        return where

    def _product(self) -> Where:
        where = self._operand()
        while True:
            if self._takes("&"):
                where = Both(where, self._operand())
            elif self._takes("-"):
                where = Without(where, self._operand())
            else:
                return where

    def _operand(self) -> Where:
        if self._takes("("):
            self._depth += 1
            if self._depth > _DEEPEST:
                raise self._error(f"more than {_DEEPEST} parentheses within one another")
            where = self._expression()
            if not self._takes(")"):
                raise self._error("a ) is missing")
            self._depth -= 1
            return where
        self._peek()
        kind = self._match(_KIND)
        if kind is None and (like := _KIND_LIKE.match(self._text, self._at)) is not None:
            raise self._error(f"{like[1]!r} is no kind: bbox, segmentation, relationship, label, point or absent")
        return self._name(kind[1].lower() if kind is not None else None)

    def _name(self, kind: str | None) -> Name:
        if (quoted := self._match(_QUOTED)) is not None:
            word = quoted[1].replace('""', '"')
            below = self._text.startswith("/", self._at)
            self._at += below
        else:
            plain = self._match(_PLAIN)
            if plain is None:
                raise self._error("a quote is left open" if self._peek() == '"' else "a class should stand here")
            word = plain[0].strip()
            below = len(word) > 1 and word.endswith("/")
            word = word[:-1] if below else word
        if not word.strip():
            raise self._error("the name of a class is empty")
        return Name(kind, word.strip(), below)

    def _peek(self) -> str:
        self._match(_SPACE)
        return self._text[self._at : self._at + 1]

    def _takes(self, sign: str) -> bool:
        if self._peek() != sign:
            return False
        self._at += 1
        return True

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self._text, self._at)
        if found is not None:
            self._at = found.end()
        return found

    def _error(self, what: str) -> UsageError:
        before, behind = self._text[: self._at], self._text[self._at :]
        return UsageError(f"--where: {what}: {before}⟨here⟩{behind}; names that hold & | ( ) or ' - ' stand in quotes")
