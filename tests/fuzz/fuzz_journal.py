"""Damage a journal with a fuzzer that sees which lines of the program run. By hand, not by pytest:

    pip install atheris
    PYTHONPATH=tests python tests/fuzz/fuzz_journal.py [-max_total_time=600] [CORPUS_FOLDER]

It stops at the first input that breaks a promise and leaves it as crash-...; the same command with that
file as its argument repeats it. Arguments are those of libFuzzer.
"""

import tempfile
from pathlib import Path

import atheris

# Not the module that makes checksums: the fuzzer would learn what to write there, and forge lines.
with atheris.instrument_imports(include=["oid_async.store.journal"]):
    from oid_async.store.journal import parse_lines, read_blocks, saved_last, scan_journal

from support.fuzzing import fuzz
from support.journal_lines import as_0_1_0_wrote_it, failed, ids, rows, saved, write


def main() -> None:
    # libFuzzer ends the process without a word to Python: the folders stay.
    folder, seeds = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp())
    path = folder / "journal.tsv"
    asked = "cvdf:8d0b1f0c77aa original:03c1a9be5f42"
    write(path, saved("first"), failed("second", subset="val", asked=asked), saved("third", "c.jpg", subset="train"))
    whole, written = path.read_bytes(), [{**row, "line": 0} for row in rows(path)]
    (seeds / "whole").write_bytes(whole)
    (seeds / "torn").write_bytes(whole[:-9] + bytes(40))
    as_0_1_0_wrote_it(path)
    (seeds / "old").write_bytes(path.read_bytes() + whole)

    def check(body: bytes) -> None:
        """Nothing raises, whole lines stay, what is appended is read back, and no line is believed that was changed."""
        path.write_bytes(body)
        before = rows(path)
        write(path, saved("fresh"))
        assert ids(path) == [*(row["ImageID"] for row in before), "fresh"]
        assert path.read_bytes().startswith(body[: body.rfind(b"\n") + 1])
        unchecked = sum(block.content.count(b"\n", 0, block.unchecked) for block in read_blocks(path))
        for row in before:
            assert row["Status"] in ("ok", "failed", "forget")
            name = row["FileName"]
            assert name is None or "/" not in name, name
            # Before the first line with a checksum stand those of earlier versions, which have none.
            assert row["line"] < unchecked or {**row, "line": 0} in written, row
        for block in saved_last(path):
            for line in block:
                assert "/" not in line.file_name
        if whole in body and (not body[: body.index(whole)] or body[: body.index(whole)].endswith(b"\n")):
            assert {"first", "second", "third"} <= {row["ImageID"] for row in before}
        for size in (50, 300):
            parts = [len(parse_lines(block)) for block in read_blocks(path, size)]
            # Of the last line of a block, if it has no checksum, it is not seen that it is a part of one that has.
            assert sum(parts) <= len(before) + 1 + len(parts)
        scan_journal(path).collect()

    fuzz(check, seeds)


if __name__ == "__main__":
    main()
