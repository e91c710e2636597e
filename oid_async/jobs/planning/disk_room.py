"""Whether the disks have room for what a run is known to write. Blocking: it looks at folders."""

from collections.abc import Callable, Sequence
from pathlib import Path

from oid_async.options.query import Options
from oid_async.quick_values import frozen
from oid_async.report import size_text
from oid_async.store.disk import existing_part

# Formats that hold the bytes of the images; others link them, unless --copy is given.
_HOLD_IMAGES = ("webdataset", "parquet", "tfrecord")


@frozen
class Need:
    """Bytes that are going to be written below a folder, which need not be there yet.

    `what` they are, in the plural, and the `option` that chooses another place for them.
    """

    folder: Path
    what: str
    bytes: int
    option: str = "--savepath"


def exports_bytes(options: Options) -> bool:
    """Return whether the run makes an export with images in it, in the size that they have."""
    holds = options.format in _HOLD_IMAGES or (options.copy and not options.no_files)
    return options.format is not None and not options.packs and holds and options.max_side is None


def export_folder(options: Options) -> Path:
    """Return where the export of a download is written."""
    return options.out or options.folder / "export" / (options.format or "")


def needs_of(options: Options, *, images: int, present: int, masks: int, narratives: int) -> list[Need]:
    """Return what is written where: images to fetch, those that are there, masks and narratives, all in bytes."""
    if options.is_distributed:
        # All of it goes into shards; those of a bucket take no disk but the workers' own, a few parts at a time.
        needs = [Need(options.folder, "shards", images + masks)] if isinstance(options.savepath, Path) else []
        return [need for need in needs if need.bytes]
    if options.packs:
        needs = [Need(export_folder(options), "shards", images + masks, "--out")]
    else:
        needs = [Need(options.folder, "images", images), Need(options.folder, "masks", masks)]
    needs.append(Need(options.folder, "narratives", narratives))
    if exports_bytes(options):
        needs.append(Need(export_folder(options), "copies in the export", images + present, "--out"))
    return [need for need in needs if need.bytes]


def shortage(needs: Sequence[Need], free_bytes: Callable[[Path], int], *, about: bool = False) -> str | None:
    """Return what does not fit where, and what to do, in a line; None if every disk has room for all that goes there.

    `about`: the bytes are an estimate.
    """
    by_disk: dict[int, list[Need]] = {}
    for need in needs:
        by_disk.setdefault(existing_part(need.folder).stat().st_dev, []).append(need)
    for some in by_disk.values():
        total, free = sum(need.bytes for need in some), free_bytes(some[0].folder)
        if total > free:
            parts = ", ".join(f"{need.what} {size_text(need.bytes)}" for need in some)
            of = "" if [need.what for need in some] == ["images"] or len(some) > 1 else f" of {some[0].what}"
            done = f"written ({parts})" if len(some) > 1 else "fetched"
            places = " or ".join(dict.fromkeys(need.option for need in some))
            return (
                f"{'about ' if about else ''}{size_text(total)}{of} are to be {done} and {size_text(free)} are free in "
                f"{some[0].folder}; free some space, choose another {places}, or fewer images with --ndata"
            )
    return None
