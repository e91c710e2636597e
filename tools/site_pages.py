"""What is on the site and not in docs/: changelog, benchmarks, examples, how to contribute; and the table of keywords.

A hook of MkDocs, named in mkdocs.yml. Links are written for who reads the files in a checkout; on the site they lead to
the page that a file has become. A linked file that is no page, such as an example, is put on the site as it is.
"""

import inspect
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import oid_async
from oid_async.options.query import option_fields

ROOT = Path(__file__).resolve().parent.parent
# The page of the site for each file outside of docs/.
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
    "benchmarks/README.md": "benchmarks.md",
    "examples/README.md": "examples.md",
}
SOURCES = {page: source for source, page in PAGES.items() if page != "index.md"}
# A link whose text is the name of its file: `[choosing.md](choosing.md)`.
NAMED = re.compile(r"\[(?:[\w-]+/)*[\w-]+\.md\]\((?!\w+:)([^)#\s]+)")
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")
ROW, CODE = re.compile(r"^\|.*$", re.MULTILINE), re.compile(r"`[^`\n]+`")
KEYWORDS = "<!-- keywords -->"
# Keywords of functions that are called as an option and are another one, or none.
OTHER_MEANING = {("export", "splits"): "export_splits", ("repeat", "source"): ""}


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages from outside of docs/, and every other file there that a page links."""
    for page, source in SOURCES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for file in files.documentation_pages():
        for target in LINK.findall(file.content_string):
            path = repository_path(source_of(file.src_uri), target)
            if not path.startswith("docs/") and path not in PAGES and (ROOT / path).is_file():
                files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to files to what they are on the site, under its title; write the table of keywords."""
    source = source_of(page.file.src_uri)
    here = posixpath.dirname(page.file.src_uri) or "."
    markdown = NAMED.sub(lambda link: f"[{title(repository_path(source, link[1]))}]({link[1]}", markdown)
    text = LINK.sub(lambda link: posixpath.relpath(site_path(repository_path(source, link[1])), here), markdown)
    if KEYWORDS in text:
        text = text.replace(KEYWORDS, keywords())
    # Readers of repositories want a pipe escaped in the code of a table; Python-Markdown shows the backslash.
    return ROW.sub(lambda row: CODE.sub(lambda code: code[0].replace(r"\|", "|"), row[0]), text)


def source_of(page: str) -> str:
    """Return the file of the repository that a page of the site is made of."""
    return SOURCES.get(page, f"docs/{page}")


def repository_path(source: str, target: str) -> str:
    """Return the path in the repository that a link of a file means: `docs/looking.md`, `../LICENSE` -> `LICENSE`."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target))


def site_path(path: str) -> str:
    """Return where a file of the repository is on the site: `docs/choosing.md` -> `choosing.md`."""
    return PAGES.get(path, path.removeprefix("docs/"))


def title(path: str) -> str:
    """Return the heading of a page of the repository: what its link is called on the site."""
    text = (ROOT / path).read_text(encoding="utf-8")
    return text.partition("# ")[2].partition("\n")[0] if text.startswith("# ") else path


def keywords() -> str:
    """Return the table of keywords: a row for each type and default that a keyword has, and what takes it so."""
    takers: dict[tuple[str, str, str], list[str]] = {}
    for name in oid_async.__all__:
        if inspect.isfunction(getattr(oid_async, name)) or name == "Query":
            for parameter in inspect.signature(getattr(oid_async, name)).parameters.values():
                option = OTHER_MEANING.get((name, parameter.name), parameter.name)
                as_spelled = "" if option == parameter.name else f" (as `{parameter.name}`)"
                takers.setdefault((option, *shown(parameter)), []).append(f"`{name}`{as_spelled}")
    order = {option.name: at for at, option in enumerate(option_fields())}
    rows = ["| keyword | type | default | taken by |", "|---|---|---|---|"]
    for option, kind, default in sorted((row for row in takers if row[0] in order), key=lambda row: order[row[0]]):
        names = ", ".join(takers[option, kind, default])
        rows.append(f"| `{option}` | {kind} | {default} | {names} |")
    return "\n".join(rows)


def shown(parameter: inspect.Parameter) -> tuple[str, str]:
    """Return the type of a keyword and its default as cells of a table. Raises ValueError for one without a type."""
    if parameter.annotation is inspect.Parameter.empty or parameter.kind is inspect.Parameter.VAR_KEYWORD:
        raise ValueError(f"{parameter} has no type that the reference could show")
    annotation = re.sub(r"\b[a-z_.]+\.(?=[A-Z])", "", inspect.formatannotation(parameter.annotation))
    if parameter.default is inspect.Parameter.empty:
        default = "to be given"
    else:
        default = f"`{str(parameter.default) if isinstance(parameter.default, Path) else parameter.default!r}`"
    return f"`{annotation}`".replace("|", r"\|"), default
