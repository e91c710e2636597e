"""What the gallery's page asks about one folder, answered as plain values: facts, pages of images, one image.

`Catalog` is all that the server needs. It knows no HTTP: its errors are UsageError (an address that cannot be read),
NotFoundError (an image or mask that is not there) and InputError (a table or picture that cannot be used).
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import polars as pl

from oid_async.dataset.saved import SavedDataset
from oid_async.errors import InputError, OidError
from oid_async.gallery.filters import needs_index, shows_all
from oid_async.gallery.image_detail import image_detail
from oid_async.gallery.image_page import page_of
from oid_async.gallery.index_build import StoppedError
from oid_async.gallery.snapshot import Snapshot
from oid_async.gallery.state import State
from oid_async.openimages.kinds import KINDS
from oid_async.openimages.vocabulary import FLAGS

# Images whose files were named by the last pages: thumbnails are asked for one by one.
_KEPT_IMAGES = 20_000
# A folder is looked at this often. Opening it anew, with its index, takes a second or, of 1.7 million images, minutes:
# so many times as long it is left as it is, but no longer than that.
_LOOK_S = 2.0
_REST = 5.0
_MOST_REST_S = 300.0
# What fails is tried again after this time.
_RETRY_S = 30.0
# Making the index of tables of so many bytes takes all processors for long enough to be felt: the first page comes
# first, for which it waits that long, looking again after a pause.
_LARGE_BYTES = 256 << 20
_FIRST_PAGE_S = 5.0
_PAUSE_S = 0.2


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
    to have, that differs once the folder may have changed (a run has begun, saved images, come to its end); without it
    the folder is taken as it was when it was opened.
    """

    def __init__(
        self,
        open_dataset: Callable[[], SavedDataset],
        look: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the folder. Raises what `open_dataset` raises."""
        self._open = open_dataset
        self._look = look
        self._clock = clock
        self._lock = threading.Lock()
        self._updating = threading.Lock()
        self._images: OrderedDict[tuple[str, str], SavedImage] = OrderedDict()
        self._revision = 1
        self._seen = look()
        self._next_s = self._retry_s = clock()
        self._error: str | None = None
        self._current = self._opened()
        is_long = self._current.table_bytes > _LARGE_BYTES and not self._current.is_indexed
        self._waits_until = clock() + _FIRST_PAGE_S if is_long else 0.0

    def _opened(self) -> Snapshot:
        dataset = self._open()
        try:
            return Snapshot(dataset)
        except BaseException:
            dataset.close()
            raise

    def close(self) -> None:
        """Close what is open, remove temporary files. Safe to call twice; call it when no other call is under way."""
        self._current.close()

    @contextmanager
    def _reading(self) -> Iterator[Snapshot]:
        """Hold the snapshot of this moment: it is closed when it was replaced and nobody reads it any more."""
        with self._lock:
            snapshot = self._current
            snapshot.readers += 1
        try:
            yield snapshot
        finally:
            with self._lock:
                snapshot.readers -= 1
                is_last = snapshot.readers == 0 and snapshot is not self._current
            if is_last:
                snapshot.close()
                self._current.sweep()

    def update(self, is_stopped: Callable[[], bool]) -> float:
        """Do what is due in the background: make the index, open the folder anew if it has changed.

        Return after how many seconds to call it again. For `concurrency.until_stopped`, in one loop of the server's:

            while True:
                pause_s = await until_stopped(catalog.update)
                await asyncio.sleep(pause_s)

        Never raises for the state of the folder: `folder()["notes"]` then says what is wrong.
        """
        if self._clock() < self._waits_until:
            return _PAUSE_S
        with self._updating:
            try:
                if self._current.is_prepared or self._current.is_stale:
                    self._renew(is_stopped)
                else:
                    began = self._clock()
                    with self._reading() as snapshot:
                        snapshot.prepare(is_stopped)
                        snapshot.sweep()
                    self._took(self._clock() - began)
                    self._revision += 1
            except StoppedError:
                return 0.0
        return _LOOK_S

    def _renew(self, is_stopped: Callable[[], bool]) -> None:
        """Open the folder anew if it has changed and it is time; replace what is read once that has its index."""
        seen = self._look()
        is_due = seen != self._seen and self._clock() >= self._next_s
        if not is_due and not (self._current.is_stale and self._clock() >= self._retry_s):
            return
        began = self._clock()
        try:
            snapshot = self._opened()
        except (OidError, OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            # Between two moments of a run a folder may have no tables to read: the answers of before stay.
            self._error = f"the folder has changed and cannot be read now: {error}"
            self._next_s = self._retry_s = self._clock() + _RETRY_S
            return
        try:
            snapshot.prepare(is_stopped)
        except BaseException:
            snapshot.close()
            raise
        self._error, self._seen = None, seen
        with self._lock:
            before, self._current = self._current, snapshot
            self._revision += 1
            self._images.clear()
            is_unread = before.readers == 0
        if is_unread:
            before.close()
            snapshot.sweep()
        self._took(self._clock() - began)

    def _took(self, cost_s: float) -> None:
        self._next_s = self._clock() + min(_REST * cost_s, _MOST_REST_S)

    @property
    def revision(self) -> int:
        """A number that grows when the answers may have changed: the folder was opened anew, or its index is ready."""
        return self._revision

    def folder(self) -> dict[str, Any]:
        """Return the answer to `GET /api/folder`.

            {"name": "Football_data", "notes": [line, ...], "revision": 1,
             "images": {"selected": n, "ok": n, "failed": n, "pending": n},
             "kinds": ["bbox", ...],
             "classes": [{"label": MID, "class_name": name, "images": n or None, "rows": {kind: n} or None}, ...],
             "flags": ["IsOccluded", ...], "splits": {name: n}, "sources": {name: n}, "reasons": {name: n},
             "roles": {name: n}, "index": {"ready": bool, "done": n, "total": n, "error": None or a line}}

        Classes come with most images first; before the index is ready they are those of label_data.csv, without counts.
        Raises InputError for a manifest that cannot be read any more.
        """
        with self._reading() as snapshot:
            counts = snapshot.manifest.counts
            statuses = {status: counts.statuses.get(status, 0) for status in ("ok", "failed", "pending")}
            return {
                "name": snapshot.dataset.folder.path.name or str(snapshot.dataset.folder.path),
                "notes": self._notes(snapshot),
                "revision": self._revision,
                "images": {"selected": counts.selected, **statuses},
                "kinds": list(snapshot.kinds),
                "classes": _classes(snapshot),
                "flags": list(FLAGS.values()) if "bbox" in snapshot.kinds else [],
                "splits": counts.splits,
                "sources": counts.sources,
                "reasons": counts.reasons,
                "roles": counts.roles,
                "index": _progress(snapshot),
            }

    def _notes(self, snapshot: Snapshot) -> list[str]:
        return [*snapshot.notes, *([self._error] if self._error is not None else [])]

    def images(self, state: State, offset: int = 0, limit: int = 120) -> dict[str, Any]:
        """Return the answer to `GET /api/images`: a page of the images of a state, in its order.

            {"revision": 1, "total": n or None, "offset": 0, "index": as in folder(), "notes": [line, ...],
             "classes": [[label, class_name], ...],
             "images": [{"image_id", "split", "file_name", "status", "reason", "role", "width", "height", "bytes",
                         "boxes": [[class, xmin, ymin, xmax, ymax, flag bits], ...], "rows": {kind: n}}, ...]}

        Boxes are fractions, clipped to the image, at most 60, the largest first; `class` is a place in this answer's
        `classes`; bit k of the flags is set if flag k of FLAGS (openimages.vocabulary) is 1. `split` is "-" where the
        table names none. `total` is None, without images, if the state needs the index and that is not ready: ask
        again. `rows` is empty until the index is ready. Raises UsageError for a class that the folder has not,
        InputError.
        """
        with self._reading() as snapshot:
            answer = {"revision": self._revision, "offset": offset, "classes": [], "images": []}
            rows: pl.DataFrame | None = None
            total: int | None = None
            if shows_all(state):
                total = snapshot.manifest.counts.selected
                rows = snapshot.manifest.slice(offset, limit)
            elif (numbers := self._selected(snapshot, state)) is not None:
                total = len(numbers)
                rows = snapshot.manifest.rows(numbers.slice(offset, limit))
            if rows is not None:
                self._keep(snapshot, rows)
                answer |= page_of(snapshot, rows)
            self._waits_until = 0.0
            return answer | {"total": total, "index": _progress(snapshot), "notes": self._notes(snapshot)}

    def place(self, state: State, split: str, image_id: str) -> dict[str, Any]:
        """Return the answer to `GET /api/place/SPLIT/IMAGE_ID`: {"revision": 1, "place": n or None}.

        The place is the image's offset in what `images` returns for a state; None if it is not among those images, or
        the state needs the index and that is not ready. Raises UsageError and InputError as `images`.
        """
        with self._reading() as snapshot:
            place = snapshot.manifest.number_of(split, image_id)
            if place is not None and not shows_all(state):
                numbers = self._selected(snapshot, state)
                place = None if numbers is None else numbers.index_of(place)
            return {"revision": self._revision, "place": place}

    def _selected(self, snapshot: Snapshot, state: State) -> pl.Series | None:
        """Return the row numbers of a state's images, None while it needs an index that is not there."""
        if needs_index(state) and snapshot.index is None:
            if snapshot.index_error is not None:
                raise InputError(f"no filter by annotations: {snapshot.index_error}")
            return None
        try:
            return snapshot.selected(state)
        except InputError:
            if snapshot.index is None or snapshot.index.is_whole:
                raise
            # Somebody has removed it, `.oid_async` is safe to delete; or a disk has damaged it.
            snapshot.forget_index()
            return None

    def _keep(self, snapshot: Snapshot, rows: pl.DataFrame) -> None:
        """Remember the files of a page: its thumbnails are asked for next."""
        found = [_saved_image(row) for row in rows.iter_rows(named=True)]
        with self._lock:
            if snapshot is not self._current:
                return  # it was replaced meanwhile: what had not landed then may be there now
            for image in found:
                key = (image.split, image.image_id)
                self._images[key] = image
                self._images.move_to_end(key)
            while len(self._images) > _KEPT_IMAGES:
                self._images.popitem(last=False)

    def image(self, split: str, image_id: str) -> dict[str, Any]:
        """Return the answer to `GET /api/image/SPLIT/IMAGE_ID`: one image with all that is known of it.

            {"revision": 1, "image": {the manifest's columns}, "boxes": [...], "masks": [{..., "url": "mask/..."}],
             "relationships": [...], "narratives": [...], "labels": [...], "points": [...],
             "totals": {kind: n}, "classes": [[label, class_name], ...], "verified_absent": [[label, class_name], ...],
             "links": {"landing": url, "original": url, "author": url},
             "failure": None or {"reason", "detail", "url", "attempts"}, "notes": [line, ...]}

        Rows are objects under the tables' column names, at most 2,000 a kind; coordinates as saved, numbers as numbers,
        NaN and absent ones None. Links are there if they are http or https. Raises NotFoundError, InputError.
        """
        with self._reading() as snapshot:
            rows = snapshot.manifest.of_id(image_id)
            row = _of_split(rows, split, image_id)
            saved = [each for each in rows if each["Status"] == "ok"]
            detail = image_detail(snapshot, row, is_first=bool(saved) and saved[0] is row)
            return {"revision": self._revision, **detail}

    def saved_image(self, split: str, image_id: str) -> SavedImage:
        """Return an image of the manifest, from memory for images of the last pages. Raises NotFoundError."""
        with self._lock:
            if (known := self._images.get((split, image_id))) is not None:
                return known
        with self._reading() as snapshot:
            return _saved_image(_of_split(snapshot.manifest.of_id(image_id), split, image_id))

    @property
    def dataset(self) -> SavedDataset:
        """The folder as it was opened last: `gallery.pictures` opens images and masks through it, and sends them."""
        return self._current.dataset


def _saved_image(row: dict[str, Any]) -> SavedImage:
    return SavedImage(
        row["ImageID"],
        row["Subset"],
        row["Status"],
        row["FileName"],
        row["Bytes"],
        row["MD5"],
        row["Width"],
        row["Height"],
    )


def _of_split(rows: list[dict[str, Any]], split: str, image_id: str) -> dict[str, Any]:
    """Return the row of an ImageID that is of a split. Raises NotFoundError."""
    found = next((row for row in rows if row["Subset"] == split), None)
    if found is None:
        raise NotFoundError(f"{split}/{image_id}: no such image was selected")
    return found


def _progress(snapshot: Snapshot) -> dict[str, Any]:
    progress = snapshot.progress
    is_ready = snapshot.index is not None
    return {
        "ready": is_ready,
        "done": progress.total if is_ready else progress.done,
        "total": progress.total,
        "error": snapshot.index_error,
    }


def _classes(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Return the classes of the folder, those with most images first."""
    if snapshot.index is None:
        chosen = snapshot.chosen_classes.unique("LabelName", maintain_order=True)
        return [
            {"label": label, "class_name": name or label, "images": None, "rows": None}
            for label, name in chosen.select("LabelName", "Category").iter_rows()
        ]
    kinds = [kind for kind in snapshot.index.kinds if KINDS[kind].has_classes]
    classes = snapshot.index.classes.sort("images", descending=True, maintain_order=True)
    return [
        {
            "label": row["label"],
            "class_name": row["class_name"],
            "images": row["images"],
            "rows": {kind: row[f"{kind}_rows"] for kind in kinds if row[f"{kind}_rows"]},
        }
        for row in classes.iter_rows(named=True)
    ]
