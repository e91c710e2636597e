"""The layout keeps its measures: few modules at the top, functions that can be read at once, few imports a module."""

import ast
from pathlib import Path

import oid_async

PACKAGE = Path(oid_async.__file__).parent
MODULES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text("utf-8")) for path in PACKAGE.rglob("*.py")}
# Functions of the public API have a parameter for each option.
PUBLIC = ("api/runs.py", "api/folders.py", "api/reading.py", "api/lookups.py")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions() -> list[tuple[str, Function]]:
    """Return every function and method with the module that it is in."""
    return [
        (f"{name}:{node.name}", node)
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, Function) and name not in PUBLIC
    ]


def code_lines(function: Function) -> int:
    """Return the lines of a function that hold code: no docstring, no comment, nothing blank."""
    has_docstring = ast.get_docstring(function) is not None
    body = function.body[1:] if has_docstring else function.body
    lines = {node.lineno for statement in body for node in ast.walk(statement) if hasattr(node, "lineno")}
    ends = {node.end_lineno for statement in body for node in ast.walk(statement) if hasattr(node, "end_lineno")}
    return len(lines | ends)


def own_imports(tree: ast.Module) -> set[str]:
    """Return the modules of the package that a module imports, for types too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("oid_async"):
            names = [f"{node.module}.{alias.name}".removeprefix("oid_async.") for alias in node.names]
            modules = [name for name in names if f"{name.replace('.', '/')}.py" in MODULES]
            found |= set(modules) or {str(node.module)}
    return found


def test_few_modules_stand_at_the_top() -> None:
    """At most ten: what a caller imports, or every folder needs."""
    assert len([name for name in MODULES if "/" not in name]) <= 10


def test_functions_are_short_and_take_few_parameters() -> None:
    """At most 60 lines of code and 8 parameters, self not counted."""
    long = [name for name, node in functions() if code_lines(node) > 60]
    wide = []
    for name, node in functions():
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        if len([each for each in arguments if each.arg not in ("self", "cls")]) > 8:
            wide.append(name)
    assert (long, wide) == ([], [])


def test_modules_outside_jobs_import_few_others() -> None:
    """At most 15 of our own modules, imports for types included; the jobs put everything together."""
    counts = {name: len(own_imports(tree)) for name, tree in MODULES.items() if not name.startswith("jobs/")}
    # It names what all of them offer, and loads none.
    del counts["__init__.py"]
    assert {name: count for name, count in counts.items() if count > 15} == {}
