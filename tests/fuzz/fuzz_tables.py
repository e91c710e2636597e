"""Damage tables with a fuzzer that sees which lines of the program run. By hand, not by pytest:

    pip install atheris
    PYTHONPATH=tests python tests/fuzz/fuzz_tables.py [-max_total_time=600] [CORPUS_FOLDER]

It stops at the first input that breaks a promise and leaves it as crash-...; the same command with that
file as its argument repeats it. Arguments are those of libFuzzer.
"""

import random
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["oid_async.tables.csv_records", "oid_async.tables.damage"]):
    from oid_async.tables import csv_records, damage  # noqa: F401

from support.damaged_tables import TITLES, check_damaged
from support.fuzzing import fuzz

ROWS = [f"{number:016x},/m/{number},0.{number},{title}\n".encode() for number, title in enumerate(TITLES, 1)]
LINES = [row for row in ROWS if row.count(b"\n") == 1]
JUNK = [*ROWS, b"\0", b'"', b",", b"\n", b"\r\n", b"\xff", b"\xc5", b'",', b',"', b"\n\n", b"\x01", b"nan", b"1e999"]


def ruin(body: bytes, most: int, seed: int) -> bytes:
    """Mutate a table: sometimes with what tables are made of, else as libFuzzer does."""
    chance = random.Random(seed)
    if chance.random() < 0.5:
        mutated: bytes = atheris.Mutate(body, most)
        return mutated
    at = chance.randint(0, len(body))
    return (body[:at] + chance.choice(JUNK) + body[at + chance.choice((0, 0, 1, 20)) :])[:most]


def main() -> None:
    # libFuzzer ends the process without a word to Python: the folders stay.
    folder, seeds = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp())
    (seeds / "clean").write_bytes(b"".join(ROWS))

    def check(body: bytes) -> None:
        for left in folder.iterdir():
            left.unlink()
        check_damaged(folder, body, LINES)

    fuzz(check, seeds, mutator=ruin)


if __name__ == "__main__":
    main()
