"""Values whose class is quick to import: they are what dataclass makes."""

import copy
import inspect
import math
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, InitVar, asdict, dataclass, field, fields, replace
from typing import Any

import pytest

from oid_async.quick_values import define, frozen, value


@frozen
class Point:
    x: int
    y: int = 2
    names: list[str] = field(default_factory=list, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "x", abs(self.x))


@frozen(kw_only=True)
class Named(Point):
    label: str


@define
class Place:
    x: int
    y: int = 2


@dataclass(frozen=True, slots=True)
class Usual:
    x: int
    y: int = 2


@frozen
class Like:
    x: int
    y: int = 2


@frozen
class OfItsOwn:
    name: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OfItsOwn)

    def __repr__(self) -> str:
        return "mine"


def test_a_frozen_value_is_made_compared_and_shown_like_a_dataclass() -> None:
    """Defaults, factories, names, what is left out of comparing and showing, __post_init__, fields of a base."""
    point = Point(-1, names=["a"])
    assert (point.x, point.y, point.names) == (1, 2, ["a"])
    assert point == Point(1, 2) != Point(1, 3)
    assert hash(point) == hash(Point(1))
    assert Point(1).names is not Point(1).names
    assert repr(point) == "Point(x=1, y=2)"
    assert replace(point, y=5) == Point(1, 5)
    assert asdict(Like(3)) == asdict(Usual(3))
    named = Named(4, label="a")
    assert repr(named) == "Named(x=4, y=2, label='a')"
    assert [each.name for each in fields(named)] == ["x", "y", "names", "label"]
    assert named != Point(4)
    assert OfItsOwn("a") == OfItsOwn("b")
    assert repr(OfItsOwn("a")) == "mine"
    assert not hasattr(point, "__dict__")


def test_a_frozen_value_is_frozen_and_can_be_copied_and_sent() -> None:
    """Workers get values by pickle."""
    point = Point(3)
    for name in ("x", "z"):
        with pytest.raises(FrozenInstanceError):
            setattr(point, name, 4)
        with pytest.raises(FrozenInstanceError):
            delattr(point, name)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(point, protocol)) == point
    assert copy.copy(point) == copy.deepcopy(point) == point


def test_a_defined_value_can_be_changed_and_has_no_hash() -> None:
    """As of `dataclass(slots=True)`."""
    place = Place(1)
    place.y = 3
    assert place == Place(1, 3) != Place(1)
    assert repr(place) == "Place(x=1, y=3)"
    assert pickle.loads(pickle.dumps(place)) == place
    assert Place.__hash__ is None
    assert not hasattr(place, "__dict__")


@pytest.mark.parametrize(
    ("values", "named"), [((), {}), ((1, 2, [], 4), {}), ((1,), {"x": 1}), ((1,), {"z": 1}), ((), {"y": 1})]
)
def test_a_frozen_value_refuses_what_is_missing_or_too_much(values: tuple[Any, ...], named: dict[str, Any]) -> None:
    """As a function with these parameters does."""
    with pytest.raises(TypeError, match="Point"):
        Point(*values, **named)


def test_one_field_is_compared_as_a_dataclass_does() -> None:
    """A value that is not equal to itself is the same value all the same; a class may have no hash."""

    @frozen
    class One:
        x: float

    @frozen
    class Unhashable:
        x: int
        __hash__ = None  # type: ignore[assignment]

    assert One(math.nan) == One(math.nan)
    assert hash(One(1.0)) == hash((1.0,))
    with pytest.raises(TypeError, match="unhashable"):
        hash(Unhashable(1))


def test_a_signature_names_the_fields() -> None:
    """`help` of a class that users get says what it takes."""
    assert str(inspect.signature(Point)) == "(x: int, y: int = 2, names: list[str] = Ellipsis)"
    assert [*inspect.signature(Named).parameters] == ["x", "y", "names", "label"]


@pytest.mark.parametrize("made_by", [frozen, value])
@pytest.mark.parametrize("odd", [field(init=False), field(hash=False), InitVar])
def test_what_the_shared_methods_do_not_know_is_refused(made_by: Callable[[type], type], odd: object) -> None:
    """When the class is made, not when a value is compared."""
    members: dict[str, object] = {"__annotations__": {"x": InitVar[int] if odd is InitVar else int}}
    members |= {} if odd is InitVar else {"x": odd}
    with pytest.raises(TypeError, match=r"Odd\.x"):
        made_by(type("Odd", (), members))
