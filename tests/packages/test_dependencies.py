"""pyproject.toml names what the package imports."""

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Modules whose distribution has another name.
DISTRIBUTIONS = {"PIL": "pillow", "botocore": "boto3", "vl_convert": "vl-convert-python"}
# For type checkers alone; Google's own library, which who has a bucket there may have.
NOT_NAMED = {"_typeshed", "google"}


def imported() -> set[str]:
    """Return the packages of others that oid_async imports, anywhere."""
    names = set()
    for path in (ROOT / "oid_async").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"oid_async"}


def test_what_is_imported_is_a_dependency() -> None:
    """Not what another dependency happens to bring: each package is named, by the project or by one of its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = (project["optional-dependencies"][name] for name in ("view", "s3", "dask", "torch"))
    requirements = [*project["dependencies"], *(each for extra in extras for each in extra)]
    named = {re.split(r"[^\w-]", each, maxsplit=1)[0] for each in requirements}
    wanted = {DISTRIBUTIONS.get(name, name.replace("_", "-")) for name in imported() - NOT_NAMED}
    assert wanted - named == set()
