"""The parser of the command line: every command, and the options of the option table under their headings."""

import argparse
import sys
from collections.abc import Container
from typing import Any, NoReturn

from oid_async.cli.stdio import forgiving, print_result
from oid_async.errors import UsageError
from oid_async.options.export import ExportOptions
from oid_async.options.query import option_fields
from oid_async.options.table import HEADINGS, Heading
from oid_async.version import __version__


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors, no abbreviations, and rich help that is imported only when it is printed.

    Options are added under the headings of the option table; a heading without options is not shown.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**(settings | {"allow_abbrev": False, "add_help": False, "formatter_class": _help_formatter}))
        self.under = {heading: self.add_argument_group(heading) for heading in HEADINGS}

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
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


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; `name` is the command that was typed."""
    parser = Parser(
        prog="oid-async",
        usage="oid-async COMMAND [OPTIONS]",
        description="Pull any subset of Google's Open Images onto this disk.",
    )
    _add_help(parser)
    parser.add_argument("--version", action="version", version=f"oid-async {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="name", prog="oid-async")
    for add in (_add_download, _add_plan, _add_classes, _add_metadata, _add_verify, _add_export, _add_demo):
        add(commands)
    return parser


def _add_download(commands: "argparse._SubParsersAction[Parser]") -> None:
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


def _add_plan(commands: "argparse._SubParsersAction[Parser]") -> None:
    plan = commands.add_parser(
        "plan",
        usage="oid-async plan [OPTIONS]",
        help="say what a download would take",
        description="Say what a download with the same options would do. Fetches tables, no image.",
    )
    _add_query(plan)


def _add_classes(commands: "argparse._SubParsersAction[Parser]") -> None:
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


def _add_metadata(commands: "argparse._SubParsersAction[Parser]") -> None:
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


def _add_verify(commands: "argparse._SubParsersAction[Parser]") -> None:
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


def _add_export(commands: "argparse._SubParsersAction[Parser]") -> None:
    export = commands.add_parser(
        "export",
        usage="oid-async export SAVEPATH --format NAME [OPTIONS]",
        help="turn what was saved into what trainers read",
        description="Write what a download has saved in a format that trainers read; docs/formats.md compares them.",
    )
    export.add_argument("savepath", metavar="SAVEPATH", help="a folder that a download has filled")
    _add_query(export, (*ExportOptions.__dataclass_fields__, "processes"), heading="export")


def _add_demo(commands: "argparse._SubParsersAction[Parser]") -> None:
    demo = commands.add_parser(
        "demo",
        usage="oid-async demo [SAVEPATH]",
        help="the main job, offline, against a small look-alike",
        description="Run the real download against an embedded look-alike of Open Images, offline.",
    )
    demo.add_argument("savepath", nargs="?", default="demo_data", metavar="SAVEPATH", help="default demo_data")
    _add_output(demo)


def _add_query(parser: Parser, only: Container[str] | None = None, *, heading: Heading | None = None) -> None:
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


def _add_output(parser: Parser) -> None:
    output = parser.under["output"]
    output.add_argument("--json", action="store_true", help="print one JSON object and nothing else to stdout")
    output.add_argument("--quiet", action="store_true", help="say nothing but errors")
    _add_help(output)


def _add_help(group: "argparse._ActionsContainer") -> None:
    group.add_argument("-h", "--help", action="help", help="show this help message and exit")
