"""What lines of a list may name an image by: its ImageID, the photo on Flickr, an address, the name of a saved file.

`select.idlist` says how an ImageID may be written, `openimages.flickr` how a photo. A file is called as `store.naming`
does it: the last part of OriginalURL, `<stem>_<ImageID>.jpg` or `<stem>_<ImageID>_<split>.jpg` where that was taken.
"""

import polars as pl

from oid_async.openimages.flickr import photo_of
from oid_async.openimages.ids import HEX_DIGITS, KEY, IdForm
from oid_async.openimages.vocabulary import SPLITS
from oid_async.select.idlist import parse_entries
from oid_async.tables.reading import TableFile
from oid_async.tables.text_lists import ListColumns, read_entries, without_comment

_COLUMNS = ListColumns(
    texts=(
        *("imageid", "originallandingurl", "landingurl", "originalurl", "thumbnail300kurl", "imageurl", "url"),
        *("filename", "photoid", "id"),
    ),
    splits=("subset", "split"),
)
_MARK = rf"(?i)_({HEX_DIGITS})(?:_({'|'.join(SPLITS)}))?\.[a-z0-9]{{1,8}}$"
_NUMBER = r"(?i)^([1-9][0-9]*)(?:\.jpe?g|\.png)?$"
_IS_URL = r"(?i)^[a-z][a-z0-9+.-]*://|^(?:[a-z0-9-]+\.)*(?:flickr\.com|staticflickr\.com|flic\.kr)/"

REFERENCES = pl.Schema(
    {"text": pl.String, KEY: pl.UInt64, "split": pl.UInt8, "photo": pl.UInt64, "address": pl.String, "name": pl.String}
)


def read_references(table: TableFile) -> pl.DataFrame:
    """Return REFERENCES, one row a line, in order; what a line does not name is null. Raises InputError for no list.

    `text` is the line as written; `photo` is an id of Flickr's. A number may be both, a photo's id and an ImageID of
    digits. `address` and `name`, as `address_of` and `name_of` make them, are of URLs and names that say neither.
    """
    frames = [_references(frame) for frame in read_entries(table, _COLUMNS)]
    return pl.concat([pl.DataFrame(schema=REFERENCES), *frames])


def _references(frame: pl.DataFrame) -> pl.DataFrame:
    entry = without_comment(pl.col("text")).str.replace_all("\\", "/", literal=True)
    lines = parse_entries(frame, IdForm()).with_columns(entry=entry)
    is_url = pl.col("entry").str.contains(_IS_URL)
    lines = lines.with_columns(last=pl.col("entry").str.extract(r"([^/]+)/?$"), is_url=is_url)
    mark, place = pl.col("last").str.extract(_MARK, 1), pl.col("last").str.extract(_MARK, 2).str.to_lowercase()
    number = pl.when(~pl.col("is_url")).then(pl.col("last").str.extract(_NUMBER).cast(pl.UInt64, strict=False))
    codes = list(range(len(SPLITS)))
    # A name with an ImageID in it says which image it is, whatever photo is named before that.
    lines = lines.with_columns(
        pl.coalesce(KEY, mark.str.to_integer(base=16, dtype=pl.UInt64, strict=False)).alias(KEY),
        split=pl.coalesce("split", place.replace_strict(list(SPLITS), codes, default=None, return_dtype=pl.UInt8)),
        photo=pl.when(mark.is_null()).then(pl.coalesce(photo_of(pl.col("entry")), number)),
    )
    is_other = pl.col(KEY).is_null() & pl.col("photo").is_null()
    is_file = is_other & ~pl.col("is_url") & pl.col("last").str.contains(r"(?i)\.jpg$")
    return lines.select(
        *("text", KEY, "split", "photo"),
        address=pl.when(is_other & pl.col("is_url")).then(address_of(pl.col("entry"))),
        name=pl.when(is_file).then(pl.col("last").str.to_lowercase()),
    )


def address_of(url: pl.Expr) -> pl.Expr:
    """Return the expression URL -> what two spellings of it share: no scheme, `www.`, query, last slash, upper case."""
    return (
        url.str.to_lowercase()
        .str.replace(r"^(?:[a-z][a-z0-9+.-]*:)?//", "")
        .str.replace(r"^www\.", "")
        .str.replace(r"[?#].*$", "")
        .str.strip_chars_end("/")
    )


def name_of(url: pl.Expr) -> pl.Expr:
    """Return the expression OriginalURL -> the name of its file in lower case, `.jpg` added where it lacks."""
    last = address_of(url).str.extract(r"/([^/]+)$")
    return pl.when(last.str.ends_with(".jpg")).then(last).otherwise(last + ".jpg")
