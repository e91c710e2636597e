"""The parser of the command line: every command, and the options of the option table under their headings."""

import argparse
import sys
from collections.abc import Callable, Collection, Container, Sequence
from dataclasses import Field
from typing import Any, NoReturn

from oid_async.cli.advice import advice, meant_by, own_values, unknown_command, unknown_option
from oid_async.errors import UsageError
from oid_async.options.export import ExportOptions
from oid_async.options.keywords import (
    ClassesOptions,
    FetchAgainOptions,
    MetadataOptions,
    PlaceOptions,
    QueryOptions,
    ReadOptions,
    ResolveOptions,
    StatsOptions,
    VerifyOptions,
)
from oid_async.options.query import option_fields
from oid_async.options.table import HEADINGS, Heading
from oid_async.redaction import redacted_text
from oid_async.screen.stdio import forgiving, print_help
from oid_async.version import __version__


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors, no abbreviations, and rich help that is imported only when it is printed.

    Options are added under the headings of the option table; a heading without options is not shown.
    """

    # Of the parser of the program alone.
    commands: "argparse._SubParsersAction[Parser]"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**(settings | {"allow_abbrev": False, "add_help": False}))
        self.under = {heading: self.add_argument_group(heading) for heading in HEADINGS}

    def format_help(self) -> str:
        """Return the help text."""
        # Only here: argparse makes a formatter for every argument that is added, and rich takes a while to import.
        self.formatter_class = _help_formatter
        return super().format_help()

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return the arguments; of a word too many say what it may be."""
        words = sys.argv[1:] if args is None else args
        try:
            found, extra = self.parse_known_args(_without_loose_values(words), namespace)
        except UsageError:
            # What is missing or too much may come of a mistyped option: that is the better thing to say.
            self._refuse_unknown_option(words, only_mistyped=True)
            raise
        if extra:
            self._refuse_unknown_option(words)
            # As they were typed.
            extra = [word if word in words else word.removesuffix(f"={_YES}") for word in extra]
            command = self.commands.choices[found.name]
            command.error(f"unrecognized arguments: {' '.join(extra)}{advice(words, extra)}")
        return found

    def _refuse_unknown_option(self, words: Sequence[str], *, only_mistyped: bool = False) -> None:
        """Raise UsageError if a word is an option that the command does not know, with the nearest one.

        With `only_mistyped` not if none is near: the word may be the value of the option before it.
        """
        at = next((at for at, word in enumerate(words) if not word.startswith("-")), len(words))
        if (early := unknown_option(words[:at], self._option_string_actions)) is not None:
            takers = [name for name, options in _options_of_all().items() if early in options]
            if takers:
                self.error(f"{early} stands before a command; options stand behind it: oid-async {takers[0]} {early}")
            self.error(f"unknown option {early}{meant_by(early, self._option_string_actions, {})}")
        if at == len(words) or words[at] not in self.commands.choices:
            return
        command = self.commands.choices[words[at]]
        known = command._option_string_actions
        if (option := unknown_option(words[at + 1 :], known)) is not None:
            meant = meant_by(option, known, _options_of_all())
            if meant or not only_mistyped:
                command.error(f"unknown option {option}{meant}")

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
        raise UsageError(f"{redacted_text(message)} (see {self.prog} --help)")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        # Commands alone have their names listed as choices, here and behind `help`.
        if action.dest in _COMMAND_NAMES and action.choices is not None and value not in action.choices:
            raise UsageError(redacted_text(unknown_command(str(value), tuple(action.choices))))
        super()._check_value(action, value)

    def _print_message(self, message: str, file: object = None) -> None:
        # Help and version alone come here: what is wrong is raised.
        print_help(message.removesuffix("\n"))


def _without_loose_values(words: Sequence[str]) -> list[str]:
    """Return words so that an option whose value may be left out takes none that is not its own.

    >>> _without_loose_values(["verify", "--respect-opt-out", "noindex"])
    ['verify', '--respect-opt-out', 'noindex']
    >>> _without_loose_values(["verify", "--respect-opt-out", "my_data"])
    ['verify', '--respect-opt-out=yes', 'my_data']
    """
    own = own_values()
    end = words.index("--") if "--" in words else len(words)
    following = [*words[1:end], "--"]
    taken = [
        f"{word}={_YES}" if own.get(word) and following[at] not in own[word] else word
        for at, word in enumerate(words[:end])
    ]
    return [*taken, *words[end:]]


def _help_formatter(prog: str) -> argparse.HelpFormatter:
    from rich.console import Console
    from rich_argparse import RichHelpFormatter

    class Formatter(RichHelpFormatter):
        group_name_formatter = str

    # Even to capture what it would print, rich writes nothing to stdout: zero bytes, which a full disk refuses.
    return Formatter(prog, max_help_position=30, console=Console(file=forgiving(sys.stdout)))


# Each command: its usage, what it is for in the list of commands, and its own description.
_COMMANDS = {
    "download": (
        "[OPTIONS]",
        "select images and fetch them with their boxes",
        "Select images by class, fetch them with their boxes into a folder; run again to go on.",
    ),
    "plan": (
        "[OPTIONS]",
        "say what a download would take",
        "Say what a download with the same options would do. Fetches tables, no image.",
    ),
    "classes": (
        "[PATTERN] [OPTIONS]",
        "which classes there are",
        "List the classes: names, MIDs, and images and boxes of each split whose box table is cached.",
    ),
    "metadata": (
        "list|pull|clear [OPTIONS]",
        "the published tables and what of them is cached",
        "List the published tables, fetch them ahead (pull), or remove them from the cache (clear).",
    ),
    "resolve": (
        "FILE|- [OPTIONS]",
        "which images Flickr addresses and file names mean",
        "Say which images a list means: Flickr pages or photos, file names, ids. From cached image tables alone.",
    ),
    "verify": (
        "SAVEPATH [OPTIONS]",
        "check every file that was saved",
        "Check every file that was written: missing, truncated, altered, extra, unchecked. Exit 0: all whole.",
    ),
    "export": (
        "SAVEPATH --format NAME [OPTIONS]",
        "turn what was saved into what trainers read",
        "Write what a download has saved in a format that trainers read; docs/formats.md compares them.",
    ),
    "prune": (
        "SAVEPATH [OPTIONS]",
        "remove what the folder's query does not select",
        "Remove the images, masks and recordings of earlier queries that the folder's query does not select.",
    ),
    "view": (
        "SAVEPATH [OPTIONS]",
        "look at what was saved, in a browser",
        "Show images with their annotations in a browser, until Ctrl-C. Read-only, offline; also while a run is on.",
    ),
    "stats": (
        "[SAVEPATH] [OPTIONS]",
        "count classes, boxes, sizes, licences",
        "Count what is in a folder that a download has filled; or, with the options of a query in place of SAVEPATH, "
        "what it selects: nothing is fetched but tables.",
    ),
    "repeat": (
        "SOURCE [--savepath DIR] [OPTIONS]",
        "have the same set again",
        "Have the set of a folder, a query.json or a manifest.parquet again: the same images, names, bytes and rows.",
    ),
    "demo": (
        "[SAVEPATH] | --write-mirror DIR",
        "the main job, offline, against a small look-alike",
        "Run the real download against an embedded look-alike of Open Images, offline; or write the look-alike as a "
        "mirror, with which every other command works offline.",
    ),
    "help": (
        "[COMMAND]",
        "what a command does and takes",
        "Print what COMMAND --help prints; without COMMAND the list of commands.",
    ),
    "completion": (
        "bash|zsh|fish",
        "a script by which a shell completes commands, options and class names",
        "Print a script by which a shell completes commands, options, values, folders and the names of cached classes: "
        'eval "$(oid-async completion bash)"; docs/shell.md says where it is kept for good.',
    ),
}
# Where the name of a command is typed: first, and behind `help`.
_COMMAND_NAMES = ("name", "topic")
# Stands for a value that was left out.
_YES = "yes"
# The shells that `completion` knows.
SHELLS = ("bash", "zsh", "fish")
_ABOUT_SAVEPATH = "a folder that a download has filled"


def make_parser(words: Container[str] | None = None) -> Parser:
    """Return the parser of all commands; `name` is the command that was typed.

    With `words` it parses these alone: commands that are not among them have no options.
    """
    parser = Parser(
        prog="oid-async",
        usage="oid-async COMMAND [OPTIONS]",
        description="Pull any subset of Google's Open Images onto this disk.",
    )
    _add_help(parser)
    parser.add_argument("--version", action="version", version=f"oid-async {__version__}")
    commands = parser.commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, dest="name", prog="oid-async"
    )
    for name, (usage, about, description) in _COMMANDS.items():
        command = commands.add_parser(name, usage=f"oid-async {name} {usage}", help=about, description=description)
        if words is None or name in words:
            _FILLED_BY[name](command)
    return parser


def _add_download(download: Parser) -> None:
    """Add the options of `download`."""
    _add_query(download)
    about = "say what it would take, fetch no image: as plan"
    download.under["output"].add_argument("--dry-run", action="store_true", help=about)
    _add_ids(download, "; with --dry-run")


def _add_plan(plan: Parser) -> None:
    """Add the options of `plan`."""
    _add_query(plan, QueryOptions.__annotations__)
    _add_ids(plan)


def _add_ids(parser: Parser, when: str = "") -> None:
    about = "write the selected images, a split/ImageID a line, as --image-ids takes them; -: to stdout, nothing else"
    parser.under["output"].add_argument("--ids", metavar="FILE|-", help=about + when)


def _add_classes(classes: Parser) -> None:
    """Add the arguments and options of `classes`."""
    classes.add_argument("pattern", nargs="?", metavar="PATTERN", help="only names that hold this, or this MID")
    about = "as a tree, with every class below what PATTERN finds"
    classes.under["output"].add_argument("--tree", action="store_true", help=about)
    _add_query(classes, ClassesOptions.__annotations__)


def _add_metadata(metadata: Parser) -> None:
    """Add the arguments and options of `metadata`."""
    metadata.add_argument("action", choices=("list", "pull", "clear"), metavar="list|pull|clear", help="what to do")
    about = "list: ask for the published sizes; pull: list the image bucket, so that plans are exact"
    metadata.under["tables and sources"].add_argument("--sizes", action="store_true", help=about)
    _add_query(metadata, MetadataOptions.__annotations__)


def _add_resolve(resolve: Parser) -> None:
    """Add the arguments and options of `resolve`."""
    about = "a list, a line each or as --image-ids takes it; -: from stdin; or one http(s) address"
    resolve.add_argument("given", metavar="FILE|-", help=about)
    _add_query(resolve, ResolveOptions.__annotations__)


def _add_export(export: Parser) -> None:
    """Add the arguments and options of `export`."""
    export.add_argument("savepath", metavar="SAVEPATH", help=_ABOUT_SAVEPATH)
    about = "tables that are not what the run wrote were changed on purpose: take them as they are"
    export.under["export"].add_argument("--edited", action="store_true", help=about)
    _add_query(export, (*ExportOptions.__dataclass_fields__, "processes"), heading="export")
    # Of a run that has not come to its end: what is not taken from query.json.
    _add_options(export, PlaceOptions.__annotations__)


def _add_prune(prune: Parser) -> None:
    """Add the arguments and options of `prune`."""
    prune.add_argument("savepath", metavar="SAVEPATH", help=_ABOUT_SAVEPATH)
    about = "say what would be removed, remove nothing"
    prune.under["output"].add_argument("--dry-run", action="store_true", help=about)
    _add_output(prune)


def _add_demo(demo: Parser) -> None:
    """Add the arguments and options of `demo`."""
    demo.add_argument("savepath", nargs="?", metavar="SAVEPATH", help="default demo_data")
    about = "download nothing: write the look-alike as a mirror into a new folder, for OID_ASYNC_MIRROR or --mirror"
    demo.under["tables and sources"].add_argument("--write-mirror", metavar="DIR", help=about)
    _add_output(demo)


def _add_help_command(command: Parser) -> None:
    """Add the argument of `help`."""
    about = "the command to explain; without it the list of commands"
    command.add_argument("topic", nargs="?", choices=tuple(_COMMANDS), metavar="COMMAND", help=about)
    _add_help(command)


def _add_completion(completion: Parser) -> None:
    """Add the argument of `completion`."""
    completion.add_argument("shell", choices=SHELLS, metavar="|".join(SHELLS), help="the shell that will read it")
    _add_help(completion)


def _add_verify(verify: Parser) -> None:
    """Add the arguments and options of `verify`."""
    verify.add_argument("savepath", metavar="SAVEPATH", help=_ABOUT_SAVEPATH)
    for flag, about in (
        ("--repair", "fetch or make again what is not as it was written, then check once more"),
        ("--deep", "decode every image and mask as well"),
        ("--exports", "check the exports under SAVEPATH/export, too, each against the list of its files"),
    ):
        verify.under["failures"].add_argument(flag, action="store_true", help=about)
    # With --repair: what is not taken from query.json.
    _add_query(verify, VerifyOptions.__annotations__)


def _add_view(view: Parser) -> None:
    """Add the arguments and options of `view`."""
    view.add_argument("savepath", metavar="SAVEPATH", help=_ABOUT_SAVEPATH)
    output = view.under["output"]
    about = "the port of the page; default: any free one"
    output.add_argument("--port", type=int, default=0, metavar="N", help=about)
    about = (
        "the address of this machine to listen at, or a name of it; default 127.0.0.1, which no other machine reaches"
    )
    output.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help=about)
    output.add_argument("--no-open", action="store_true", help="print the address, open no browser")
    about = "where the shards are, of a download with --no-files that has put them elsewhere"
    output.add_argument("--out", metavar="DIR", help=about)
    # Of a run that has not come to its end: what is not taken from query.json.
    _add_query(view, ReadOptions.__annotations__)


def _add_stats(stats: Parser) -> None:
    """Add the arguments and options of `stats`."""
    about = f"{_ABOUT_SAVEPATH}, or an export; without it the options say which images are meant"
    stats.add_argument("savepath", nargs="?", metavar="SAVEPATH", help=about)
    about = "write a page with plots, too, which opens offline; needs the extra oid-async[view]; -: to stdout alone"
    stats.under["output"].add_argument("--html", metavar="FILE|-", help=about)
    _add_query(stats, StatsOptions.__annotations__)


def _add_repeat(repeat: Parser) -> None:
    """Add the arguments and options of `repeat`."""
    about = "a folder that a download has filled, its query.json, or a manifest.parquet alone (images without rows)"
    repeat.add_argument("source", metavar="SOURCE", help=about)
    about = "the folder that the set is wanted in; default: the folder of SOURCE itself, which it completes"
    repeat.under["output"].add_argument("--savepath", metavar="DIR", help=about, default=argparse.SUPPRESS)
    _add_query(repeat, FetchAgainOptions.__annotations__)


def _add_query(parser: Parser, only: Container[str] | None = None, *, heading: Heading | None = None) -> None:
    """Add options as `_add_options` does, and those of every command."""
    _add_options(parser, only, heading=heading)
    _add_output(parser)


def _add_options(parser: Parser, only: Container[str] | None = None, *, heading: Heading | None = None) -> None:
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
        if reader.words:
            _add_with_negation(group, option, text)
        else:
            group.add_argument(*about["flags"], dest=option.name, help=text, default=argparse.SUPPRESS, **value)


def _add_with_negation(group: "argparse._ActionsContainer", option: Field[Any], help: str) -> None:
    """Add an option whose value may be left out, and the flag that switches it off."""
    about = option.metadata
    on, off = ([flag for flag in about["flags"] if flag.startswith("--no-") is no] for no in (False, True))
    usual: dict[str, Any] = {"dest": option.name, "default": argparse.SUPPRESS}
    group.add_argument(*on, nargs="?", const=True, type=_yes_or_word, metavar=about["metavar"], help=help, **usual)
    group.add_argument(*off, action="store_const", const=False, help=f"the opposite of {on[0]}", **usual)


def _yes_or_word(word: str) -> bool | str:
    return True if word == _YES else word


def _add_output(parser: Parser) -> None:
    output = parser.under["output"]
    output.add_argument("--json", action="store_true", help="print one JSON object and nothing else to stdout")
    output.add_argument("--quiet", action="store_true", help="say nothing but errors")
    _add_help(output)


def _add_help(group: "argparse._ActionsContainer") -> None:
    group.add_argument("-h", "--help", action="help", help="show this help message and exit")


def _options_of_all() -> dict[str, Collection[str]]:
    """Return the options of each command."""
    return {name: command._option_string_actions for name, command in make_parser().commands.choices.items()}


_FILLED_BY: dict[str, Callable[[Parser], None]] = {
    "download": _add_download,
    "plan": _add_plan,
    "classes": _add_classes,
    "metadata": _add_metadata,
    "resolve": _add_resolve,
    "verify": _add_verify,
    "export": _add_export,
    "prune": _add_prune,
    "view": _add_view,
    "stats": _add_stats,
    "repeat": _add_repeat,
    "demo": _add_demo,
    "help": _add_help_command,
    "completion": _add_completion,
}
