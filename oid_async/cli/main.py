"""The command line: arguments -> Options -> job -> exit code. It owns the signals, the screen and stdout.

Nothing heavy is imported before a command really runs: `--help` and `--version` must answer at once.
"""

import argparse
import json
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Container, Sequence
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from oid_async.cli.cluster_variables import shard_from
from oid_async.cli.polars_settings import set_up_polars
from oid_async.cli.stdio import OutputError, flush_streams, forgiving, print_message, print_result
from oid_async.dataset.query_file import StoredQuery
from oid_async.errors import OidError, UsageError
from oid_async.http.descriptors import raise_limit
from oid_async.options.export import ExportOptions
from oid_async.options.query import Options, option_fields
from oid_async.options.table import HEADINGS, Heading
from oid_async.version import __version__

if TYPE_CHECKING:
    from oid_async.cli.screen import Screen
    from oid_async.report import Report

Result = TypeVar("Result")

# An interrupted run has five seconds in all; one is left for its report and for the process to end.
PATIENCE_S = 4.0
_SWITCH_S = 0.0005


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    raise_limit()
    # The loop gives the interpreter away for some microseconds with every call to a socket: too short for a thread that
    # stores images to take it. It would wait 5 ms for its turn instead; this makes runs a tenth faster (measured).
    sys.setswitchinterval(_SWITCH_S)
    try:
        arguments = _parser().parse_args(words)
        return int(arguments.command(arguments))
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
            print_result(json.dumps(_error(kind, message)))
            return code
        except (OutputError, BrokenPipeError):
            pass  # then a person may read it
    print_message(f"oid-async: error: {message}")
    return code


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"error": {"kind": kind, "message": message}}


def run_program() -> NoReturn:
    """Run as a program of its own: everything is closed once main returns, and the process ends there and then.

    Taking the interpreter down with Polars and aiohttp in it costs a fifth of a second that nobody needs.
    """
    code = main()
    flush_streams()
    os._exit(code)


class _Parser(argparse.ArgumentParser):
    """argparse with one-line errors, no abbreviations, and rich help that is imported only when it is printed.

    Options are added under the headings of the option table; a heading without options is not shown.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**(settings | {"allow_abbrev": False, "add_help": False, "formatter_class": _help_formatter}))
        self.under = {heading: self.add_argument_group(heading) for heading in HEADINGS}

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")

    def _print_message(self, message: str, file: object = None) -> None:
        # Help and version alone come here: what is wrong is raised.
        print_result(message.removesuffix("\n"))


def _help_formatter(prog: str) -> argparse.HelpFormatter:
    from rich.console import Console
    from rich_argparse import RichHelpFormatter

    class Formatter(RichHelpFormatter):
        group_name_formatter = str

    # Even to capture what it would print, rich writes nothing to stdout: zero bytes, which a full disk refuses.
    return Formatter(prog, max_help_position=30, console=Console(file=forgiving(sys.stdout)))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="oid-async",
        usage="oid-async COMMAND [OPTIONS]",
        description="Pull any subset of Google's Open Images onto this disk.",
    )
    _add_help(parser)
    parser.add_argument("--version", action="version", version=f"oid-async {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="name", prog="oid-async")
    download = commands.add_parser(
        "download",
        usage="oid-async download [OPTIONS]",
        help="select images and fetch them with their boxes",
        description="Select images by class, fetch them with their boxes into a folder; run again to go on.",
    )
    _add_query(download)
    download.under["output"].add_argument(
        "--dry-run", action="store_true", help="say what it would take, fetch no image: as plan"
    )
    download.set_defaults(command=_download)
    plan = commands.add_parser(
        "plan",
        usage="oid-async plan [OPTIONS]",
        help="say what a download would take",
        description="Say what a download with the same options would do. Fetches tables, no image.",
    )
    _add_query(plan)
    plan.set_defaults(command=_plan)
    _add_listings(commands)
    verify = commands.add_parser(
        "verify",
        usage="oid-async verify SAVEPATH [OPTIONS]",
        help="check every file that was saved",
        description="Check every file against the manifest: missing, truncated, altered, extra. Exit 0: all whole.",
    )
    verify.add_argument("savepath", metavar="SAVEPATH", help="a folder that a download has filled")
    verify.under["failures"].add_argument(
        "--repair", action="store_true", help="fetch what is missing, truncated or altered again, then check once more"
    )
    _add_output(verify)
    verify.set_defaults(command=_verify)
    export = commands.add_parser(
        "export",
        usage="oid-async export SAVEPATH --format NAME [OPTIONS]",
        help="turn what was saved into what trainers read",
        description="Write what a download has saved in a format that trainers read; docs/formats.md compares them.",
    )
    export.add_argument("savepath", metavar="SAVEPATH", help="a folder that a download has filled")
    _add_query(export, (*ExportOptions.__dataclass_fields__, "processes"), heading="export")
    export.set_defaults(command=_export)
    demo = commands.add_parser(
        "demo",
        usage="oid-async demo [SAVEPATH]",
        help="the main job, offline, against a small look-alike",
        description="Run the real download against an embedded look-alike of Open Images, offline.",
    )
    demo.add_argument("savepath", nargs="?", default="demo_data", metavar="SAVEPATH", help="default demo_data")
    _add_output(demo)
    demo.set_defaults(command=_demo)
    return parser


def _add_listings(commands: "argparse._SubParsersAction[_Parser]") -> None:
    classes = commands.add_parser(
        "classes",
        usage="oid-async classes [PATTERN] [OPTIONS]",
        help="which classes there are",
        description="List the classes: names, MIDs, and images and boxes of each split whose box table is cached.",
    )
    classes.add_argument("pattern", nargs="?", metavar="PATTERN", help="only names that hold this, or this MID")
    classes.under["output"].add_argument(
        "--tree", action="store_true", help="as a tree, with every class below what PATTERN finds"
    )
    _add_query(classes, ("label", "release", "mirror", "cache_dir", "offline"))
    classes.set_defaults(command=_classes)
    metadata = commands.add_parser(
        "metadata",
        usage="oid-async metadata list|pull|clear [OPTIONS]",
        help="the published tables and what of them is cached",
        description="List the published tables, fetch them ahead (pull), or remove them from the cache (clear).",
    )
    metadata.add_argument("action", choices=("list", "pull", "clear"), metavar="list|pull|clear", help="what to do")
    metadata.under["tables and sources"].add_argument(
        "--sizes",
        action="store_true",
        help="list: ask for the published sizes; pull: list the image bucket, so that plans are exact",
    )
    _add_query(metadata, ("splits", "kinds", "label_source", "release", "mirror", "cache_dir"))
    metadata.set_defaults(command=_metadata)


def _add_query(parser: _Parser, only: Container[str] | None = None, *, heading: Heading | None = None) -> None:
    """Add the options of a query, or those whose field is in `only`; all under one `heading`, or each under its own."""
    for option in option_fields():
        if only is not None and option.name not in only:
            continue
        about, reader = option.metadata, option.metadata["reader"]
        value: dict[str, Any] = {"type": reader.parse, "metavar": about["metavar"]}
        if reader.parse is bool:
            value = {"action": "store_true"}
        elif reader.is_repeatable:
            value = {"action": "append", "metavar": about["metavar"]}
        text = about["help"].replace("%", "%%")
        group = parser.under[heading or about["heading"]]
        group.add_argument(*about["flags"], dest=option.name, help=text, default=argparse.SUPPRESS, **value)
    _add_output(parser)


def _add_output(parser: _Parser) -> None:
    output = parser.under["output"]
    output.add_argument("--json", action="store_true", help="print one JSON object and nothing else to stdout")
    output.add_argument("--quiet", action="store_true", help="say nothing but errors")
    _add_help(output)


def _add_help(group: "argparse._ActionsContainer") -> None:
    group.add_argument("-h", "--help", action="help", help="show this help message and exit")


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


def _download(arguments: argparse.Namespace) -> int:
    if arguments.dry_run:
        return _plan(arguments)
    options = _query_options(arguments)
    from oid_async.jobs.download import Run

    with _screen(arguments) as screen:
        run = Run(options, screen.show, own_loop=True)

        started = monotonic()

        def on_forced_end() -> None:
            run.report.interrupted, run.report.seconds = True, monotonic() - started
            screen.summary(run.report)
            screen.close()
            if arguments.json:
                print_result(json.dumps(run.report.as_json()))

        _, code = _run_to_end(run.download, on_forced_end)
        run.report.interrupted |= code != 0
        screen.summary(run.report)
    if arguments.json:
        _print_report(run.report, code)
    within = options.allows(run.report.failed, run.report.selected) and not run.report.failed_attachments
    return code or (0 if within else 1)


def _plan(arguments: argparse.Namespace) -> int:
    options = _query_options(arguments)
    from oid_async.jobs.download import Run

    with _screen(arguments) as screen:
        plan, code = _run_to_end(Run(options, screen.show).plan)
    if plan is None:
        return _interrupted(arguments, code)
    if arguments.json:
        print_result(json.dumps(plan.as_json()))
    elif not arguments.quiet:
        from oid_async.cli.screen import plan_lines

        print_result("\n".join(plan_lines(plan)))
    return 0


def _classes(arguments: argparse.Namespace) -> int:
    options = _options(arguments)
    from oid_async.cli.listing_text import class_lines
    from oid_async.jobs.listings import Listings

    with _screen(arguments) as screen:
        listings = Listings(options, screen.show)
        classes, code = _run_to_end(lambda: listings.classes(arguments.pattern, tree=arguments.tree))
    if classes is None:
        return _interrupted(arguments, code)
    if arguments.json:
        print_result(json.dumps(classes.as_json()))
    elif not arguments.quiet:
        print_result("\n".join(class_lines(classes, tree=arguments.tree)))
    return 0


def _metadata(arguments: argparse.Namespace) -> int:
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
    if arguments.json:
        print_result(json.dumps({"cache_dir": str(listings.root), "tables": [table.as_json() for table in tables]}))
    elif not arguments.quiet:
        print_result("\n".join(table_lines(tables, listings.root)))
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    options = Options(savepath=arguments.savepath)
    set_up_polars(None)
    from oid_async.jobs.demo import closing_words, demo_run, went_as_staged

    with _screen(arguments) as screen:
        run = demo_run(options.savepath, options.cache_dir, screen.show)
        _, code = _run_to_end(run.download)
        run.report.interrupted |= code != 0
    if arguments.json:
        _print_report(run.report, code)
    elif not arguments.quiet:
        program = sys.argv[0] if sys.argv[0].endswith("oid-async") else "oid-async"
        print_message("\n".join(closing_words(run.report, program)))
    return code or (0 if went_as_staged(run.report) else 1)


def _verify(arguments: argparse.Namespace) -> int:
    savepath = Options(savepath=arguments.savepath).savepath
    set_up_polars(StoredQuery.read(savepath).options if arguments.repair else None)
    from oid_async.jobs.verify import Verify

    with _screen(arguments) as screen:
        verify = Verify(savepath, screen.show, repair=arguments.repair)
        found, code = _run_to_end(verify.run)
        if found is not None:
            screen.verified(found)
    if found is None:
        return _interrupted(arguments, code)
    if arguments.json:
        print_result(json.dumps(found.as_json()))
    elif not arguments.quiet:
        from oid_async.cli.screen import finding_lines

        for line in finding_lines(found):
            print_result(line)
    return 0 if found.clean else 1


def _export(arguments: argparse.Namespace) -> int:
    fields = ExportOptions.__dataclass_fields__
    options = ExportOptions(**{name: value for name, value in vars(arguments).items() if name in fields})
    also = Options(savepath=arguments.savepath, processes=vars(arguments).get("processes", "auto"))
    set_up_polars(None)
    from oid_async.jobs.export import Export

    with _screen(arguments) as screen:
        export = Export(also.savepath, options, screen.show, processes=also.processes)
        report, code = _run_to_end(export.run)
        if report is not None:
            screen.exported(report)
    if report is None:
        return _interrupted(arguments, code)
    if arguments.json:
        print_result(json.dumps(report.as_json()))
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
            print_result(json.dumps(_error("interrupted", "interrupted before there was an answer")))
    return code


def _print_report(report: "Report", code: int) -> None:
    """Print a report as JSON. That a run was interrupted is its exit code, whether or not this can be written."""
    try:
        print_result(json.dumps(report.as_json()))
    except (OutputError, BrokenPipeError):
        if not code:
            raise
