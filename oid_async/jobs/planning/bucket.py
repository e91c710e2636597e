"""How a run knows which of its images are not in the image bucket, and what that means for it."""

from pathlib import Path

from oid_async.concurrency import in_thread
from oid_async.jobs.context import RunContext
from oid_async.jobs.gathering.gather import GatheredTables
from oid_async.metadata.sizes import Sizes
from oid_async.openimages.catalogue import MEAN_IMAGE_BYTES, TRAIN_IMAGES, TRAIN_IMAGES_IN_BUCKET, published
from oid_async.openimages.kinds import KindName
from oid_async.openimages.vocabulary import SPLITS, Source
from oid_async.options.defaults import FLICKR_RATE
from oid_async.options.query import Options
from oid_async.quick_values import frozen
from oid_async.select.bucket import Basis, Bucket
from oid_async.select.plan import Summary

# Annotations that images with boxes alone have.
_OF_BOXABLE: tuple[KindName, ...] = ("bbox", "segmentation", "relationship")
_SHARE_LACKING = 1 - TRAIN_IMAGES_IN_BUCKET / TRAIN_IMAGES
_HOW: dict[Basis, str] = {
    "listing": "by its listing",
    "boxable": "by the table of the images with boxes",
    "boxes": "",
    "counts": f"by the published counts {_SHARE_LACKING:.0%} of train; "
    "oid-async metadata pull --kind none makes it exact",
}
_DAY_S = 86_400


@frozen
class Missing:
    """The images to fetch that are not in the bucket, as far as that is known.

    `more_requests` are those of the next source, `seconds` the least that a rate cap makes of these, None without one;
    `more_bytes` are those of their originals beyond what was counted for a copy of unknown size.
    """

    count: int
    basis: Basis
    more_requests: int
    seconds: float | None
    more_bytes: int

    def note(self, to_fetch: int, sources: tuple[Source, ...]) -> str | None:
        """Return a line on them, None if there are none."""
        if not self.count:
            return None
        about = "about " if self.basis == "counts" else ""
        line = f"{about}{self.count} of the {to_fetch} images to fetch are not in the image bucket ({_HOW[self.basis]})"
        if "cvdf" not in sources:
            return line
        others = [source for source in sources if source != "cvdf"]
        if not others:
            return f"{line}: they will end as not_found; --source cvdf,original asks Flickr for them"
        if self.seconds is None:
            return f"{line}: they can come from {' or '.join(others)} alone"
        return f"{line}: they are asked of Flickr, whose rate cap makes it {_days(self.seconds)} at least"


def _days(seconds: float) -> str:
    """Return a time in days.

    >>> _days(864_000), _days(6_000), _days(600)
    ('10.0 days', '0.07 days', 'less than 0.01 days')
    """
    days = seconds / _DAY_S
    return f"{days:.1f} days" if days >= 1 else f"{days:.2f} days" if days >= 0.01 else "less than 0.01 days"


async def known_bucket(context: RunContext, tables: GatheredTables, sources: tuple[Source, ...]) -> Bucket:
    """Return what is known of the bucket: its listing if that is there; else, of all images, what the tables tell."""
    if tables.ids.by_split or not tables.ids.hexadecimal:
        return Bucket()
    if "cvdf" in sources and (listings := await _listings(context, tables)):
        return Bucket("listing", listings)
    if context.options.images != "all":
        return Bucket()
    selecting, query = tables.selecting, tables.query
    by_boxes = selecting is not None and query.by_boxes and selecting.kind.name in _OF_BOXABLE
    if by_boxes and not tables.given and query.negatives is None:
        return Bucket("boxes")
    (boxable,) = published("images", ("train",), context.options.release)
    if (table := await context.cache.cached(boxable)) is not None:
        return Bucket("boxable", tuple(table.parts))
    return Bucket("counts")


def missing_of(summary: Summary, bucket: Bucket, sources: tuple[Source, ...], options: Options) -> Missing | None:
    """Return what of a plan the bucket lacks, None if nothing is known of it."""
    if bucket.basis is None:
        return None
    guessed = round(summary.unsure * _SHARE_LACKING) if bucket.basis == "counts" else 0
    asked_next = sources[1:] if sources[0] == "cvdf" else ()
    capped = summary.lacking_on_flickr + guessed if asked_next else 0
    more_bytes = 0
    if asked_next[:1] == ("original",) and guessed:
        more_bytes = round(_SHARE_LACKING * (summary.unsure_bytes - summary.unsure_sized * MEAN_IMAGE_BYTES))
    if options.rate is not None:
        seconds = capped * options.period / options.rate if options.rate else None
    else:
        seconds = capped / FLICKR_RATE
    count = summary.lacking + guessed
    more_requests = count if asked_next else 0
    return Missing(count, bucket.basis, more_requests, seconds if capped else None, max(0, more_bytes))


async def _listings(context: RunContext, tables: GatheredTables) -> tuple[Path, ...]:
    """Return the bucket's listings, if there is a whole one of every split that images may be of."""
    splits = context.options.splits or tables.looked_in or SPLITS
    listings = [Sizes(context.cache.cache.objects, split) for split in splits]
    if not all(await in_thread(lambda: [each.is_there for each in listings])):
        return ()
    for each in listings:
        if await in_thread(each.is_damaged):
            context.note(
                f"{each.path}: the listing of sizes is damaged and not used; "
                f"oid-async metadata pull --sizes --split {each.split} fetches it anew"
            )
            return ()
    return tuple(each.path for each in listings)
