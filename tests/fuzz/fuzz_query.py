"""Ruin query.json with a fuzzer that sees which lines of the program run. By hand, not by pytest:

    pip install atheris
    PYTHONPATH=tests python tests/fuzz/fuzz_query.py [-max_total_time=600] [CORPUS_FOLDER]

It stops at the first input that breaks a promise and leaves it as crash-...; the same command with that
file as its argument repeats it. Arguments are those of libFuzzer.
"""

import asyncio
import json
import random
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["oid_async.dataset", "oid_async.options", "oid_async.jobs"]):
    from oid_async.dataset.query_file import read_query_file
    from oid_async.jobs.gathering.given_lists import GivenLists
    from oid_async.jobs.repeating.repeated import repeated_run
    from oid_async.jobs.stored_query import Given, read_options

from support.fuzzing import fuzz
from support.saved import SavedBox, SavedFolder, SavedImage

import oid_async
from oid_async.errors import OidError
from oid_async.events import ignore
from oid_async.options.query import Options
from oid_async.store.folder import Folder, packed_in

ID = "0001234567890123"
SEED = {
    "program": "oid-async 0.2.0",
    "query": Options(categories=("Cat",), image_ids="/x/image_ids.txt", shard="2/3", max_failures="2%").as_json(),
    "sources": ["cvdf"],
    "site": None,
    "digest": "0" * 64,
    "categories": {"Cat": ["/m/1"]},
    "tables": [{"table": "image-ids", "name": "x", "bytes": 5, "md5": "0" * 32, "kept": "image_ids.txt"}],
}
UNFINISHED = {**SEED, "unfinished": {"first_line": 0}, "query": Options(kinds=("bbox", "label"), limit=3).as_json()}
JUNK = [b"null", b"true", b"[]", b"{}", b"-1", b"1e999", b"NaN", b'"\\ud800"', b'"\\u0000"', b'"../.."', b'"inter"']
JUNK += [b'"', b",", b":", b"{", b"}", b"\xff", b"\xef\xbb\xbf", b'["all"]', b'"0/0"', b'"http://u:p@h/x?y"']
JUNK += [b"9" * 5000, b"[" * 2000]


def one_line(error: Exception, name: str) -> None:
    """What is refused is refused in one line that names the file."""
    assert "\n" not in str(error), error
    assert name in str(error), error


def repeat(folder: Path) -> None:
    """Read a query.json as a repair does."""
    repeated_run(Folder(folder), Given.of(folder, {}, repairs=True), ignore, retry_failed=False)


def select(folder: Path) -> None:
    """Read a query.json as a value; what is written of that is the same value."""
    query = oid_async.Query.from_json(folder)
    assert oid_async.Query.from_json(query.to_json()) == query


def check(folder: Path) -> None:
    """A query.json is repeated and read as a value, or refused in one line that names it."""
    stored = (repeat, select, lambda path: read_options(read_query_file(path), Folder(path), Given.of(path, {})))
    for read in stored:
        try:
            read(folder)
        except OidError as error:
            one_line(error, "query.json")
    GivenLists(Options(savepath=folder), {}, {}).drop_unused(Folder(folder))
    packed_in(Folder(folder))
    for read_all in (open_folder, lambda path: asyncio.run(oid_async.prune(path, dry_run=True))):
        try:
            read_all(folder)
        except OidError as error:
            one_line(error, "")


def open_folder(folder: Path) -> None:
    """Open a folder, and read its images."""
    with oid_async.open(folder) as saved:
        assert saved.images.collect().height <= 1
        assert isinstance(saved.query, dict)
        saved.boxes.collect()


def ruin(body: bytes, most: int, seed: int) -> bytes:
    """Mutate a query: another value for one of its keys, what JSON is made of, or as libFuzzer does."""
    chance = random.Random(seed)
    if chance.random() < 0.3:
        mutated: bytes = atheris.Mutate(body, most)
        return mutated
    if chance.random() < 0.5:
        try:
            content = json.loads(body)
            part = chance.choice([each for each in (content, content["query"]) if each])
            part[chance.choice(list(part))] = json.loads(chance.choice(JUNK))
            return json.dumps(content).encode()[:most]
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            pass
    at = chance.randint(0, len(body))
    return (body[:at] + chance.choice(JUNK) + body[at + chance.choice((0, 0, 1, 20)) :])[:most]


def main() -> None:
    # libFuzzer ends the process without a word to Python: the folders stay.
    folder = SavedFolder([SavedImage(ID)], [SavedBox(ID)]).write(Path(tempfile.mkdtemp()) / "d")
    # Without a manifest the tables are made of what query.json says.
    unfinished = SavedFolder([SavedImage(ID)], [SavedBox(ID)]).write(Path(tempfile.mkdtemp()) / "d")
    (unfinished / "manifest.parquet").unlink()
    seeds = Path(tempfile.mkdtemp())
    for name, content in (("query", SEED), ("unfinished", UNFINISHED)):
        (seeds / name).write_text(json.dumps(content), encoding="utf-8")

    def check_one(body: bytes) -> None:
        for each in (folder, unfinished):
            (each / "query.json").write_bytes(body)
            check(each)

    fuzz(check_one, seeds, "-max_len=16384", mutator=ruin)


if __name__ == "__main__":
    main()
