"""Values at a fraction of what a frozen dataclass costs: to import its class, or to make a value for every image.

dataclass writes the methods of a class as text and compiles them: 0.6 ms for a frozen one, which for the hundred that a
run imports was an eighth of all that 100 images took (measured, Python 3.11). A class of which a run makes a few values
therefore shares methods that are compiled once (`frozen`).

A frozen class sets each field by a call of its own: 1.6 us for the 16 of an Outcome, where all of the Python of a small
image takes some 50. A value of our own that is made for every image is therefore frozen for mypy alone (`value`), and
one that users get is made in another way (`maker_of`).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, FrozenInstanceError, dataclass, field, fields, make_dataclass
from functools import cache, partial
from operator import attrgetter
from reprlib import recursive_repr
from typing import Any, NamedTuple, NoReturn, TypeVar, dataclass_transform, overload

Value = TypeVar("Value")


@overload
def frozen(cls: type[Value]) -> type[Value]: ...
@overload
def frozen(*, kw_only: bool) -> Callable[[type[Value]], type[Value]]: ...
@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[Any] | None = None, *, kw_only: bool = False) -> Any:
    """Make a class what `dataclass(frozen=True, slots=True)` makes of it, in a fifteenth of the time.

    A value of it takes 2 us more to make: not for what is made an image or a row.

    >>> @frozen
    ... class Size:
    ...     width: int
    ...     height: int = 1
    >>> Size(3), Size(3) == Size(3, 1), len({Size(3), Size(width=3)})
    (Size(width=3, height=1), True, 1)
    >>> Size(3).width = 4
    Traceback (most recent call last):
    dataclasses.FrozenInstanceError: cannot assign to field 'width'
    """
    if cls is None:
        return partial(frozen, kw_only=kw_only)
    return dataclass(init=False, repr=False, eq=False, slots=True, kw_only=kw_only)(_sharing(cls, _SHARED))


@dataclass_transform(field_specifiers=(field,))
def define(cls: type[Value]) -> type[Value]:
    """Make a class what `dataclass(slots=True)` makes of it, in half the time: its `__init__` alone is its own."""
    return dataclass(repr=False, eq=False, slots=True)(_sharing(cls, ("__repr__", "__eq__")))


def _sharing(cls: type[Value], names: Iterable[str]) -> type[Value]:
    """Give a class the shared methods of these names, but for those that were written in it."""
    for name in names:
        if vars(cls).get(name) is None:  # one with an __eq__ of its own has None for __hash__
            setattr(cls, name, vars(_Shared)[name])
    return cls


class _Parameters(NamedTuple):
    """What `__init__` takes: all fields, those whose value may come without a name, and what others are by default."""

    names: frozenset[str]
    by_place: tuple[str, ...]
    defaults: dict[str, Any]
    factories: dict[str, Callable[[], Any]]


@cache
def _parameters(cls: Any) -> _Parameters:
    every = fields(cls)
    return _Parameters(
        frozenset(each.name for each in every),
        tuple(each.name for each in every if not each.kw_only),
        {each.name: each.default for each in every if each.default is not MISSING},
        {each.name: each.default_factory for each in every if each.default_factory is not MISSING},
    )


@cache
def _compared(cls: Any) -> Callable[[Any], Any]:
    """Return what gives the fields by which two values of a class are the same."""
    names = [each.name for each in fields(cls) if each.compare]
    return attrgetter(*names) if names else lambda _: ()


class _Shared:
    """The methods that values share; they go over the fields."""

    def __init__(self, /, *values: Any, **named: Any) -> None:
        cls: Any = type(self)
        names, by_place, defaults, factories = _parameters(cls)
        given = dict(zip(by_place, values, strict=False))
        if len(values) > len(by_place) or given.keys() & named.keys():
            raise TypeError(f"{cls.__qualname__}: {len(values)} values and {sorted(named)} are too many")
        given = {**defaults, **given, **named}
        for name, factory in factories.items():
            if name not in given:
                given[name] = factory()
        if given.keys() != names:
            raise TypeError(f"{cls.__qualname__}: missing or unknown: {sorted(given.keys() ^ names)}")
        for name, value in given.items():
            object.__setattr__(self, name, value)
        if hasattr(cls, "__post_init__"):
            cls.__post_init__(self)

    @recursive_repr()
    def __repr__(self: Any) -> str:
        shown = ", ".join(f"{each.name}={getattr(self, each.name)!r}" for each in fields(self) if each.repr)
        return f"{type(self).__qualname__}({shown})"

    def __eq__(self, other: object) -> bool:
        cls: Any = type(self)
        compared = _compared(cls)
        return bool(compared(self) == compared(other)) if type(other) is cls else NotImplemented

    def __hash__(self) -> int:
        cls: Any = type(self)
        return hash(_compared(cls)(self))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def __getstate__(self: Any) -> list[Any]:
        return [getattr(self, each.name) for each in fields(self)]

    def __setstate__(self: Any, state: Sequence[Any]) -> None:
        for each, value in zip(fields(self), state, strict=True):
            object.__setattr__(self, each.name, value)


_COMPARING = ("__repr__", "__eq__", "__hash__")
_SHARED = (*_COMPARING, "__init__", "__setattr__", "__delattr__", "__getstate__", "__setstate__")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[Value]) -> type[Value]:
    """Make a class a dataclass with slots whose values are not changed once they are made: mypy sees to that.

    >>> @value
    ... class Size:
    ...     width: int
    ...     height: int = 1
    >>> Size(3), Size(3) == Size(3, 1), len({Size(3), Size(3)})
    (Size(width=3, height=1), True, 1)
    """
    return dataclass(repr=False, eq=False, slots=True)(_sharing(cls, _COMPARING))


def maker_of(frozen: type[Value]) -> Callable[..., Value]:
    """Return what makes values of a frozen dataclass with slots: of all its fields, in their order, without checks.

    A draft of another class with the same slots, which then becomes one, takes 0.4 us in place of 1.6 (measured). The
    class may have no `__post_init__`.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True, slots=True)
    ... class Size:
    ...     width: int
    ...     height: int = 1
    >>> maker_of(Size)(640, 480) == Size(640, 480)
    True
    """
    names: list[str] = [each.name for each in fields(frozen)]  # type: ignore[arg-type]
    draft_of: Any = make_dataclass("_Draft", names, repr=False, eq=False, slots=True)

    def make(*values: object) -> Value:
        draft: Value = draft_of(*values)
        draft.__class__ = frozen
        return draft

    return make
