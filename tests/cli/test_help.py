"""`help`, and what is said of commands and options that do not exist."""

import pytest
from support.published import run_cli, typed

from oid_async.cli.commands import COMMANDS
from oid_async.cli.parser import make_parser


@pytest.mark.parametrize("command", ["", *make_parser().commands.choices])
def test_help_is_what_the_option_prints(command: str) -> None:
    """`help COMMAND` prints what `COMMAND --help` does, and `help` the list of commands."""
    shown = typed("help", *command.split())
    assert (shown.code, shown.stderr) == (0, "")
    assert shown.stdout == typed(*command.split(), "--help").stdout
    assert "usage: oid-async" in shown.stdout


def test_help_is_printed_by_the_program() -> None:
    """As a user starts it, too."""
    assert run_cli("help", "plan").stdout.startswith("usage: oid-async plan")


def test_every_command_is_carried_out() -> None:
    """The parser and the table of commands have the same names."""
    assert set(make_parser().commands.choices) == set(COMMANDS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("downlaod", "unknown command 'downlaod'; nearest: download (see oid-async download --help)"),
        ("downlod --category Dog", "unknown command 'downlod'; nearest: download (see oid-async download --help)"),
        ("downlod plan --category Dog", "unknown command 'downlod'; nearest: download (see oid-async download --help)"),
        ("help verfy", "unknown command 'verfy'; nearest: verify (see oid-async verify --help)"),
        ("download --categ Dog", "unknown option --categ; nearest: --category (see oid-async download --help)"),
        ("plan --category=Dog --slpit=test", "unknown option --slpit; nearest: --split (see oid-async plan --help)"),
        ("plan --imageurl x", "unknown option --imageurl; nearest: --imageURL (see oid-async plan --help)"),
        ("export --formt coco", "unknown option --formt; nearest: --format (see oid-async export --help)"),
        ("export x --rate 3", "unknown option --rate; it is an option of download, plan, repeat (see oid-async export"),
        (
            "--category Dog",
            "--category stands before a command; options stand behind it: oid-async download --category",
        ),
        ("--quiet download", "--quiet stands before a command; options stand behind it: oid-async download --quiet"),
        ("plan --where -Dog", "argument --where: expected one argument"),
        ("plan --where --limt 3", "unknown option --limt; nearest: --limit (see oid-async plan --help)"),
        ("plan --qqqqqq", "unknown option --qqqqqq (see oid-async plan --help)"),
        ("--versoin", "unknown option --versoin; nearest: --version (see oid-async --help)"),
        ("plan --ndata -1 --min-area -5% x --limt 3", "unknown option --limt; nearest: --limit (see oid-async plan"),
    ],
)
def test_the_nearest_is_named(words: str, said: str) -> None:
    """One line with the nearest command or option and where it is explained, exit 2."""
    done = typed(*words.split())
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"oid-async: error: {said}")
    assert done.stderr.count("\n") == 1


def test_a_command_like_no_other_gets_the_list() -> None:
    """What is like no command gets all of them."""
    said = typed("fetch").stderr
    assert all(f" {command}" in said for command in COMMANDS)
