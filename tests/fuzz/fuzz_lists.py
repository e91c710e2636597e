"""Ruin id lists, class lists and class maps with a fuzzer that sees which lines run. By hand, not by pytest:

    pip install atheris
    PYTHONPATH=tests python tests/fuzz/fuzz_lists.py ids|classes [-max_total_time=600] [CORPUS_FOLDER]

It stops at the first input that breaks a promise and leaves it as crash-...; the same command with that
file as its argument repeats it. Arguments are those of libFuzzer.
"""

import random
import sys
import tempfile
from pathlib import Path

import atheris
import polars as pl
from support.fuzzing import fuzz

with atheris.instrument_imports(include=["oid_async.tables", "oid_async.select.idlist", "oid_async.formats"]):
    from oid_async.formats.classes import ExportClasses
    from oid_async.select.idlist import read_ids, write_image_rows
    from oid_async.tables.text_lists import read_words

from oid_async.errors import OidError
from oid_async.openimages.ids import KEY, IdForm
from oid_async.tables.reading import TableFile

ONE, TWO = "0001234567890123", "FE600639ac5f36c1"
SEEDS = {
    "ids": [
        f"# mine\n{ONE}\nval/{TWO}.jpg  # second\n\r\n'test/{ONE}',\nC:\\train\\{TWO}.JPG\n",
        f'["train/{ONE}", "{TWO}", 5, null, {{"a": [1]}}, "\\ud800\\n"]',
        f"x,ImageID,Subset\n0,{ONE},train\n1,{TWO}.jpg,\n2,,dev\n3\n",
        f"ImageID\ts\n{ONE}\tvalid\n",
        f"s3://open-images-dataset/train/{ONE}.jpg\nhttps://h/a/{TWO}.jpg?x=/#y\nfile:///open-images-dataset/test/{ONE}.jpg",
    ],
    "classes": [
        "dog,animal\n/m/1\n# no\nCat  # yes\n",
        '"Person","some, body"\nLabelName,Category\n',
        '["Dog", "cat"]',
        "dog,1\ndog,2\nDog,3,4\n",
    ],
}
JUNK = [b"\0", b'"', b"'", b"#", b" #", b",", b"\t", b"/", b"\\", b"\n", b"\r", b"[", b"]", b"{", b"\xff\xfe"]
JUNK += [b"\xef\xbb\xbf", b"\x1f\x8b\x08", b"\xff", b"\xed\xa0\x80", b"\\ud800", b"ImageID,", b"Subset", b"1e999"]
JUNK += [f"{ONE}\n".encode(), f"train/{ONE}\n".encode(), f'"{TWO}",'.encode(), b"\n\n", b".jpg", b"://"]
JUNK += [b"9" * 5000, b"[" * 2000]
CLASSES = ExportClasses.of([("/m/1", "Cat"), ("/m/2", "Dog"), ("/m/3", "Person"), ("/m/4", "Dog")])


def one_line(error: Exception) -> None:
    """What is refused is refused in one line."""
    assert "\n" not in str(error), error


def check_ids(path: Path) -> None:
    """What a list says is read, or it is refused in one line; each entry is an image or odd, and can be said."""
    for ids in (IdForm(), IdForm(hexadecimal=False)):
        try:
            found = read_ids(path, "list", ids, may_name_none=True)
        except OidError as error:
            one_line(error)
            continue
        assert not found.rows.get_column(KEY).null_count()
        lines = found.rows.get_column("line").unique().sort()
        assert not set(lines) & set(found.odd.get_column("line")) or not ids.hexadecimal
        assert found.text_of(lines).null_count() == 0
        if ids.hexadecimal and found.is_complete:
            table = write_image_rows(found, (), path.with_suffix(".rows"))
            assert pl.scan_parquet(table.parts, glob=False).select(pl.len()).collect().item() == len(found.rows)


def check_classes(path: Path) -> None:
    """A list of classes is words, a class map classes, or either is refused in one line."""
    try:
        assert all(word.strip(" \t\r\n") for word in read_words(TableFile(path, "list")))
    except OidError as error:
        one_line(error)
    try:
        mapped = CLASSES.mapped(path)
        assert mapped.names
        assert set(mapped.numbers) <= set(CLASSES.numbers)
    except OidError as error:
        one_line(error)


CHECKS = {"ids": check_ids, "classes": check_classes}


def ruin(body: bytes, most: int, seed: int) -> bytes:
    """Mutate a list: sometimes with what lists are made of, or its encoding, else as libFuzzer does."""
    chance = random.Random(seed)
    if chance.random() < 0.4:
        mutated: bytes = atheris.Mutate(body, most)
        return mutated
    if chance.random() < 0.05:
        return body.decode("utf-8", "replace").encode(chance.choice(("utf-16", "utf-16-le", "utf-32")))[:most]
    at = chance.randint(0, len(body))
    return (body[:at] + chance.choice(JUNK) + body[at + chance.choice((0, 0, 1, 20)) :])[:most]


def main() -> None:
    what = sys.argv.pop(1)
    # libFuzzer ends the process without a word to Python: the folders stay.
    folder, seeds = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp())
    for number, text in enumerate(SEEDS[what]):
        (seeds / str(number)).write_text(text, encoding="utf-8")

    def check(body: bytes) -> None:
        (folder / "list").write_bytes(body)
        CHECKS[what](folder / "list")

    fuzz(check, seeds, "-max_len=8192", mutator=ruin)


if __name__ == "__main__":
    main()
