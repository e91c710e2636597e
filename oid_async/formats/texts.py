"""What several formats write alike: numbers as text, the list of classes that datumaro reads."""

import json
from collections.abc import Iterable
from pathlib import Path

import polars as pl

# A published coordinate has six decimals, and an image may be one pixel wide.
PIXEL_DECIMALS = 6


def fixed_pixels(value: pl.Expr) -> pl.Expr:
    """Return pixels as text, all with six decimals: not every reader knows `1e-6`."""
    return value.round(PIXEL_DECIMALS).cast(pl.Decimal(38, PIXEL_DECIMALS)).cast(pl.String)


def write_dataset_meta(folder: Path, labels: Iterable[str]) -> None:
    """Write dataset_meta.json, where datumaro finds the classes, in order, of a format that has no list of them."""
    text = json.dumps({"labels": list(labels)}, ensure_ascii=False)
    (folder / "dataset_meta.json").write_text(f"{text}\n", encoding="utf-8")
