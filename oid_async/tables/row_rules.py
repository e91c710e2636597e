"""The rules for the rows of a table: the number of fields, and what some must hold; for lines, columns and rows."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from oid_async.openimages.ids import ID_COLUMNS, IdForm, id_column
from oid_async.openimages.kinds import Kind

_FIELD = r'(?:[^",\x00\n]*|"(?:[^"\x00\n]|"")*")'
# Digits and exponents are bounded, so that every match is finite.
_NUMBER = r"[-+]?(?:[0-9]{1,99}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE](?:\+?[0-9]{1,2}|-[0-9]{1,4}))?"


@dataclass(frozen=True, slots=True)
class Rule:
    """The rule for a field: `pattern` (as Polars and Python read it) matches all of it; `not_so` is the fault in words.

    `in_line` is the pattern of the field in a line; it may be stricter, never laxer.
    """

    pattern: str
    not_so: str
    in_line: str


def _rule(pattern: str, not_so: str) -> Rule:
    return Rule(pattern, not_so, f'(?:{pattern}|"(?:{pattern})")')


NUMBER = _rule(_NUMBER, "is not a number")
MAYBE = _rule(rf"(?:{_NUMBER}|)", "is not a number")
FLAG = _rule(rf"(?:{_NUMBER}|(?i:true|false)|)", "is not a number, true or false")
WHOLE = _rule(r"(?:[0-9]+(?:\.0*)?|)", "is not a whole number")
DEGREES = _rule(rf"(?:{_NUMBER}|(?i:nan)|)", "is not a number")
# As published, 16 bytes in base64; in tables of people's own also in hex.
MD5 = _rule("(?:[A-Za-z0-9+/]{22}==|[0-9a-fA-F]{32}|)", "is no MD5: 24 characters of base64, or 32 hex digits")
HEX = _rule("[0-9a-f]{16}", "is not 16 lower-case hex digits")
# An id of a user's own, at most 200 bytes.
OWN_ID = Rule(
    r"(?:[\x01-\x7f]{1,200}|[^\x00]{1,50})",
    "is empty or longer than 200 bytes",
    r'(?:[\x01-\x09\x0b-\x21\x23-\x2b\x2d-\x7f]{1,200}|[^",\x00\n]{1,50})',
)


@dataclass(frozen=True)
class RowRules:
    """The rules for the rows of one table: as many fields as it has columns, and a rule for some of them."""

    columns: tuple[str, ...]
    rules: Mapping[str, Rule]

    @classmethod
    def of_kind(cls, kind: Kind, columns: Sequence[str], ids: IdForm, flags: Iterable[str] = ()) -> "RowRules":
        """Return the rules for a kind's rows; a missing column has none. An empty flag is unknown."""
        numbers = dict.fromkeys(kind.numbers, NUMBER) | dict.fromkeys(kind.maybe, MAYBE)
        rules = _id_rule(ids, columns) | numbers | dict.fromkeys(flags, FLAG)
        return cls(tuple(columns), {name: rule for name, rule in rules.items() if name in columns})

    @classmethod
    def of_images(cls, columns: Sequence[str], ids: IdForm) -> "RowRules":
        """Return the rules for image rows: size and rotation are numbers or empty, an MD5 is one or empty."""
        rules = _id_rule(ids, columns) | {"OriginalSize": WHOLE, "OriginalMD5": MD5, "Rotation": DEGREES}
        return cls(tuple(columns), {name: rule for name, rule in rules.items() if name in columns})

    @cached_property
    def line(self) -> str:
        """The pattern of a line that is a valid row by itself, without its end."""
        return ",".join(self.rules[name].in_line if name in self.rules else _FIELD for name in self.columns) + r"\r?"

    @cached_property
    def _checks(self) -> list[tuple[int, str, Rule, re.Pattern[str]]]:
        return [(self.columns.index(name), name, rule, re.compile(rule.pattern)) for name, rule in self.rules.items()]

    def has_width(self, width: int) -> bool:
        """Return whether a row may have so many fields."""
        return width == len(self.columns)

    def is_row(self, fields: Sequence[bytes]) -> bool:
        """Return whether fields look like a row, valid or not: their number is right, and the ImageID."""
        return self.has_width(len(fields)) and self._fault(fields, ID_COLUMNS) is None

    def fault(self, fields: Sequence[bytes]) -> str | None:
        """Return the fault of a row in words, None for a valid one."""
        if len(fields) != len(self.columns):
            return f"{counted(len(fields), 'field')} where the header has {len(self.columns)}"
        return self._fault(fields, self.rules)

    def _fault(self, fields: Sequence[bytes], names: Iterable[str]) -> str | None:
        for at, name, rule, pattern in self._checks:
            if name in names:
                text = fields[at].decode(errors="replace")
                if not pattern.fullmatch(text):
                    return f"{name} {text[:40]!r} {rule.not_so}"
        return None


def counted(count: int, noun: str) -> str:
    """Return a count and its noun.

    >>> counted(1, "field"), counted(2, "field")
    ('1 field', '2 fields')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _id_rule(ids: IdForm, columns: Sequence[str]) -> dict[str, Rule]:
    return {id_column(columns): HEX if ids.hexadecimal else OWN_ID}
