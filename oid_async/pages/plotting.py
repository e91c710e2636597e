"""The plotting library, Altair with Vega: there only with the extra `view`."""

import json
import sys
from importlib.util import find_spec

from oid_async.errors import UsageError
from oid_async.system.processes import cpu_s

INSTALL = 'pip install "oid-async[view]"'


def has_library() -> bool:
    """Return whether plots can be made, without loading what makes them."""
    try:
        return all(find_spec(name) is not None for name in ("altair", "vl_convert"))
    except (ImportError, ValueError):
        return False  # somebody keeps it from being imported: None in sys.modules, or a finder that says no


def require_library(option: str) -> None:
    """Raise UsageError, with what to do, if plots cannot be made for an option."""
    if not has_library():
        raise UsageError(f"{option}: plots need Altair, which is not installed; install it with: {INSTALL}")


_made: list[str] = []  # one at most


def bundle() -> str:
    """Return the JavaScript of Vega, Vega-Lite and Vega-Embed, 0.9 MB.

    It takes two seconds, once, in which no other thread gets the interpreter. This file, run as a program, writes its
    CPU time, user and system, and then the bundle to stdout, for `keep_bundle`.
    """
    if not _made:
        import vl_convert

        _made.append(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
    return _made[0]


def has_bundle() -> bool:
    """Return whether `bundle` takes no time."""
    return bool(_made)


def keep_bundle(text: str) -> None:
    """Keep what another process has made as the bundle."""
    _made[:] = [text]


def _write_bundle() -> None:
    text = bundle()
    sys.stdout.buffer.write(json.dumps(cpu_s()).encode() + b"\n" + text.encode())


if __name__ == "__main__":
    _write_bundle()
