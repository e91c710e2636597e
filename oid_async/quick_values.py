"""Values at a fraction of what a frozen dataclass costs: to import its class, or to make a value for every image.

    frozen    few values of it are made    frozen            hashable    2 us more to make one
    define    few values of it are made    may be changed    not         as fast as a dataclass's
    value     one is made for an image     frozen for mypy   hashable    as fast as a dataclass's

dataclass writes the methods of a class as text and compiles them: 0.6 ms for a frozen one, which for the hundred that a
run imports was an eighth of all that 100 images took (measured, Python 3.11). These share methods, compiled once.

A frozen class sets each field by a call of its own: 1.6 us for the 16 of an Outcome, where all of the Python of a small
image takes some 50. A value of our own that is made for every image is therefore frozen for mypy alone (`value`), and
one that users get is made in another way (`maker_of`).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, FrozenInstanceError, InitVar, dataclass, field, fields, make_dataclass
from functools import cache, partial
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar, dataclass_transform, overload

if TYPE_CHECKING:
    from inspect import Signature

Value = TypeVar("Value")


@overload
def frozen(cls: type[Value]) -> type[Value]: ...
@overload
def frozen(*, kw_only: bool) -> Callable[[type[Value]], type[Value]]: ...
@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[Any] | None = None, *, kw_only: bool = False) -> Any:
    """Make a class what `dataclass(frozen=True, slots=True)` makes of it, in a fifteenth of the time.

    A value of it takes 2 us more to make: not for what is made an image or a row. Raises TypeError for a field with
    `init=False` or a `hash` of its own, and for an InitVar, which the shared methods do not know. A class that inherits
    from it is made by `frozen`, too.

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
    return _known(dataclass(init=False, repr=False, eq=False, slots=True, kw_only=kw_only)(_sharing(cls, _SHARED)))


@dataclass_transform(field_specifiers=(field,))
def define(cls: type[Value]) -> type[Value]:
    """Make a class what `dataclass(slots=True)` makes of it, in half the time: its `__init__` alone is its own."""
    # The class is made anew for its slots, after it got __eq__: that is why Python takes its __hash__ away.
    return dataclass(repr=False, eq=False, slots=True)(_sharing(cls, ("__repr__", "__eq__")))


def _sharing(cls: type[Value], names: Iterable[str]) -> type[Value]:
    """Give a class the shared methods of these names, but for those that were written in it."""
    own = dict(vars(cls))
    if "__eq__" in own and own["__hash__"] is None:
        del own["__hash__"]  # None is what Python gives a class with an __eq__ of its own
    for name in names:
        if name not in own:
            setattr(cls, name, vars(_Shared)[name])
    return cls


def _known(made: type[Value]) -> type[Value]:
    """Return a class whose fields are such as the shared methods know."""
    cls: Any = made
    for each in cls.__dataclass_fields__.values():
        if not each.init or each.hash is not None or isinstance(each.type, InitVar):
            raise TypeError(f"{made.__qualname__}.{each.name}: not for a class of shared methods: use dataclass")
    return made


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
    if len(names) > 1:
        return attrgetter(*names)
    return lambda value: tuple(getattr(value, name) for name in names)


class _Fields:
    """The signature of a class that shares its `__init__`, for `help` and `inspect`; made when it is asked for."""

    def __get__(self, instance: object, cls: Any) -> "Signature":
        from inspect import Parameter, Signature

        found = []
        for each in fields(cls):
            kind = Parameter.KEYWORD_ONLY if each.kw_only else Parameter.POSITIONAL_OR_KEYWORD
            default = each.default if each.default_factory is MISSING else ...
            default = Parameter.empty if default is MISSING else default
            found.append(Parameter(each.name, kind, default=default, annotation=each.type))
        return Signature(sorted(found, key=lambda each: each.kind))


class _Shared:
    """The methods that values share; they go over the fields."""

    __signature__ = _Fields()

    def __init__(self, /, *values: Any, **named: Any) -> None:
        cls: Any = type(self)
        names, by_place, defaults, factories = _parameters(cls)
        given = dict(zip(by_place, values, strict=False))
        if len(values) > len(by_place) or given.keys() & named.keys():
            raise TypeError(f"{cls.__qualname__}: {len(values)} values and those of {sorted(named)} are too many")
        given = {**defaults, **given, **named}
        for name, factory in factories.items():
            if name not in given:
                given[name] = factory()
        if unknown := given.keys() - names:
            raise TypeError(f"{cls.__qualname__} has no field {', '.join(map(repr, sorted(unknown)))}")
        if missing := names - given.keys():
            raise TypeError(f"{cls.__qualname__} needs {', '.join(map(repr, sorted(missing)))}")
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
_SHARED = (*_COMPARING, "__init__", "__signature__", "__setattr__", "__delattr__", "__getstate__", "__setstate__")


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
    return _known(dataclass(repr=False, eq=False, slots=True)(_sharing(cls, _COMPARING)))


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
