"""What to say of words of a command line that nobody can use: the nearest command or option, or what was meant."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from shlex import quote

from oid_async.options.query import option_fields
from oid_async.options.readers import WORDS

_NUMBER = re.compile(r"-[0-9.]")
_MOST_TAKERS = 3


def unknown_command(word: str, commands: Collection[str]) -> str:
    """Return what to say of a word that is no command, with the page that helps.

    >>> unknown_command("downlod", ["download", "plan"])
    "unknown command 'downlod'; nearest: download (see oid-async download --help)"
    >>> unknown_command("get", ["download", "plan"])
    "unknown command 'get'; the commands are download, plan (see oid-async --help)"
    """
    near = nearest(word, commands)
    if near is None:
        return f"unknown command {word!r}; the commands are {', '.join(commands)} (see oid-async --help)"
    return f"unknown command {word!r}; nearest: {near} (see oid-async {near} --help)"


def unknown_option(words: Iterable[str], known: Collection[str]) -> str | None:
    """Return the first word that looks like an option and is none of those known, without its value.

    >>> unknown_option(["--ndata", "-1", "--categ=Dog", "--", "--no"], ["--ndata"])
    '--categ'
    """
    for word in words:
        if word == "--":
            return None
        # argparse takes a word with a blank for a value.
        if word.startswith("-") and word != "-" and " " not in word.partition("=")[0] and not _NUMBER.match(word):
            option = word.partition("=")[0]
            if option not in known:
                return option
    return None


def meant_by(option: str, known: Collection[str], others: Mapping[str, Collection[str]]) -> str:
    """Return what an option may mean that a command does not know; `others` are those of the other commands.

    >>> meant_by("--categ", ["--category-file", "--category"], {})
    '; nearest: --category'
    >>> meant_by("--rate", ["--retries"], {"plan": ["--rate"], "demo": []})
    '; it is an option of plan'
    """
    takers = [command for command, options in others.items() if option in options]
    if takers:
        more = ", ..." if len(takers) > _MOST_TAKERS else ""
        return f"; it is an option of {', '.join(takers[:_MOST_TAKERS])}{more}"
    near = nearest(option, known)
    return f"; nearest: {near}" if near is not None else ""


def nearest(word: str, known: Collection[str]) -> str | None:
    """Return the name that a word begins, else the one that is most like it, None if none is.

    >>> nearest("--split_", ["--splits", "--split"]), nearest("--imageurl", ["--imageURL"]), nearest("x", ["plan"])
    ('--split', '--imageURL', None)
    """
    import difflib

    wanted = _folded(word)
    by_form = {_folded(name): name for name in known}
    begun = [form for form in by_form if len(wanted) > 1 and form.startswith(wanted)]
    near = [min(begun, key=len)] if begun else difflib.get_close_matches(wanted, by_form, n=1, cutoff=0.6)
    return by_form[near[0]] if near else None


def _folded(name: str) -> str:
    return name.lower().replace("_", "-").strip("-")


def own_values() -> dict[str, tuple[str, ...]]:
    """Return the values that an option may have behind it, of those whose value may be left out; of others none."""
    return {option.metadata["flags"][0]: option.metadata["reader"].words for option in option_fields()}


def advice(words: Sequence[str], extra: Sequence[str]) -> str:
    """Return what to do with words too many behind a repeatable option, of which each takes one; else nothing.

    >>> advice(["plan", "--category", "Dog", "Cat"], ["Cat"])
    "; repeat the option: --category Dog --category Cat (one name of several words stands in quotes: 'Dog Cat')"
    >>> advice(["plan", "--respect-opt-out", "noai"], ["noai"])
    '; behind --respect-opt-out stands nothing, or noindex'
    """
    repeatable = {
        flag: option
        for option in option_fields()
        for flag in option.metadata["flags"]
        if option.metadata["reader"].is_repeatable
    }
    at = next((place for place, word in enumerate(words) if word in extra and not word.startswith("-")), 0)
    flag = next((place for place in reversed(range(at)) if words[place].startswith("-")), None)
    if flag is None:
        of_query = words[0] in ("download", "plan") and at
        return f"; a class is named by --category {quote(' '.join(extra))}" if of_query else ""
    name, _, value = words[flag].partition("=")
    # Behind an option that the command does not know nothing is too much.
    if words[flag] in extra:
        return ""
    if own := own_values().get(name):
        return f"; behind {name} stands nothing, or {' or '.join(own)}"
    if name not in repeatable:
        return ""
    end = next((place for place in range(at, len(words)) if words[place].startswith("-")), len(words))
    values = [*([value] if value else []), *words[flag + 1 : end]]
    again = f"; repeat the option: {' '.join(f'{name} {quote(value)}' for value in values)}"
    if repeatable[name].metadata["reader"] is not WORDS:
        return again
    return f"{again} (one name of several words stands in quotes: {quote(' '.join(values))})"
