"""The commands that explain the command line itself: `help` and `completion`."""

import argparse

from oid_async.cli.parser import make_parser
from oid_async.screen.stdio import print_help


def run_help(arguments: argparse.Namespace) -> int:
    """Run `oid-async help`: print what the option --help of the command prints."""
    topic: str | None = arguments.topic
    parser = make_parser(() if topic is None else (topic,))
    print_help((parser if topic is None else parser.commands.choices[topic]).format_help().removesuffix("\n"))
    return 0


def run_completion(arguments: argparse.Namespace) -> int:
    """Run `oid-async completion`: print the script for a shell."""
    from oid_async.cli.completion import completion_script

    print_help(completion_script(arguments.shell).removesuffix("\n"))
    return 0
