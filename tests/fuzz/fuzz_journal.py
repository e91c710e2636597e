"""Damage a journal with a fuzzer that sees which lines of the program run. By hand, not by pytest:

    pip install atheris
    PYTHONPATH=tests python tests/fuzz/fuzz_journal.py [-max_total_time=600] [CORPUS_FOLDER]

It stops at the first input that breaks a promise and leaves it as crash-...; the same command with that
file as its argument repeats it. Arguments are those of libFuzzer.
"""

import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["oid_async.store.journal"]):
    from oid_async.store.journal import saved_last, scan_journal

from support.fuzzing import fuzz
from support.journal_lines import failed, ids, rows, saved, write


def main() -> None:
    # libFuzzer ends the process without a word to Python: the folders stay.
    folder, seeds = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp())
    path = folder / "journal.tsv"
    write(path, saved("first"), failed("second"), saved("third", "c.jpg"))
    whole = path.read_bytes()
    (seeds / "whole").write_bytes(whole)
    (seeds / "torn").write_bytes(whole[:-9] + bytes(40))

    def check(body: bytes) -> None:
        """Nothing raises, whole lines stay, what is appended is read back, and no name leaves its folder."""
        path.write_bytes(body)
        before = ids(path)
        write(path, saved("fresh"))
        assert ids(path) == [*before, "fresh"]
        assert path.read_bytes().startswith(body[: body.rfind(b"\n") + 1])
        for row in rows(path):
            assert row["Status"] in ("ok", "failed", "forget")
            name = row["FileName"]
            assert name is None or "/" not in name, name
        for block in saved_last(path):
            for line in block:
                assert "/" not in line.file_name
        if whole in body and (not body[: body.index(whole)] or body[: body.index(whole)].endswith(b"\n")):
            assert {"first", "second", "third"} <= set(before)
        scan_journal(path).collect()

    fuzz(check, seeds)


if __name__ == "__main__":
    main()
