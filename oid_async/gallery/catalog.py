"""What the gallery's page asks about one folder, answered as plain values: facts, pages of images, one image.

`Catalog` is all that the server needs. It knows no HTTP: its errors are UsageError (an address that cannot be read),
NotFoundError (an image or mask that is not there) and InputError (a table or picture that cannot be used).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from oid_async.dataset.saved import SavedDataset
from oid_async.errors import InputError
from oid_async.gallery.state import State

# The state word for images whose table names no split.
NO_SPLIT = "-"


class NotFoundError(InputError):
    """There is no such image or mask in the folder."""


@dataclass(frozen=True, slots=True)
class SavedImage:
    """An image of the manifest, as far as its bytes need it: what a thumbnail may be named after.

    `status` is ok, failed or pending; only images that are ok have a file name and bytes. Width and height are as the
    manifest has them, before rotation; None where they are not known.
    """

    image_id: str
    split: str
    status: str
    file_name: str | None
    bytes: int | None
    md5: str | None
    width: int | None
    height: int | None


class Catalog:
    """Answers what the page asks. Every method blocks: call it in a thread; several may be called at the same time.

    `open_dataset` opens the folder anew (`jobs.opening.open_folder` with its arguments). `look` returns a value, cheap
    to have, that differs once the folder may have changed (a run has begun, saved images, come to its end); None for a
    folder that is taken as it is.
    """

    def __init__(self, open_dataset: Callable[[], SavedDataset], look: Callable[[], object] | None = None) -> None:
        """Open the folder. Raises what `open_dataset` raises."""
        raise NotImplementedError

    def close(self) -> None:
        """Close what is open, remove temporary files. Safe to call twice; call it when no other call is under way."""
        raise NotImplementedError

    def update(self, is_stopped: Callable[[], bool]) -> float:
        """Do what is due in the background: make the index, open the folder anew if it has changed.

        Return after how many seconds to call it again. For `concurrency.until_stopped`, in one loop of the server's:

            while True:
                pause_s = await until_stopped(catalog.update)
                await asyncio.sleep(pause_s)

        Never raises for the state of the folder: `folder()["notes"]` then says what is wrong.
        """
        raise NotImplementedError

    @property
    def revision(self) -> int:
        """A number that grows when the answers may have changed: the folder was opened anew, or its index is ready."""
        raise NotImplementedError

    def folder(self) -> dict[str, Any]:
        """Return the answer to `GET /api/folder`.

            {"name": "Football_data", "notes": [line, ...], "revision": 1,
             "images": {"selected": n, "ok": n, "failed": n, "pending": n},
             "kinds": ["bbox", ...],
             "classes": [{"label": MID, "class_name": name, "images": n or None, "rows": {kind: n} or None}, ...],
             "flags": ["IsOccluded", ...], "splits": {name: n}, "sources": {name: n}, "reasons": {name: n},
             "roles": {name: n}, "index": {"ready": bool, "done": n, "total": n, "error": None or a line}}

        Classes come with most images first; before the index is ready they are those of label_data.csv, without counts.
        """
        raise NotImplementedError

    def images(self, state: State, offset: int = 0, limit: int = 120) -> dict[str, Any]:
        """Return the answer to `GET /api/images`: a page of the images of a state, in its order.

            {"revision": 1, "total": n or None, "offset": 0, "index": as in folder(),
             "classes": [[label, class_name], ...],
             "images": [{"image_id", "split", "file_name", "status", "reason", "role", "width", "height", "bytes",
                         "boxes": [[class, xmin, ymin, xmax, ymax, flag bits], ...], "rows": {kind: n}}, ...]}

        Boxes are fractions, clipped to the image, at most 60, the largest first; `class` is a place in this answer's
        `classes`; bit k of the flags is set if flag k of FLAGS (openimages.vocabulary) is 1. `split` is "-" where the
        table names none. `total` is None, without images, if the state needs the index and that is not ready: ask
        again. `rows` has what is known already. Raises UsageError for a class that the folder has not, InputError.
        """
        raise NotImplementedError

    def image(self, split: str, image_id: str) -> dict[str, Any]:
        """Return the answer to `GET /api/image/SPLIT/IMAGE_ID`: one image with all that is known of it.

            {"revision": 1, "image": {the manifest's columns}, "boxes": [...], "masks": [{..., "url": "mask/..."}],
             "relationships": [...], "narratives": [...], "labels": [...], "points": [...],
             "totals": {kind: n}, "classes": [[label, class_name], ...], "verified_absent": [[label, class_name], ...],
             "links": {"landing": url, "original": url, "author": url},
             "failure": None or {"reason", "detail"}, "notes": [line, ...]}

        Rows are objects under the tables' column names, at most 2,000 a kind; coordinates as saved, numbers as numbers,
        NaN and absent ones None. Links are there if they are http or https. Raises NotFoundError, InputError.
        """
        raise NotImplementedError

    def saved_image(self, split: str, image_id: str) -> SavedImage:
        """Return an image of the manifest, from memory for images of the last pages. Raises NotFoundError."""
        raise NotImplementedError

    @property
    def dataset(self) -> SavedDataset:
        """The folder as it was opened last: `gallery.pictures` opens images and masks through it, and sends them."""
        raise NotImplementedError
