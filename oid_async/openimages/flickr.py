"""Flickr's addresses of photos and the names of their files: which photo they are of.

    https://www.flickr.com/photos/<user>/<photo id>[/...]       the page of a photo; a few rows of the published image
    https://www.flickr.com/<user>/<photo id>                    tables lack `photos/`
    https://flic.kr/p/<photo id in base 58>                     the short link of a page
    https://www.flickr.com/photo.gne?id=<photo id>              older links; `short=` has it in base 58
    https://farm4.staticflickr.com/<server>/<photo id>_<secret>_<size>.jpg      a picture; also live.staticflickr.com,
    https://c1.staticflickr.com/<farm>/<server>/<photo id>_<secret>_<size>.jpg  farm1.static.flickr.com

A secret belongs to a size, not to a photo: the original has another one than the smaller pictures. Sources:
flickr.com/services/api/misc.urls.html and flickr.com/groups/api/discuss/72157616713786392 (base 58), as known in
2026-11; image rows of Open Images.
"""

import polars as pl

_ID = r"([1-9][0-9]*)"
_HOST = r"(?i)^(?:https?:)?(?://)?(?:[a-z0-9-]+\.)*flickr\.com"
_PAGE = rf"{_HOST}/photos/[^/?#]+/{_ID}(?:[/?#].*)?$"
_BARE_PAGE = rf"{_HOST}/[^/?#]+/{_ID}/?(?:[?#].*)?$"
# What stands where a user's name would: the number behind it is no photo.
_NO_USER = rf"{_HOST}/(?:photos|people|groups|services|help|explore|map|cameras)/"
_OLD_PAGE = rf"{_HOST}/photo\.gne\?(?:[^#]*&)?id={_ID}(?:[&#].*)?$"
_DIGITS = "123456789abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ"
_SHORT = rf"(?i:^(?:https?:)?(?://)?(?:www\.)?flic\.kr/p/)([{_DIGITS}]{{1,10}})/?(?:[?#].*)?$"
_OLD_SHORT = rf"(?i:{_HOST[4:]}/photo\.gne\?(?:[^#]*&)?short=)([{_DIGITS}]{{1,10}})(?:[&#].*)?$"
# A photo id, a secret, maybe a size.
_FILE = rf"(?i)(?:^|/){_ID}_[0-9a-f]{{6,12}}(?:_[0-9a-z]{{1,2}})?(?:_d)?(?:\.[a-z0-9]{{1,5}})?(?:[?#].*)?$"
_PICTURE = rf"/{_ID}_[^/]*$"
_LAST = rf"/{_ID}/?$"


def photo_of(text: pl.Expr) -> pl.Expr:
    """Return the expression address of a page or picture, or name or path of a file -> photo id (u64), else null."""
    bare = pl.when(~text.str.contains(_NO_USER)).then(text.str.extract(_BARE_PAGE))
    short = pl.coalesce(text.str.extract(_SHORT), text.str.extract(_OLD_SHORT))
    found = [text.str.extract(pattern) for pattern in (_FILE, _PAGE, _OLD_PAGE)]
    return pl.coalesce(*map(_number, (*found, bare)), short.map_elements(short_photo, return_dtype=pl.UInt64))


def photo_of_picture(url: pl.Expr) -> pl.Expr:
    """Return the expression OriginalURL or Thumbnail300KURL of an image table -> photo id (u64), else null."""
    return _number(url.str.extract(_PICTURE))


def photo_of_page(url: pl.Expr) -> pl.Expr:
    """Return the expression OriginalLandingURL of an image table -> photo id (u64), else null."""
    return _number(url.str.extract(_LAST))


def short_photo(text: str) -> int:
    """Return the photo id that a short link has in base 58.

    >>> short_photo("9ZcbGN"), short_photo("1")
    (5898076654, 0)
    """
    number = 0
    for digit in text:
        number = number * 58 + _DIGITS.index(digit)
    return number


def _number(digits: pl.Expr) -> pl.Expr:
    return digits.cast(pl.UInt64, strict=False)
