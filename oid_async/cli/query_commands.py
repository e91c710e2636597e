"""The commands that fetch what a query, or a set, selects: `download`, `plan`, `repeat`, `demo`."""

import argparse
import os
import shutil
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from shlex import quote
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from oid_async.cli.polars_settings import set_up_polars
from oid_async.cli.running import (
    named_target,
    open_screen,
    print_answer,
    print_report,
    query_options,
    run_to_end,
    say_interrupted,
)
from oid_async.errors import UsageError
from oid_async.options.keywords import FetchAgainOptions
from oid_async.options.query import Options
from oid_async.report import Report
from oid_async.screen.stdio import print_json, print_message

if TYPE_CHECKING:
    from oid_async.screen.screen import Screen


def run_download(arguments: argparse.Namespace) -> int:
    """Run `oid-async download`."""
    if arguments.dry_run:
        if "report" in arguments:
            raise UsageError("--report is of a run: leave out --dry-run")
        return run_plan(arguments)
    if arguments.ids is not None:
        raise UsageError("--ids is for a plan: say oid-async plan, or --dry-run")
    options = query_options(arguments)
    from oid_async.jobs.download import Run

    with open_screen(arguments) as screen:
        run = Run(options, screen.show, own_loop=True)
        code = _run_with_report(arguments, screen, options, run, run.download)
    return _exit_code(arguments, options, run.report, code)


def run_repeat(arguments: argparse.Namespace) -> int:
    """Run `oid-async repeat`."""
    names = FetchAgainOptions.__annotations__
    given = {"processes": "auto"} | {name: value for name, value in vars(arguments).items() if name in names}
    from oid_async.jobs.repeating.repeat import Repeat
    from oid_async.jobs.stored_query import Given

    these = Given.to_repeat(vars(arguments).get("savepath"), given)
    set_up_polars(these.options)
    with open_screen(arguments) as screen:
        repeat = Repeat(arguments.source, these, screen.show, own_loop=True)
        code = _run_with_report(arguments, screen, these.options, repeat, repeat.run)
    return _exit_code(arguments, these.options, repeat.report, code)


class _Reporting(Protocol):
    """A job whose report is true at every moment."""

    @property
    def report(self) -> Report: ...


def _run_with_report(
    arguments: argparse.Namespace,
    screen: "Screen",
    options: Options,
    run: _Reporting,
    job: Callable[[], Awaitable[Report]],
) -> int:
    """Run a job and say what it has come to, also where its end must be forced; return 130 or 143 after a signal."""
    packed = bool(vars(arguments).get("no_files"))
    from oid_async.cli.result_text import summary_lines
    from oid_async.jobs.run_report import write_at_forced_end

    started = monotonic()

    def summary() -> list[str]:
        url = options.endpoint_url
        return summary_lines(run.report, packed=packed, distributed=options.is_distributed, endpoint_url=url)

    def on_forced_end() -> None:
        run.report.interrupted, run.report.seconds = True, monotonic() - started
        screen.say(summary())
        screen.close()
        if arguments.json:
            print_json(run.report.as_json())
        write_at_forced_end(options, run.report)

    _, code = run_to_end(job, on_forced_end)
    run.report.interrupted |= code != 0
    screen.say(summary())
    return code


def _exit_code(arguments: argparse.Namespace, options: Options, report: Report, code: int) -> int:
    """Print the report as JSON if asked for, and return the exit code."""
    if arguments.json:
        print_report(report.as_json(), code)
    within = options.allows(report.failed + report.unknown_ids, report.selected + report.unknown_ids)
    is_whole = not report.failed_attachments and report.pending == report.left_to_others
    return code or (0 if within and is_whole else 1)


def run_plan(arguments: argparse.Namespace) -> int:
    """Run `oid-async plan`."""
    ids = named_target(arguments, "--ids", arguments.ids)
    options = query_options(arguments)
    from oid_async.jobs.download import Run

    with open_screen(arguments) as screen:
        plan, code = run_to_end(lambda: Run(options, screen.show).plan(ids))
    if plan is None:
        return say_interrupted(arguments, code)
    from oid_async.screen.plan_text import plan_lines

    if arguments.ids is None or isinstance(ids, Path):
        print_answer(arguments, plan.as_json(), plan_lines(plan))
    elif not arguments.quiet:
        print_message(*plan_lines(plan))
    return 0 if options.allows(plan.unknown_ids, plan.selected + plan.unknown_ids) else 1


def run_demo(arguments: argparse.Namespace) -> int:
    """Run `oid-async demo`."""
    if arguments.write_mirror is not None:
        return _write_mirror(arguments)
    if arguments.savepath is None:
        arguments.savepath = "demo_data"
    options = Options(savepath=arguments.savepath)
    set_up_polars(None)
    from oid_async.jobs.demo import closing_words, demo_run, went_as_staged

    with open_screen(arguments) as screen:
        run = demo_run(options.folder_for("demo"), options.cache_dir, screen.show)
        _, code = run_to_end(run.download)
        run.report.interrupted |= code != 0
    if arguments.json:
        print_report(run.report.as_json(), code)
    elif not arguments.quiet:
        print_message(*closing_words(run.report, _program()))
    return code or (0 if went_as_staged(run.report) else 1)


def _program() -> str:
    """Return how this program is called again: by its name where a shell finds it by that, else as it was called."""
    typed, found = sys.argv[0], shutil.which("oid-async")
    if not typed.endswith("oid-async") or (found is not None and os.path.realpath(found) == os.path.realpath(typed)):
        return "oid-async"
    return quote(typed)


def _write_mirror(arguments: argparse.Namespace) -> int:
    if arguments.savepath is not None:
        raise UsageError("--write-mirror downloads nothing: leave out SAVEPATH")
    from oid_async.jobs.demo import mirror_words, write_mirror

    made = write_mirror(arguments.write_mirror)
    return print_answer(arguments, made, mirror_words(made))
