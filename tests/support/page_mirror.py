"""The look-alike behind an address, for who follows a page: it can be listed, and has a photo that a page names."""

from pathlib import Path

from aiohttp import web

from oid_async.openimages.catalogue import IMAGE_BUCKET
from oid_async.origin.server import folder
from support.bucket_listing import Lister
from support.published import write_bytes

# docs/choosing.md asks which image this is; the look-alike has no photo of a real page.
_PHOTO = {
    "ImageID": "0000000000000001",
    "Subset": "train",
    "OriginalURL": "https://farm7.staticflickr.com/6056/5898076654_51085e157c_o.jpg",
    "OriginalLandingURL": "https://www.flickr.com/photos/michael-beat/5898076654",
    "License": "https://creativecommons.org/licenses/by/2.0/",
}
_TABLE = "2018_04/train/train-images-boxable-with-rotation.csv"


class PageMirror:
    """Serves a mirror folder of the look-alike; `own` is a folder for the table that has one more row."""

    def __init__(self, root: Path, own: Path) -> None:
        pictures = (root / IMAGE_BUCKET).rglob("*.jpg")
        keys = {str(path.relative_to(root / IMAGE_BUCKET)): path.stat().st_size for path in pictures}
        self._lister = Lister(keys, page=1000)
        (table,) = root.glob(f"*/{_TABLE}")
        self._table = str(table.relative_to(root))
        columns = table.read_text(encoding="utf-8").splitlines()[0].split(",")
        row = ",".join(_PHOTO.get(column, "") for column in columns)
        write_bytes(own / self._table, table.read_bytes() + f"{row}\n".encode())
        self._folder, self._own = folder(root), folder(own)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        key = request.match_info["key"]
        if key.strip("/") == IMAGE_BUCKET:
            return await self._lister.serve(request)
        return await (self._own if key == self._table else self._folder)(request)
