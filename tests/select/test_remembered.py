"""What is remembered of a failure: an exact address, what was expected there, and nothing else."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.scripted import Scripted

from oid_async.events import ignore
from oid_async.jobs.download import Run
from oid_async.options.query import Options
from oid_async.report import Report
from oid_async.select.remembered import FailureMemory, _memory_text
from oid_async.store.failure_memory import hashed, memory_text, write_asked
from oid_async.store.image_check import Expected
from oid_async.transfer.image_transfer import Target

ID = "00000000000000a1"
ROW: dict[str, Any] = {
    "ImageID": ID,
    "Subset": "train",
    "OriginalURL": "https://h/a.jpg?key=s3cret",
    "OriginalSize": "7",
    "OriginalMD5": "1B2M2Y8AsgTpgAmY7PhCfg==",
    "Thumbnail300KURL": None,
    "CopyBytes": None,
}
SCHEMA: Any = dict.fromkeys(ROW, pl.String) | {"CopyBytes": pl.Int64}
MIRROR = "http://mirror"
COPY = f"{MIRROR}/open-images-dataset/train/{ID}.jpg"


def target(row: dict[str, Any]) -> Target:
    original = Expected.published(row["OriginalSize"], row["OriginalMD5"])
    rest = (row["Thumbnail300KURL"], None, row["CopyBytes"])
    return Target(0, row["ImageID"], "a.jpg", row["Subset"], row["OriginalURL"], original, *rest)


def known_of(row: dict[str, Any], *sources: Any, mirror: str | None = MIRROR, forget: int = -1) -> str | None:
    """Return what is still true of a failure of every source of ROW, for this row of the table."""
    failed = target(ROW)
    asked = write_asked((each, failed.url(each, MIRROR), failed.expected(each)) for each in ("cvdf", "original"))
    line = {"Known": "cvdf:not_found; original:too_large", "KnownSource": "original", "Asked": asked, "line": 3}
    frame = pl.DataFrame([row | line | {"KnownURL": ROW["OriginalURL"]}])
    frame = frame.cast({**SCHEMA, "line": pl.UInt32})
    known = FailureMemory(sources or ("cvdf", "original"), mirror).still_true(frame, forget).get_column("Known")
    return known.to_list()[0]  # type: ignore[no-any-return]


BOTH, COPY_ALONE, ORIGINAL_ALONE = "cvdf:not_found; original:too_large", "cvdf:not_found", "original:too_large"


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({}, BOTH),
        ({"Subset": "validation"}, ORIGINAL_ALONE),
        ({"Subset": None}, ORIGINAL_ALONE),
        ({"CopyBytes": 4711}, ORIGINAL_ALONE),
        ({"OriginalURL": "https://h/a.jpg?key=other"}, COPY_ALONE),
        ({"OriginalURL": None}, COPY_ALONE),
        ({"OriginalSize": "8"}, COPY_ALONE),
        ({"OriginalSize": None}, COPY_ALONE),
        ({"OriginalSize": " 7.0 "}, BOTH),
        ({"OriginalMD5": "AAAAAAAAAAAAAAAAAAAAAA=="}, COPY_ALONE),
        ({"OriginalMD5": "D41D8CD98F00B204E9800998ECF8427E"}, BOTH),
        ({"Thumbnail300KURL": "https://h/t.jpg"}, BOTH),
    ],
)
def test_failure_is_of_one_address_and_what_was_expected_there(change: dict[str, Any], kept: str) -> None:
    """Each source's failure counts as long as its own address, size and MD5 are the same; spelling is none of them."""
    assert known_of(ROW | change) == kept


def test_memory_follows_the_sources_of_the_run_and_its_mirror() -> None:
    """The order is this run's, what it does not ask is not named; a mirror's failures are no other site's."""
    assert known_of(ROW, "original", "cvdf") == f"{ORIGINAL_ALONE}; {COPY_ALONE}"
    assert known_of(ROW, "cvdf") == COPY_ALONE
    assert known_of(ROW, "thumbnail") is None
    assert known_of(ROW, mirror=None) == ORIGINAL_ALONE
    assert known_of(ROW, forget=3) == COPY_ALONE


@pytest.mark.parametrize(
    ("url", "source", "kept"),
    [
        (ROW["OriginalURL"], "original", "original:gone"),
        (COPY, "cvdf", "cvdf:not_found"),
        (COPY.replace("train", "test"), "cvdf", None),
        ("https://h/b.jpg", "original", None),
        ("-", "cvdf", None),
    ],
)
def test_line_of_0_1_0_speaks_for_its_url(url: str, source: str, kept: str | None) -> None:
    """A line without hashes is about the URL that it names, and about no other source's."""
    line = {"Known": "cvdf:not_found; original:gone", "KnownSource": source, "Asked": None, "line": 3}
    frame = pl.DataFrame([ROW | line | {"KnownURL": url}])
    frame = frame.cast({**SCHEMA, "line": pl.UInt32, "Asked": pl.String})
    memory = FailureMemory(("cvdf", "original"), MIRROR)
    assert memory.still_true(frame, 2).get_column("Known").to_list() == [kept]
    assert memory.still_true(frame, 3).get_column("Known").to_list() == [None]


@pytest.mark.parametrize("size", ["7", "007", "7.0", " 7", "", None, "-7", "7.5", "1e3", "x"])
@pytest.mark.parametrize("md5", [None, "", "abc", "1B2M2Y8AsgTpgAmY7PhCfg==", "d41d8cd98f00b204e9800998ecf8427e"])
def test_plan_and_transfer_write_the_same_hash(size: str | None, md5: str | None) -> None:
    """What a run writes of a failure is what the next one compares with, however the table spells it."""
    row = ROW | {"OriginalSize": size, "OriginalMD5": md5, "CopyBytes": 9}
    frame, one = pl.DataFrame([row], schema=SCHEMA), target(row)
    memory = FailureMemory(("cvdf", "original", "thumbnail"), MIRROR)
    for source in memory.sources:
        text = frame.select(_memory_text(source, memory.address(source))).item()
        assert text == memory_text(one.url(source, MIRROR), one.expected(source))
        assert len(hashed(text)) == 12


async def test_corrected_tables_are_asked_again(tmp_path: Path) -> None:
    """A split, a size or a thumbnail that comes into the table later is asked without --retry-failed, the rest not."""
    (tmp_path / "classes.csv").write_text("/m/01226z,Football\n")
    (tmp_path / "boxes.csv").write_text(f"ImageID,LabelName\n{ID},/m/01226z\n")
    async with Scripted({}) as server:

        async def run(row: str, **options: Any) -> tuple[Report, list[str]]:
            (tmp_path / "images.csv").write_text(
                f"ImageID,Subset,OriginalURL,OriginalSize,Thumbnail300KURL\n{ID},{row}\n"
            )
            before = dict(server.requests)
            given: dict[str, Any] = {
                "label": tmp_path / "classes.csv",
                "annotation": tmp_path / "boxes.csv",
                "image_url": tmp_path / "images.csv",
                "mirror": server.url,
                "names": "id",
                "source": ["cvdf", "original"],
                "savepath": tmp_path / "out",
            }
            report = await Run(Options.of(**given | options), ignore).download()
            asked = [path for path, count in server.requests.items() if count > before.get(path, 0)]
            return report, sorted(path.rpartition("/")[0] or path for path in asked)

        original, bucket = f"{server.url}/o.jpg", "/open-images-dataset"
        assert (await run(f",{original},,"))[1] == ["/o.jpg"]
        assert (await run(f"train,{original},,"))[1] == [f"{bucket}/train"]
        assert (await run(f"test,{original},7,"))[1] == ["/o.jpg", f"{bucket}/test"]
        assert (await run(f"test,{original},7,"))[1] == []
        every = ["cvdf", "original", "thumbnail"]
        assert (await run(f"test,{original},7,", source=every))[0].failures == {"bad_url": 1}
        assert (await run(f"test,{original},7,{server.url}/t.jpg", source=every))[1] == ["/t.jpg"]
        report, asked = await run(f"test,{original},7,", source=["original"])
        assert (report.failures, asked) == ({"not_found": 1}, [])
    [failure] = pl.read_csv(tmp_path / "out" / "failures.csv").to_dicts()
    assert (failure["URL"], failure["Detail"]) == (original, "original:not_found")
