"""docs/architecture.md names what exists: its files, classes and functions, and every folder in its layer."""

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "oid_async"
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def defines(body: list[ast.stmt], names: list[str]) -> bool:
    """Return whether a module or class defines a class or function, and so on down a dotted name."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == names[0]:
            return len(names) == 1 or defines(node.body, names[1:])
    return False


def test_every_file_and_function_of_the_page_exists() -> None:
    """Each `path.py` is a file of the package, and each `path.py:name` is defined in it."""
    named = re.findall(r"`([\w/]+\.py)(?::([\w.]+))?`", TEXT)
    assert len(named) > 60
    wrong = []
    for path, name in named:
        if not (PACKAGE / path).is_file():
            wrong.append(path)
        elif name and not defines(ast.parse((PACKAGE / path).read_text(encoding="utf-8")).body, name.split(".")):
            wrong.append(f"{path}:{name}")
    assert wrong == []


def test_every_layer_is_described_in_its_place() -> None:
    """The table of folders has the layers of the import contract in pyproject.toml, from the top down."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    table = TEXT[TEXT.index("| folder | content |") :].split("\n\n")[0].splitlines()[2:]
    described = [sorted(re.findall(r"`(\w+)`", row.split("|")[1])) for row in table]
    contract = [sorted(re.findall(r"\w+", layer)) for layer in layers]
    assert [name for row in described for name in row] == [name for row in contract for name in row]


def test_every_folder_is_described() -> None:
    """No folder or module at the top of the package is missing from the table."""
    here = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    here |= {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    table = TEXT[TEXT.index("| folder | content |") :].split("\n\n")[0].splitlines()[2:]
    assert {name for row in table for name in re.findall(r"`(\w+)`", row.split("|")[1])} == here
