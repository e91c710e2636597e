"""File names from URLs and ids: safe on every file system, unique without regard to case. Pure."""

import hashlib
import unicodedata
from urllib.parse import unquote

from oid_async.system.file_names import FORBIDDEN, is_device

_MOST_BYTES = 240  # file systems allow 255 with the suffix
_MARK_BYTES = 40  # a clash may add so many: an underscore and an id
_LONG_MARK = _MARK_BYTES - 1

# A name that is safe as it is: Polars recognises it in bulk, so that only odd URLs cost Python calls.
PLAIN_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_\-]{4,100}\.jpg$"


def url_name(url: str | None, image_id: str) -> str:
    """Return the file name for an OriginalURL: its last path component, percent-decoded, `.jpg` kept or added.

    >>> url_name("https://farm3.staticflickr.com/5310/5898076654_51085e157c_o.jpg?zz=1", "4fa8054781a4c382")
    '5898076654_51085e157c_o.jpg'
    >>> url_name("https://x.org/a/..%2F..%2Fetc%2Fpasswd", "4fa8054781a4c382")
    '_.._etc_passwd.jpg'
    >>> url_name("https://x.org/", "4fa8054781a4c382")
    '4fa8054781a4c382.jpg'
    """
    path = (url or "").split("#", 1)[0].split("?", 1)[0]
    _, _, after_scheme = path.rpartition("://")
    last = after_scheme.rpartition("/")[2] if "/" in after_scheme else ""
    return safe_name(unquote(last, errors="replace")) or id_name(image_id)


def id_name(image_id: str) -> str:
    """Return `<ImageID>.jpg`; an id of a user's own is made safe first.

    >>> id_name("0000048549557964")
    '0000048549557964.jpg'
    """
    return safe_name(image_id) or "image.jpg"


def safe_name(name: str) -> str:
    """Return a name that stays in its folder on any file system, with `.jpg`; empty when nothing usable is left."""
    name = unicodedata.normalize("NFC", name).encode("utf-8", "replace").decode()
    name = FORBIDDEN.sub("_", name).lstrip(". ").rstrip(". ")
    stem = name[:-4] if name.lower().endswith(".jpg") else name
    suffix = name[len(stem) :] or ".jpg"
    if not stem.strip(". "):
        return ""
    if is_device(stem):
        stem = f"_{stem}"
    return _cut(stem, _MOST_BYTES - _MARK_BYTES) + suffix


def clash_name(name: str, image_id: str) -> str:
    """Return the name of an image whose own name is taken.

    >>> clash_name("a_o.jpg", "0000048549557964")
    'a_o_0000048549557964.jpg'
    """
    stem, suffix = (name[:-4], name[-4:]) if name.lower().endswith(".jpg") else (name, ".jpg")
    mark = safe_name(image_id)[:-4] or "image"
    if len(mark.encode()) > _LONG_MARK:
        mark = hashlib.sha256(image_id.encode("utf-8", "replace")).hexdigest()[:16]
    clashing = f"{_cut(stem, _MOST_BYTES - len(mark.encode()) - 1)}_{mark}{suffix}"
    if clashing != name:
        return clashing
    # A long name that is cut and marked as before would stay the same, and taken, for ever.
    return f"{hashlib.sha256(name.encode()).hexdigest()[:16]}_{mark}{suffix}"


def _cut(text: str, most_bytes: int) -> str:
    """Return as much of a text as fits, whole characters only."""
    return text.encode()[:most_bytes].decode("utf-8", "ignore")


def fold(name: str) -> str:
    """Return the form in which two names are equal that some file system takes for one: NFC, case-folded.

    >>> fold("STRASSE_o.JPG") == fold("Straße_o.jpg")
    True
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
