"""The value that `stats` returns."""

import json

from oid_async.statistics.value import BoxesPerImage, ClassCounts, FlagCounts, Statistics


def test_statistics_are_plain_json() -> None:
    """Every part is there, lists in place of tuples; what a source has not is empty."""
    found = Statistics(
        "query",
        classes=(ClassCounts("/m/0bt9lr", "Dog", images=2, boxes=3, flags={"IsOccluded": 1}),),
        boxes_per_image=BoxesPerImage(((1, 1), (2, 1)), 1.5, 1.5, 2),
        flags={"IsOccluded": FlagCounts(1, 2, 0)},
    ).as_json()
    assert json.loads(json.dumps(found)) == found
    assert found["boxes_per_image"] == {"counts": [[1, 1], [2, 1]], "mean": 1.5, "median": 1.5, "max": 2}
    assert found["classes"][0]["flags"] == {"IsOccluded": 1}
    assert found["flags"] == {"IsOccluded": {"yes": 1, "no": 2, "unknown": 0}}
    assert found["box_aspect"] == {"edges": [], "counts": [], "median": None}
    assert found["box_positions"] == {"rows": 24, "columns": 24, "counts": []}
    assert found["images"] == {"selected": 0, "ok": None, "failed": None, "pending": None, "bytes": None}
