"""The condition of `--image-where`, such as "(Author IS DISTINCT FROM 'X') AND Rotation = 0", read and checked.

It is a condition of Polars SQL on the columns of one row of the image table: OriginalSize is Int64, Rotation Float64,
every other column text; a text that is no number is NULL there. An image of which it is NULL is not selected.

The answer for an image must depend on its own row alone. Polars evaluates whatever SQL says, and a sum or a rank would
quietly mean "of those rows that happened to be read together": so only what is known to work row by row is let
through. A subquery may read files and ask servers, already while it is parsed: so it is refused before that.
"""

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import polars as pl

from oid_async.errors import InputError, UsageError
from oid_async.quick_values import frozen
from oid_async.redaction import printable

# What every image table has as numbers; a blank or a word in it is NULL.
NUMBERS: Mapping[str, type[pl.DataType]] = {"OriginalSize": pl.Int64, "Rotation": pl.Float64}

_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`""")
_SUBQUERY = re.compile(r"(?i)\b(?:select|values)\b|\(\s*from\b|\b(?:read|scan)_\w+\s*\(")
# Looked for in quotes, too: what a quoted text is, is Polars' to say.
_READER = re.compile(r"(?i)\b(?:read|scan)_(?:csv|parquet|ipc|n?djson|json|avro|delta|iceberg|lines|excel)")
_CLOCK = re.compile(r"(?i)\b(?:now|current_date|current_time|current_timestamp|localtime|localtimestamp)\b")
# Polars makes x = TRUE of it, so that NULL stays NULL: in SQL it is FALSE, and with NOT it is TRUE.
_TRUTH = re.compile(r"(?i)\bis\s+(not\s+)?(true|false)\b")
# Polars panics on it, and a panic writes to stderr, whoever catches it.
_EMPTY = re.compile(r"(?i)\b(greatest|least)\s*\(\s*\)")
_COMMENT = re.compile(r"--|/\*|\$|;")
_JOINT = re.compile(r"(?i)\b(?:and|or|xor|not|else|when)\b|[-+*/%|]")
# Polars takes 2 s for 300 alternatives, 50 s for 1,000, and is killed by 20,000 (2.1, measured).
_MOST_JOINTS = 300
# A chain such as x IS NULL IS NULL ... has none of these; of 5,000 links Polars dies (2.1).
_LINK = re.compile(r"[a-zA-Z_]\w*|[^\s\w(),'.]+")
_MOST_LINKS = 4 * _MOST_JOINTS
# What Polars writes out two or three times: within each other 12 take it a second, 16 half a minute.
_COPIED = re.compile(r"(?i)\b(?:between|nullif|right|split_part|case(?!\s+when\b)|in\s*\([^()]*[a-z_])")
_MOST_COPIED = 12
_MOST_SIGNS = 1 << 20
# Nodes within each other: Python 3.11 reads JSON of some 490, later ones of more, and all shall refuse the same.
_DEEPEST = 400
_TOO_DEEP = "it is nested too deeply"
_LONGEST_REASON = 200

# What the nodes of Polars' expressions are called that work row by row, and their parts that are expressions.
_NODES: Mapping[str, tuple[str, ...]] = {
    "BinaryExpr": ("left", "right"),
    "Cast": ("expr",),
    "Ternary": ("predicate", "truthy", "falsy"),
}
# The functions that work row by row: by name, by a group's name, or by both.
_FUNCTIONS = frozenset(
    """
    Abs Atan2 Ceil Clip Coalesce Exp FillNull Floor Log Log1p MaxHorizontal MinHorizontal Negate Pow Round Sign
    TemporalExpr Trigonometry Truncate
    Bitwise.CountOnes
    Boolean.AllHorizontal Boolean.AnyHorizontal Boolean.IsBetween Boolean.IsFinite Boolean.IsIn Boolean.IsInfinite
    Boolean.IsNan Boolean.IsNotNan Boolean.IsNotNull Boolean.IsNull Boolean.Not
    ListExpr.Contains ListExpr.Get ListExpr.Join ListExpr.Length ListExpr.Max ListExpr.Mean ListExpr.Min ListExpr.Sum
    Sql.Binary Sql.IsIn Sql.Round Sql.ToFloat
    StringExpr.ConcatHorizontal StringExpr.Contains StringExpr.EndsWith StringExpr.Find StringExpr.Head
    StringExpr.LenBytes StringExpr.LenChars StringExpr.Lowercase StringExpr.Normalize StringExpr.Replace
    StringExpr.Reverse StringExpr.Slice StringExpr.Split StringExpr.StartsWith StringExpr.StripChars
    StringExpr.StripCharsEnd StringExpr.StripCharsStart StringExpr.Strptime StringExpr.Tail StringExpr.Titlecase
    StringExpr.Uppercase
    """.split()  # noqa: SIM905 (fifteen lines, not fifty)
)
_DISTINCT = ("EqValidity", "NotEqValidity")
_JOINING = ("And", "Or", "Xor", "LogicalAnd", "LogicalOr")


@frozen
class ImageCondition:
    """A condition on an image row: `columns` are those that it names, `condition` is on the columns as `typed`."""

    text: str
    columns: tuple[str, ...]
    condition: pl.Expr

    def require(self, columns: Sequence[str], table: str) -> None:
        """Raise UsageError unless a table with these columns can be asked for it, one Boolean a row."""
        for name in self.columns:
            if name not in columns:
                raise UsageError(
                    f"--image-where: no column {_short(name)!r} in {table}; {self._nearest(name, columns)}"
                )
        schema = {name: NUMBERS.get(name, pl.String) for name in self.columns}
        for height in (0, 1, 3):
            rows = pl.DataFrame({name: [None] * height for name in self.columns}, schema=schema)
            with _refusing():
                answer = rows.lazy().select(self.condition.alias("fits")).collect().to_series()
            if answer.dtype != pl.Boolean:
                raise UsageError(f"--image-where: it is {answer.dtype}, not true or false: compare it with something")
            if len(answer) != height:
                raise _not_by_row("it")

    def typed(self) -> list[pl.Expr]:
        """Return the number columns of the condition, each as the expression text -> number, NULL for no number."""
        return [_number(name) for name in self.columns if name in NUMBERS]

    @contextmanager
    def evaluated(self, table: str) -> Iterator[None]:
        """Raise what Polars finds wrong with it on the rows of a table, such as a CAST, as one InputError."""
        try:
            yield
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            hint = "; TRY_CAST gives NULL in place of an error" if "CAST" in self.text.upper() else ""
            raise InputError(f"{table}: --image-where cannot be told of its rows: {_reason(error)}{hint}") from error

    def _nearest(self, name: str, columns: Sequence[str]) -> str:
        if f'"{name}"' in self.text:
            return f"a text stands in single quotes: '{_short(name)}'"
        folded = {column.lower(): column for column in columns}
        near = [folded[each] for each in difflib.get_close_matches(name.lower(), list(folded), n=3, cutoff=0.5)]
        return f"nearest: {', '.join(near)}" if near else f"there are {', '.join(map(_short, columns[:20]))}"


def read_image_condition(text: str) -> ImageCondition:
    """Read a condition, whatever the columns of the table. Raises UsageError for one that cannot be used."""
    _refuse_text(text)
    with _refusing():
        condition = pl.sql_expr(text)
        tree = json.loads(condition.meta.serialize(format="json"))
    columns = tuple(dict.fromkeys(_columns(tree)))
    if not columns:
        raise UsageError("--image-where: it names no column of the image table, so it says the same of every image")
    return ImageCondition(text, columns, condition)


def _number(name: str) -> pl.Expr:
    text = pl.col(name).str.strip_chars()
    if NUMBERS[name] == pl.Int64:
        return text.str.replace(r"\.0*$", "").cast(pl.Int64, strict=False).alias(name)
    number = text.cast(pl.Float64, strict=False)
    return pl.when(number.is_finite()).then(number).alias(name)


def _refuse_text(text: str) -> None:
    """Raise UsageError for SQL that is refused before Polars sees it."""
    bare = _QUOTED.sub("''", text)
    if _SUBQUERY.search(bare) or _READER.search(text):
        raise UsageError(
            "--image-where: it is a condition on one image row; subqueries and functions that read files are refused"
        )
    if (found := _CLOCK.search(bare)) is not None:
        raise UsageError(
            f"--image-where: {found[0]} is another one each time, and the same query must select the same images"
        )
    if (found := _TRUTH.search(bare)) is not None:
        wrong, right = ("IS NOT", "IS") if found[1] else ("IS", "IS NOT")
        raise UsageError(
            f"--image-where: Polars leaves {wrong} {found[2]} open where a column is NULL, which SQL does not; "
            f"write ((...) {right} DISTINCT FROM {found[2]})"
        )
    if (found := _EMPTY.search(bare)) is not None:
        raise UsageError(f"--image-where: {found[1]}() has nothing to compare")
    if (found := _COMMENT.search(bare)) is not None:
        raise UsageError(f"--image-where: {found[0]} has no place in a condition; a text stands in single quotes")
    many = len(_JOINT.findall(bare)) > _MOST_JOINTS or len(_LINK.findall(bare)) > _MOST_LINKS
    if many or len(_COPIED.findall(bare)) > _MOST_COPIED or len(text) > _MOST_SIGNS:
        raise UsageError(
            "--image-where: it has too many parts for Polars; many values of a column fit in Author IN ('X', 'Y', ...)"
        )


def _columns(tree: Any) -> Iterator[str]:
    """Yield the columns that an expression names. Raises UsageError for what does not work row by row.

    `tree` is the expression as Polars writes it in JSON: {"BinaryExpr": {"left": {"Column": "Author"}, ...}}. What it
    does not know, such as a node of a later version of Polars, is refused.
    """
    todo = [(tree, 1)]
    while todo:
        node, depth = todo.pop()
        if depth > _DEEPEST:
            raise UsageError(f"--image-where: {_TOO_DEEP}")
        inner: list[Any] = []
        parts: Any
        name, parts = next(iter(node.items())) if isinstance(node, dict) and node else (str(node), None)
        if name == "Column":
            yield str(parts)
        elif name == "Literal":
            continue
        elif name == "Alias":
            inner = [parts[0]]
        elif name == "Function" and _is_by_row(parts["function"]):
            inner = parts["input"]
        elif name in _NODES:
            _refuse_misread(name, parts)
            inner = [parts[each] for each in _NODES[name]]
        else:
            raise _not_by_row(f"{_what(name, parts)} in it")
        todo += [(each, depth + 1) for each in inner]


def _is_by_row(function: Any) -> bool:
    """Return whether a function works row by row: "Abs", {"Boolean": "Not"} or {"Sql": {"Round": {"decimals": 1}}}."""
    name = _function(function)
    return name in _FUNCTIONS or name.partition(".")[0] in _FUNCTIONS


def _function(function: Any) -> str:
    """Return the name of a function as `_FUNCTIONS` has it: with its group's."""
    names: list[str] = []
    while isinstance(function, dict) and len(names) < 2:
        ((name, function),) = function.items() if len(function) == 1 else (("", None),)
        names.append(name)
    return ".".join([*names, function] if isinstance(function, str) and len(names) < 2 else names)


def _refuse_misread(name: str, parts: Any) -> None:
    """Raise UsageError for `a IS DISTINCT FROM b AND c`: Polars compares a with `b AND c`, where SQL does not."""
    if name == "BinaryExpr" and parts["op"] in _DISTINCT:
        right = parts["right"].get("BinaryExpr", {})
        if right.get("op") in _JOINING:
            raise UsageError(
                "--image-where: Polars binds AND and OR before IS DISTINCT FROM; put that into parentheses: "
                "(Author IS DISTINCT FROM 'X') AND ..."
            )


def _what(name: str, parts: Any) -> str:
    """Return what a node of an expression is, in the words of SQL."""
    if name == "Function":
        return _function(parts["function"]).rpartition(".")[2]
    if name == "Agg" and isinstance(parts, dict):
        name = str(next(iter(parts)))
    return {"Mean": "AVG", "Len": "COUNT", "Over": "OVER", "Explode": "UNNEST", "Selector": "COLUMNS"}.get(
        name, name[:40].upper()
    )


def _not_by_row(what: str) -> UsageError:
    return UsageError(
        f"--image-where: {what} does not give one value a row, of that row alone, as a condition on images must"
    )


@contextmanager
def _refusing() -> Iterator[None]:
    """Raise what Polars says of an expression, its panics too, as one UsageError."""
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError, RecursionError) as error:
        raise UsageError(f"--image-where: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Return the reason of an error of Polars in one line."""
    if isinstance(error, RecursionError):
        return _TOO_DEEP
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]
    if isinstance(error, pl.exceptions.PanicException):
        return f"Polars cannot evaluate it ({_short(lines[0])})"
    # Of a regular expression a line below says what is wrong with it.
    what = next((line for line in lines if line.startswith("error: ")), None)
    return _short(lines[0] if what is None else f"{lines[0]} {what}")


def _short(text: str) -> str:
    return printable(text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}...")
