"""Completion by the shell: scripts for bash, zsh and fish, made from the parser.

A script answers by itself, without starting this program, which would take longer than a hand does. It has commands,
options and their choices in it; class names come from the lists that the cache keeps (`metadata.name_list`). The code
of each script is in `shells/`, and what is made here stands in place of its lines `# @COMMANDS@` and so on.
"""

import argparse
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.resources import files
from shlex import quote

from oid_async.cli.parser import Parser, make_parser
from oid_async.metadata.name_list import NAMED, NAMES
from oid_async.metadata.paths import SUFFIX
from oid_async.openimages.catalogue import published
from oid_async.openimages.vocabulary import RELEASES
from oid_async.options.query import option_fields
from oid_async.options.readers import WORDS

# The options whose names are those of image-level labels, of which there are many more than of boxes.
_OF_LABELS = ("--verified-absent",)
_READERS = {option.name: option.metadata["reader"] for option in option_fields()}
_LONGEST_ABOUT = 60
_FIRST_PART = re.compile(r"[^;:(]*")


@dataclass(frozen=True, slots=True)
class Value:
    """What may stand behind an option or as an argument.

    `kind` is `words` or `commas` (one of the words, or several between commas), `classes`, `labels` (names of classes),
    `files`, `folders` or `text`, which nobody can complete.
    """

    kind: str
    words: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join((self.kind, *self.words))


@dataclass(frozen=True, slots=True)
class Option:
    """A spelling of an option, and what it is for, in a few words; `value` is None of a switch."""

    flag: str
    about: str
    value: Value | None


def completion_script(shell: str) -> str:
    """Return the script for `bash`, `zsh` or `fish`."""
    commands = make_parser().commands.choices
    options = {name: _options(command) for name, command in commands.items()}
    values = {option.flag: option.value for each in options.values() for option in each if option.value is not None}
    arguments = {name: value for name, command in commands.items() if (value := _argument(command)) is not None}
    about = {action.dest: action.help or "" for action in make_parser().commands._choices_actions}
    of_shell = _SHELLS[shell]
    parts = {
        "COMMANDS": of_shell.described((name, _short(about[name])) for name in commands),
        "OPTIONS": of_shell.cases(
            (name, of_shell.described((option.flag, option.about) for option in each)) for name, each in options.items()
        ),
        "VALUES": of_shell.cases((flag, of_shell.found(str(value))) for flag, value in sorted(values.items())),
        "ARGUMENTS": of_shell.cases((name, of_shell.found(str(value))) for name, value in arguments.items()),
        "LISTS": of_shell.cases((release, of_shell.found(" ".join(_lists(release)))) for release in RELEASES),
    }
    text = files(__package__).joinpath("shells", f"oid-async.{shell}").read_text(encoding="utf-8")
    return re.sub(r"^ *# @([A-Z]+)@$", lambda found: parts[found[1]], text, flags=re.MULTILINE)


def _options(command: Parser) -> list[Option]:
    """Return every spelling of every option of a command."""
    return [
        Option(flag, _short(action.help or ""), None if action.nargs == 0 else _value_of(action))
        for action in command._actions
        for flag in action.option_strings
    ]


def _argument(command: Parser) -> Value | None:
    """Return what stands as the argument of a command that is no option, None if it has none."""
    return next((_value_of(action) for action in command._actions if not action.option_strings), None)


def _value_of(action: argparse.Action) -> Value:
    """Return what may stand behind an option, or as an argument."""
    reader = _READERS.get(action.dest) if action.option_strings else None
    metavar = str(action.metavar)
    if reader is not None and (reader.choices or reader.words):
        return Value("commas" if reader.is_comma_list else "words", reader.choices or reader.words)
    if action.choices is not None:
        return Value("words", tuple(action.choices))
    if (reader is WORDS and metavar == reader.metavar) or metavar == "PATTERN":
        return Value("labels" if action.option_strings[:1] == list(_OF_LABELS) else "classes")
    if "DIR" in metavar or metavar == "SAVEPATH":
        return Value("folders")
    if "FILE" in metavar or "PATH" in metavar or metavar == "SOURCE":
        return Value("files")
    # Of `auto|N` words in lower case are typed as they are, N is not.
    words = tuple(part for part in metavar.split("|") if part.isalpha() and part.islower())
    return Value("words", words) if words else Value("text")


def _short(about: str) -> str:
    """Return the first words of a help text.

    >>> _short("at most N transfers at once; default: as many as host and line can use, 64 to 512")
    'at most N transfers at once'
    """
    first = _FIRST_PART.match(about.replace("%%", "%"))
    text = (first[0] if first is not None else "").strip() or about
    return text if len(text) <= _LONGEST_ABOUT else f"{text[:_LONGEST_ABOUT].rsplit(' ', 1)[0].rstrip(',')} ..."


def _lists(release: str) -> list[str]:
    """Return where the cache of a site keeps the names of a release: those with boxes, and all."""
    return [
        f"{table.bucket}/{table.key}{SUFFIX}/{NAMES}"
        for kind in NAMED
        for table in published(kind, (), release)  # type: ignore[arg-type]
    ]


@dataclass(frozen=True, slots=True)
class _Shell:
    """How a shell writes what is made here: a case, words with what they are, and a value that was found."""

    case: str
    between: str
    described: Callable[[Iterable[tuple[str, str]]], str]
    found: Callable[[str], str]

    def cases(self, entries: Iterable[tuple[str, str]]) -> str:
        """Return the cases of names; those with the same body are one."""
        names: dict[str, list[str]] = {}
        for name, body in entries:
            names.setdefault(body, []).append(name)
        return "\n".join(self.case.format(names=self.between.join(each), body=body) for body, each in names.items())


def _bash_words(words: Iterable[tuple[str, str]]) -> str:
    return f"_oid_async_found={quote(' '.join(word for word, _ in words))}"


def _zsh_words(words: Iterable[tuple[str, str]]) -> str:
    return f"found=({' '.join(quote(f'{word}:{about}') for word, about in words)})"


def _fish_words(words: Iterable[tuple[str, str]]) -> str:
    return f"set found {' '.join(_fish_quote(word, about) for word, about in words)}"


def _fish_quote(word: str, about: str) -> str:
    escaped = about.replace("\\", "\\\\").replace("'", "\\'")
    return f"{word}\\t'{escaped}'"


_SHELLS = {
    "bash": _Shell("        {names}) {body} ;;", "|", _bash_words, lambda text: f"_oid_async_found={quote(text)}"),
    "zsh": _Shell("        {names}) {body} ;;", "|", _zsh_words, lambda text: f"found=({text})"),
    "fish": _Shell("        case {names}\n            {body}", " ", _fish_words, lambda text: f"set found {text}"),
}
