"""Numbers of ids of a user's own decide the images of a seed and the ids in exported files: they never change."""

from oid_async.openimages.ids import export_number, shuffle_number


def test_numbers_of_own_ids_stay() -> None:
    """The numbers of 0.1.0."""
    assert shuffle_number("cat_1") == 0x34E51A2BEBB261B0
    assert export_number("cat_1") == 0xD046CFCE5DEBB252
