"""The rules for the rows of a table: the number of fields, and what some must hold; for lines, columns and rows.

In a table of a user's own some spellings are tolerated: blanks round a field, `.jpg` behind an ImageID and upper-case
digits in it, `nan` and its like where nothing is known, `val` for validation. `RowRules.tidied` mends them; a line that
needs none of it is valid as it is.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from oid_async.openimages.ids import HEX_DIGITS, ID_COLUMNS, OWN_ID_TEXT, IdForm, id_column
from oid_async.openimages.kinds import Kind
from oid_async.openimages.vocabulary import OTHER_SPLITS, SPLITS
from oid_async.quick_values import frozen
from oid_async.report import counted

_FIELD = r'(?:[^",\x00\n]*|"(?:[^"\x00\n]|"")*")'
# Digits and exponents are bounded, so that every match is finite.
_NUMBER = r"[-+]?(?:[0-9]{1,99}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE](?:\+?[0-9]{1,2}|-[0-9]{1,4}))?"
# The numbers from -0.01 to 1.01 as tables spell them; a number in another spelling is looked at by itself.
_SHARE_IN_LINE = (
    r"(?:0?\.[0-9]+|0|0\.|1(?:\.(?:0(?:0[0-9]*|10*)?)?)?|[0-9](?:\.[0-9]*)?[eE]-0*[1-9][0-9]{0,2}"
    r"|-0?(?:\.00[0-9]*|\.0|\.010*|\.)?)"
)
# What other programs write where nothing is known.
NOTHING = ("nan", "null", "none", "na", "n/a", "<na>", "\\n")
BLANKS = " \t\u00a0"
# An address that needs no tidying.
_ADDRESS_IN_LINE = r'(?:https?://(?:[^",\x00\n]*[^",\x00\n \t\r]|)|)'


@frozen
class Rule:
    """The rule for a field: `pattern` (as Polars and Python read it) matches all of it; `not_so` is the fault in words.

    `in_line` is the pattern of the field in a line; it may be stricter, never laxer. A number is from `least` to
    `most`, else `outside` is its fault. In a table of a user's own what `NOTHING` lists stands for an empty field if
    the rule `may_be_nothing`.
    """

    pattern: str
    not_so: str
    in_line: str
    least: float = -math.inf
    most: float = math.inf
    outside: str = ""
    may_be_nothing: bool = False

    @property
    def is_bounded(self) -> bool:
        """Whether a number may be too small or too large."""
        return self.least > -math.inf or self.most < math.inf


def _rule(pattern: str, not_so: str, *, in_line: str | None = None, optional: bool = True) -> Rule:
    plain = pattern if in_line is None else in_line
    return Rule(pattern, not_so, f'(?:{plain}|"(?:{plain})")', may_be_nothing=optional)


def _between(least: float, most: float, in_line: str, outside: str) -> Rule:
    line = f'(?:{in_line}|"(?:{in_line})")'
    return Rule(_NUMBER, "is not a number", line, least, most, outside)


# A place in an image, as a share of its width or height: published ones reach a little over its edge.
SHARE = _between(-0.01, 1.01, _SHARE_IN_LINE, "is outside the image, which reaches from 0 to 1")
CONFIDENCE = _between(0, 1, r"(?:0?\.[0-9]+|0\.?|1(?:\.0*)?)", "is not within 0 and 1")
MAYBE = _rule(rf"(?:{_NUMBER}|)", "is not a number")
FLAG = _rule(r"(?:-?0*[01](?:\.0*)?|(?i:true|false)|)", "is none of 1, 0, -1, true and false")
WHOLE = _rule(r"(?:[0-9]{1,18}(?:\.0*)?|)", "is not a whole number")
DEGREES = _rule(rf"(?:{_NUMBER}|(?i:nan)|)", "is not a number")
ANSWER = _rule(r"(?:yes|no|unsure|)", "is none of yes, no and unsure")
SUBSET = _rule(rf"(?:{'|'.join(SPLITS)}|)", f"is none of {', '.join(SPLITS)}")
# As published, 16 bytes in base64; in tables of people's own also in hex.
MD5 = _rule("(?:[A-Za-z0-9+/]{22}==|[0-9a-fA-F]{32}|)", "is no MD5: 24 characters of base64, or 32 hex digits")
HEX = _rule(HEX_DIGITS, "is not 16 lower-case hex digits", optional=False)
OWN_ID = Rule(
    OWN_ID_TEXT,
    "is empty, longer than 200 bytes, or holds a control character",
    "(?:[!#-+.-~-]{1,200}|[!#-+.-~-][ !#-+.-~-]{0,198}[!#-+.-~-])",
)
# Text of a user's own that is compared with other text, without blanks around it, or an address.
_TRIMMED = Rule(
    r"(?s:.*)", "is no text", r'(?:[^",\x00\n\r \t](?:[^",\x00\n\r]*[^",\x00\n\r \t])?|)', may_be_nothing=True
)
_ADDRESS = _rule(r"(?s:.*)", "is no text", in_line=_ADDRESS_IN_LINE)
_ADDRESSES = ("OriginalURL", "OriginalLandingURL", "License", "AuthorProfileURL", "Thumbnail300KURL")


@dataclass(frozen=True)
class RowRules:
    """The rules for the rows of one table: as many fields as it has columns, and a rule for some of them.

    `ordered` are pairs of columns of which the first must not be larger; `is_given`: the table is a user's own, whose
    fields are tidied before they are judged.
    """

    columns: tuple[str, ...]
    rules: Mapping[str, Rule]
    ordered: tuple[tuple[str, str], ...] = ()
    ids: IdForm = IdForm()
    is_given: bool = False
    has_header: bool = True

    @classmethod
    def of_kind(
        cls, kind: Kind, columns: Sequence[str], ids: IdForm, flags: Iterable[str] = (), *, is_given: bool = False
    ) -> "RowRules":
        """Return the rules for a kind's rows; a missing column has none. An empty flag is unknown."""
        rules = dict.fromkeys(kind.labels, _TRIMMED) if is_given else {}
        rules |= _id_rule(ids, columns) | dict.fromkeys(kind.numbers, SHARE) | dict.fromkeys(kind.maybe, MAYBE)
        rules |= {name: CONFIDENCE for name in kind.numbers if name == "Confidence"}
        rules |= dict.fromkeys(flags, FLAG) | ({"EstimatedYesNo": ANSWER} if kind.name == "point" else {})
        # A relationship is about its two classes; exports take its boxes either way round.
        sides = [(name, name.replace("Min", "Max")) for name in kind.numbers if "Min" in name]
        sides = [] if kind.name == "relationship" else sides
        ordered = tuple(pair for pair in sides if set(pair) <= set(columns))
        return cls(tuple(columns), _there(rules, columns), ordered, ids, is_given)

    @classmethod
    def of_images(cls, columns: Sequence[str], ids: IdForm, *, is_given: bool = False) -> "RowRules":
        """Return the rules for image rows: size and rotation are numbers or empty, an MD5 is one or empty."""
        rules = dict.fromkeys(_ADDRESSES, _ADDRESS) if is_given else {}
        rules |= {"OriginalSize": WHOLE, "OriginalMD5": MD5, "Rotation": DEGREES, "Subset": SUBSET}
        return cls(tuple(columns), _there(_id_rule(ids, columns) | rules, columns), (), ids, is_given)

    @cached_property
    def line(self) -> str:
        """The pattern of a line that is a valid row by itself, without its end; `ordered` is not in it."""
        return ",".join(self.rules[name].in_line if name in self.rules else _FIELD for name in self.columns) + r"\r?"

    @cached_property
    def line_in_bytes(self) -> re.Pattern[bytes]:
        """The same for a line of bytes, with its end."""
        return re.compile(self.line.encode() + rb"\n?")

    @cached_property
    def _checks(self) -> list[tuple[int, str, Rule, re.Pattern[str]]]:
        return [(self.columns.index(name), name, rule, re.compile(rule.pattern)) for name, rule in self.rules.items()]

    @cached_property
    def _pairs(self) -> list[tuple[int, int]]:
        return [(self.columns.index(low), self.columns.index(high)) for low, high in self.ordered]

    def has_width(self, width: int) -> bool:
        """Return whether a row may have so many fields."""
        return width == len(self.columns)

    def is_row(self, fields: Sequence[bytes]) -> bool:
        """Return whether fields look like a row, valid or not: their number is right, and the ImageID."""
        return self.has_width(len(fields)) and self._fault(self.tidied(fields), ID_COLUMNS) is None

    def fault(self, fields: Sequence[bytes]) -> str | None:
        """Return the fault of a row of tidied fields in words, None for a valid one."""
        if len(fields) != len(self.columns):
            where = "where the header has" if self.has_header else "where other rows have"
            return f"{counted(len(fields), 'field')} {where} {len(self.columns)}"
        return self._fault(fields, self.rules) or self.order_fault(fields)

    def is_ordered(self, line: bytes) -> bool:
        """Return whether no box is turned round in a line that is a valid row otherwise."""
        if not self._pairs:
            return True
        fields = line.rstrip(b"\r\n").split(b",") if b'"' not in line else None
        return fields is not None and self.order_fault(fields) is None

    def order_fault(self, fields: Sequence[bytes]) -> str | None:
        """Return in words that a box is turned round, None if no is; every field that must be a number is one."""
        for low, high in self._pairs:
            if float(fields[low]) > float(fields[high]):
                lower, higher = (fields[at].decode() for at in (low, high))
                return f"{self.columns[low]} {lower} is larger than {self.columns[high]} {higher}"
        return None

    def tidied(self, fields: Sequence[bytes]) -> list[bytes]:
        """Return the fields of a row of a user's own table without what is tolerated there; others as they are."""
        if not self.is_given or len(fields) != len(self.columns):
            return list(fields)
        tidy = [field.decode(errors="replace").strip(BLANKS).encode() for field in fields]
        for at, name, rule, _ in self._checks:
            text = tidy[at].decode()
            if rule.may_be_nothing and text.lower() in NOTHING:
                text = ""
            elif name in ID_COLUMNS:
                text = self.ids.tidied(text)
            elif name == "Subset":
                text = OTHER_SPLITS.get(text.lower(), text.lower())
            tidy[at] = text.encode()
        return tidy

    def _fault(self, fields: Sequence[bytes], names: Iterable[str]) -> str | None:
        for at, name, rule, pattern in self._checks:
            if name in names:
                text = fields[at].decode(errors="replace")
                if not pattern.fullmatch(text):
                    return f"{name} {text[:40]!r} {rule.not_so}"
                if rule.is_bounded and not rule.least <= float(text) <= rule.most:
                    return f"{name} {text[:40]} {rule.outside}"
        return None


def _id_rule(ids: IdForm, columns: Sequence[str]) -> dict[str, Rule]:
    return {id_column(columns): HEX if ids.hexadecimal else OWN_ID}


def _there(rules: Mapping[str, Rule], columns: Sequence[str]) -> dict[str, Rule]:
    return {name: rule for name, rule in rules.items() if name in columns}
