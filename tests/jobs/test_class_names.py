"""What is said of an unknown name: another kind may know it, it may be several, or it may be misspelt."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.notes import notes_into

import oid_async
from oid_async.cli.main import main
from oid_async.errors import UsageError
from oid_async.openimages.catalogue import published


@pytest.fixture(scope="module")
def cached(lookalike: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache with every table of names, and the relationships of validation."""
    folder = tmp_path_factory.mktemp("names-cache")
    query: dict[str, Any] = {"kinds": ["label", "relationship"], "splits": ["validation"], "triplet": ["*,on,*"]}
    asyncio.run(oid_async.plan(mirror=lookalike, cache_dir=folder, **query))
    return folder


async def refusal(**query: Any) -> str:
    with pytest.raises(UsageError) as caught:
        await oid_async.plan(**query)
    return str(caught.value)


LABELS = "it names a class of image-level labels and points: --select-by label, or label:"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"categories": ["meadow"]}, f"unknown class 'meadow'; {LABELS}meadow in --where"),
        ({"exclude": ["Sky, cloudy"]}, f"unknown class 'Sky, cloudy'; {LABELS}Sky, cloudy in --where"),
        ({"category_file": ["Dog", "Meadow"]}, f"unknown class 'Meadow'; {LABELS}Meadow in --where"),
        ({"where": "Dog & Meadow"}, f"--where: unknown class 'Meadow'; {LABELS}Meadow in --where"),
        ({"categories": ["holds"]}, "it is a relationship: --triplet '*,holds,*'"),
        ({"verified_absent": ["inside of"]}, "it is a relationship: --triplet '*,inside of,*'"),
        ({"categories": ["Transparent"]}, "it is an attribute of relationships: --triplet '*,is,Transparent'"),
        ({"triplet": ["Meadow,on,*"]}, "a class of image-level labels and points; relationships are between classes"),
        ({"triplet": ["Transparent,is,*"]}, "it is an attribute, which stands last: *,is,Transparent"),
        ({"triplet": ["holds,*,*"]}, "it is a relationship, which stands in the middle: *,holds,*"),
        ({"triplet": ["*,Dog,*"]}, "it names a class, which stands first or last"),
        (
            {"triplet": ["*,hold,*"]},
            "unknown relationship 'hold'; nearest: holds (oid-async classes --kind relationship lists all); there",
        ),
        ({"triplet": ["*,zzz,*"]}, "unknown relationship 'zzz'; there are at, on (top of), inside of, holds, is"),
        ({"triplet": ["*,on,Footbal"]}, "nearest: Football"),
        ({"categories": ["Dog,cat"]}, "repeat the option: --category Dog --category cat"),
        ({"exclude": ["Dog, Kite,Tree"]}, "repeat the option: --exclude Dog --exclude Kite --exclude Tree"),
        ({"verified_absent": ["Sky, cloudy,Tree"]}, "--verified-absent 'Sky, cloudy' --verified-absent Tree"),
        ({"where": "Dog AND Cat"}, "unknown class 'Dog AND Cat'; write & for AND, | for OR, - for AND NOT"),
        ({"where": "Dog & NOT Cat"}, "unknown class 'NOT Cat'; write & for AND"),
        ({"where": '"Dog or Cat"'}, "unknown class 'Dog or Cat'; no class of"),
        ({"where": '"Dog,Cat" | Tree'}, "with all of them write Dog & Cat, with any of them Dog | Cat"),
        ({"category_file": ["Dog,Cat"]}, "one class a line"),
        ({"kinds": ["bbox,label"]}, "repeat the option: --kind bbox --kind label"),
        ({"splits": ["train,test"]}, "repeat the option: --split train --split test"),
        ({"categories": ["Dog,Kat"]}, "unknown class 'Dog,Kat'; nearest"),
    ],
    ids=str,
)
async def test_an_unknown_name_is_explained(query: dict[str, Any], said: str, lookalike: Path, cached: Path) -> None:
    """One line: which kind knows the name, how to give several, or what is near to it; tables of the cache suffice."""
    words = {"mirror": lookalike, "cache_dir": cached, "offline": True, "splits": ["validation"]} | query
    message = await refusal(**words)
    assert said in message
    assert "\n" not in message


async def test_triplets_that_exist_are_named(lookalike: Path, cached: Path) -> None:
    """Of a triplet with a wrong part those are named that the other parts fit."""
    words: dict[str, Any] = {"mirror": lookalike, "cache_dir": cached, "offline": True, "splits": ["validation"]}
    message = await refusal(triplet=["Person,is,Foam"], **words)
    (some,) = message.split("there are, for example, ")[1:]
    assert some.startswith(("Person,is,", "'Person,is,"))


async def test_a_triplet_that_does_not_exist_is_answered_with_some_that_do(lookalike: Path, cached: Path) -> None:
    """No image has it: the line names triplets that differ in one part, and what the other conditions leave."""
    notes: list[str] = []
    words: dict[str, Any] = {"mirror": lookalike, "cache_dir": cached, "splits": ["validation"]}
    words |= {"triplet": ["Person,is,Person"], "categories": ["Person"]}
    assert (await oid_async.plan(on_event=notes_into(notes), **words)).selected == 0
    (line,) = [note for note in notes if note.startswith("nothing selected")]
    assert "--triplet Person,is,Person 0; there are, for example, " in line
    assert line.split("for example, ")[1].startswith(("Person,is,", "'Person,is,"))


async def test_other_kinds_names_are_fetched_to_explain_a_name(lookalike: Path, tmp_path: Path) -> None:
    """A first run knows which kind has a name; where its table cannot be had, the message says how to ask."""
    assert f"{LABELS}Meadow in --where" in await refusal(mirror=lookalike, categories=["Meadow"])
    assert "--triplet '*,holds,*'" in await refusal(mirror=lookalike, categories=["holds"])
    (classes,) = published("classes", ())
    (tmp_path / "m" / classes.bucket / classes.key).parent.mkdir(parents=True)
    shutil.copy(lookalike / classes.bucket / classes.key, tmp_path / "m" / classes.bucket / classes.key)
    message = await refusal(mirror=tmp_path / "m", cache_dir=tmp_path / "c", categories=["Meadow"])
    assert "--select-by label, label:Meadow in --where, *,Meadow,* in --triplet" in message
    assert "oid-async classes Meadow --kind all" in message
    assert "--kind all" not in await refusal(mirror=lookalike, categories=["Footbal"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--category Dog Cat", "repeat the option: --category Dog --category Cat (one name of several words"),
        ("--category=Dog Cat --type sum", "repeat the option: --category Dog --category Cat (one name"),
        ("--exclude Polar bear", "stands in quotes: 'Polar bear'"),
        ("--kind bbox label --json", "repeat the option: --kind bbox --kind label (see"),
        ("--split train test", "repeat the option: --split train --split test (see"),
        ("Dog", "a class is named by --category Dog"),
        ("--ndata 5 6", "unrecognized arguments: 6 (see"),
    ],
)
def test_words_behind_an_option_that_takes_one(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Two values behind one option that may be repeated: exit 2, one line says to repeat it."""
    assert main(["plan", *words.split()]) == 2
    printed = capsys.readouterr()
    assert said in printed.err + printed.out
    assert (printed.err + printed.out).count("\n") == 1


def test_an_option_that_a_command_does_not_know_is_not_to_be_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    """`repeat` takes no category, not even twice."""
    assert main(["repeat", "dogs", "--category", "Dog"]) == 2
    assert "unknown option --category; it is an option of download, plan" in capsys.readouterr().err
