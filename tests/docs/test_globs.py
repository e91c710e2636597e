"""A path of a user's is no pattern: the source holds it, call by call."""

import ast
from pathlib import Path

import oid_async

PACKAGE = Path(oid_async.__file__).parent
# These take no `glob`: the first always takes a pattern, and is given one that is the path; the second is given bytes;
# others read one file.
OTHERS = {"scan_ndjson": "pattern_of", "read_ndjson": "BytesIO", "read_parquet_metadata": None}


def calls() -> list[tuple[str, ast.Call, str]]:
    """Return every call of a function of Polars that reads files, with its place."""
    return [
        (f"{path.relative_to(PACKAGE)}:{node.lineno}", node, node.func.attr)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func.value) in ("pl", "polars")
        and node.func.attr.startswith(("scan_", "read_"))
    ]


def is_plain(call: ast.Call, function: str) -> bool:
    """Return whether the function takes its path as it is."""
    if function in OTHERS:
        return OTHERS[function] is None or ast.unparse(call.args[0]).startswith(f"{OTHERS[function]}(")
    return any(each.arg == "glob" and ast.unparse(each.value) == "False" for each in call.keywords)


def test_polars_reads_no_pattern() -> None:
    """Each scan or read says `glob=False`: `[ ] ? *` are letters of a name."""
    found = calls()
    assert len(found) > 20
    assert [place for place, call, function in found if not is_plain(call, function)] == []
