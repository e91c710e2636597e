"""One image on its way: its row of the plan, its state between attempts, and what an attempt may end with."""

from dataclasses import dataclass

from oid_async.http.hosts import Host
from oid_async.http.retry import Attempts
from oid_async.http.urls import Route
from oid_async.openimages.catalogue import IMAGE_BUCKET, object_url
from oid_async.openimages.vocabulary import SPLITS, Source
from oid_async.report import Outcome, write_detail
from oid_async.store.image_check import Expected

_BACK = "+"
_NOTHING = Expected()


@dataclass(frozen=True, slots=True)
class Target:
    """One image to fetch: a row of the plan, and its `place` there. `known` holds the failures that are remembered."""

    place: int
    image_id: str
    file_name: str
    subset: str | None
    original_url: str | None
    original: Expected
    thumbnail_url: str | None
    known: str | None
    copy_bytes: int | None = None

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
        """Return what is known of a source's bytes: OriginalSize and OriginalMD5 are the original's.

        `copy_bytes` is the size of the bucket's copy, where its listing was fetched.
        """
        if source == "original":
            return self.original
        return _NOTHING if source != "cvdf" or self.copy_bytes is None else Expected(self.copy_bytes, None)


@dataclass(frozen=True, slots=True)
class PartialBody:
    """The first bytes of a body that broke off, in its temporary file: how many, of what, of how many in all."""

    size: int
    etag: str
    total: int | None


@dataclass(slots=True)
class ImageTransfer:
    """One image on its way to its outcome.

    `source` is the one it has come to: `route` is where its request goes, `written` what is written down of that.
    `history` has the failure kind of each source that is done with, `before` the attempts they took. `held` are its
    body's bytes in memory until it has landed; `is_back`: another process has had it and given it back.
    """

    target: Target
    history: dict[str, str]
    before: int
    attempts: Attempts
    source: Source
    route: Route
    written: str
    host: Host
    partial: PartialBody | None = None
    held: int = 0
    is_back: bool = False

    @property
    def place(self) -> int:
        """Where in the plan the image stands."""
        return self.target.place

    @property
    def note(self) -> str | None:
        """What `Fetcher.recall` needs beside the target; None once this source has been asked."""
        back = _BACK if self.is_back else ""
        return None if self.attempts.made else f"{back}{self.before} {write_detail(self.history)}"

    def follows(self, other: "ImageTransfer") -> bool:
        """Return whether it can be asked for on the connection that another job's body has come on."""
        return self.route.origin is other.route.origin and self.partial is None


@dataclass(frozen=True, slots=True)
class Retry:
    """Ask again, of the job's host as it stands now, after a delay; `exhausted` says that descriptors ran out."""

    delay_s: float
    exhausted: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """No source has it, or the one that may has failed to the end."""

    outcome: Outcome
