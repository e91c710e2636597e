"""Which table of Open Images a table looks like, by its columns: the one that was given may be another than meant."""

from collections.abc import Collection, Mapping

from oid_async.openimages.catalogue_tables import TableKind

# The columns that tell a table from a box table, from an image table and from a class table, what it then is and what
# takes it. A column behind an exclamation mark must be absent.
_BOXES = "it looks like a table of boxes (it has {}); give it with --annotation"
_IMAGES = "it looks like a table of images (it has {}); give it with --imageURL"
_PUBLISHED = "which --kind {} takes from the published tables"
_LIKE: Mapping[TableKind, tuple[tuple[tuple[str, ...], str], ...]] = {
    "boxes": (
        (
            ("MaskPath",),
            f"it looks like a table of masks (it has {{}}), not of boxes, {_PUBLISHED.format('segmentation')}",
        ),
        (
            ("LabelName1", "LabelName2"),
            f"it looks like a table of relationships (it has {{}}), not of boxes, {_PUBLISHED.format('relationship')}",
        ),
        (
            ("X", "Y", "Label"),
            f"it looks like a table of point labels (it has {{}}), not of boxes, {_PUBLISHED.format('point')}",
        ),
        (
            ("Confidence", "!XMin"),
            f"it looks like a table of image labels (it has {{}}, no XMin), not of boxes, {_PUBLISHED.format('label')}",
        ),
        (("OriginalURL", "!LabelName"), _IMAGES),
        (
            ("LabelName", "DisplayName", "!ImageID"),
            "it looks like a table of classes (it has {}); give it with --label",
        ),
    ),
    "images": (
        (("LabelName", "XMin", "!OriginalURL"), _BOXES),
        (
            ("LabelName", "Confidence", "!OriginalURL"),
            "it looks like a table of annotations (it has {}), not of images",
        ),
        (
            ("LabelName", "DisplayName", "!ImageID"),
            "it looks like a table of classes (it has {}); give it with --label",
        ),
    ),
    "classes": ((("ImageID", "OriginalURL"), _IMAGES), (("ImageID", "LabelName"), _BOXES)),
}


def other_table(wanted: TableKind, columns: Collection[str]) -> str | None:
    """Return in words which other table than the wanted one has these columns, None if it may be the wanted one.

    >>> other_table("boxes", ["ImageID", "OriginalURL"])
    'it looks like a table of images (it has OriginalURL); give it with --imageURL'
    >>> other_table("boxes", ["ImageID", "LabelName"])
    """
    for signs, what in _LIKE.get(wanted, ()):
        there = [sign for sign in signs if not sign.startswith("!")]
        absent = [sign[1:] for sign in signs if sign.startswith("!")]
        if all(name in columns for name in there) and not any(name in columns for name in absent):
            return what.format(" and ".join(there))
    return None
