"""What the programs under tests/fuzz share; they run by hand, with atheris."""

import sys
from collections.abc import Callable
from pathlib import Path

import atheris


def fuzz(
    check: Callable[[bytes], None],
    seeds: Path,
    *arguments: str,
    mutator: Callable[[bytes, int, int], bytes] | None = None,
) -> None:
    """Give inputs to `check` until one breaks a promise, beginning with the files in `seeds`; never returns.

    `arguments` are libFuzzer's, before those of the command line; a file among the latter is checked alone.
    """
    is_repeat = any(Path(argument).is_file() for argument in sys.argv[1:])
    options = [sys.argv[0], *arguments, *sys.argv[1:]]
    more = {} if mutator is None else {"custom_mutator": mutator}
    atheris.Setup(options if is_repeat else [*options, str(seeds)], check, **more)
    atheris.Fuzz()
