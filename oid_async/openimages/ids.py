"""ImageIDs and their keys: what rows are joined and sorted by, 8 bytes an image."""

from collections.abc import Collection
from dataclasses import dataclass

import polars as pl

# Tables of a user's own may well have a column called key; none is called so.
KEY = "__key"
ROW = "__row"
HEX_ID = r"^[0-9a-f]{16}$"
# What tables call the id; the point labels alone spell it the second way.
ID_COLUMNS = ("ImageID", "ImageId")


def id_column(columns: Collection[str]) -> str:
    """Return what a table with these columns calls the ImageID."""
    return next((name for name in ID_COLUMNS if name in columns), ID_COLUMNS[0])


def within(span: pl.Series) -> pl.Expr:
    """Return the condition that a key lies within a span of sorted keys; literals, because text would name columns."""
    return pl.col(KEY).is_between(pl.lit(span[0], dtype=span.dtype), pl.lit(span[-1], dtype=span.dtype))


def hexadecimal() -> pl.Expr:
    """Return the expression key -> ImageID of 16 hex digits."""
    digits = [(pl.col(KEY) // pl.lit(16**place, pl.UInt64)) % pl.lit(16, pl.UInt64) for place in range(15, -1, -1)]
    return pl.concat_str([pl.lit("0123456789abcdef").str.slice(digit.cast(pl.Int64), 1) for digit in digits])


@dataclass(frozen=True, slots=True)
class IdForm:
    """How ImageIDs become keys: 16 hex digits as a number, or `hexadecimal=False` for ids taken as they stand."""

    hexadecimal: bool = True

    def key(self, column: str = "ImageID") -> pl.Expr:
        """Return the expression ImageID -> key; null for what is no id, such a row is damaged."""
        image_id = pl.col(column)
        if not self.hexadecimal:
            return pl.when(image_id.str.len_bytes().is_between(1, 200)).then(image_id).alias(KEY)
        number = image_id.str.to_integer(base=16, dtype=pl.UInt64, strict=False)
        return pl.when(image_id.str.contains(HEX_ID)).then(number).alias(KEY)

    @property
    def dtype(self) -> type[pl.DataType]:
        """The dtype of a key column."""
        return pl.UInt64 if self.hexadecimal else pl.String
