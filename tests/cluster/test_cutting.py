"""How images are cut into parts: tables of sizes, and any sizes in any spans."""

import random
from itertools import pairwise

import polars as pl
import pytest

from oid_async.cluster.cutting import Cutter


def parts(sizes: list[int], most: int, most_images: int = 1000, span: int = 3) -> list[list[int]]:
    """Return the sizes of the images in each part, when they come in spans of so many."""
    cutter, cut = Cutter(most, most_images), [[]]  # type: ignore[var-annotated]
    for start in range(0, len(sizes), span):
        some = sizes[start : start + span]
        begun = 0
        for at in cutter.cut(pl.Series(some, dtype=pl.Int64)):
            cut[-1] += some[begun:at]
            cut.append([])
            begun = at
        cut[-1] += some[begun:]
    return cut


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], [[]]),
        ([10], [[10]]),
        ([11], [[11]]),
        ([4, 6], [[4, 6]]),
        ([4, 7], [[4], [7]]),
        ([11, 12, 1], [[11], [12], [1]]),
        ([0, 0, 0, 0, 10, 0, 1], [[0, 0, 0, 0, 10, 0], [1]]),
        ([9, 1, 1, 9, 10, 1], [[9, 1], [1, 9], [10], [1]]),
    ],
)
def test_a_part_is_closed_before_it_would_be_too_large(sizes: list[int], expected: list[list[int]]) -> None:
    """Of at most ten bytes, or of one image that has more."""
    assert parts(sizes, 10) == expected


def test_a_part_has_a_most_of_images_too() -> None:
    """Where sizes are unknown, or images tiny, their number bounds the memory that a part takes."""
    assert parts([0] * 7, 10, most_images=3, span=7) == [[0] * 3, [0] * 3, [0]]


def test_any_spans_make_the_same_parts() -> None:
    """Nothing depends on how many images come at once; each part is as full as it can be."""
    for seed in range(10):
        chance = random.Random(seed)
        sizes = [chance.choice((0, 1, 2, 5, 9, 10, 11, 30)) for _ in range(chance.randrange(1, 60))]
        cut = parts(sizes, 10, 7, span=chance.randrange(1, 20))
        assert cut == parts(sizes, 10, 7, span=len(sizes))
        assert [size for part in cut for size in part] == sizes
        for part, after in pairwise(cut):
            assert len(part) == 1 or sum(part) <= 10
            assert len(part) == 7 or sum(part) + after[0] > 10
