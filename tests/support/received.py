"""Images as they are received, and a folder that they are stored in."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from oid_async.http.etag import EtagTrust
from oid_async.report import Outcome
from oid_async.store.folder import Folder
from oid_async.store.image_check import Expected, md5_base64
from oid_async.store.image_writer import ImageWriter, ReceivedImage, WriteResult
from support.published import tiny_jpeg

JPEG = tiny_jpeg("image", 12, 9)
MD5 = md5_base64(JPEG)
IMAGE_ID = "00000000000000a1"


class Journal:
    """Keeps what is appended, and which images were under their final names at that moment.

    What is intended must not be there yet.
    """

    def __init__(self, folder: Folder) -> None:
        self.outcomes: list[Outcome] = []
        self.stored: list[set[str]] = []
        self._folder = folder

    def intend(self, outcome: Outcome) -> None:
        assert not os.path.lexists(outcome.file or "")

    def append(self, outcomes: Iterable[Outcome]) -> None:
        self.outcomes += outcomes
        self.stored.append({path.name for path in self._folder.images.iterdir()})


class StoredImages:
    """A folder where images are stored, its journal and a writer."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self.folder = Folder(path)
        for made in (self.folder.images, self.folder.tmp):
            made.mkdir(parents=True)
        self.journal = Journal(self.folder)
        self.writer = ImageWriter(self.folder, self.journal, **settings)

    def write(self, *entries: ReceivedImage | Outcome) -> list[WriteResult]:
        return self.writer.write_batch(entries)

    def spool(self, image_id: str, body: bytes) -> None:
        Path(self.folder.temporary(image_id)).write_bytes(body)

    def images(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.images.iterdir()}

    def temporaries(self) -> list[str]:
        return os.listdir(self.folder.tmp)


def received(body: bytes = JPEG, image_id: str = IMAGE_ID, **fields: Any) -> ReceivedImage:
    """Return an image that was received in two chunks."""
    values: dict[str, Any] = {
        "image_id": image_id,
        "file_name": f"{image_id}.jpg",
        "source": "cvdf",
        "url": f"http://x/{image_id}.jpg",
        "chunks": [body[:50], bytearray(body[50:])],
        "spooled": False,
        "size": len(body),
        "expected": Expected(),
        "etag": None,
        "etags": EtagTrust("x"),
        "attempts": 2,
    }
    return ReceivedImage(**(values | fields))
