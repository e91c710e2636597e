"""The journal in columns says what its text says, whatever stands in either, and is never believed for another text."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.journal_lines import RUBBISH, failed, saved, write
from support.published import tree

import oid_async
from oid_async.openimages.ids import KEY, IdForm
from oid_async.store import journal_index as lines_module
from oid_async.store.journal import FORGET, Block, Journal, parse_lines, read_blocks, scan_journal
from oid_async.store.journal_index import JournalIndex

IDS = [f"{number * 7919 % 50:016x}" for number in range(50)]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Blocks of two or three lines; the bytes of each block that was read as text."""
    sizes: list[int] = []

    def counted(block: Block) -> pl.DataFrame:
        sizes.append(len(block.content))
        return parse_lines(block)

    monkeypatch.setattr(lines_module, "_BLOCK_BYTES", 300)
    monkeypatch.setattr(lines_module, "parse_lines", counted)
    return sizes


def opened(folder: Path, ids: IdForm | None = None) -> JournalIndex:
    return JournalIndex(folder / "journal.tsv", ids or IdForm(), folder / "lines", folder / "lines")


def latest(folder: Path) -> list[dict[str, Any]]:
    span = pl.Series(KEY, [0, 2**64 - 1], pl.UInt64)
    return opened(folder).latest(span).to_dicts()


def as_written(folder: Path) -> list[dict[str, Any]]:
    """The last line of each image, as the journal's own text has it."""
    rows = scan_journal(folder / "journal.tsv").filter(pl.col("Status") != FORGET).with_columns(IdForm().key())
    return rows.drop_nulls(KEY).sort("line").unique(KEY, keep="last").sort(KEY).collect().to_dicts()


def journal_of_many(folder: Path) -> Path:
    path = folder / "journal.tsv"
    write(path, *(saved(image_id, f"{image_id}.jpg") for image_id in IDS))
    write(path, *(failed(image_id) for image_id in IDS[::5]), *(saved(image_id, "b.jpg") for image_id in IDS[::10]))
    return path


def test_blocks_say_what_the_text_says(tmp_path: Path, parsed: list[int]) -> None:
    """The last line of every image is the same, whichever block it stands in, at first and when blocks are kept."""
    path = journal_of_many(tmp_path)
    assert opened(tmp_path).last_forget == -1
    journal = Journal(path)
    journal.forget_failures()
    journal.close()
    write(path, failed(IDS[3]))
    for _ in range(2):
        assert latest(tmp_path) == as_written(tmp_path)
        lines = opened(tmp_path)
        assert lines.last_forget == 65
        assert lines.next_line == 67
    names = lines.all_latest(is_ok=pl.col("Status") == "ok")
    assert names.get_column(KEY).to_list() == sorted(int(image_id, 16) for image_id in IDS)
    assert lines.latest(pl.Series(KEY, [7, 9], pl.UInt64)).get_column(KEY).to_list() == [7, 8, 9]


def test_only_what_is_new_is_read_as_text(tmp_path: Path, parsed: list[int]) -> None:
    """A block that will not change is parsed once, for all questions and all runs."""
    path = journal_of_many(tmp_path)
    opened(tmp_path)
    assert sum(parsed) == path.stat().st_size
    parsed.clear()
    write(path, saved(IDS[0], "again.jpg"))
    assert latest(tmp_path) == as_written(tmp_path)
    assert sum(parsed) < 1000


def swap(old: bytes) -> bytes:
    return old.replace(b"315000", b"315001", 1)


@pytest.mark.parametrize(
    "change",
    [
        swap,
        lambda old: old[: len(old) // 2],
        lambda old: old[400:],
        lambda old: b"",
        lambda old: old[3000:] + old[:3000],
    ],
    ids=["a byte", "cut", "its start lost", "emptied", "mixed up"],
)
def test_another_journal_is_not_answered_from_kept_blocks(
    tmp_path: Path, parsed: list[int], change: Callable[[bytes], bytes]
) -> None:
    """After any change to the text the answers are those of the new text, and blocks that nobody needs go away."""
    path = journal_of_many(tmp_path)
    opened(tmp_path)
    before = {block.name for block in (tmp_path / "lines").iterdir()}
    path.write_bytes(change(path.read_bytes()))
    assert latest(tmp_path) == as_written(tmp_path)
    fresh = tmp_path / "elsewhere"
    JournalIndex(path, IdForm(), fresh, fresh)
    kept = {block.name for block in (tmp_path / "lines").iterdir()}
    assert kept == ({block.name for block in fresh.iterdir()} if fresh.exists() else set())
    assert kept != before


def test_a_kept_block_with_a_flipped_byte_is_not_believed(tmp_path: Path, parsed: list[int]) -> None:
    """What is kept in columns is as good as the text: a byte that has flipped in it costs reading the text again."""
    journal_of_many(tmp_path)
    said = latest(tmp_path)
    for at in (-900, -500, -9, 200):
        for block in list((tmp_path / "lines").iterdir()):
            content = bytearray(block.read_bytes())
            content[at] ^= 1
            block.write_bytes(content)
        parsed.clear()
        assert latest(tmp_path) == said
        assert sum(parsed) > 3000
    parsed.clear()
    assert latest(tmp_path) == said
    assert sum(parsed) < 1000


def test_half_written_block_is_swept(tmp_path: Path, parsed: list[int]) -> None:
    """What a killed run was writing has no block's name and goes away; deleting all of them costs nothing but time."""
    journal_of_many(tmp_path)
    folder = tmp_path / "lines"
    folder.mkdir()
    (folder / "0.parquet.part").write_bytes(b"PAR1 half")
    assert latest(tmp_path) == as_written(tmp_path)
    assert all(block.suffix == ".parquet" for block in folder.iterdir())
    for block in folder.iterdir():
        block.unlink()
    assert latest(tmp_path) == as_written(tmp_path)


def test_columns_of_another_schema_are_made_anew(
    tmp_path: Path, parsed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of a version with other columns, or of 0.1.0, which gave no number, are not read, and go away."""
    journal_of_many(tmp_path)
    opened(tmp_path)
    old = {block.name for block in (tmp_path / "lines").iterdir()}
    (tmp_path / "lines" / f"{'0' * 64}.parquet").write_bytes(b"of 0.1.0")
    monkeypatch.setattr(lines_module, "_SCHEMA_NUMBER", 4)
    assert latest(tmp_path) == as_written(tmp_path)
    new = {block.name for block in (tmp_path / "lines").iterdir()}
    assert len(new) == len(old)
    assert not new & old


def test_looking_writes_nothing_where_blocks_are_kept(tmp_path: Path, parsed: list[int]) -> None:
    """A dry run reads kept blocks and makes the others elsewhere."""
    path = journal_of_many(tmp_path)
    kept, scratch = tmp_path / "lines", tmp_path / "scratch"
    dry = JournalIndex(path, IdForm(), kept, scratch)
    assert not kept.exists()
    assert dry.all_latest(line=pl.col("line")).equals(opened(tmp_path).all_latest(line=pl.col("line")))
    parsed.clear()
    write(path, *(saved(image_id) for image_id in IDS))
    before = sorted(kept.iterdir())
    JournalIndex(path, IdForm(), kept, scratch)
    assert sorted(kept.iterdir()) == before


def test_ids_of_a_user_are_keys_too(tmp_path: Path, parsed: list[int]) -> None:
    """The same blocks answer for ids of another form: an id is then its own key."""
    write(tmp_path / "journal.tsv", *(saved(f"photo {number}", f"{number}.jpg") for number in range(9)))
    assert opened(tmp_path).all_latest(line=pl.col("line")).is_empty()
    lines = opened(tmp_path, IdForm(hexadecimal=False))
    span = pl.Series(KEY, ["photo 2", "photo 4"], pl.String)
    assert lines.latest(span).get_column("FileName").to_list() == ["2.jpg", "3.jpg", "4.jpg"]


@pytest.mark.parametrize("rubbish", RUBBISH.values(), ids=RUBBISH)
def test_block_is_read_as_the_journal_is(tmp_path: Path, rubbish: bytes) -> None:
    """A block with damage in it, also when its tabs add up, holds the lines that the journal's reader finds."""
    path = tmp_path / "journal.tsv"
    write(path, saved("first"), failed("second"))
    first, second = path.read_bytes().splitlines(keepends=True)
    more, less = b"\t".join([first[:-1], b"x"]) + b"\n", first.replace(b"\t", b" ", 1)
    for content, kept in [
        (first + rubbish + b"\n" + second, ["first", "second"]),
        (more + less + second, ["second"]),
        (b"\n" + second, ["second"]),
        (rubbish + first + second, ["second"]),
    ]:
        path.write_bytes(content)
        for blocks in (read_blocks(path), read_blocks(path, 10)):
            assert [line for block in blocks for line in parse_lines(block).get_column("ImageID")] == kept


async def test_a_large_job_leaves_what_a_small_one_does(
    lookalike: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In spans, from sorted tables and a journal of many blocks the files are those of one span, and so they stay."""

    def files(folder: str) -> dict[str, Any]:
        return {name: content for name, content in tree(tmp_path / folder).items() if name != "query.json"}

    query: dict[str, Any] = {"mirror": str(lookalike), "splits": ["train", "validation"]}
    await oid_async.download(**query, savepath=tmp_path / "small", cache_dir=tmp_path / "cache")
    monkeypatch.setattr("oid_async.metadata.convert._SORTED_FROM_ROWS", 0)
    monkeypatch.setattr("oid_async.metadata.convert._SLICE_ROWS", 30)
    monkeypatch.setattr("oid_async.select.plan._SPAN_ROWS", 16)
    monkeypatch.setattr("oid_async.select.query._ROWS_AT_ONCE", 16)
    monkeypatch.setattr("oid_async.select.query._ROWS_GROUPED", 16)
    monkeypatch.setattr(lines_module, "_BLOCK_BYTES", 3000)
    again: dict[str, Any] = {**query, "savepath": tmp_path / "large", "cache_dir": tmp_path / "sorted"}
    first = await oid_async.download(**again)
    assert files("large") == files("small")
    second = await oid_async.download(**again)
    assert (second.present, second.requests) == (first.selected, 0)
    assert files("large") == files("small")
