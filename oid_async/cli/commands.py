"""The commands: each reads its arguments, runs its job on a loop of its own, prints the result, returns the exit code.

Nothing heavy is imported before a command really runs.
"""

import argparse
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from oid_async.cli.cluster_variables import shard_from
from oid_async.cli.polars_settings import set_up_polars
from oid_async.cli.stdio import OutputError, error_document, print_json, print_message, print_result, print_row
from oid_async.options.export import ExportOptions
from oid_async.options.query import Options, ReadOptions, RepeatOptions, option_fields

if TYPE_CHECKING:
    from oid_async.cli.screen import Screen

Result = TypeVar("Result")

# An interrupted run has five seconds in all; one is left for its report and for the process to end.
PATIENCE_S = 4.0


def _options(arguments: argparse.Namespace) -> Options:
    names = {option.name for option in option_fields()}
    # A program may use all of its machine; a library asks first.
    given: dict[str, Any] = {"processes": "auto"} | vars(arguments)
    options = Options(**{name: value for name, value in given.items() if name in names})
    set_up_polars(options)
    return options


def _query_options(arguments: argparse.Namespace) -> Options:
    """Return the options of a query; which part of it is wanted a cluster may say, if nobody else does."""
    if "shard" not in arguments:
        arguments.shard, said = shard_from(os.environ)
        if said is not None and not arguments.quiet:
            print_message(said)
    return _options(arguments)


def run_download(arguments: argparse.Namespace) -> int:
    """Run `oid-async download`."""
    if arguments.dry_run:
        return run_plan(arguments)
    options = _query_options(arguments)
    from oid_async.cli.screen import summary_lines
    from oid_async.jobs.download import Run

    with _screen(arguments) as screen:
        run = Run(options, screen.show, own_loop=True)

        started = monotonic()

        def on_forced_end() -> None:
            run.report.interrupted, run.report.seconds = True, monotonic() - started
            screen.say(summary_lines(run.report, packed=options.packs))
            screen.close()
            if arguments.json:
                print_json(run.report.as_json())

        _, code = _run_to_end(run.download, on_forced_end)
        run.report.interrupted |= code != 0
        screen.say(summary_lines(run.report, packed=options.packs))
    if arguments.json:
        _print_report(run.report.as_json(), code)
    report = run.report
    within = options.allows(report.failed + report.unknown_ids, report.selected + report.unknown_ids)
    is_whole = not report.failed_attachments and not report.pending
    return code or (0 if within and is_whole else 1)


def run_plan(arguments: argparse.Namespace) -> int:
    """Run `oid-async plan`."""
    options = _query_options(arguments)
    from oid_async.jobs.download import Run

    with _screen(arguments) as screen:
        plan, code = _run_to_end(Run(options, screen.show).plan)
    if plan is None:
        return _interrupted(arguments, code)
    from oid_async.cli.screen import plan_lines

    _finish(arguments, plan.as_json(), plan_lines(plan))
    return 0 if options.allows(plan.unknown_ids, plan.selected + plan.unknown_ids) else 1


def run_classes(arguments: argparse.Namespace) -> int:
    """Run `oid-async classes`."""
    options = _options(arguments)
    from oid_async.cli.listing_text import class_lines
    from oid_async.jobs.listings import Listings

    with _screen(arguments) as screen:
        listings = Listings(options, screen.show)
        classes, code = _run_to_end(lambda: listings.classes(arguments.pattern, tree=arguments.tree))
    if classes is None:
        return _interrupted(arguments, code)
    return _finish(arguments, classes.as_json(), class_lines(classes, tree=arguments.tree))


def run_metadata(arguments: argparse.Namespace) -> int:
    """Run `oid-async metadata`."""
    options = _options(arguments)
    from oid_async.cli.listing_text import table_lines
    from oid_async.jobs.listings import Listings

    with _screen(arguments) as screen:
        listings = Listings(options, screen.show)
        jobs = {
            "list": lambda: listings.tables(ask=arguments.sizes),
            "pull": listings.pull_sizes if arguments.sizes else listings.pull,
            "clear": lambda: listings.clear(everything=not {"splits", "release", "mirror"} & vars(arguments).keys()),
        }
        tables, code = _run_to_end(jobs[arguments.action])
    if tables is None:
        return _interrupted(arguments, code)
    document = {"cache_dir": str(listings.root), "tables": [table.as_json() for table in tables]}
    return _finish(arguments, document, table_lines(tables, listings.root))


def run_demo(arguments: argparse.Namespace) -> int:
    """Run `oid-async demo`."""
    options = Options(savepath=arguments.savepath)
    set_up_polars(None)
    from oid_async.jobs.demo import closing_words, demo_run, went_as_staged

    with _screen(arguments) as screen:
        run = demo_run(options.savepath, options.cache_dir, screen.show)
        _, code = _run_to_end(run.download)
        run.report.interrupted |= code != 0
    if arguments.json:
        _print_report(run.report.as_json(), code)
    elif not arguments.quiet:
        program = sys.argv[0] if sys.argv[0].endswith("oid-async") else "oid-async"
        print_message(*closing_words(run.report, program))
    return code or (0 if went_as_staged(run.report) else 1)


def run_verify(arguments: argparse.Namespace) -> int:
    """Run `oid-async verify`."""
    savepath = Options(savepath=arguments.savepath).savepath
    given = {name: value for name, value in vars(arguments).items() if name in RepeatOptions.__annotations__}
    options = Options(savepath=savepath, **given)
    set_up_polars(options if arguments.repair else None)
    from oid_async.cli.screen import finding_rows, verification_lines
    from oid_async.jobs.stored_query import Given
    from oid_async.jobs.verify import Verify

    these = Given.of(savepath, given, repairs=arguments.repair)

    with _screen(arguments) as screen:
        verify = Verify(these, screen.show, repair=arguments.repair, deep=arguments.deep, exports=arguments.exports)
        found, code = _run_to_end(verify.run)
        if found is not None:
            screen.say(verification_lines(found))
    if found is None:
        return _interrupted(arguments, code)
    if arguments.json:
        print_json(found.as_json())
    elif not arguments.quiet:
        for row in finding_rows(found):
            print_row(row)
    return 0 if found.clean or (arguments.repair and found.allows(options)) else 1


def run_export(arguments: argparse.Namespace) -> int:
    """Run `oid-async export`."""
    fields = ExportOptions.__dataclass_fields__
    options = ExportOptions(**{name: value for name, value in vars(arguments).items() if name in fields})
    also = Options(savepath=arguments.savepath, processes=vars(arguments).get("processes", "auto"))
    set_up_polars(None)
    from oid_async.cli.screen import export_lines
    from oid_async.jobs.export import Export
    from oid_async.jobs.stored_query import Given

    read = {name: value for name, value in vars(arguments).items() if name in ReadOptions.__annotations__}
    these = Given.of(also.savepath, read)
    with _screen(arguments) as screen:
        export = Export(
            also.savepath, options, screen.show, processes=also.processes, edited=arguments.edited, given=these
        )
        report, code = _run_to_end(export.run)
        if report is not None:
            screen.say(export_lines(report))
    if report is None:
        return _interrupted(arguments, code)
    if arguments.json:
        print_json(report.as_json())
    return 0


def run_prune(arguments: argparse.Namespace) -> int:
    """Run `oid-async prune`."""
    savepath = Options(savepath=arguments.savepath).savepath
    set_up_polars(None)
    from oid_async.cli.screen import prune_lines
    from oid_async.jobs.prune import Prune

    with _screen(arguments) as screen:
        report, code = _run_to_end(Prune(savepath, screen.show, dry_run=arguments.dry_run).run)
    if report is None:
        return _interrupted(arguments, code)
    return _finish(arguments, report.as_json(), prune_lines(report))


def _finish(arguments: argparse.Namespace, document: dict[str, Any], lines: Sequence[str]) -> int:
    """Print a result as JSON or as lines, as asked for, and return exit code 0."""
    if arguments.json:
        print_json(document)
    elif not arguments.quiet:
        print_result(*lines)
    return 0


def _screen(arguments: argparse.Namespace) -> "Screen":
    from oid_async.cli.screen import Screen

    return Screen(quiet=arguments.quiet)


def _run_to_end(
    job: "Callable[[], Awaitable[Result]]", on_forced_end: Callable[[], None] | None = None
) -> tuple["Result | None", int]:
    """Run a job on a loop of its own; return its result and 0, or None and 130/143 after SIGINT/SIGTERM.

    The first signal cancels: no new work, temporaries removed, journal whole. The second, or PATIENCE_S without an
    end (a thread deep inside a table, or in a write that hangs, cannot be stopped), ends the process at once; the next
    run sweeps what is left. `on_forced_end` is called when patience ends, not at the second signal.
    """
    import asyncio

    from oid_async.cli.signals import SignalListener

    listener = SignalListener(PATIENCE_S, on_forced_end)

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


def _interrupted(arguments: argparse.Namespace, code: int) -> int:
    """Say that there is nothing to print, and return the exit code."""
    if arguments.json:
        with suppress(OutputError, BrokenPipeError):
            print_json(error_document("interrupted", "interrupted before there was an answer"))
    return code


def _print_report(report: dict[str, Any], code: int) -> None:
    """Print a report as JSON. That a run was interrupted is its exit code, whether or not this can be written."""
    try:
        print_json(report)
    except (OutputError, BrokenPipeError):
        if not code:
            raise


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "download": run_download,
    "plan": run_plan,
    "classes": run_classes,
    "metadata": run_metadata,
    "verify": run_verify,
    "export": run_export,
    "prune": run_prune,
    "demo": run_demo,
}
