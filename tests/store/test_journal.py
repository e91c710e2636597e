"""The journal's lines survive anything that stands in them and any crash; the folder has one owner."""

import errno
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.journal_lines import ID, RUBBISH, as_0_1_0_wrote_it, failed, ids, rows, saved, write

from oid_async.errors import LockedError, StorageError
from oid_async.report import Outcome
from oid_async.store.folder import Folder
from oid_async.store.folder_lock import FolderLock
from oid_async.store.journal import (
    SCHEMA,
    Journal,
    SavedLine,
    complete_bytes,
    parse_lines,
    read_blocks,
    saved_last,
    scan_journal,
)


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    """Every field of an outcome stands in the journal with its type, in the order of appending."""
    path = tmp_path / "journal.tsv"
    write(path, saved(), failed("00e4060885034751"))
    one, other = rows(path)
    assert one == {
        "line": 0,
        "ImageID": ID,
        "Status": "ok",
        "Source": "cvdf",
        "FileName": "a_o.jpg",
        "Bytes": 315_000,
        "MD5": "1B2M2Y8AsgTpgAmY7PhCfg==",
        "Width": 1024,
        "Height": 683,
        "Reason": None,
        "Detail": None,
        "Attempts": 1,
        "URL": f"https://open-images-dataset.s3.amazonaws.com/train/{ID}.jpg",
        "Subset": None,
        "Asked": None,
    }
    assert other["ImageID"] == "00e4060885034751"
    assert other["Status"] == "failed"
    assert other["FileName"] is None
    assert (other["Reason"], other["Detail"]) == ("gone", "cvdf:not_found; original:gone")
    assert other["Attempts"] == 2


def test_latest_line_of_an_image_stands_last(tmp_path: Path) -> None:
    """Facts are added, never changed: lines ascend over several runs, so that the latest can be told."""
    path = tmp_path / "journal.tsv"
    write(path, failed(), saved("00e4060885034751"))
    write(path, saved())
    assert [(row["line"], row["ImageID"], row["Status"]) for row in rows(path)] == [
        (0, ID, "failed"),
        (1, "00e4060885034751", "ok"),
        (2, ID, "ok"),
    ]


def test_adopted_file_is_journalled_as_saved(tmp_path: Path) -> None:
    """An image that was there and passed its check counts as saved."""
    path = tmp_path / "journal.tsv"
    write(path, Outcome(ID, "present", "d/images/a_o.jpg", source="cvdf"))
    (row,) = rows(path)
    assert (row["Status"], row["FileName"], row["URL"]) == ("ok", "a_o.jpg", "-")


@pytest.mark.parametrize(
    "text",
    [
        'quo"te.jpg',
        '"quoted.jpg"',
        '"',
        "a,b;c.jpg",
        "a b .jpg",
        " leading.jpg",
        "#comment.jpg",
        "安藤 陽.jpg",
        "e\u0301.jpg",
        "\U0001d11e.jpg",
        "back\\slash\\n.jpg",
        "null",
        "NA.jpg",
        "0012e45",
        "%00%09%0a.jpg",
    ],
)
def test_odd_characters_are_read_back(tmp_path: Path, text: str) -> None:
    """A name, an id or a URL of odd but printable characters reads back as it was."""
    path = tmp_path / "journal.tsv"
    write(path, saved(text, text, url=f"https://x.org/{text}"), saved("last"))
    odd, last = rows(path)
    assert (odd["ImageID"], odd["FileName"], odd["URL"]) == (text, text, f"https://x.org/{text}")
    assert last["ImageID"] == "last"


@pytest.mark.parametrize(
    "text",
    [
        "a\tb",
        "a\nb",
        "a\r\nb",
        "a\rb",
        "end\r",
        "end\n",
        "\ttab",
        "a\x0bb\x0cc",
        "a\x1cb",
        "a\x85b",
        "a\u2028b",
        "\ud800",
    ],
    ids=ascii,
)
def test_line_breaks_inside_a_field_cost_no_line(tmp_path: Path, text: str) -> None:
    """Whatever a table's id or URL holds, an outcome is one line and the lines around it are untouched."""
    path = tmp_path / "journal.tsv"
    write(path, saved("before"), saved(text, url=f"https://x.org/{text}"), failed("after", url=text))
    found = rows(path)
    assert len(found) == 3
    assert path.read_bytes().count(b"\n") == 3
    assert [found[0]["ImageID"], found[2]["ImageID"]] == ["before", "after"]
    assert [row["Status"] for row in found] == ["ok", "ok", "failed"]
    assert found[1]["FileName"] == "a_o.jpg"
    assert found[1]["Attempts"] == 1


def test_journal_that_is_not_there_is_empty(tmp_path: Path) -> None:
    """No journal, or one without a byte, reads as a table without rows that has every column."""
    path = tmp_path / "journal.tsv"
    assert complete_bytes(path) == 0
    for _ in range(2):
        frame = scan_journal(path).collect()
        assert frame.is_empty()
        assert frame.columns == ["line", *SCHEMA]
        assert frame.schema == {"line": pl.UInt32, **SCHEMA}
        path.touch()
    assert scan_journal(path).collect_schema() == scan_journal_of_one(tmp_path)


def scan_journal_of_one(folder: Path) -> pl.Schema:
    write(folder / "other.tsv", saved())
    return scan_journal(folder / "other.tsv").collect_schema()


LAST = failed("00e4060885034751", url="https://x.org/安.jpg")


def torn_journals(folder: Path) -> tuple[bytes, bytes]:
    """Return a journal's whole lines, and the bytes of one more line."""
    path = folder / "whole.tsv"
    write(path, saved("first"), failed("second"))
    before = path.read_bytes()
    write(path, LAST)
    return before, path.read_bytes()[len(before) :]


def test_torn_line_is_cut_off_before_the_next_append(tmp_path: Path) -> None:
    """Torn at any byte of its last line, a journal goes on behind its last whole line."""
    before, last = torn_journals(tmp_path)
    path = tmp_path / "journal.tsv"
    for kept in range(len(last)):
        path.write_bytes(before + last[:kept])
        assert complete_bytes(path) == len(before)
        write(path, saved("third"))
        assert ids(path) == ["first", "second", "third"], kept
        assert path.read_bytes().startswith(before)
        assert path.read_bytes().count(b"\n") == 3
    path.write_bytes(before + last)
    write(path, saved("third"))
    assert ids(path) == ["first", "second", "00e4060885034751", "third"]


def test_torn_line_is_not_read(tmp_path: Path) -> None:
    """Read as it lies, by a dry run for example, a line without its end does not count, wherever it is torn."""
    before, last = torn_journals(tmp_path)
    path = tmp_path / "journal.tsv"
    for kept in range(len(last)):
        path.write_bytes(before + last[:kept])
        assert ids(path) == ["first", "second"], last[:kept]
    path.write_bytes(before + last)
    assert ids(path) == ["first", "second", "00e4060885034751"]


def test_torn_first_line_is_nothing(tmp_path: Path) -> None:
    """A journal that is torn inside its first line knows nothing, and starts anew."""
    path = tmp_path / "journal.tsv"
    write(path, saved())
    line = path.read_bytes()
    for kept in range(1, len(line)):
        path.write_bytes(line[:kept])
        assert ids(path) == []
        write(path, saved("anew"))
        assert ids(path) == ["anew"]


def test_long_torn_line_is_found(tmp_path: Path) -> None:
    """The last whole line is found however long the torn rest is."""
    before, _ = torn_journals(tmp_path)
    path = tmp_path / "journal.tsv"
    for length in (65_535, 65_536, 65_537, 200_000):
        path.write_bytes(before + b"x" * length)
        assert complete_bytes(path) == len(before)
    path.write_bytes(b"x" * 200_000)
    assert complete_bytes(path) == 0


def test_journal_cut_at_any_byte_is_usable(tmp_path: Path) -> None:
    """Cut anywhere in its three lines, it keeps the whole lines before the cut, and takes new ones behind them."""
    path = tmp_path / "journal.tsv"
    for name in ("one", "two", "three"):
        write(path, saved(name, "a.jpg", url="u", md5="m") if name != "two" else failed(name, url="u", detail="d"))
    everything = path.read_bytes()
    for cut in range(len(everything) + 1):
        path.write_bytes(everything[:cut])
        kept = ["one", "two", "three"][: everything[:cut].count(b"\n")]
        assert ids(path) == kept
        write(path, saved("new"))
        assert path.read_bytes().startswith(everything[: everything.rfind(b"\n", 0, cut) + 1])
        assert ids(path) == [*kept, "new"]


@pytest.mark.parametrize("rubbish", RUBBISH.values(), ids=RUBBISH)
def test_damage_costs_the_lines_it_stands_in(tmp_path: Path, rubbish: bytes) -> None:
    """At the end, as after a power cut, in the middle or at the start: nothing raises, and the lines around it hold."""
    before, last = torn_journals(tmp_path)
    first, second = before.splitlines(keepends=True)
    path = tmp_path / "journal.tsv"
    for content, kept in [
        (before + rubbish, ["first", "second"]),
        (rubbish + b"\n" + before, ["first", "second"]),
        (first + rubbish + b"\n" + second + last, ["first", "second", "00e4060885034751"]),
        (first + b"\n\n" + rubbish + b"\n", ["first"]),
        (rubbish + b"\n", []),
        (rubbish, []),
    ]:
        path.write_bytes(content)
        assert ids(path) == kept
        write(path, saved("new"))
        assert ids(path) == [*kept, "new"]
        assert [saved.file_name for block in saved_last(path) for saved in block][:1] == ["a_o.jpg"]
    path.write_bytes(first + rubbish + second + last)
    assert ids(path) == ["first", "00e4060885034751"], "what runs into the next line takes it along"


def test_line_torn_in_the_middle_costs_what_it_runs_into(tmp_path: Path) -> None:
    """Half a line with the next one behind it, at whatever byte, leaves the lines before and after it."""
    before, last = torn_journals(tmp_path)
    first, second = before.splitlines(keepends=True)
    path = tmp_path / "journal.tsv"
    for cut in range(1, len(second) - 1):
        path.write_bytes(first + second[:cut] + first + last)
        assert ids(path) == ["first", "00e4060885034751"]


def without_numbers(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "line"} for row in found]


@pytest.mark.parametrize(
    "value", [b"\t", b"\n", *(pytest.param(each, marks=pytest.mark.slow) for each in (b"0", b"\xff"))], ids=ascii
)
def test_a_byte_that_has_flipped_costs_its_line(tmp_path: Path, value: bytes) -> None:
    """Whichever byte it is, the first line's too: no line is believed that was changed, and all others are."""
    path = tmp_path / "journal.tsv"
    write(path, saved("1", "1.jpg", url="u/1"), failed("2", url="u", asked="cvdf:8d0b1f0c77aa", subset="val"))
    journal = Journal(path)
    journal.forget_failures()
    journal.close()
    write(path, saved("4", "4.jpg", subset="train", url="安"))
    content, written = path.read_bytes(), without_numbers(rows(path))
    line_of = [number for number, line in enumerate(content.splitlines(keepends=True)) for _ in line]
    for at, line in enumerate(line_of[:-1]):
        if content[at : at + 1] != value:
            # Without its LF a line runs into the next.
            lost = {line, line + 1} if content[at : at + 1] == b"\n" else {line}
            path.write_bytes(content[:at] + value + content[at + 1 :])
            kept = [row for number, row in enumerate(written) if number not in lost]
            assert without_numbers(rows(path)) == kept, at
            assert {each.file_name for block in saved_last(path) for each in block} == {
                row["FileName"] for row in kept if row["Status"] == "ok"
            }


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 60), st.binary(max_size=40)), max_size=3))
def test_no_edit_makes_a_line(tmp_path: Path, edits: list[tuple[int, int, bytes]]) -> None:
    """Bytes replaced, cut out and put in anywhere behind the first line: every line that counts was written."""
    path = tmp_path / "journal.tsv"
    path.unlink(missing_ok=True)
    write(path, *(saved(f"{number}", f"{number}.jpg", url=f"u{number}") for number in range(3)), failed("4", url="u"))
    content, written = path.read_bytes(), without_numbers(rows(path))
    first = content.index(b"\n") + 1
    for at, length, fresh in edits:
        content = content[: first + at] + fresh + content[first + at + length :]
    path.write_bytes(content)
    assert [row for row in without_numbers(rows(path)) if row not in written] == []
    assert rows(path)[0]["ImageID"] == "0"


def test_lines_of_all_versions_are_read(tmp_path: Path) -> None:
    """Lines of 12 fields, then of 14, then with a checksum count; without one they do not count behind it."""
    path, old = tmp_path / "journal.tsv", tmp_path / "old.tsv"
    write(old, saved("of 0.1.0", "a.jpg"), failed("failed"))
    as_0_1_0_wrote_it(old)
    fields = b"b\tok\tcvdf\tb.jpg\t7\tm\t8\t8\t\t\t1\tu\ttrain\t\n"
    asked = b"c\tfailed\toriginal\t\t\t\t\t\tgone\toriginal:gone\t1\tu\ttrain\toriginal:8d0b1f0c77aa\n"
    path.write_bytes(old.read_bytes() + fields + asked)
    assert ids(path) == ["of 0.1.0", "failed", "b", "c"]
    write(path, saved("new", "new.jpg"))
    path.write_bytes(path.read_bytes() + old.read_bytes() + fields + b"third\n")
    write(path, saved("newer", "newer.jpg"))
    assert ids(path) == ["of 0.1.0", "failed", "b", "c", "new", "newer"]
    assert [each.file_name for block in saved_last(path) for each in block] == [
        "newer.jpg",
        "new.jpg",
        "b.jpg",
        "a.jpg",
    ]
    for block_bytes in (10, 100, 300):
        blocks = list(read_blocks(path, block_bytes))
        assert sum(len(parse_lines(block)) for block in blocks) == 6
        assert b"".join(block.content for block in blocks) == path.read_bytes()


def test_last_lines_are_read_from_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was downloaded comes last line first, whatever a block's size; adopted and failed images do not come."""
    path = tmp_path / "journal.tsv"
    assert list(saved_last(path)) == []
    write(path, *(saved(f"{number}", f"{number}.jpg") for number in range(40)))
    write(path, failed(), Outcome("41", "present", "d/images/41.jpg", source="cvdf", bytes=7))
    path.write_bytes(path.read_bytes() + b"42\tok\tcvdf\t../42.jpg\t7\tm\t8\t8\t\t\t1\tu\n")
    write(path, saved("43", "43.jpg", md5=None))
    for size in (1, 50, 300, 1 << 18):
        monkeypatch.setattr("oid_async.store.journal._BLOCK_BYTES", size)
        found = [saved for block in saved_last(path) for saved in block]
        assert [saved.file_name for saved in found] == ["43.jpg", *(f"{number}.jpg" for number in reversed(range(40)))]
        assert found[0] == SavedLine("43.jpg", 315_000, None)
        assert found[1] == SavedLine("39.jpg", 315_000, "1B2M2Y8AsgTpgAmY7PhCfg==")


def test_half_a_batch_that_cannot_be_cut_off_is_not_appended_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk so broken that a torn batch stays, nothing goes behind it before it could be cut off."""
    path = tmp_path / "journal.tsv"
    journal = Journal(path)
    journal.append([saved("first")])
    write_a_bit, truncate = os.write, os.ftruncate
    broken = OSError(errno.EIO, os.strerror(errno.EIO))
    tears = [20, 0]

    def tear(file: int, data: memoryview) -> int:
        if size := tears.pop(0):
            return write_a_bit(file, data[:size])
        raise broken

    def refuse(*_: object) -> None:
        raise broken

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", tear)
        patch.setattr(os, "ftruncate", refuse)
        with pytest.raises(StorageError, match="input/output error"):
            journal.append([saved("second")])
        with pytest.raises(StorageError, match="input/output error"):
            journal.append([saved("third")])
    assert ids(path) == ["first"]
    assert truncate is os.ftruncate
    journal.append([saved("fourth")])
    journal.close()
    assert ids(path) == ["first", "fourth"]


def test_journal_is_on_the_disk_when_it_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing syncs; a disk that fails then says so, and the file is closed all the same."""
    journal = Journal(tmp_path / "journal.tsv")
    synced: list[int] = []

    def fail(file: int) -> None:
        synced.append(file)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(StorageError, match="input/output error"):
            journal.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(synced[0])


def test_empty_batch_adds_nothing(tmp_path: Path) -> None:
    """Appending nothing leaves the journal as it is."""
    path = tmp_path / "journal.tsv"
    write(path, saved())
    size = path.stat().st_size
    write(path)
    assert path.stat().st_size == size


def test_forgetting_failures_stands_on_a_line_of_its_own(tmp_path: Path) -> None:
    """The line that lets remembered failures go is told from outcomes, and is in order with them."""
    path = tmp_path / "journal.tsv"
    journal = Journal(path)
    journal.append([failed(), saved("00e4060885034751")])
    journal.forget_failures()
    journal.append([failed("fffffdaec951185d")])
    journal.close()
    assert [(row["line"], row["Status"], row["ImageID"]) for row in rows(path)] == [
        (0, "failed", ID),
        (1, "ok", "00e4060885034751"),
        (2, "forget", None),
        (3, "failed", "fffffdaec951185d"),
    ]


def test_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that the disk does not take is not there at all, says so, and later appends stand on their own lines."""
    path = tmp_path / "journal.tsv"
    journal = Journal(path)
    journal.append([saved("first")])
    real = os.write
    calls = []

    def write_a_bit_then_fail(file: int, data: memoryview) -> int:
        calls.append(len(data))
        if len(calls) == 1:
            return real(file, data[:20])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write_a_bit_then_fail)
        with pytest.raises(StorageError, match="disk is full"):
            journal.append([saved("second"), saved("third")])
    assert ids(path) == ["first"]
    journal.append([saved("fourth")])
    journal.close()
    assert ids(path) == ["first", "fourth"]


def test_folder_has_one_owner(tmp_path: Path) -> None:
    """A second run is refused and touches nothing; once the first unlocks it, the folder can be locked again."""
    folder = Folder(tmp_path / "d")
    owner = FolderLock.take(folder)
    (folder.tmp / f"{ID}.part").write_bytes(b"half")
    (folder.plan / "00000.parquet").write_bytes(b"plan")
    with pytest.raises(LockedError, match="another run") as caught:
        FolderLock.take(Folder(tmp_path / "d"))
    assert str(tmp_path / "d") in str(caught.value)
    assert str(os.getpid()) in str(caught.value)
    assert (folder.tmp / f"{ID}.part").read_bytes() == b"half"
    assert (folder.plan / "00000.parquet").read_bytes() == b"plan"
    owner.release()
    owner.release()
    FolderLock.take(Folder(tmp_path / "d")).release()


def test_refused_run_leaves_the_lock_where_it_is(tmp_path: Path) -> None:
    """However often others were refused, the owner owns the folder until it unlocks it."""
    owner = FolderLock.take(Folder(tmp_path / "d"))
    for _ in range(3):
        with pytest.raises(LockedError):
            FolderLock.take(Folder(tmp_path / "d"))
    owner.release()


def test_locking_sweeps_what_a_killed_run_left(tmp_path: Path) -> None:
    """Plans and temporaries of an earlier run go; images, the journal and the tables stay."""
    folder = Folder(tmp_path / "d")
    owner = FolderLock.take(folder)
    write(folder.journal, saved())
    (folder.images / "a_o.jpg").write_bytes(b"image")
    folder.manifest.write_bytes(b"manifest")
    owner.release()
    folder.tmp.mkdir()
    (folder.tmp / f"{ID}.part").write_bytes(b"half")
    (folder.plan / "deep").mkdir(parents=True)
    (folder.plan / "deep" / "00000.parquet").write_bytes(b"old")

    again = FolderLock.take(folder)
    assert list(folder.tmp.iterdir()) == []
    assert list(folder.plan.iterdir()) == []
    assert list(folder.names()) == ["a_o.jpg"]
    assert ids(folder.journal) == [ID]
    assert folder.manifest.read_bytes() == b"manifest"
    folder.sweep()
    folder.sweep()
    assert not folder.tmp.exists()
    assert not folder.plan.exists()
    again.release()


def test_unlocking_sweeps_what_was_made_for_the_run(tmp_path: Path) -> None:
    """A run that ends removes plan, temporaries and an empty folder; one that was refused removes nothing."""
    folder = Folder(tmp_path / "d")
    owner = FolderLock.take(folder)
    with pytest.raises(LockedError):
        FolderLock.take(Folder(tmp_path / "d"))
    assert folder.tmp.is_dir()
    owner.release()
    assert not folder.tmp.exists()
    assert not folder.plan.exists()
    assert not folder.path.exists()


def test_looking_at_a_folder_makes_nothing(tmp_path: Path) -> None:
    """A folder that is only read is not created, and has no names."""
    folder = Folder(tmp_path / "d")
    assert list(folder.names()) == []
    assert list(tmp_path.iterdir()) == []


def test_dry_run_has_its_plan_elsewhere(tmp_path: Path) -> None:
    """With a scratch folder, plan and temporaries stand there, images and journal where they belong."""
    folder = Folder(tmp_path / "d", scratch=tmp_path / "scratch")
    assert folder.plan.parent == folder.tmp.parent == tmp_path / "scratch"
    assert folder.images == tmp_path / "d" / "images"
    assert folder.journal.parent == tmp_path / "d" / ".oid_async"


@pytest.mark.parametrize("below", ["", "d", "deep/down/d"])
def test_unwritable_place_is_a_storage_error(tmp_path: Path, below: str) -> None:
    """A place that cannot be written to, such as one below a regular file, is said so by name, and nothing is held."""
    (tmp_path / "file").write_bytes(b"a file")
    place = tmp_path / "file" / below
    for _ in range(2):
        with pytest.raises(StorageError, match="cannot be written to") as caught:
            FolderLock.take(Folder(place))
        assert str(place) in str(caught.value)
        assert caught.value.exit_code == 3
    assert (tmp_path / "file").read_bytes() == b"a file"


@pytest.mark.parametrize(
    "image_id", [ID, "../../etc/passwd", "/etc/passwd", "a\0b", "..", "", "i" * 5000, "安" * 300, "\ud800"]
)
def test_temporary_of_any_id_stays_in_its_folder(tmp_path: Path, image_id: str) -> None:
    """The temporary file of an image, whatever its id, is one short name below tmp."""
    folder = Folder(tmp_path / "d")
    part = folder.temporary(image_id)
    assert os.path.dirname(part) == str(folder.tmp)
    assert part.endswith(".part")
    assert len(os.path.basename(part).encode()) <= 255
    assert "\0" not in part


def test_temporaries_of_two_ids_differ(tmp_path: Path) -> None:
    """Two images never share a temporary file."""
    folder = Folder(tmp_path)
    found = ["a/b", "a_b", "a\\b", "a", "A", "", "..", "i" * 64, "i" * 65, "i" * 66]
    assert len({folder.temporary(image_id) for image_id in found}) == len(found)
