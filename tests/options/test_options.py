"""Every option once: the same in both doors, helped, normalised, refused by name; light to import."""

import argparse
import ast
import dataclasses
import inspect
import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import oid_async
from oid_async import errors
from oid_async.cli import main as cli
from oid_async.cli.parser import make_parser
from oid_async.errors import UsageError
from oid_async.openimages.vocabulary import SPLITS
from oid_async.options.export import FORMATS, ExportOptions
from oid_async.options.keywords import RunOptions
from oid_async.options.query import Options, option_fields
from oid_async.options.query_table import FILTERS
from oid_async.options.table import HEADINGS

FIELDS = [option.name for option in option_fields()]
DOORS = (oid_async.download, oid_async.plan, oid_async.stream)
COMMANDS = ("download", "plan")
# What only one of the doors has: how a program shows itself, and how a caller hears of events.
SCREEN_FLAGS = {"--json", "--quiet", "--help", "-h"}
PYTHON_ONLY = {"on_event", "progress", "query"}
# What is no option of a query: where a plan's list of images goes, how a stream hands its images out.
ALONE = {"plan": {"ids"}, "stream": {"annotations", "keep_files"}}
# What is an option of a run that fetches images, and of no plan.
RUN_ONLY = {"report"}


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OID_ASYNC_MIRROR", raising=False)
    monkeypatch.delenv("OID_ASYNC_CACHE", raising=False)


def options(**query: Any) -> Options:
    return Options(**query)


def parser_of(command: str) -> argparse.ArgumentParser:
    for action in make_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            parser: argparse.ArgumentParser = action.choices[command]
            return parser
    raise AssertionError("the program has no commands")


def options_of(command: str) -> list[dataclasses.Field[Any]]:
    """Return the options that a command, or the function of its name, takes."""
    return [option for option in option_fields() if command != "plan" or option.name not in RUN_ONLY]


def parsed(*words: str) -> Options:
    """Return what a command line of `download` comes to."""
    arguments = make_parser().parse_args(["download", *words])
    return options(**{name: value for name, value in vars(arguments).items() if name in FIELDS})


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_doors_take_every_option_as_a_keyword(door: Any) -> None:
    """Each Python door shows every option, keyword-only, with the default that Options has, and nothing else."""
    shown = inspect.signature(door).parameters
    names = [option.name for option in options_of(door.__name__)]
    assert set(shown) - PYTHON_ONLY == set(names) | ALONE.get(door.__name__, set())
    assert {parameter.kind for parameter in shown.values()} == {inspect.Parameter.KEYWORD_ONLY}
    # None is everything; an empty filter is refused.
    defaults = {option.name: option.default for option in option_fields()}
    defaults |= {name: None for name in FILTERS if defaults[name] == ()}
    assert {name: shown[name].default for name in names} == {name: defaults[name] for name in names}


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_doors_explain_every_option(door: Any) -> None:
    """The docstring of each door has a line for each option, with the help that the command line gives."""
    lines = [line.strip() for line in (door.__doc__ or "").splitlines()]
    for option in options_of(door.__name__):
        assert f"{option.name}: {option.metadata['help']}" in lines


@pytest.mark.parametrize(
    ("function", "takes"),
    [
        (oid_async.verify, {"mirror", "max_failures", "endpoint_url"}),
        (oid_async.repeat, {"mirror", "rate", "retry_failed", "report"}),
        (oid_async.open, {"cache_dir", "image_ids", "endpoint_url"}),
        (oid_async.export, {"cache_dir", "endpoint_url", "processes", "splits", "margin"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_functions_show_and_explain_the_options_they_take(function: Any, takes: set[str]) -> None:
    """help() of what reads a folder shows each option by its name, with its meaning."""
    shown = inspect.signature(function).parameters
    assert inspect.Parameter.VAR_KEYWORD not in {parameter.kind for parameter in shown.values()}
    explained = set(re.findall(r"^    (\w+): ", function.__doc__, re.MULTILINE))
    assert takes <= explained <= set(shown)


def test_typed_keywords_are_the_options() -> None:
    """What type checkers offer is what there is."""
    assert set(RunOptions.__annotations__) == set(FIELDS)
    assert not RunOptions.__required_keys__


@pytest.mark.parametrize("command", COMMANDS)
def test_command_line_offers_every_option(command: str) -> None:
    """The command line has every option of the Python doors, under the flags that Options names, and no other."""
    extra = SCREEN_FLAGS | {"--ids"} | ({"--dry-run"} if command == "download" else set())
    actions = parser_of(command)._actions
    offered: dict[str, set[str]] = {}
    for action in actions:
        if not set(action.option_strings) <= extra:
            offered.setdefault(action.dest, set()).update(action.option_strings)
    assert offered == {option.name: set(option.metadata["flags"]) for option in options_of(command)}
    assert all(flag.startswith("--") for flags in offered.values() for flag in flags)


@pytest.mark.parametrize("command", ["download", "plan", "classes", "metadata", "verify", "export", "demo"])
def test_every_option_has_help(command: str) -> None:
    """No option and no argument of any command is without a word of help and, where it takes a value, a name for it."""
    for action in parser_of(command)._actions:
        assert action.help, action.dest
        if action.nargs != 0 and action.option_strings:
            assert action.metavar, action.dest


@pytest.mark.parametrize("command", COMMANDS)
def test_help_page_shows_every_flag(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `--help` prints holds every flag, aliases too, on stdout, without colour when it is not a terminal."""
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr()
    words = printed.out.replace(",", " ").split()
    assert {flag for option in options_of(command) for flag in option.metadata["flags"]} <= set(words)
    assert "\x1b" not in printed.out
    assert printed.err == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_page_groups_options_under_headings(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--help` has the seven headings in order, and under each the options that the table puts there."""
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    lines = capsys.readouterr().out.splitlines()
    at = [lines.index(f"{heading}:") for heading in HEADINGS]
    assert at == sorted(at)
    for heading, start, end in zip(HEADINGS, at, [*at[1:], len(lines)], strict=True):
        shown = " ".join(lines[start:end]).replace(",", " ").split()
        mine = [option for option in options_of(command) if option.metadata["heading"] == heading]
        assert mine
        assert {flag for option in mine for flag in option.metadata["flags"]} <= set(shown)


def test_options_page_has_a_line_for_every_option() -> None:
    """docs/options.md names every spelling and keyword of every option, and README need not."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "options.md").read_text(encoding="utf-8")
    for option in option_fields():
        spellings = ", ".join(f"`{flag}`" for flag in option.metadata["flags"])
        assert f"\n| {spellings} | `{option.name}` |" in page


def test_every_format_is_explained_by_its_option() -> None:
    """The help of --format gives a word on each format."""
    text = ExportOptions.__dataclass_fields__["format"].metadata["help"]
    assert [name for name in FORMATS if f"{name} (" not in text] == []


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--respect-opt-out"], "respect_opt_out", True),
        (["--respect-opt-out", "noindex"], "respect_opt_out", "noindex"),
        (["--respect-opt-out=noindex", "--no-respect-opt-out"], "respect_opt_out", False),
        (["--category", "Football", "--category", "Person"], "categories", ("Football", "Person")),
        (["--category", "Lemon, lime and bitters"], "categories", ("Lemon, lime and bitters",)),
        (["--type", "inter", "--category", "a"], "match", "all"),
        (["--type", "sum"], "match", "any"),
        (["--category-file", "c.txt"], "category_file", os.path.abspath("c.txt")),
        (["--with-subclasses"], "with_subclasses", True),
        (["--exclude", "Tree", "--exclude", "Car"], "exclude", ("Tree", "Car")),
        (["--is-occluded", "yes"], "is_occluded", True),
        (["--is-truncated", "no"], "is_truncated", False),
        (["--is-group-of", "no"], "is_group_of", False),
        (["--is-depiction", "yes"], "is_depiction", True),
        (["--is-inside", "yes"], "is_inside", True),
        (["--image-ids", "ids.txt"], "image_ids", os.path.abspath("ids.txt")),
        (["--exclude-ids", "ids.txt"], "exclude_ids", os.path.abspath("ids.txt")),
        (["--limit-per-class", "7"], "limit_per_class", 7),
        (["--limit-per-class", "-1"], "limit_per_class", None),
        (["--shuffle"], "shuffle", True),
        (["--seed", "9"], "seed", 9),
        (["--kind", "none"], "kinds", ("none",)),
        (["--only-matching"], "only_matching", True),
        (["--release", "v4"], "release", "v4"),
        (["--offline"], "offline", True),
        (["--type", "all", "--category", "a"], "match", "all"),
        (["--match", "all", "--category", "a"], "match", "all"),
        (["--match", "any"], "match", "any"),
        (["--match", "inter", "--category", "a"], "match", "all"),
        (["--ndata", "500"], "limit", 500),
        (["--limit", "500"], "limit", 500),
        (["--ndata", "-1"], "limit", None),
        (["--ndata=-1"], "limit", None),
        (["--ndata", "12.5%"], "limit", "12.5%"),
        (["--ndata", "validation=20, train=-1"], "limit", "train=-1,validation=20"),
        (["--label", "c.csv"], "label", os.path.abspath("c.csv")),
        (["--classes-file", "c.csv"], "label", os.path.abspath("c.csv")),
        (["--annotation", "b.csv.gz"], "annotation", os.path.abspath("b.csv.gz")),
        (["--boxes-file", "b.csv.gz"], "annotation", os.path.abspath("b.csv.gz")),
        (["--imageURL", "https://x.org/i.csv"], "image_url", "https://x.org/i.csv"),
        (["--image-url", "file:///i.parquet"], "image_url", "file:///i.parquet"),
        (["--savepath", "Football_data"], "savepath", Path("Football_data").absolute()),
        (["--split", "test", "--split", "train"], "splits", ("train", "test")),
        (["--split", "all"], "splits", SPLITS),
        (["--kind", "bbox"], "kinds", ("bbox",)),
        (["--source", "original,cvdf"], "source", ("original", "cvdf")),
        (["--names", "id"], "names", "id"),
        (["--mirror", "http://127.0.0.1:8000"], "mirror", "http://127.0.0.1:8000"),
        (["--cache-dir", "cache"], "cache_dir", Path("cache").absolute()),
        (["--concurrency", "8"], "concurrency", 8),
        (["--rate", "2.5"], "rate", 2.5),
        (["--rate", "0"], "rate", 0.0),
        (["--period", "5"], "period", 5.0),
        (["--no-hash"], "no_hash", True),
        (["--shard", "3/8"], "shard", "3/8"),
        (["--allow-host", "127.0.0.1:1", "--allow-host", "[::1]:2"], "allow_hosts", ("127.0.0.1:1", "[::1]:2")),
    ],
    ids=str,
)
def test_flag_and_its_aliases(words: list[str], name: str, value: Any) -> None:
    """Every flag and alias of the contract sets its option, and only it."""
    given = parsed(*words)
    assert getattr(given, name) == value
    plain = options(categories=given.categories) if "a" in words else options()
    changed = {option for option in FIELDS if getattr(given, option) != getattr(plain, option)}
    assert changed <= {name}


def test_call_of_the_original_tool_works_as_documented() -> None:
    """The original tool's documented call means here what it meant there."""
    given = parsed(
        "--category", "Football", "--category", "Person", "--type", "inter", "--savepath", "Football_data"
    )  # fmt: skip
    assert given == options(categories=["Football", "Person"], match="all", savepath="Football_data")


def test_defaults_are_those_of_the_contract() -> None:
    """Nothing asked for: every box of train, all images, url names, no cap of our own choosing."""
    plain = options()
    assert plain == parsed()
    assert {name: getattr(plain, name) for name in FIELDS} == {
        "format": None,
        "out": None,
        "export_splits": None,
        "max_side": None,
        "copy": False,
        "min_box_area": 0,
        "group_boxes": "mark",
        "no_masks": False,
        "class_map": None,
        "shard_size": 1 << 30,
        "margin": "0%",
        "no_files": False,
        "categories": (),
        "category_file": None,
        "with_subclasses": False,
        "match": "any",
        "exclude": (),
        "is_occluded": None,
        "is_truncated": None,
        "is_group_of": None,
        "is_depiction": None,
        "is_inside": None,
        "image_ids": None,
        "exclude_ids": None,
        "limit": None,
        "limit_per_class": None,
        "balanced": None,
        "min_area": None,
        "max_area": None,
        "min_boxes": None,
        "max_boxes": None,
        "point_answer": None,
        "negatives": None,
        "shuffle": False,
        "seed": 0,
        "splits": (),
        "kinds": ("bbox",),
        "select_by": None,
        "where": None,
        "caption": None,
        "triplet": (),
        "label_source": "human",
        "min_confidence": None,
        "verified_absent": (),
        "image_where": None,
        "traces": False,
        "voice": False,
        "mask_size": "original",
        "only_matching": True,
        "all_boxes": False,
        "release": "v7",
        "images": "boxable",
        "label": None,
        "annotation": None,
        "image_url": None,
        "savepath": Path("train_data").absolute(),
        "source": None,
        "names": "url",
        "mirror": None,
        "cache_dir": None,
        "offline": False,
        "max_bad_rows": 1000,
        "concurrency": None,
        "rate": None,
        "period": 1.0,
        "processes": 1,
        "allow_hosts": (),
        "retries": 4,
        "timeout": 30.0,
        "max_wait": 900.0,
        "max_image_bytes": 64 << 20,
        "limit_rate": None,
        "retry_failed": False,
        "respect_opt_out": True,
        "top_up": False,
        "max_failures": 0,
        "no_hash": False,
        "shard": None,
        "report": None,
        "cluster": None,
        "part_size": 512 << 20,
        "endpoint_url": None,
    }


@pytest.mark.parametrize(
    ("query", "name", "value"),
    [
        ({"categories": "Football"}, "categories", ("Football",)),
        ({"categories": ["Football", "Person"]}, "categories", ("Football", "Person")),
        ({"categories": {"Football": 1}.keys()}, "categories", ("Football",)),
        ({"categories": []}, "categories", ()),
        ({"categories": None}, "categories", ()),
        ({"match": "inter", "categories": "a"}, "match", "all"),
        ({"match": "sum"}, "match", "any"),
        ({"limit": -1}, "limit", None),
        ({"limit": 0}, "limit", 0),
        ({"limit": "3"}, "limit", 3),
        ({"limit": "100%"}, "limit", "100%"),
        ({"limit": {"test": 4, "train": 0}}, "limit", "train=0,test=4"),
        ({"splits": "validation"}, "splits", ("validation",)),
        ({"splits": ["test", "train", "test"]}, "splits", ("train", "test")),
        ({"splits": "all"}, "splits", SPLITS),
        ({"splits": ["test", "all"]}, "splits", SPLITS),
        ({"splits": None}, "splits", ()),
        ({"kinds": "bbox"}, "kinds", ("bbox",)),
        ({"label": Path("d/c.csv")}, "label", os.path.abspath("d/c.csv")),
        ({"annotation": Path("b.csv")}, "annotation", os.path.abspath("b.csv")),
        ({"image_url": Path("i.csv")}, "image_url", os.path.abspath("i.csv")),
        ({"savepath": "d"}, "savepath", Path("d").absolute()),
        ({"cache_dir": "c"}, "cache_dir", Path("c").absolute()),
        ({"cache_dir": ""}, "cache_dir", None),
        ({"mirror": Path("/srv/oid")}, "mirror", "/srv/oid"),
        ({"source": "cvdf, original"}, "source", ("cvdf", "original")),
        ({"source": ["thumbnail", "cvdf"]}, "source", ("thumbnail", "cvdf")),
        ({"source": ["original,cvdf"]}, "source", ("original", "cvdf")),
        ({"rate": 5}, "rate", 5),
        ({"allow_hosts": "localhost:8080"}, "allow_hosts", ("localhost:8080",)),
        ({"max_failures": 5}, "max_failures", 5),
        ({"max_failures": "5"}, "max_failures", 5),
        ({"max_failures": "0.5%"}, "max_failures", "0.5%"),
        ({"max_failures": "100%"}, "max_failures", "100%"),
        ({"shard": "0/8"}, "shard", "8/8"),
        ({"shard": " 03/08 "}, "shard", "3/8"),
        ({"shard": "1/1"}, "shard", None),
        ({"shard": "0/1"}, "shard", None),
        ({"shard": "2/3", "top_up": True, "limit": 5}, "shard", "2/3"),
        ({"negatives": "10", "categories": ["a"]}, "negatives", 10),
        ({"negatives": "12.5%", "category_file": "c.txt"}, "negatives", "12.5%"),
        ({"negatives": 0}, "negatives", None),
    ],
    ids=str,
)
def test_value_is_normalised(query: dict[str, Any], name: str, value: Any) -> None:
    """Strings, paths, lists and the words of either door become one form; one bare string is one word."""
    assert getattr(options(**query), name) == value


@pytest.mark.parametrize(
    ("query", "called"),
    [
        ({"categories": ""}, "--category"),
        ({"categories": " "}, "--category"),
        ({"categories": ["Person", ""]}, "--category"),
        ({"categories": [1]}, "--category"),
        ({"categories": 5}, "--category"),
        ({"match": "both"}, "--type"),
        ({"match": None}, "--type"),
        ({"match": ["any"]}, "--type"),
        ({"match": "inter"}, "--category"),
        ({"match": "all", "categories": []}, "--category"),
        ({"limit": -2}, "--ndata"),
        ({"limit": "three"}, "--ndata"),
        ({"limit": "0%"}, "--ndata"),
        ({"limit": "100.5%"}, "--ndata"),
        ({"limit": "dev=3"}, "--ndata"),
        ({"limit": "train=3,train=4"}, "--ndata"),
        ({"limit": "train=3,"}, "--ndata"),
        ({"limit": "train=5%"}, "--ndata"),
        ({"limit": {"train": 2.5}}, "--ndata"),
        ({"limit": {}}, "--ndata"),
        ({"limit": "train=3", "shard": "1/2", "top_up": True}, "--shard"),
        ({"limit": "train=3", "limit_per_class": 2, "top_up": True}, "--limit-per-class"),
        ({"limit": 1.5}, "--ndata"),
        ({"limit": True}, "--ndata"),
        ({"splits": "val"}, "--split"),
        ({"splits": ["train", "Test"]}, "--split"),
        ({"kinds": "masks"}, "--kind"),
        ({"kinds": ["none", "bbox"]}, "--kind"),
        ({"kinds": "none", "all_boxes": True}, "--all-boxes"),
        ({"only_matching": True, "all_boxes": True}, "--all-boxes"),
        ({"only_matching": "yes"}, "--only-matching"),
        ({"limit_per_class": -2}, "--limit-per-class"),
        ({"limit_per_class": "3"}, "--limit-per-class"),
        ({"seed": None}, "--seed"),
        ({"seed": 1.5}, "--seed"),
        ({"shuffle": 1}, "--shuffle"),
        ({"with_subclasses": "yes"}, "--with-subclasses"),
        ({"offline": None}, "--offline"),
        ({"release": "v3"}, "--release"),
        ({"is_occluded": "maybe"}, "--is-occluded"),
        ({"is_inside": 1}, "--is-inside"),
        ({"exclude": [""]}, "--exclude"),
        ({"image_ids": 5}, "--image-ids"),
        ({"category_file": []}, "--category-file"),
        ({"names": "both"}, "--names"),
        ({"label": 5}, "--label"),
        ({"annotation": 5}, "--annotation"),
        ({"image_url": 5}, "--imageURL"),
        ({"mirror": 5}, "--mirror"),
        ({"savepath": 5}, "--savepath"),
        ({"savepath": ""}, "--savepath"),
        ({"savepath": "hdfs://b/run"}, "--savepath"),
        ({"out": "gs://b/run"}, "--out"),
        ({"cache_dir": "http://h/c"}, "--cache-dir"),
        ({"image_ids": "https://h/ids.txt"}, "--image-ids"),
        ({"label": "ftp://h/c.csv"}, "--label"),
        ({"annotation": "hf://h/b.csv"}, "--annotation"),
        ({"image_ids": ""}, "--image-ids"),
        ({"label": ""}, "--label"),
        ({"savepath": "~no.such.user/x"}, "--savepath"),
        ({"savepath": "caf\udce9"}, "--savepath"),
        ({"annotation": "file://host/b.csv"}, "--annotation"),
        ({"annotation": "file:b.csv"}, "--annotation"),
        ({"annotation": "file:///b%E9.csv"}, "--annotation"),
        ({"cache_dir": 5}, "--cache-dir"),
        ({"source": "flickr"}, "--source"),
        ({"source": ""}, "--source"),
        ({"source": []}, "--source"),
        ({"source": "cvdf,"}, "--source"),
        ({"source": "cvdf,cvdf"}, "--source"),
        ({"source": ["cvdf", "original,cvdf"]}, "--source"),
        ({"concurrency": 0}, "--concurrency"),
        ({"concurrency": -1}, "--concurrency"),
        ({"concurrency": 1025}, "--concurrency"),
        ({"concurrency": 1.5}, "--concurrency"),
        ({"rate": -1}, "--rate"),
        ({"rate": float("nan")}, "--rate"),
        ({"rate": float("inf")}, "--rate"),
        ({"rate": "10"}, "--rate"),
        ({"processes": 0}, "--processes"),
        ({"processes": "two"}, "--processes"),
        ({"processes": 1.5}, "--processes"),
        ({"processes": True}, "--processes"),
        ({"period": 0}, "--period"),
        ({"period": -1.0}, "--period"),
        ({"period": float("inf")}, "--period"),
        ({"period": float("nan")}, "--period"),
        ({"period": None}, "--period"),
        ({"allow_hosts": "localhost"}, "--allow-host"),
        ({"allow_hosts": "localhost:"}, "--allow-host"),
        ({"allow_hosts": ":8080"}, "--allow-host"),
        ({"allow_hosts": "localhost:0"}, "--allow-host"),
        ({"allow_hosts": "localhost:65536"}, "--allow-host"),
        ({"allow_hosts": "localhost:http"}, "--allow-host"),
        ({"allow_hosts": ["localhost:1", "localhost"]}, "--allow-host"),
        ({"allow_hosts": "http://127.0.0.1:8080"}, "--allow-host"),
        ({"retry_failed": 1}, "--retry-failed"),
        ({"top_up": "yes"}, "--top-up"),
        ({"no_hash": None}, "--no-hash"),
        *(({"shard": value}, "--shard") for value in ("", "3", "9/8", "0/0", "1/0", "-1/8", "1/8/9", "a/b", "٣/8", 3)),
        ({"shard": (3, 8)}, "--shard"),
        ({"shard": "3/8", "top_up": True, "limit_per_class": 5}, "--shard"),
        ({"shard": "3/8", "top_up": True, "negatives": 5, "categories": ["a"]}, "--shard"),
        ({"negatives": 5}, "--category"),
        *(({"negatives": each, "categories": ["a"]}, "--negatives") for each in (-1, True, 1.5, "x", "0%", "100%")),
        *(({"max_failures": value}, "--max-failures") for value in (-1, True, 1.5, None, "", "5 %", "%", "x", "101%")),
        *(({"max_failures": value}, "--max-failures") for value in ("-1%", "1e3", "1.%", "5%%", "٣", "9" * 5000)),
    ],
    ids=str,
)
def test_wrong_value_is_refused_by_name(query: dict[str, Any], called: str) -> None:
    """A value that cannot be used raises UsageError on one line that names the option."""
    with pytest.raises(UsageError) as caught:
        options(**query)
    assert called in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_unknown_keyword_is_refused() -> None:
    """A misspelt keyword is an error at once, not ignored."""
    with pytest.raises(TypeError, match="catgories"):
        options(catgories=["Person"])


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        *(
            ("type", "match"),
            ("ndata", "limit"),
            ("imageURL", "image_url"),
            ("split", "splits"),
            ("boxes_file", "annotation"),
        ),
        ("classes-file", "label"),
        ("catgories", "categories"),
        ("offlin", "offline"),
    ],
)
def test_a_spelling_of_the_command_line_is_called_as_in_python(given: str, meant: str) -> None:
    """Who writes a flag's name as a keyword is told the keyword, not what has like letters."""
    keywords: dict[str, Any] = {given: "x"}
    with pytest.raises(TypeError, match=f"^no option '{given}'; did you mean '{meant}'\\?$"):
        Options.of(**keywords)


@pytest.mark.parametrize("door", [oid_async.verify, oid_async.export, oid_async.prune, oid_async.stats, oid_async.open])
def test_a_folder_stands_first_or_is_named(door: Any) -> None:
    """What is done with a folder takes it by position or as savepath=, and nothing else by position."""
    first, *others = inspect.signature(door).parameters.values()
    assert (first.name, first.kind) == ("savepath", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    assert {each.kind for each in others} == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["download", "--cat", "Person"], "--cat"),
        (["download", "--savepat", "d"], "--savepat"),
        (["download", "--ndata", "many"], "--ndata"),
        (["download", "--ndata"], "--ndata"),
        (["download", "--type", "both"], "--type"),
        (["download", "--type", "inter"], "--category"),
        (["download", "--source", "flickr"], "--source"),
        (["download", "--period", "0"], "--period"),
        (["download", "extra"], "extra"),
        (["plan", "--dry-run"], "--dry-run"),
        (["fetch"], "fetch"),
        ([], "COMMAND"),
    ],
    ids=str,
)
def test_wrong_usage_is_one_line_and_exit_2(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong usage, abbreviations too, ends with 2 and one line on stderr that names what is wrong."""
    assert cli.main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("oid-async: error: ")
    assert named in printed.err
    assert printed.err.count("\n") == 1


def test_wrong_usage_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """With --json an error is one object on stdout."""
    assert cli.main(["plan", "--json", "--type", "both"]) == 2
    printed = capsys.readouterr()
    error = json.loads(printed.out)["error"]
    assert error["kind"] == "usage"
    assert "--type" in error["message"]
    assert printed.err == ""


def test_environment_stands_in_for_mirror_and_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """OID_ASYNC_MIRROR and OID_ASYNC_CACHE count where the option is not given, and not when they are empty."""
    monkeypatch.setenv("OID_ASYNC_MIRROR", "http://127.0.0.1:8000")
    monkeypatch.setenv("OID_ASYNC_CACHE", "/var/cache/oid")
    assert options().mirror == parsed().mirror == "http://127.0.0.1:8000"
    assert options().cache_dir == parsed().cache_dir == Path("/var/cache/oid")
    given = options(mirror="http://127.0.0.1:9000", cache_dir="mine")
    assert (given.mirror, given.cache_dir) == ("http://127.0.0.1:9000", Path("mine").absolute())
    monkeypatch.setenv("OID_ASYNC_MIRROR", "")
    monkeypatch.setenv("OID_ASYNC_CACHE", "")
    assert (options().mirror, options().cache_dir) == (None, None)


def test_options_are_values() -> None:
    """Equal queries are equal objects that nobody can change; as JSON they are plain and make the same query again."""
    one = options(categories="Person", splits="all", source="cvdf", savepath="d", cache_dir="/c", limit=3)
    assert one == options(
        categories=["Person"], splits=SPLITS, source=["cvdf"], savepath=Path("d"), cache_dir="/c", limit=3
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.limit = 4  # type: ignore[misc]
    plain = json.loads(json.dumps(one.as_json()))
    assert set(plain) == set(FIELDS)
    assert options(**plain) == one


def test_a_query_is_repeated_from_its_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What query.json holds makes the same query from any working directory, whatever the environment says by then."""
    monkeypatch.chdir(tmp_path)
    places = {"label": "c.csv", "annotation": "file:///b.csv", "image_url": "http://h/i.csv", "image_ids": "../ids.txt"}
    for asked in (
        {**places, "cache_dir": "cache", "mirror": "mirror", "category_file": "f"},
        {"exclude_ids": "x", "is_inside": "no", "all_boxes": True, "source": "thumbnail", "limit": 0, "rate": 2.5},
        {"max_failures": "2%", "top_up": True, "retry_failed": True, "limit_per_class": -1, "allow_hosts": "h:1"},
        {"only_matching": False, "match": "inter", "categories": "a", "splits": "all", "kinds": "bbox"},
        {
            "retries": 0,
            "timeout": 2.5,
            "max_wait": 0.0,
            "max_image_bytes": "5M",
            "limit_rate": "1.5M",
            "max_bad_rows": 7,
            "no_hash": True,
            "shard": "0/8",
        },
    ):
        made = options(**asked)
        plain = json.loads(json.dumps(made.as_json()))
        again = Options(**{**plain, "savepath": tmp_path})
        asked_for = {name: tmp_path / value for name, value in asked.items() if value in ("c.csv", "f", "x")}
        asked_for |= {name: tmp_path / value for name, value in asked.items() if value in ("cache", "mirror")}
        asked_for |= {"image_ids": tmp_path.parent / "ids.txt"} if "image_ids" in asked else {}
        assert again == options(**(asked | asked_for | {"savepath": tmp_path}))


@pytest.mark.parametrize(
    ("allowed", "failed", "selected", "is_allowed"),
    [
        (0, 0, 0, True),
        (0, 1, 9, False),
        (2, 2, 2, True),
        (2, 3, 900, False),
        ("10%", 1, 10, True),
        ("10%", 2, 19, False),
        ("0.1%", 1, 1000, True),
        ("0.1%", 1, 999, False),
        ("100%", 7, 7, True),
        ("0%", 1, 7, False),
    ],
)
def test_max_failures_is_a_count_or_an_exact_share(
    allowed: int | str, failed: int, selected: int, is_allowed: bool
) -> None:
    """--max-failures compares with the number of failures, or with their share of the selected images, exactly."""
    assert options(max_failures=allowed).allows(failed, selected) is is_allowed


def test_all_matches_the_exports() -> None:
    """`__all__` names exactly what the package offers, every name resolves to something of ours, and dir agrees."""
    assert len(set(oid_async.__all__)) == len(oid_async.__all__)
    assert dir(oid_async) == sorted(oid_async.__all__)
    tree = ast.parse(inspect.getsource(oid_async))
    (typed,) = [node for node in tree.body if isinstance(node, ast.If)]
    offered = {alias.name for node in typed.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert offered | {"__version__"} == set(oid_async.__all__)
    for name in oid_async.__all__:
        value = getattr(oid_async, name)
        home = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", "oid_async")
        assert name == "__version__" or home.startswith("oid_async.")
    with pytest.raises(AttributeError, match="nonsense"):
        _ = oid_async.nonsense


def test_version_is_the_one_installed(capsys: pytest.CaptureFixture[str]) -> None:
    """The package, its metadata and `--version` name the same version."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.strip() == f"oid-async {oid_async.__version__}"
    assert oid_async.__version__ == version("oid-async")


def test_errors_have_kinds_and_exit_codes() -> None:
    """Every error is an OidError with a kind of its own and the exit code of the contract."""
    every = (error for error in errors.OidError.__subclasses__() if error.__module__ == errors.__name__)
    found = {error.kind: error.exit_code for error in every}
    assert found == {"usage": 2, "input": 2, "unavailable": 2, "storage": 3, "locked": 4}


def loaded_by(code: str, *words: str) -> set[str]:
    """Run code in a fresh interpreter and return which of the heavy packages it has loaded at its end."""
    tail = "\nimport sys\nprint(*({'aiohttp', 'polars', 'rich', 'aiofiles'} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code + tail, *words], capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import oid_async",
        "import oid_async; oid_async.__version__; dir(oid_async)",
        "from oid_async import errors, events",
        "import oid_async.options.query",
        "import oid_async.cli.main",
    ],
)
def test_importing_is_light(code: str) -> None:
    """Importing the package, its errors, its options or its command line loads neither aiohttp, polars nor rich."""
    assert loaded_by(code) == set()


def test_a_worker_process_starts_without_polars() -> None:
    """A worker process has no tables to read; loading Polars would take a third of the time that it takes to start."""
    assert "polars" not in loaded_by("import oid_async.workers.process")


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["download", "--help"], ["plan", "--help"], ["--bogus"]])
def test_help_and_version_answer_at_once(words: list[str]) -> None:
    """Asking for help or the version, or a typing error, loads neither aiohttp nor polars."""
    code = "import sys\nfrom oid_async.cli.main import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass"
    assert not loaded_by(code, *words) & {"aiohttp", "polars"}
