"""What a run is going to take, as a person reads it: the line before a download, and the answer of `plan`."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from oid_async.openimages.catalogue import MEAN_IMAGE_BYTES
from oid_async.report import Plan, counted, size_text

# More classes are counted, not listed: --json has all of them.
_MOST_CLASSES = 20


def announce(plan: Plan) -> str:
    """Return the line before the first image request: what it will take."""
    lost = plan.selected - plan.present - plan.to_download
    known = f", {lost} known to fail" if lost else ""
    time = f", at least {time_text(plan.seconds)} at the rate cap" if plan.seconds and plan.to_download else ""
    if plan.seconds_estimated is not None and plan.earlier_run:
        like = f"{_speed(plan)} of your run of {plan.earlier_run['day']}"
        time += f", about {time_text(plan.seconds_estimated)} at the {like}"
    selected = f"{counted(plan.selected, 'image')} selected{_negatives(plan)}"
    if plan.parts:
        fetched = f" ({_image_bytes(plan)}{time}){_parts(plan)}" if plan.to_download else ""
        there = f"{plan.present} in parts that are done, " if "left" in plan.parts else ""
        return f"{selected}: {there}{plan.to_download} to fetch{fetched}"
    return (
        (f"part {plan.shard}: " if plan.shard else "")
        + f"{selected}: {plan.present} there already{known}, {plan.to_download} to fetch "
        f"({_image_bytes(plan)}, {size_text(plan.disk_free)} free on the disk{time})"
    )


def _parts(plan: Plan) -> str:
    """Return in which parts, to where and by whom images are fetched past one machine."""
    parts = plan.parts
    if "left" not in parts:
        alone = ", one after the other by one alone, as a rate cap holds" if parts["capped"] else ""
        return f" in about {counted(parts['count'], 'part')} to {parts['place']}{alone}"
    who = parts["engine"]
    if parts["capped"]:
        several = "workers" in who
        who = f"{'one of ' if several else ''}{who} alone, as a rate cap holds"
    of = "" if parts["left"] == parts["count"] else f" of {parts['count']}"
    noun = "part" if parts["left"] == 1 and not of else "parts"
    return f" in {parts['left']}{of} {noun} to {parts['place']}, by {who}"


def plan_lines(plan: Plan) -> list[str]:
    """Return a plan as a person reads it."""
    lines = [announce(plan), *_class_lines(plan)]
    for title, counts in (
        ("selected of each split", plan.splits),
        ("annotation rows", plan.annotations),
    ):
        if counts:
            lines.append(f"{title}: " + ", ".join(f"{name} {count}" for name, count in counts.items()))
    if plan.masks:
        lines.append(_mask_line(plan.masks))
    if plan.narratives:
        lines.append(_narrative_line(plan.narratives))
    if plan.too_little_disk is not None:
        lines.append(f"too little disk: {plan.too_little_disk}")
    return lines


def time_text(seconds: float) -> str:
    """Return a time in the unit that a person would choose.

    >>> [time_text(seconds) for seconds in (0.3, 89, 600, 86_400, 864_000)]
    ['1 s', '89 s', '10 min', '24 h', '10 days']
    """
    for unit, size, most in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 48)):
        if seconds < most * size:
            return f"{max(1, round(seconds / size))} {unit}"
    return f"{round(seconds / 86_400)} days"


def _speed(plan: Plan) -> str:
    """Return the speed of an earlier run by which the time of this one was estimated."""
    by_bytes = f"{size_text(int(plan.earlier_run['bytes_per_s']))}/s"
    return by_bytes if plan.bytes_exact else f"{plan.earlier_run['images_per_s']:.0f} images/s ({by_bytes})"


def _negatives(plan: Plan) -> str:
    negatives = plan.roles.get("negative")
    return f", {negatives} of them negatives" if negatives else ""


def _image_bytes(plan: Plan) -> str:
    """Return the bytes of the images, and how far they are known."""
    if plan.bytes_exact:
        return size_text(plan.bytes)
    mean = size_text(MEAN_IMAGE_BYTES)
    if plan.bytes == plan.to_download * MEAN_IMAGE_BYTES:
        return f"{size_text(plan.bytes)} at {mean} each"
    if plan.bytes_unknown == plan.to_download:
        return f"about {size_text(plan.bytes)}: {mean} for each copy, and the originals of what the bucket lacks"
    return f"about {size_text(plan.bytes)}: the sizes of {plan.bytes_unknown} are unknown and taken as {mean} each"


def _class_lines(plan: Plan) -> Iterator[str]:
    """Yield a table: the selected images of each class, and of a category what there is of it in all."""
    if not plan.classes:
        return
    rows = [(name, str(count), str(plan.candidates.get(name, ""))) for name, count in plan.classes.items()]
    shown = [("class", "selected", "candidates" if plan.candidates else ""), *islice(rows, _MOST_CLASSES)]
    widths = [max(len(row[column]) for row in shown) for column in range(3)]
    for name, count, candidates in shown:
        yield f"{name:<{widths[0]}}  {count:>{widths[1]}}  {candidates:>{widths[2]}}".rstrip()
    if len(rows) > _MOST_CLASSES:
        yield f"and {len(rows) - _MOST_CLASSES} more classes: --json has all of them"


def _mask_line(masks: dict[str, Any]) -> str:
    there = f", {masks['present']} there already" if masks["present"] else ""
    line = f"{masks['count']} masks{there}"
    if not masks["archives"]:
        return line
    about = "" if masks["bytes_exact"] else "about "
    requests = f" in {masks['requests']} requests" if masks["bytes_exact"] else ""
    line += f", {about}{size_text(masks['bytes'])} from {masks['archives']} archives{requests}"
    if unknown := masks["archives_unknown"]:
        line += f"; {unknown} of them tell their sizes once their directories are fetched, which is done first"
    return line


def _narrative_line(narratives: dict[str, Any]) -> str:
    line = f"{narratives['count']} narratives, {size_text(narratives['bytes'])}"
    if traces := narratives.get("traces"):
        known = f", {size_text(traces['bytes'])}" if traces["bytes"] else ""
        unknown = f", {traces['files_unknown']} of unknown size" if traces["files_unknown"] else ""
        line += f"; for their traces {traces['files']} files are read through{known}{unknown}"
    if "recordings" in narratives:
        line += f"; up to {narratives['recordings']} recordings of unknown size"
    return line
