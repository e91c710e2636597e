"""Journal lines of images that were saved or failed, for tests."""

from pathlib import Path
from typing import Any

from oid_async.report import Outcome
from oid_async.store.journal import Journal, scan_journal

ID = "0000048549557964"


def saved(image_id: str = ID, name: str = "a_o.jpg", **others: Any) -> Outcome:
    known: dict[str, Any] = {
        "source": "cvdf",
        "url": f"https://open-images-dataset.s3.amazonaws.com/train/{image_id}.jpg",
        "bytes": 315_000,
        "md5": "1B2M2Y8AsgTpgAmY7PhCfg==",
        "width": 1024,
        "height": 683,
        "attempts": 1,
    }
    return Outcome(image_id, "downloaded", f"d/images/{name}", **(known | others))


def failed(image_id: str = ID, **others: Any) -> Outcome:
    known: dict[str, Any] = {
        "reason": "gone",
        "detail": "cvdf:not_found; original:gone",
        "source": "original",
        "url": "https://farm1.staticflickr.com/1/a_o.jpg",
        "attempts": 2,
    }
    return Outcome(image_id, "failed", None, **(known | others))


def rows(path: Path) -> list[dict[str, Any]]:
    return scan_journal(path).sort("line").collect().to_dicts()


def ids(path: Path) -> list[str | None]:
    return [row["ImageID"] for row in rows(path)]


def write(path: Path, *outcomes: Outcome) -> None:
    journal = Journal(path)
    try:
        journal.append(outcomes)
    finally:
        journal.close()


def as_0_1_0_wrote_it(path: Path) -> None:
    """Take away what version 0.1.0 did not write: of each line its split, `asked` and checksum."""
    lines = [line.split(b"\t") for line in path.read_bytes().splitlines()]
    path.write_bytes(b"".join(b"\t".join(fields[:12]) + b"\n" for fields in lines))


RUBBISH = {
    "nuls": bytes(300),
    "nuls to a block's end": bytes(4096),
    "bytes": bytes(range(128, 256)),
    "text": b"some words that are no line",
    "tabs": b"\t" * 40,
    "eleven tabs": b"\t" * 11,
    "quotes": b'"a\t"b',
    "a carriage return": b"\r",
    "separators": b"\x1e\x1f\x1e",
    "wrong numbers": b"third\tok\tcvdf\ta.jpg\tmany\tmd5\t8\t8\t\t\t1\thttp://h/x.jpg",
    "a huge number": b"third\tok\tcvdf\ta.jpg\t99999999999999999999\tmd5\t8\t8\t\t\t1\thttp://h/x.jpg",
    "a field too many": b"third\tok\tcvdf\ta.jpg\t7\tmd5\t8\t8\t\t\t1\thttp://h/x.jpg\tmore",
    "a field too few": b"third\tok\tcvdf\ta.jpg\t7\tmd5\t8\t8\t\t\thttp://h/x.jpg",
    "nuls in a field": b"third\tok\tcvdf\t\0\0\0.jpg\t7\tmd5\t8\t8\t\t\t1\thttp://h/x.jpg",
    "no name": b"third\tok\tcvdf\t\t7\tmd5\t8\t8\t\t\t1\thttp://h/x.jpg",
    "a name elsewhere": b"third\tok\tcvdf\t../../a.jpg\t7\tmd5\t8\t8\t\t\t1\thttp://h/x.jpg",
    "no id": b"\tok\tcvdf\ta.jpg\t7\tmd5\t8\t8\t\t\t1\thttp://h/x.jpg",
    "another status": b"third\tmaybe\tcvdf\ta.jpg\t7\tmd5\t8\t8\t\t\t1\thttp://h/x.jpg",
}
