"""The commands of a query: `download` and `plan`."""

import argparse
from pathlib import Path
from time import monotonic
from typing import BinaryIO

from oid_async.cli.running import open_screen, print_answer, print_report, query_options, run_to_end, say_interrupted
from oid_async.cli.stdio import print_json, print_message, result_stream
from oid_async.errors import UsageError
from oid_async.options.paths import read_path

_STDOUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


def run_download(arguments: argparse.Namespace) -> int:
    """Run `oid-async download`."""
    if arguments.dry_run:
        return run_plan(arguments)
    if arguments.ids is not None:
        raise UsageError("--ids is for a plan: say oid-async plan, or --dry-run")
    options = query_options(arguments)
    from oid_async.cli.screen import summary_lines
    from oid_async.jobs.download import Run

    with open_screen(arguments) as screen:
        run = Run(options, screen.show, own_loop=True)

        started = monotonic()

        def on_forced_end() -> None:
            run.report.interrupted, run.report.seconds = True, monotonic() - started
            screen.say(summary_lines(run.report, packed=options.packs))
            screen.close()
            if arguments.json:
                print_json(run.report.as_json())

        _, code = run_to_end(run.download, on_forced_end)
        run.report.interrupted |= code != 0
        screen.say(summary_lines(run.report, packed=options.packs))
    if arguments.json:
        print_report(run.report.as_json(), code)
    report = run.report
    within = options.allows(report.failed + report.unknown_ids, report.selected + report.unknown_ids)
    is_whole = not report.failed_attachments and not report.pending
    return code or (0 if within and is_whole else 1)


def run_plan(arguments: argparse.Namespace) -> int:
    """Run `oid-async plan`."""
    ids = _ids_target(arguments)
    options = query_options(arguments)
    from oid_async.jobs.download import Run

    with open_screen(arguments) as screen:
        plan, code = run_to_end(lambda: Run(options, screen.show).plan(ids))
    if plan is None:
        return say_interrupted(arguments, code)
    from oid_async.cli.plan_text import plan_lines

    if arguments.ids is None or isinstance(ids, Path):
        print_answer(arguments, plan.as_json(), plan_lines(plan))
    elif not arguments.quiet:
        print_message(*plan_lines(plan))
    return 0 if options.allows(plan.unknown_ids, plan.selected + plan.unknown_ids) else 1


def _ids_target(arguments: argparse.Namespace) -> Path | BinaryIO | None:
    """Return where --ids writes to: a file, stdout, or None without the option."""
    if arguments.ids is None:
        return None
    if arguments.ids not in _STDOUT:
        return Path(read_path("--ids", arguments.ids))
    if arguments.json:
        raise UsageError(f"--ids {arguments.ids} and --json both write to stdout; give --ids a file")
    return result_stream()
