"""What every command does with its job: options, a screen, a loop of its own, the answer, the exit code."""

import argparse
import gc
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from oid_async.cli.cluster_variables import shard_from
from oid_async.cli.polars_settings import set_up_polars
from oid_async.errors import UsageError
from oid_async.options.paths import read_path, url_scheme
from oid_async.options.places import BUCKET_SCHEMES
from oid_async.options.query import Options, option_fields
from oid_async.screen.stdio import (
    OutputError,
    error_document,
    print_json,
    print_message,
    print_result,
    result_stream,
)

if TYPE_CHECKING:
    from oid_async.screen.screen import Screen

Result = TypeVar("Result")

_STDOUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
# An interrupted run has five seconds in all; one is left for its report and for the process to end.
PATIENCE_S = 4.0


def options_of(arguments: argparse.Namespace) -> Options:
    """Return the options that were typed. Raises UsageError."""
    names = {option.name for option in option_fields()}
    # A program may use all of its machine; a library asks first.
    given: dict[str, Any] = {"processes": "auto"} | vars(arguments)
    options = Options(**{name: value for name, value in given.items() if name in names})
    set_up_polars(options)
    return options


def query_options(arguments: argparse.Namespace) -> Options:
    """Return the options of a query; which part of it is wanted a cluster may say, if nobody else does."""
    # Past one machine the environment says only which parts to begin with.
    if "shard" not in arguments and not _is_distributed(arguments):
        arguments.shard, said = shard_from(os.environ)
        if said is not None and not arguments.quiet:
            print_message(said)
    return options_of(arguments)


def _is_distributed(arguments: argparse.Namespace) -> bool:
    place = url_scheme(str(vars(arguments).get("savepath", "")))
    return vars(arguments).get("cluster") is not None or place in BUCKET_SCHEMES


def named_target(arguments: argparse.Namespace, option: str, value: str | None) -> Path | BinaryIO | None:
    """Return where an option that names a file writes to: a file, stdout, or None without the option."""
    if value is None:
        return None
    if value not in _STDOUT:
        return Path(read_path(option, value))
    if arguments.json:
        raise UsageError(f"{option} {value} and --json both write to stdout; give {option} a file")
    return result_stream()


def open_screen(arguments: argparse.Namespace) -> "Screen":
    """Return the screen of a command, to be entered."""
    from oid_async.screen.screen import Screen

    return Screen(quiet=arguments.quiet)


def run_to_end(
    job: "Callable[[], Awaitable[Result]]", on_forced_end: Callable[[], None] | None = None
) -> tuple["Result | None", int]:
    """Run a job on a loop of its own; return its result and 0, or None and 130/143 after SIGINT/SIGTERM.

    The first signal cancels: no new work, temporaries removed, journal whole. The second, or PATIENCE_S without an
    end (a thread deep inside a table, or in a write that hangs, cannot be stopped), ends the process at once; the next
    run sweeps what is left. `on_forced_end` is called when patience ends, not at the second signal.
    """
    import asyncio

    from oid_async.cli.signals import SignalListener
    from oid_async.concurrency import collect_garbage_seldom

    listener = SignalListener(PATIENCE_S, on_forced_end)
    # Where the process is all ours, which had no need of it while it was loading.
    if not gc.isenabled():
        collect_garbage_seldom()

    async def guarded() -> "Result":
        task = asyncio.current_task()
        assert task is not None
        listener.cancel_on_signal(task)
        return await job()

    with listener.open():
        try:
            return asyncio.run(guarded()), 0
        except asyncio.CancelledError:
            if listener.received is None:
                raise
            return None, 128 + listener.received


def print_answer(arguments: argparse.Namespace, document: dict[str, Any], lines: Sequence[str]) -> int:
    """Print a result as JSON or as lines, as asked for, and return exit code 0."""
    if arguments.json:
        print_json(document)
    elif not arguments.quiet:
        print_result(*lines)
    return 0


def say_interrupted(arguments: argparse.Namespace, code: int) -> int:
    """Say that there is nothing to print, and return the exit code."""
    if arguments.json:
        with suppress(OutputError, BrokenPipeError):
            print_json(error_document("interrupted", "interrupted before there was an answer"))
    return code


def print_report(report: dict[str, Any], code: int) -> None:
    """Print a report as JSON. That a run was interrupted is its exit code, whether or not this can be written."""
    try:
        print_json(report)
    except (OutputError, BrokenPipeError):
        if not code:
            raise
