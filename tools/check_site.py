"""Check the built site: no link or anchor is dead, and no page loads anything from another origin.

    mkdocs build --strict && python tools/check_site.py site

MkDocs checks the links of the sources; this checks the pages, what the theme and the docstrings bring included.
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Attributes that make a browser load something, as `href` does but of what is followed by a click alone, or by nobody.
LOADED = {"src", "srcset", "poster", "data"}
HREF = ("href", "xlink:href")
FOLLOWED, NOT_LOADED = {"a", "area", "base"}, {"canonical", "next", "prev"}
STYLE = re.compile(r"""(?:\burl\(|@import )\s*["']?((?:https?:)?//[^"')\s]+)""")


class Links(HTMLParser):
    """The anchors of a page or a picture, what it links, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.linked: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in (("id", "name") if tag == "a" else ("id",)) if name in values}
        is_loaded = tag not in FOLLOWED and (tag != "link" or values.get("rel") not in NOT_LOADED)
        (self.loaded if is_loaded else self.linked).extend(values[name] for name in HREF if name in values)
        self.loaded += [values[name] for name in LOADED & values.keys()]


def main(site: Path) -> int:
    """Print a line for each fault; return 1 if there is one."""
    paths = [path.resolve() for path in (*site.rglob("*.html"), *site.rglob("*.svg"))]
    read = {path: Links(path.read_text(encoding="utf-8")) for path in paths}
    pages = {path: links for path, links in read.items() if path.suffix == ".html"}
    faults = [fault for path, links in read.items() for fault in faults_of(path, links, read)]
    styled = [*site.rglob("*.css"), *read]
    faults += [f"{path}: loads {url}" for path in styled for url in STYLE.findall(path.read_text(encoding="utf-8"))]
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"{len(pages)} pages, {sum(len(links.linked) for links in pages.values())} links: {len(faults)} faults")
    return 1 if faults or not pages else 0


def faults_of(path: Path, links: Links, pages: dict[Path, Links]) -> list[str]:
    """Return what is wrong with the links of one page."""
    faults = [f"{path}: loads {url}" for url in links.loaded if is_elsewhere(url) and not url.startswith("data:")]
    for url in {*links.linked, *links.loaded}:
        if is_elsewhere(url):
            continue
        parts = urlsplit(url)
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        # 404.html is served for any address, so that its links begin at the root of the site.
        if path.name == "404.html" and parts.path.startswith("/"):
            target = (path.parent / unquote(parts.path).lstrip("/")).resolve()
        if target.is_dir():
            target /= "index.html"
        if not target.is_file():
            faults.append(f"{path}: {url} leads nowhere")
        elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
            faults.append(f"{path}: {url} has no such anchor")
    return faults


def is_elsewhere(url: str) -> bool:
    """Return whether an address is of another origin, or no file at all (`mailto:`, `data:`)."""
    parts = urlsplit(url)
    return bool(parts.scheme or parts.netloc)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
