"""What a user may ask for: every option once, with its flags, default, meaning and validation.

`Options` is the single source: the command line builds its parser from the fields' metadata, the Python doors take the
field names as keywords (`QueryOptions` repeats them for type checkers; a test keeps the two together).
"""

import difflib
import os
from collections.abc import Iterable, Sequence
from dataclasses import Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self, TypedDict, Unpack, get_args

from oid_async.errors import UsageError

Match = Literal["any", "all"]
Split = Literal["train", "validation", "test"]
Source = Literal["cvdf", "original", "thumbnail"]
Names = Literal["url", "id"]
Kind = Literal["bbox"]

SPLITS: tuple[Split, ...] = get_args(Split)
SOURCES: tuple[Source, ...] = get_args(Source)
_MATCH_WORDS: dict[str, Match] = {"any": "any", "sum": "any", "all": "all", "inter": "all"}


class QueryOptions(TypedDict, total=False):
    """The keywords of `download`, `plan` and `stream`; see `Options` for what each means."""

    categories: Sequence[str]
    match: str
    limit: int | None
    splits: Sequence[str]
    kinds: Sequence[str]
    label: str | os.PathLike[str] | None
    annotation: str | os.PathLike[str] | None
    image_url: str | os.PathLike[str] | None
    savepath: str | os.PathLike[str]
    source: Sequence[str] | None
    names: str
    mirror: str | os.PathLike[str] | None
    cache_dir: str | os.PathLike[str] | None
    concurrency: int | None
    rate: float | None
    period: float
    allow_hosts: Sequence[str]


def _option(
    default: Any,
    *flags: str,
    doc: str,
    metavar: str | None = None,
    kind: type = str,
    choices: Iterable[str] | None = None,
    many: bool = False,
    commas: bool = False,
) -> Any:
    """Make one field of `Options`; the metadata is all the command line needs to offer it."""
    metadata = {"flags": flags, "help": doc, "metavar": metavar, "type": kind, "choices": choices}
    return field(default=default, metadata=metadata | {"many": many, "commas": commas})


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """One query and how to carry it out. Values are checked and normalised when the object is made.

    Raises UsageError, naming the option, for a value that cannot be used.
    """

    categories: tuple[str, ...] = _option(
        (),
        "--category",
        many=True,
        metavar="NAME",
        doc="a class, repeatable: display name (any case, _ for space) or MID; default: every image with a box",
    )
    match: Match = _option(
        "any",
        "--type",
        "--match",
        choices=_MATCH_WORDS,
        metavar="sum|inter",
        doc="sum (any): images with any of the categories; inter (all): with every one of them; default sum",
    )
    limit: int | None = _option(
        None,
        "--ndata",
        "--limit",
        kind=int,
        metavar="N",
        doc="the first N selected images in order of ImageID; -1 for all, the default",
    )
    splits: tuple[Split, ...] = _option(
        (),
        "--split",
        many=True,
        choices=(*SPLITS, "all"),
        metavar="train|validation|test|all",
        doc="repeatable; default train, or what the given tables say",
    )
    kinds: tuple[Kind, ...] = _option(
        ("bbox",), "--kind", many=True, choices=get_args(Kind), metavar="bbox", doc="annotations to save; default bbox"
    )
    label: str | None = _option(
        None,
        "--label",
        "--classes-file",
        metavar="PATH_OR_URL",
        doc="class table (MID, name) in place of the published one: .csv, .csv.gz or .parquet",
    )
    annotation: str | None = _option(
        None,
        "--annotation",
        "--boxes-file",
        metavar="PATH_OR_URL",
        doc="box table in place of the published one; needs ImageID and LabelName",
    )
    image_url: str | None = _option(
        None,
        "--imageURL",
        "--image-url",
        metavar="PATH_OR_URL",
        doc="image table in place of the published one; needs ImageID and OriginalURL",
    )
    savepath: Path = _option(
        Path("train_data"), "--savepath", kind=Path, metavar="DIR", doc="where everything lands; default train_data"
    )
    source: tuple[Source, ...] | None = _option(
        None,
        "--source",
        commas=True,
        metavar="cvdf,original,thumbnail",
        doc="order of sources for one image; default cvdf,original; cvdf alone with a mirror",
    )
    names: Names = _option(
        "url",
        "--names",
        choices=get_args(Names),
        metavar="url|id",
        doc="file names: last part of OriginalURL, or <ImageID>.jpg; default url",
    )
    mirror: str | None = _option(
        None,
        "--mirror",
        metavar="URL_OR_DIR",
        doc="read every published object from URL/<bucket>/<key>; also a folder; default $OID_ASYNC_MIRROR",
    )
    cache_dir: Path | None = _option(
        None,
        "--cache-dir",
        kind=Path,
        metavar="DIR",
        doc="where fetched tables are kept; default $OID_ASYNC_CACHE or the user's cache folder",
    )
    concurrency: int | None = _option(
        None, "--concurrency", kind=int, metavar="N", doc="at most N transfers at once; default 64"
    )
    rate: float | None = _option(
        None,
        "--rate",
        kind=float,
        metavar="R",
        doc="at most R requests per period and host, re-sends counted; 0: no cap; default 10 for Flickr, else no cap",
    )
    period: float = _option(1.0, "--period", kind=float, metavar="S", doc="the period of --rate in seconds; default 1")
    allow_hosts: tuple[str, ...] = _option(
        (),
        "--allow-host",
        many=True,
        metavar="HOST:PORT",
        doc="a non-global address that may be connected to, repeatable; default the mirror's own",
    )

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "categories", _words(self, "categories"))
        put(self, "match", _one_of(self, "match", _MATCH_WORDS))
        put(self, "splits", _splits(_words(self, "splits")))
        put(self, "kinds", tuple(_member(self, "kinds", word, get_args(Kind)) for word in _words(self, "kinds")))
        put(self, "names", _one_of(self, "names", {name: name for name in get_args(Names)}))
        put(self, "allow_hosts", _words(self, "allow_hosts"))
        for name in ("label", "annotation", "image_url", "mirror"):
            put(self, name, _place(self, name) or None)
        put(self, "mirror", self.mirror or os.environ.get("OID_ASYNC_MIRROR") or None)
        if not _place(self, "savepath"):
            raise UsageError("--savepath is empty")
        put(self, "savepath", Path(self.savepath))
        _place(self, "cache_dir")
        cache_dir = self.cache_dir or os.environ.get("OID_ASYNC_CACHE") or None
        put(self, "cache_dir", Path(cache_dir) if cache_dir else None)
        if self.source is not None:
            put(self, "source", _sources(self))
        _check_numbers(self)
        put(self, "limit", None if self.limit == -1 else self.limit)
        if self.match == "all" and not self.categories:
            raise UsageError(f"{_called('match')} inter needs at least one --category to intersect")
        for host in self.allow_hosts:
            name, _, port = host.rpartition(":")
            if not (name and "/" not in name and port.isdecimal() and 0 < int(port) < 65536):
                raise UsageError(f"{_called('allow_hosts')} takes HOST:PORT, such as 127.0.0.1:8080, not {host!r}")

    @classmethod
    def of(cls, **query: Unpack[QueryOptions]) -> Self:
        """Make Options from what a person passes: lists, paths or strings, and the words of either door."""
        for name in query:
            if name not in QueryOptions.__annotations__:
                near = difflib.get_close_matches(name, QueryOptions.__annotations__, n=1)
                raise TypeError(f"no option {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        return cls(**query)  # type: ignore[arg-type]

    def as_json(self) -> dict[str, Any]:
        """Return the options as plain JSON values, for query.json."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def option_fields() -> tuple[Field[Any], ...]:
    """Return the fields of Options with their command line metadata, in the order of the help page."""
    return fields(Options)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def _called(name: str) -> str:
    """Name an option the way both doors know it: 'limit (--ndata)'."""
    flag = Options.__dataclass_fields__[name].metadata["flags"][0]
    return flag if flag == f"--{name}" else f"{name} ({flag})"


def _words(options: Options, name: str) -> tuple[str, ...]:
    """Return a repeatable option as a tuple of words; one bare string is one word, not its letters."""
    value: object = getattr(options, name)
    if not isinstance(value, str | Iterable | None):
        raise UsageError(f"{_called(name)} takes names, not {value!r}")
    words = (value,) if isinstance(value, str) else tuple(value) if value is not None else ()
    for word in words:
        if not isinstance(word, str) or not word.strip():
            raise UsageError(f"{_called(name)} takes names, not {word!r}")
    return words


def _place(options: Options, name: str) -> str | None:
    """Return a path or URL as text. Raises UsageError for what is neither."""
    value = getattr(options, name)
    if value is not None and not isinstance(value, str | os.PathLike):
        raise UsageError(f"{_called(name)} takes a path, not {value!r}")
    return None if value is None else str(os.fspath(value))


def _member(options: Options, name: str, word: object, allowed: Iterable[str]) -> str:
    if not isinstance(word, str) or word not in allowed:
        raise UsageError(f"{_called(name)} is one of {', '.join(allowed)}, not {word!r}")
    return word


def _one_of(options: Options, name: str, allowed: dict[str, Any]) -> Any:
    return allowed[_member(options, name, getattr(options, name), allowed)]


def _splits(words: tuple[str, ...]) -> tuple[str, ...]:
    for word in words:
        if word not in (*SPLITS, "all"):
            raise UsageError(f"{_called('splits')} is one of {', '.join(SPLITS)}, all, not {word!r}")
    return tuple(split for split in SPLITS if split in words or "all" in words)


def _sources(options: Options) -> tuple[str, ...]:
    words = tuple(part.strip() for word in _words(options, "source") for part in word.split(","))
    if not words:
        raise UsageError(f"{_called('source')} names no source; it is one or more of {', '.join(SOURCES)}")
    for word in words:
        _member(options, "source", word, SOURCES)
    if len(set(words)) != len(words):
        raise UsageError(f"{_called('source')} names a source twice: {','.join(words)}")
    return words


def _check_numbers(options: Options) -> None:
    for name, kind in (("limit", int), ("concurrency", int), ("rate", (int, float)), ("period", (int, float))):
        value = getattr(options, name)
        if value is None and name == "period":
            raise UsageError(f"{_called(name)} takes a number, not None")
        if value is not None and (isinstance(value, bool) or not isinstance(value, kind) or value != value):
            raise UsageError(f"{_called(name)} takes a number, not {value!r}")
    if options.limit is not None and options.limit < -1:
        raise UsageError(f"{_called('limit')} takes a count, or -1 for all, not {options.limit}")
    if options.concurrency is not None and not 1 <= options.concurrency <= 1024:
        raise UsageError(f"{_called('concurrency')} is from 1 to 1024, not {options.concurrency}")
    if options.rate is not None and not 0 <= options.rate < float("inf"):
        raise UsageError(f"{_called('rate')} is 0 (no cap) or more requests, not {options.rate}")
    if not 0 < options.period < float("inf"):
        raise UsageError(f"{_called('period')} is a positive number of seconds, not {options.period}")
