"""Completion in real shells: commands, options, values, folders, class names; offline, faster than a hand."""

import csv
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.published import Dataset, Image, Label, run_cli, typed
from support.real_folder import REAL
from support.shells import STARTS, Shell, shell_at_terminal

from oid_async.metadata.name_list import keep_names
from oid_async.tables.reading import TableFile

# Names as published ones have their signs and letters, and what is worse.
NAMES = (
    *("Dog", "Dog bed", "Human face", "Human foot", "Bun (Food)", "Sprenger's tulip", "Sky, cloudy", "Kakigōri"),
    *("Fiat x1/9", 'Fiat 500 "topolino"', "Dkw 3=6", "Épée", "Lemon & paeroa", "Price $HOME `id`", "Half\\half"),
    *("Ford th!nk", "Yahoo!", "Tea pot", "Tea Party"),
)
# What stands before Tab, and the last word that the program gets then.
COMPLETED = (
    ("downl", "download"),
    ("help verif", "verify"),
    ("completion fis", "fish"),
    ("metadata pul", "pull"),
    ("plan --typ", "--type"),
    ("plan --type inte", "inter"),
    ("plan --type=inte", "--type=inter"),
    ("plan --split valid", "validation"),
    ("plan --kind segm", "segmentation"),
    ("export x --format yo", "yolo"),
    ("plan --source thumbnail,ori", "thumbnail,original"),
    ("plan --source=cvdf,thumbnail,", "--source=cvdf,thumbnail,original"),
    ("plan --processes au", "auto"),
    ("export my", "my data"),
    ("plan --savepath my", "my data"),
    ("plan --label my\\ ta", "my table.csv"),
    (r"plan --category human\ fa", "Human face"),
    ("plan --category=bun", "--category=Bun (Food)"),
    ('plan --category "human fa', "Human face"),
    ("plan --exclude 'sky, c", "Sky, cloudy"),
    ("plan --category human_fa", ("Human face", "Human_face")),
    ("plan --category sprenger", "Sprenger's tulip"),
    ('plan --category "sprenger', "Sprenger's tulip"),
    ("classes kak", "Kakigōri"),
    (r"plan --category Fiat\ x", "Fiat x1/9"),
    (r"plan --category fiat\ 5", 'Fiat 500 "topolino"'),
    ('plan --category "Fiat 5', 'Fiat 500 "topolino"'),
    ("plan --category dkw", "Dkw 3=6"),
    ("plan --category Ép", "Épée"),
    ("plan --category lem", "Lemon & paeroa"),
    ("plan --category price", "Price $HOME `id`"),
    ("plan --category 'price", "Price $HOME `id`"),
    ("plan --category half", "Half\\half"),
    ("plan --kind label --category onl", "Only a label"),
    ("plan --verified-absent=onl", "--verified-absent=Only a label"),
    ("plan --cache-dir ~/other --category ot", "Otter"),
    ('plan --cache-dir "an other" --category ot', "Otter"),
    ("plan --cache-dir 'an other' --category ot", "Otter"),
    (r"plan --cache-dir an\ other --category ot", "Otter"),
    # Earlier words have quotes of their own, or none.
    (r'plan --category "Dog" --category human\ fa', "Human face"),
    ('plan --split train --category "human fa', "Human face"),
    ('plan --category "Dog" --category \'human fa', "Human face"),
    ('plan --category "Ford', "Ford th!nk"),
    ("plan --category Ford", "Ford th!nk"),
    ('plan --category "Yah', "Yahoo!"),
    ("plan --category \"Sprenger's t", "Sprenger's tulip"),
    (r"plan --category Sprenger\'s\ t", "Sprenger's tulip"),
    (r'plan --category "Fiat 500 \"t', 'Fiat 500 "topolino"'),
    (r'plan --category "Price \$HO', "Price $HOME `id`"),
    # Where several fit what is typed stays.
    (r"plan --category tea\ p", ("tea p", "Tea p")),
)
# zsh leaves the quote open, for another comma.
OPEN_LIST = ('plan --source "thumbnail,ori', "thumbnail,original")
COMPLETED_IN = {
    "bash": (OPEN_LIST,),
    "zsh": (),
    "fish": (OPEN_LIST, (r"plan --category 'Sprenger\'s t", "Sprenger's tulip")),
}


def publish(names: tuple[str, ...], mirror: Path, cache: Path) -> None:
    """Have the program read class tables from a mirror with these names."""
    id = "0000048549557964"
    classes = [(f"/m/{number:05}", name) for number, name in enumerate(names)]
    Dataset(classes, [Image(id)], [], labels=[Label(id, classes[0][0])]).publish(mirror)
    assert typed("classes", "--mirror", mirror, "--cache-dir", cache).code == 0


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a home folder with a cache of class tables, folders and files."""
    home = tmp_path / "home"
    cache = home / ".cache" / "oid-async"
    publish(NAMES, tmp_path / "mirror", cache)
    (wide,) = cache.rglob("oidv7-class-descriptions.csv.table/names.txt")
    wide.write_text(f"{wide.read_text()}Only a label\n")
    publish(("Otter",), tmp_path / "another", home / "other")
    (home / "an other").symlink_to("other")
    (home / "my data").mkdir()
    (home / "my table.csv").touch()
    return home


@pytest.fixture(params=STARTS)
def shell(request: pytest.FixtureRequest, home: Path) -> Iterator[Shell]:
    """Return each shell, with the script that the program prints."""
    if shutil.which(request.param) is None or shutil.which("awk") is None:
        pytest.skip(f"there is no {request.param} here")
    script = home / "script"
    script.write_text(run_cli("completion", request.param).stdout, encoding="utf-8")
    with shell_at_terminal(request.param, script, home) as started:
        yield started


@pytest.mark.programs
@pytest.mark.timeout(300)
def test_what_is_completed_reaches_the_program(shell: Shell) -> None:
    """After Tab and Enter the program gets the whole word, whatever signs and quotes are in it."""
    wrong = {}
    for start, meant in (*COMPLETED, *COMPLETED_IN[shell.name]):
        got = shell.completed(f"oid-async {start}")[-1].removesuffix("/")
        if got not in (meant if isinstance(meant, tuple) else (meant,)):
            wrong[start] = got
    assert wrong == {}


@pytest.mark.programs
def test_what_is_not_clear_is_shown(shell: Shell) -> None:
    """Where several fit they are shown."""
    shell.offered("oid-async verify --re", "--repair", "--respect-opt-out")


@pytest.mark.programs
def test_classes_that_begin_alike_are_shown(shell: Shell) -> None:
    """Of several class names each is shown."""
    shell.offered(r"oid-async plan --category Human\ f", "face", "foot")


@pytest.mark.programs
@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/real is not there: no real class table")
def test_an_answer_takes_less_than_a_tenth_of_a_second(shell: Shell, home: Path) -> None:
    """Also among all 20,000 names; of several presses the best counts, as others work on this machine, too."""
    with (REAL / "classes" / "oidv6-class-descriptions.csv").open(encoding="utf-8") as file:
        names = sorted({row[1] for row in csv.reader(file)})
    (wide,) = home.rglob(".cache/**/oidv7-class-descriptions.csv.table/names.txt")
    wide.write_text("".join(f"{name}\n" for name in names))
    for start, rest in (
        ("plan --balan", "ced"),
        (r"plan --category human\ fac", "e"),
        (r"plan --kind label --category Afghan\ h", "ound"),
    ):
        taken = [shell.answered(f"oid-async {start}", rest) for _ in range(5)]
        assert min(taken) < 0.1, (start, taken)


@pytest.mark.parametrize("name", STARTS)
def test_every_option_is_in_the_script(name: str) -> None:
    """A script has every command and every option of its, and no place that was left to fill."""
    script = typed("completion", name).stdout
    assert not re.search("@[A-Z]+@", script)
    for command in ("download", "export", "view", "repeat"):
        options = set(re.findall(r"(?<![\w-])--[a-zA-Z-]+\b", typed("help", command).stdout))
        assert {option for option in options if not re.search(rf"{option}(?![\w-])", script)} == set()


def test_names_are_kept_as_they_can_be_shown(tmp_path: Path, cache_dir: Path) -> None:
    """The list has each name once, in order, without those that a terminal would obey; it goes with the table."""
    publish(("zebra", "Ant", "ant", "Ant", "Bell\x07", "Öland"), tmp_path / "mirror", cache_dir)
    (listed,) = cache_dir.rglob("oidv7-class-descriptions-boxable.csv.table/names.txt")
    assert listed.read_text(encoding="utf-8") == "Ant\nant\nzebra\nÖland\n"
    listed.with_name("names.txt.1a2b.part").touch()  # a run was killed
    assert typed("metadata", "clear", "--mirror", tmp_path / "mirror").code == 0
    assert not list(cache_dir.rglob("names.txt*"))


def test_in_a_cache_that_may_only_be_read_no_names_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is not read for a list that cannot be written."""
    table = tmp_path / "table.csv"
    table.write_text("/m/1,Ant\n")
    read: list[object] = []
    monkeypatch.setattr("oid_async.tables.class_tables.read_classes", read.append)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    keep_names(tmp_path, TableFile(table, table.name))
    assert read == []


def test_names_follow_their_table(tmp_path: Path, cache_dir: Path) -> None:
    """A list that is away, or older than its table, is made again when the table is used."""
    publish(("Ant",), tmp_path / "mirror", cache_dir)
    (listed,) = cache_dir.rglob("oidv7-class-descriptions-boxable.csv.table/names.txt")
    listed.unlink()
    publish(("Ant",), tmp_path / "mirror", cache_dir)
    assert listed.read_text() == "Ant\n"
    listed.write_text("Old\n")
    os.utime(listed, (0, 0))
    typed("classes", "--mirror", tmp_path / "mirror", "--offline")
    assert listed.read_text() == "Ant\n"
