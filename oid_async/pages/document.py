"""The page around what is shown: one file with style, script and plots, and a policy that forbids the rest."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from oid_async.pages.elements import Html, element, joined, text
from oid_async.pages.plotting import bundle

# A specification of Vega-Lite, by the id of the element that it is drawn in.
Plots = Mapping[str, Mapping[str, Any]]


def document(title: str, *, header: Sequence[Html], main: Sequence[Html], footer: str, plots: Plots) -> str:
    """Return a page that asks for nothing: style, script and data are in it; without plots no library is."""
    style = _static("page.css")
    scripts = [_static("page.js")] if not plots else [_plain_script(bundle()), _static("page.js")]
    parts = [
        Html("<!DOCTYPE html>"),
        Html('<html lang="en">\n<head>\n<meta charset="utf-8">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{_policy(style, scripts)}">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<meta name="referrer" content="no-referrer">\n<link rel="icon" href="data:,">'),
        element("title", text(title)),
        Html(f"<style>{style}</style>\n</head>\n<body>"),
        element("header", *header),
        element("main", joined(main)),
        element("footer", element("p", text(footer)), *_without_script(plots)),
        Html('<div id="hover" hidden></div>'),
        *_data(plots),
        *(Html(f"<script>{script}</script>") for script in scripts),
        Html("</body>\n</html>\n"),
    ]
    return joined(parts)


@cache
def _static(name: str) -> str:
    # With the line ends that a browser reads, of which the policy's hashes are made.
    return (files("oid_async.pages") / "static" / name).read_text(encoding="utf-8").replace("\r\n", "\n")


def _plain_script(code: str) -> str:
    """Return code in which nothing ends its script element (HTML, section 4.12.1.3)."""
    return code.replace("\r\n", "\n").replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _policy(style: str, scripts: Sequence[str]) -> str:
    allowed = " ".join(_hash(script) for script in scripts)
    return (
        f"default-src 'none'; script-src {allowed}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(code: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"


def _data(plots: Plots) -> list[Html]:
    if not plots:
        return []
    written = json.dumps(plots, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        written = written.replace(sign, f"\\u{ord(sign):04x}")
    return [Html(f'<script type="application/json" id="plots">{written}</script>')]


def _without_script(plots: Plots) -> list[Html]:
    said = text("The plots need JavaScript, which is off here. All numbers are in the tables.")
    return [element("noscript", element("p", said))] if plots else []
