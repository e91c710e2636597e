"""The transfer of one image: its row of the plan, its state between attempts, and how an attempt may end."""

from oid_async.http.host import Host
from oid_async.http.retry import Attempts
from oid_async.http.urls import Route
from oid_async.openimages.catalogue import IMAGE_BUCKET, object_url
from oid_async.openimages.vocabulary import SPLITS, Source
from oid_async.quick_values import define, value
from oid_async.report import Outcome, parse_detail, write_detail
from oid_async.store.image_check import Expected

_RETURNED = "+"
NOTHING = Expected()


@value
class Target:
    """One image to fetch: a row of the plan, and its `place` there. `known` holds the failures of earlier runs.

    `sources` are those that this image is asked of, None for the run's. With `is_again` it is of a set that is fetched
    again: then the bytes that were saved are expected of every source.
    """

    place: int
    image_id: str
    file_name: str
    subset: str | None
    original_url: str | None
    original: Expected
    thumbnail_url: str | None
    known: str | None
    copy_bytes: int | None = None
    sources: tuple[Source, ...] | None = None
    is_again: bool = False

    def url(self, source: Source, mirror: str | None) -> str | None:
        """Return where a source has this image, None if it has none."""
        if source == "cvdf":
            return (
                object_url(IMAGE_BUCKET, f"{self.subset}/{self.image_id}.jpg", mirror)
                if self.subset in SPLITS
                else None
            )
        return self.original_url if source == "original" else self.thumbnail_url

    def expected(self, source: Source) -> Expected:
        """Return what is known of a source's bytes: of an original, or the size of the bucket's copy, if listed."""
        if source == "original" or self.is_again:
            return self.original
        return NOTHING if source != "cvdf" or self.copy_bytes is None else Expected(self.copy_bytes, None)


@value
class PartialBody:
    """The first `size` bytes of a body of `total` that broke off, in its temporary file, and the ETag of the body."""

    size: int
    etag: str
    total: int | None


@define
class ImageTransfer:
    """One image on the way to its Outcome.

    `source` is the source that is requested now: `route` is where the request goes, `recorded_url` the URL that is
    written down. `history` has the failure kind of each source that was tried before, `earlier_attempts` the attempts
    made there. `held_bytes` is the size of its body in memory until it is stored; `was_returned`: another process had
    it and gave it back. `served_by` is the host whose body is being stored, where it may be another one than `host`.
    """

    target: Target
    history: dict[str, str]
    earlier_attempts: int
    attempts: Attempts
    source: Source
    route: Route
    recorded_url: str
    host: Host
    partial: PartialBody | None = None
    held_bytes: int = 0
    was_returned: bool = False
    served_by: Host | None = None

    @property
    def place(self) -> int:
        """Return the place of the image in the plan."""
        return self.target.place

    @property
    def saved_state(self) -> str | None:
        """The text that `Fetcher.restore` needs in addition to the target; None once this source was requested."""
        returned = _RETURNED if self.was_returned else ""
        return None if self.attempts.made else f"{returned}{self.earlier_attempts} {write_detail(self.history)}"

    @property
    def retried(self) -> bool:
        """Return whether the attempt that is being made is not the first one at this source."""
        return self.attempts.made > 1

    def can_follow(self, other: "ImageTransfer") -> bool:
        """Return whether it can be requested on the connection on which another image's body has arrived."""
        return self.route.origin is other.route.origin and self.partial is None


def parse_state(text: str) -> tuple[int, dict[str, str], bool]:
    """Return `earlier_attempts`, `history` and `was_returned` of a saved state.

    >>> parse_state("+2 cvdf:not_found")
    (2, {'cvdf': 'not_found'}, True)
    """
    attempts, _, detail = text.partition(" ")
    return int(attempts.removeprefix(_RETURNED)), parse_detail(detail), attempts.startswith(_RETURNED)


@value
class Retry:
    """Request again after a delay, from the transfer's host as it is now; `exhausted`: descriptors ran out."""

    delay_s: float
    exhausted: bool = False


@value
class Failed:
    """No source has the image, or the one that may has failed too often."""

    outcome: Outcome
