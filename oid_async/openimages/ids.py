"""ImageIDs and their keys: rows are joined and sorted by keys, 8 bytes an image."""

import hashlib
import re
from collections.abc import Collection
from dataclasses import replace

import polars as pl

from oid_async.openimages.vocabulary import SPLITS
from oid_async.quick_values import frozen

# No id holds it, and it is before every character of one: keys with it are in order of the ids.
_NO_ID = "\x00"
# A table of a user's own may well have a column named key; none has one of these names.
KEY = "__key"
ROW = "__row"
HEX_DIGITS = "[0-9a-f]{16}"
HEX_ID = f"^{HEX_DIGITS}$"
# An id of Open Images as people's own tables may spell it.
ANY_HEX = r"(?i:[ \t]*[0-9a-f]{16}(?:\.jpe?g|\.png)?[ \t]*)"
# An id of a user's own: at most 200 bytes, none of them a control character or a line break of Unicode's, which would
# not survive a file name, a journal line or a terminal.
OWN_ID_TEXT = "(?:[ -~]{1,200}|[^\\x00-\\x1f\\x7f-\\x9f\u2028\u2029]{1,50})"
# The names of the id column: the point labels alone spell it the second way.
ID_COLUMNS = ("ImageID", "ImageId")
# Behind an id that was taken from a file's name.
_SUFFIX = r"(?i)\.(?:jpe?g|png)$"


def id_column(columns: Collection[str]) -> str:
    """Return the name of the ImageID in a table with these columns."""
    return next((name for name in ID_COLUMNS if name in columns), ID_COLUMNS[0])


def within(span: pl.Series) -> pl.Expr:
    """Return the condition that a key is within a span of sorted keys; literals, because text would name columns."""
    return pl.col(KEY).is_between(pl.lit(span[0], dtype=span.dtype), pl.lit(span[-1], dtype=span.dtype))


def among(some: pl.Series, keys: pl.Series) -> pl.Series:
    """Return (Boolean) whether each of some keys is one of `keys`, which are sorted.

    By halving: a hash of many keys takes several times their bytes, and is made anew for every few of `some`.

    >>> among(pl.Series([2, 3, 9]), pl.Series([1, 3, 5])).to_list()
    [False, True, False]
    """
    if not len(keys):
        return pl.Series([False]).new_from_index(0, len(some))
    return keys.gather(keys.search_sorted(some).clip(upper_bound=len(keys) - 1)) == some


def is_among(keys: pl.Series) -> pl.Expr:
    """Return the condition that a key is one of `keys`, which are sorted; see `among`."""
    return pl.col(KEY).map_batches(lambda some: among(some, keys), return_dtype=pl.Boolean, is_elementwise=True)


def hexadecimal() -> pl.Expr:
    """Return the expression key -> ImageID of 16 hex digits."""
    # A byte at a time: by its sixteen digits it takes three times as long, and twice the memory (measured).
    bytes_of_key = (
        (pl.col(KEY) // pl.lit(256**place, pl.UInt64)) % pl.lit(256, pl.UInt64) for place in range(7, -1, -1)
    )
    digits = [f"{byte:02x}" for byte in range(256)]
    return pl.concat_str(
        byte.cast(pl.UInt8).replace_strict(range(256), digits, return_dtype=pl.String) for byte in bytes_of_key
    )


def split_key(image_id: pl.Expr, digit: pl.Expr) -> pl.Expr:
    """Return the expression id, digit of its split -> key of a form that is `by_split`."""
    return pl.concat_str(image_id, pl.lit(_NO_ID), digit).alias(KEY)


def split_digit() -> pl.Expr:
    """Return the expression Subset -> the digit of its place among the splits, the last one for any other."""
    digits = [str(place) for place in range(len(SPLITS))]
    return pl.col("Subset").replace_strict(list(SPLITS), digits, default=str(len(SPLITS))).fill_null(str(len(SPLITS)))


def id_of_key(key: pl.Expr) -> pl.Expr:
    """Return the expression text key -> ImageID, without the split of a form that is `by_split`."""
    return key.str.replace(f"(?s){_NO_ID}.*$", "")


def shuffle_number(image_id: str) -> int:
    """Return the 64-bit number by which --shuffle orders an id of a user's own: the start of its SHA-256.

    It is another one than `export_number`, and both must stay: one decides which images a seed selects, the other the
    ids in exported files.
    """
    return int.from_bytes(hashlib.sha256(image_id.encode("utf-8", "surrogatepass")).digest()[:8])


def export_number(image_id: str) -> int:
    """Return the 64-bit number of an id of a user's own in exported files: its BLAKE2b of 8 bytes."""
    return int.from_bytes(hashlib.blake2b(image_id.encode(), digest_size=8).digest())


@frozen
class IdForm:
    """The form of ImageIDs: 16 hex digits, whose key is a number, or `hexadecimal=False` for ids that are keys.

    Where an id occurs in two splits, which is rare, keys are `by_split`: text, of the id and the place of its split, in
    order of ImageID, then train, validation, test, unknown.
    """

    hexadecimal: bool = True
    by_split: bool = False

    def key(self, column: str = "ImageID") -> pl.Expr:
        """Return the expression ImageID (`by_split`: and Subset) -> key; null for what is no id, a damaged row."""
        if self.by_split:
            is_id = replace(self, by_split=False).key(column).is_not_null()
            return pl.when(is_id).then(split_key(pl.col(column), split_digit())).alias(KEY)
        image_id = pl.col(column)
        if not self.hexadecimal:
            return pl.when(image_id.str.contains(f"^{OWN_ID_TEXT}$")).then(image_id).alias(KEY)
        number = image_id.str.to_integer(base=16, dtype=pl.UInt64, strict=False)
        return pl.when(image_id.str.contains(HEX_ID)).then(number).alias(KEY)

    def tidied(self, text: str) -> str:
        """Return an ImageID as it is published: without a file's suffix, in lower case; a user's own as it is.

        >>> IdForm().tidied("00E4060885034751.JPG"), IdForm(hexadecimal=False).tidied("Photo.jpg")
        ('00e4060885034751', 'Photo.jpg')
        """
        if not self.hexadecimal:
            return text
        return re.sub(_SUFFIX, "", text).lower()

    def tidied_column(self, text: pl.Expr) -> pl.Expr:
        """Return the same as an expression."""
        return text.str.replace(_SUFFIX, "").str.to_lowercase() if self.hexadecimal else text

    def key_of(self, image_id: str, subset: str | None) -> int | str:
        """Return the key of one image, as `key` does of a column.

        >>> IdForm().key_of("000000000000000a", "train"), IdForm(hexadecimal=False).key_of("a.png", None)
        (10, 'a.png')
        >>> IdForm(by_split=True).key_of("000000000000000a", "test")
        '000000000000000a\\x002'
        """
        if self.by_split:
            splits: tuple[str | None, ...] = SPLITS
            return f"{image_id}{_NO_ID}{splits.index(subset) if subset in splits else len(splits)}"
        return int(image_id, 16) if self.hexadecimal else image_id

    @property
    def dtype(self) -> type[pl.DataType]:
        """The dtype of a key column."""
        return pl.UInt64 if self.hexadecimal and not self.by_split else pl.String
