"""Write man/*.1, the pages of the manual, from the parser of the command line: one of the program, one of each command.

Run it from a checkout after a change of an option; a test holds the pages to it::

    python tools/write_man_pages.py
"""

import argparse
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from oid_async.cli.parser import Parser, make_parser
from oid_async.version import __version__

FOLDER = Path(__file__).resolve().parent.parent / "man"
PROGRAM = "oid-async"
EXIT_STATUS = {
    "0": "everything is there, or no more failures than --max-failures allows",
    "1": "some images, masks or recordings failed or are still pending, or ids of a list mean no image (of resolve: "
    "lines); of verify: some files are not what they were",
    "2": "wrong usage, or a table or folder that cannot be used: one line names it",
    "3": "stopped by the machine, such as a full disk; run again to go on",
    "4": "another run owns this SAVEPATH",
    "5": "a fault of the program: one line, and a log file to report it with",
    "130, 143": "interrupted; run again to go on",
}
ENVIRONMENT = {
    "OID_ASYNC_CACHE": "the folder of published tables, where --cache-dir is not given",
    "OID_ASYNC_MIRROR": "the address or folder of a mirror, where --mirror is not given",
    "HTTP_PROXY, HTTPS_PROXY, NO_PROXY": "proxies for requests, and hosts that are asked without one",
    "SSL_CERT_FILE, SSL_CERT_DIR": "authorities that are trusted: in place of the system's file, and of its folder",
    "NO_COLOR": "if it is not empty, output has no colours",
    "TMPDIR": "the folder of temporary files that have no place in SAVEPATH",
    "OID_ASYNC_SHARDS": "into how many parts an Indexed Job of Kubernetes without --cluster divides the selection",
    "OID_ASYNC_JOB": "with --cluster array: what this job is known by, in place of Slurm's number or the pod's name",
    "AWS_*, AZURE_*, GOOGLE_*": "how buckets are reached, as the tools of their providers read them",
}


def pages() -> dict[str, str]:
    """Return the text of every page by its file name."""
    parser = make_parser()
    texts = {f"{PROGRAM}.1": "\n".join(of_program(parser)) + "\n"}
    for name, command in parser.commands.choices.items():
        texts[f"{PROGRAM}-{name}.1"] = "\n".join(of_command(name, command, about(parser, name))) + "\n"
    return texts


def of_program(parser: Parser) -> Iterator[str]:
    """Yield the lines of the page of the program."""
    names = list(parser.commands.choices)
    yield from heading(PROGRAM, "download any part of Open Images")
    yield from section("SYNOPSIS", f"\\fB{roff(PROGRAM)}\\fR \\fICOMMAND\\fR [\\fIOPTIONS\\fR]")
    yield from section("DESCRIPTION", roff(parser.description or ""))
    yield from section("COMMANDS")
    for name in names:
        yield from entry(f"\\fB{roff(PROGRAM)} {roff(name)}\\fR", f"{about(parser, name)}; see {PROGRAM}-{name}(1)")
    yield from section("OPTIONS")
    yield from options(parser, parser._actions)
    yield from section("EXIT STATUS")
    yield from table(EXIT_STATUS)
    yield from section("ENVIRONMENT")
    yield from table(ENVIRONMENT)
    yield from section("SEE ALSO", ", ".join(f"\\fB{roff(f'{PROGRAM}-{name}')}\\fR(1)" for name in names))


def of_command(name: str, command: Parser, summary: str) -> Iterator[str]:
    """Yield the lines of the page of one command."""
    usage = (command.usage or "").removeprefix(f"{PROGRAM} {name}").strip()
    yield from heading(f"{PROGRAM}-{name}", summary)
    yield from section("SYNOPSIS", f"\\fB{roff(f'{PROGRAM} {name}')}\\fR {roff(usage)}".rstrip())
    yield from section("DESCRIPTION", roff(command.description or ""))
    yield from section("OPTIONS")
    for group in command._action_groups:
        shown = list(options(command, group._group_actions))
        if shown and group.title in command.under:
            yield f'.SS "{roff(group.title)}"'
        yield from shown
    yield from section("EXIT STATUS", f"See \\fB{roff(PROGRAM)}\\fR(1).")
    yield from section("SEE ALSO", f"\\fB{roff(PROGRAM)}\\fR(1)")


def heading(title: str, summary: str) -> Iterator[str]:
    """Yield the lines before the first section of text. Pages have no date: they are those of a version."""
    yield f'.TH "{roff(title.upper())}" "1" "" "oid_async {__version__}" "User Commands"'
    # Words are not divided, nor lines spread: names of options stay whole.
    yield from (".nh", ".ad l")
    yield from section("NAME", f"{roff(title)} \\- {roff(summary)}")


def section(title: str, text: str = "") -> Iterator[str]:
    """Yield a section's heading, and its text."""
    yield f'.SH "{title}"'
    if text:
        yield text


def options(parser: Parser, actions: Iterable[argparse.Action]) -> Iterator[str]:
    """Yield an entry for each option or argument, as --help words it."""
    formatter = argparse.HelpFormatter(parser.prog)
    for action in actions:
        if action.help is argparse.SUPPRESS or isinstance(action, argparse._SubParsersAction):
            continue
        value = "" if action.nargs == 0 else formatter._format_args(action, action.dest.upper())
        flags = ", ".join(f"\\fB{roff(flag)}\\fR" for flag in action.option_strings)
        yield from entry(f"{flags} {italic(value)}".strip(), formatter._expand_help(action) if action.help else "")


def table(rows: dict[str, str]) -> Iterator[str]:
    """Yield an entry for each row."""
    for name, text in rows.items():
        yield from entry(f"\\fB{roff(name)}\\fR", text)


def entry(title: str, text: str) -> Iterator[str]:
    """Yield a title, which is roff already, and its text."""
    yield from (".TP", title, roff(text))


def italic(value: str) -> str:
    """Return the placeholder of a value in italics, without the signs around it."""
    return re.sub(r"[^\s\[\]|,]+", lambda word: f"\\fI{roff(word[0])}\\fR", value)


def about(parser: Parser, name: str) -> str:
    """Return what the list of commands says of one."""
    return next(action.help or "" for action in parser.commands._choices_actions if action.dest == name)


def roff(text: str) -> str:
    """Return text as roff takes it: no request at the start of a line, hyphens that can be copied.

    >>> print(roff(".oid_async is --here: a\\\\b"))
    \\&.oid_async is \\-\\-here: a\\eb
    """
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
