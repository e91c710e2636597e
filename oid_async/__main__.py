"""Where the program starts, as `oid-async` and as `python -m oid_async`.

Importing the rest takes a while. A signal meanwhile ends the process at once: nothing is open yet, and a traceback
would tell nobody anything. The command line puts its own handlers in place once it works.
"""

import gc
import os
import signal
import sys
from types import FrameType
from typing import NoReturn


def run() -> NoReturn:
    """Run the command line as a program of its own."""
    # What is imported stays: looking for garbage takes a twentieth of a short run (measured). A job begins with it.
    gc.disable()
    _take_names_as_utf8()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    _take_standard_descriptors()
    from oid_async.cli.main import run_program

    run_program()


def _take_names_as_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale has another encoding: Polars knows names as UTF-8 alone."""
    if sys.getfilesystemencoding() == "utf-8" or not sys.executable or os.environ.get("PYTHONUTF8") == "1":
        return
    os.environ["PYTHONUTF8"] = "1"  # for worker processes, too; and who ignores it comes here once
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _end(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(128 + number)


def _take_standard_descriptors() -> None:
    """Let no file of ours take the number of a stream that is closed: whatever writes to stderr would write into it."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


if __name__ == "__main__":
    run()
