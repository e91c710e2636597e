"""Rows that really are Open Images: the numbers of a query and of a folder are those that DuckDB counts.

The files lie beside the project and are not part of it; without them this module is skipped.
"""

import asyncio
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.duckdb_statistics import Asked
from support.gallery_folders import manifest_row, write_folder

import oid_async

REAL = Path(__file__).resolve().parents[3] / "shared" / "real"
TRAIN_BOXES = REAL / "bbox/sysaster-train-annotations-bbox.csv"
CLASSES = REAL / "official/v5/class-descriptions-boxable.csv"

if not TRAIN_BOXES.is_file():
    pytest.skip("the real Open Images files are not beside the project (../shared/real)", allow_module_level=True)


def test_numbers_of_real_boxes_are_those_of_duckdb(tmp_path: Path) -> None:
    """Thirteen thousand boxes of train: classes, boxes an image, shares, centres, what is together, flags."""
    boxes = pl.read_csv(TRAIN_BOXES, infer_schema=False)
    ids = boxes.get_column("ImageID").unique().sort()
    images = [manifest_row(number, b"", (1024, 768)) | {"ImageID": image_id} for number, image_id in enumerate(ids)]
    called = pl.read_csv(CLASSES, has_header=False, new_columns=["LabelName", "Category"])
    saved = write_folder(
        tmp_path / "saved",
        [(row, None) for row in images],
        {"bbox": boxes.join(called, on="LabelName", how="left", maintain_order="left").to_dicts()},
    )
    table = tmp_path / "images.csv"
    ids.to_frame().with_columns(OriginalURL="https://example.org/" + pl.col("ImageID") + ".jpg").write_csv(table)
    tables: Any = {"annotation": TRAIN_BOXES, "label": CLASSES, "image_url": table}
    of_query = asyncio.run(oid_async.stats(offline=True, **tables)).as_json()
    of_folder, asked = asyncio.run(oid_async.stats(saved)).as_json(), Asked(saved)
    for found in (of_query, of_folder):
        assert (found["images"]["selected"], found["kinds"]) == (len(ids), {"bbox": len(boxes)})
        assert {each["label"]: each for each in found["classes"]} == asked.classes()
        assert found["cooccurrence"]["images"] == asked.together(found["cooccurrence"]["labels"])
        assert found["boxes_per_image"] == asked.boxes_per_image()
        assert found["flags"] == asked.flags()
        assert found["box_positions"]["counts"] == asked.positions()
        share = found["box_share"]
        answer = asked.histogram("boxes", "share", share["edges"])
        assert share == answer | {"median": pytest.approx(answer["median"], rel=1e-15)}
    aspect = of_folder["box_aspect"]
    assert aspect["median"] == pytest.approx(asked.histogram("boxes", "aspect", aspect["edges"])["median"], rel=1e-15)
