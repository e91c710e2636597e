"""The plotting library, Altair with Vega: there only with the extra `view`."""

import functools
from importlib.util import find_spec

from oid_async.errors import UsageError

INSTALL = 'pip install "oid-async[view]"'


def has_library() -> bool:
    """Return whether plots can be made, without loading what makes them."""
    return all(find_spec(name) is not None for name in ("altair", "vl_convert"))


def require_library(option: str) -> None:
    """Raise UsageError, with what to do, if plots cannot be made for an option."""
    if not has_library():
        raise UsageError(f"{option}: plots need Altair, which is not installed; install it with: {INSTALL}")


@functools.cache
def bundle() -> str:
    """Return the JavaScript of Vega, Vega-Lite and Vega-Embed, 0.9 MB; it takes two seconds, once."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
