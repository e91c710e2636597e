"""An address's parameters as a state: what they mean, and what is said of those that mean nothing."""

import pytest

from oid_async.errors import UsageError
from oid_async.gallery.state import State, read_number


def test_every_parameter_is_read() -> None:
    """Repeated ones are alternatives, in order and once; a % behind an area, `val`, any case of words."""
    given = (
        "class=Dog&class=Cat&class=Dog&match=ALL&without=/m/01g317&kind=bbox&flag=IsOccluded:yes&flag=IsInside:no"
        "&split=val&split=train&source=cvdf&status=failed&reason=gone&role=negative&caption= Two dogs &min_area=2.5%25"
        "&max_area=50&sort=area&order=desc&image=train/00&hide=Cat&theme=dark&unheard=of"
    )
    words = [tuple(word.replace("%25", "%").split("=", 1)) for word in given.split("&")]
    assert State.read([(name, value) for name, value in words]) == State(
        classes=("Dog", "Cat"),
        match="all",
        without=("/m/01g317",),
        kind="bbox",
        flags=(("IsOccluded", 1), ("IsInside", 0)),
        splits=("validation", "train"),
        sources=("cvdf",),
        statuses=("failed",),
        reasons=("gone",),
        roles=("negative",),
        caption="Two dogs",
        min_area=2.5,
        max_area=50.0,
        sort="area",
        order="desc",
    )


def test_empty_values_are_no_filters() -> None:
    """As a form sends them that nobody has filled in."""
    assert State.read([("class", ""), ("caption", "  "), ("min_area", ""), ("sort", "")]) == State()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("match", "some", "match takes any or all, not 'some'"),
        ("kind", "boxes", "kind takes bbox, segmentation"),
        ("flag", "IsOccluded", "then :yes or :no"),
        ("flag", "IsRed:yes", "flag takes IsOccluded"),
        ("split", "../x", "split takes train, validation or test"),
        ("status", "lost", "status takes ok, failed or pending"),
        ("sort", "magic", "sort takes image_id"),
        ("min_area", "nan", "a percentage of the image, 0 to 100"),
        ("max_area", "101", "a percentage of the image, 0 to 100"),
        ("max_area", "1e999", "a percentage of the image, 0 to 100"),
        ("role", "\x1b[31m", r"not '\\x1b"),
        ("class", "x" * 2000, "class has 2000 characters"),
    ],
)
def test_a_value_that_cannot_be_read_is_named(name: str, value: str, says: str) -> None:
    """One line says which parameter, what it takes and what was given."""
    with pytest.raises(UsageError, match=says):
        State.read([(name, value)])


def test_areas_that_no_box_can_have_are_refused() -> None:
    """The least one is more than the most."""
    with pytest.raises(UsageError, match="min_area=5 is more than max_area=4"):
        State.read([("min_area", "5"), ("max_area", "4")])


def test_numbers_have_bounds() -> None:
    """Of offset and limit: a larger one is the largest, anything but digits an error."""
    assert read_number([("limit", "70")], "limit", 120, 200) == 70
    assert read_number([("limit", "999999")], "limit", 120, 200) == 200
    assert read_number([("other", "1")], "limit", 120, 200) == 120
    for text in ("-1", "1.5", "ten", "٣"):
        with pytest.raises(UsageError, match="limit takes a whole number"):
            read_number([("limit", text)], "limit", 120, 200)
