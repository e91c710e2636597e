"""Write docs/options.md from the option table and the parsers of the command line.

Run it from a checkout after a change of an option; a test holds the page to it::

    python tools/write_options_page.py
"""

import argparse
from pathlib import Path
from typing import Any

from oid_async.cli.parser import make_parser
from oid_async.options.query import option_fields
from oid_async.options.table import HEADINGS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "options.md"
TABLE = "| option | Python | value | default | meaning | also for |\n|---|---|---|---|---|---|"
OPTIONS = {option.name: option.metadata for option in option_fields()}
# Keywords that are not in the option table, and the functions that take them.
OWN_KEYWORDS = {"ids": "`ids`, of `plan`"}
INTRODUCTION = """\
# Options

Generated from the option table by `python tools/write_options_page.py`: change `oid_async/options/`, not this page.

Every option of `oid-async download` and `plan`, under the headings of their `--help`; **also for** names the other
commands that take it. A switch takes no value. **value** is the placeholder of `--help`, and which values are accepted.

**Python** is the keyword of `oid_async.download`, `plan` and `stream`. A switch is `True` or `False`, a yes-or-no
option `True`, `False` or `None`, a repeatable option a list, a file or folder a string or a path. `oid_async.export`
takes the options under "export" and, as the other functions do, those that its command takes; `export_splits` is called
`splits` there. `Query` takes those under "which images" and "annotations", and of the tables `release`, `images`,
`label`, `annotation` and `image_url`. [Python names](reference.md#keywords) lists what takes each keyword.

A value that cannot be used ends the program with exit code 2; in Python it raises `UsageError`. Both name the option.
"""


def page() -> str:
    """Return the text of docs/options.md."""
    commands = subparsers()
    parts = [INTRODUCTION]
    for heading in HEADINGS:
        parts += ["", f"## {heading}", "", TABLE]
        parts += [row(action, commands) for action in group_of(commands["download"], heading)]
    parts += ["", "## options and arguments of other commands", "", "| command | option | meaning |", "|---|---|---|"]
    for name, parser in commands.items():
        own = [action for action in parser._actions if not has_option(commands["download"], action)]
        parts += [f"| `{name}` | {spelling(action)} | {cell(action.help or '')} |" for action in own]
    return "\n".join(parts).replace("\n\n\n", "\n\n") + "\n"


def subparsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command by its name."""
    (commands,) = [action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(commands.choices)


def group_of(parser: argparse.ArgumentParser, heading: str) -> list[argparse.Action]:
    """Return what a parser offers under a heading, --help excluded."""
    (group,) = [group for group in parser._action_groups if group.title == heading]
    # What switches an option off stands in the row of that option.
    return [action for action in group._group_actions if action.dest != "help" and not is_negation(action)]


def is_negation(action: argparse.Action) -> bool:
    """Return whether this is the flag that switches an option off."""
    return action.nargs == 0 and action.const is False


def has_option(parser: argparse.ArgumentParser, option: argparse.Action) -> bool:
    """Return whether a command has the same option as another one."""
    return bool(option.option_strings) and any(means_the_same(option, own) for own in parser._actions)


def means_the_same(option: argparse.Action, other: argparse.Action) -> bool:
    """Return whether two commands mean the same by an option: not by --dry-run of `download` and `prune`."""
    if option.option_strings != other.option_strings:
        return False
    texts = (option.help or "", other.help or "")
    return option.dest in OPTIONS or texts[0].startswith(texts[1]) or texts[1].startswith(texts[0])


def row(action: argparse.Action, commands: dict[str, argparse.ArgumentParser]) -> str:
    """Return the row of one option; one that is not in the option table has a keyword in OWN_KEYWORDS, or none."""
    about: Any = OPTIONS.get(action.dest)
    is_switch = action.nargs == 0
    columns = [
        spelling(action),
        f"`{action.dest}`" if about else OWN_KEYWORDS.get(action.dest, ""),
        "" if is_switch else value_of(about) if about else f"`{action.metavar}`".replace("|", "\\|"),
        cell((about and about["default_text"]) or ("off" if is_switch else "none")),
        cell(about["meaning"] if about else action.help or ""),
        also_for([name for name, parser in commands.items() if has_option(parser, action)]),
    ]
    return f"| {' | '.join(columns)} |"


def also_for(takers: list[str]) -> str:
    """Return the commands that take an option in addition to `download` and `plan`, and whether `plan` does not."""
    others = ", ".join(f"`{name}`" for name in takers if name not in ("download", "plan"))
    if "plan" in takers:
        return others
    return f"{others}; not for `plan`" if others else "not for `plan`"


def value_of(about: Any) -> str:
    """Return the placeholder of a value and which values are accepted."""
    metavar, reader = about["metavar"], about["reader"]
    is_complete = all(choice in metavar for choice in reader.choices)
    accepted = reader.accepts or ("" if is_complete else ", ".join(reader.choices))
    return f"`{metavar}`".replace("|", "\\|") + (f": {cell(accepted)}" if accepted else "")


def spelling(action: argparse.Action) -> str:
    """Return every spelling of an option, or the name of an argument."""
    flags = action.option_strings
    if flags and action.dest in OPTIONS:
        flags = OPTIONS[action.dest]["flags"]
    return ", ".join(f"`{flag}`" for flag in flags) or f"`{action.metavar}`".replace("|", "\\|")


def cell(text: str) -> str:
    """Return text as a table cell holds it."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;").replace("*", "\\*").replace("_", "\\_")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
