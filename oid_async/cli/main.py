"""The command line: arguments -> Options -> job -> exit code. `--help` and `--version` must answer at once."""

import os
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from oid_async.cli.commands import COMMANDS
from oid_async.cli.parser import make_parser
from oid_async.concurrency import most_telling
from oid_async.errors import OidError
from oid_async.metadata.paths import cache_root
from oid_async.options.query import Options
from oid_async.redaction import printable_lines, redacted_text
from oid_async.screen.stdio import OutputError, error_document, flush_streams, guard_stderr, print_json, print_message
from oid_async.system.processes import raise_open_files_limit
from oid_async.version import __version__

_SWITCH_S = 0.0005
INTERNAL = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    raise_open_files_limit()
    # The loop gives the interpreter away for some microseconds with every call to a socket: too short for a thread that
    # stores images to take it. It would wait 5 ms for its turn instead; this makes runs a tenth faster (measured).
    sys.setswitchinterval(_SWITCH_S)
    try:
        arguments = make_parser(words).parse_args(words)
        return COMMANDS[arguments.name](arguments)
    except OutputError as error:
        print_message(f"oid-async: error: {error}")
        return error.exit_code
    except OidError as error:
        return _failed(words, error.kind, str(error), error.exit_code)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has gone; point stdout elsewhere so that the interpreter's last flush is quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OutputError.exit_code
    except BaseException as error:
        # Polars' panics are no Exception. What else is none ends the program as it always does.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        return _failed(words, "internal", _explained(error), INTERNAL)


def _explained(error: BaseException) -> str:
    """Return what to say of a fault of the program; the traceback goes into a log file."""
    if isinstance(error, BaseExceptionGroup):
        error = most_telling(error)
    what = redacted_text(" ".join(f"{type(error).__name__}: {error}".split()))[:300]
    log = _write_log(error)
    where = f"; {log} has the details" if log is not None else ""
    return f"this is a fault of oid-async ({what}); please report it to the maintainers of the program{where}"


def _write_log(error: BaseException) -> Path | None:
    """Write a traceback, without secrets and option values; to the cache folder, else to that of temporary files."""
    import platform
    import tempfile
    import traceback

    version = f"oid-async {__version__}, Python {platform.python_version()}, {platform.platform()}"
    trace = "".join(traceback.format_exception(error))
    name = f"oid-async-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    for folder in (_cache_folder, tempfile.gettempdir):
        try:
            path = Path(folder(), name)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{version}\n\n{printable_lines(redacted_text(trace))}")
            return path
        except (OSError, RuntimeError, ValueError, OidError):
            continue
    return None


def _cache_folder() -> Path:
    return cache_root(Options().cache_dir) / "logs"


def _failed(words: Sequence[str], kind: str, message: str, code: int) -> int:
    """Say what ended the program, where it was asked for, and return the exit code."""
    if "--json" in words:
        try:
            print_json(error_document(kind, message))
            return code
        except (OutputError, BrokenPipeError):
            pass  # then a person may read it
    print_message(f"oid-async: error: {message}")
    return code


def run_program() -> NoReturn:
    """Run as a program of its own: everything is closed once main returns, and the process ends there and then.

    Taking the interpreter down with Polars and aiohttp in it costs a fifth of a second that nobody needs.
    """
    guard_stderr()
    # Pillow warns of odd EXIF data in a picture, by lines of its own source code.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    code = main()
    flush_streams()
    os._exit(code)
