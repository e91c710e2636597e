"""Opens the gallery in the user's browser, where there is one to be seen."""

import os
import subprocess
import sys
from collections.abc import Mapping
from threading import Thread


def has_screen(platform: str, environment: Mapping[str, str]) -> bool:
    """Return whether a browser with windows can be shown; one in a terminal would take this one over.

    >>> has_screen("linux", {}), has_screen("linux", {"DISPLAY": ":0"}), has_screen("darwin", {})
    (False, True, True)
    """
    return platform in ("darwin", "win32") or any(environment.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def open_browser(url: str) -> None:
    """Open an address in the browser, if there is one to be seen. Never waits, says nothing, raises nothing."""
    if has_screen(sys.platform, os.environ) and sys.executable:
        Thread(target=_open, args=(url,), name="gallery-browser", daemon=True).start()


def _open(url: str) -> None:
    # A process of its own: a browser writes to the terminal of who has started it, and ends with it on Ctrl-C.
    nothing = subprocess.DEVNULL
    command = [sys.executable, "-m", "webbrowser", url]
    try:
        subprocess.run(command, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True, check=False)
    except OSError:
        pass  # the address was printed
