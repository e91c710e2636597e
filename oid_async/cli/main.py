"""The command line: arguments -> Options -> job -> exit code. `--help` and `--version` must answer at once."""

import json
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from oid_async.cli.commands import COMMANDS
from oid_async.cli.parser import make_parser
from oid_async.cli.stdio import OutputError, error_document, flush_streams, print_message, print_result
from oid_async.errors import OidError
from oid_async.http.descriptors import raise_limit

_SWITCH_S = 0.0005


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    raise_limit()
    # The loop gives the interpreter away for some microseconds with every call to a socket: too short for a thread that
    # stores images to take it. It would wait 5 ms for its turn instead; this makes runs a tenth faster (measured).
    sys.setswitchinterval(_SWITCH_S)
    try:
        arguments = make_parser().parse_args(words)
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
    except Exception as error:
        # A bug of ours: the trace goes to stderr, stdout keeps its promise of one JSON object.
        print_message(traceback.format_exc().rstrip())
        if "--json" not in words:
            return 1
        return _failed(words, "internal", f"{type(error).__name__}: {error}", 1)


def _failed(words: Sequence[str], kind: str, message: str, code: int) -> int:
    """Say what ended the program, where it was asked for, and return the exit code."""
    if "--json" in words:
        try:
            print_result(json.dumps(error_document(kind, message)))
            return code
        except (OutputError, BrokenPipeError):
            pass  # then a person may read it
    print_message(f"oid-async: error: {message}")
    return code


def run_program() -> NoReturn:
    """Run as a program of its own: everything is closed once main returns, and the process ends there and then.

    Taking the interpreter down with Polars and aiohttp in it costs a fifth of a second that nobody needs.
    """
    code = main()
    flush_streams()
    os._exit(code)
