"""The generation that follows when every part of the ones before has its record, made of records and part files alone.

Images that waited for a host with a cap come first; else, when a run begins and all is done, those that have failed.
Rows are read part by part, merged in order of ImageID, and put again under new numbers. Whoever makes the same
generation makes the same parts.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import polars as pl

from oid_async.cluster.asking import Asking
from oid_async.cluster.cutting import PartCutter
from oid_async.cluster.generations import (
    get_part,
    get_record,
    put_begun,
    put_generation,
    put_part,
    read_begun,
    read_generation,
    used_archives,
)
from oid_async.cluster.part_file import NEXT
from oid_async.cluster.published import Begun, Cause, Generation, Part, PublishedQuery
from oid_async.http.opt_out import lifted
from oid_async.masks.archive import ArchiveState
from oid_async.objects.store import Objects
from oid_async.openimages.ids import KEY, among
from oid_async.openimages.vocabulary import Source
from oid_async.options.readers import RespectOptOut
from oid_async.report import FINAL_KINDS, OPTED_OUT, PASSING_KINDS

_AT_ONCE = 8
_PUTS_AT_ONCE = 4
_KNOWN = ("Known", "KnownSource", "KnownURL", "Reason")
Item = TypeVar("Item")
Result = TypeVar("Result")


class _StoppedError(Exception):
    """Nothing more is to be done."""


@dataclass(frozen=True, slots=True)
class Next:
    """Makes the generation after `generations`, all of whose parts have records. Blocking.

    `rate` is --rate. With `retries` images that have failed are asked again: those by a passing kind, with
    `retry_failed` all; of those whose host has opted out the ones that `respect_opt_out` takes no notice of. `job` is
    the cluster's job that this run is part of: one that has published the last generation retries nothing more.
    """

    objects: Objects
    query: PublishedQuery
    generations: Sequence[Generation]
    rate: float | None = None
    retries: bool = False
    retry_failed: bool = False
    respect_opt_out: RespectOptOut = True
    job: str | None = None
    stopped: Callable[[], bool] = lambda: False

    def publish(self, stopped: Callable[[], bool] = lambda: False) -> Generation | None:
        """Publish it and return it; None if no image is left to ask. Raises InputError, StorageError.

        Once `stopped` nothing more is read or put, and None is returned.
        """
        try:
            return replace(self, stopped=stopped)._publish()
        except _StoppedError:
            return None

    def _publish(self) -> Generation | None:
        number = len(self.generations)
        if (there := read_generation(self.objects, number)) is not None:
            return there
        begun = read_begun(self.objects, number)
        candidates: list[_Candidates] | None = None
        if begun is None:
            decided = self._decide()
            if decided is None:
                return None
            begun, candidates = decided
            theirs = put_begun(self.objects, number, begun)
            if theirs != begun:
                begun, candidates = theirs, None
        parts = self._put_parts(number, begun, candidates or self._candidates(begun))
        return put_generation(self.objects, Generation(number, parts, begun.capped, self.job))

    def _decide(self) -> "tuple[Begun, list[_Candidates]] | None":
        """Return how the generation is to be made, and which images it has; None without any."""
        begun = Begun("waiting", self.rate, capped=True, respect_opt_out=self.respect_opt_out)
        if waiting := self._candidates(begun):
            return begun, waiting
        if not self.retries or (self.job is not None and self.generations[-1].job == self.job):
            return None
        cause: Cause = "failed" if self.retry_failed else "passing"
        uncapped = replace(begun, cause=cause, capped=bool(self.rate))
        failed = self._candidates(uncapped)
        if not failed:
            return None
        if not self.rate and self.rate is None:
            asking = self._asking(uncapped)
            is_any_asked = any(
                (frame.get_column("Action") == "fetch").any() for frame in self._rows(uncapped, asking, failed, {})
            )
            return replace(uncapped, capped=not is_any_asked), failed
        return uncapped, failed

    def _candidates(self, begun: Begun) -> "list[_Candidates]":
        """Return which images of which parts the generation has: by their latest rows."""
        found: list[_Candidates] = []
        later = pl.Series(KEY, [], None)
        generations = self.generations[-1:] if begun.cause == "waiting" else self.generations
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for generation in reversed(generations):
                keys = [later]
                chosen = []
                rows = self._ahead(pool, lambda part: _states(self.objects, part, begun), generation.parts)
                for part, states in zip(generation.parts, rows, strict=True):
                    is_wanted = states.get_column("wanted")
                    if len(later):
                        is_wanted &= ~among(states.get_column(KEY), later)
                    wanted = states.get_column(KEY).filter(is_wanted)
                    if len(wanted):
                        chosen.append(_Candidates(part, wanted))
                    if generation.number:
                        keys.append(states.get_column(KEY))
                later = pl.concat([each for each in keys if len(each)]).sort() if any(map(len, keys)) else later
                found = [*chosen, *found]
        return found

    def _asking(self, begun: Begun) -> Asking:
        sources: Sequence[Any] = self.query.sources
        return Asking(sources, begun.rate, begun.capped)

    def _put_parts(self, number: int, begun: Begun, candidates: "Sequence[_Candidates]") -> list[Part]:
        """Put the parts of the generation, and return them in order of split and number."""
        asking, states = self._asking(begun), dict[str, ArchiveState]()
        cutter = PartCutter(number, asking, self.query.part_size, self._next_numbers())

        def full() -> Iterator[tuple[Part, pl.DataFrame]]:
            for images in self._rows(begun, asking, candidates, states):
                yield from cutter.add(images)
            yield from cutter.rest()

        def put(made: tuple[Part, pl.DataFrame]) -> Part:
            part, images = made
            return put_part(self.objects, part, images, used_archives(images, states))

        with ThreadPoolExecutor(_PUTS_AT_ONCE) as pool:
            return sorted(self._ahead(pool, put, full(), ahead=_PUTS_AT_ONCE), key=self._order)

    def _ahead(
        self, pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int = _AT_ONCE
    ) -> Iterator[Result]:
        """Yield what the function returns for each item, in order; a few are under way in the pool."""
        under_way: deque[Future[Result]] = deque()
        for item in items:
            if self.stopped():
                raise _StoppedError
            under_way.append(pool.submit(function, item))
            if len(under_way) > ahead:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()

    def _next_numbers(self) -> dict[str, int]:
        numbers: dict[str, int] = {}
        for generation in self.generations:
            for part in generation.parts:
                numbers[part.split] = max(numbers.get(part.split, 0), part.number + 1)
        return numbers

    def _order(self, part: Part) -> tuple[int, str, int]:
        first = [each.split for each in self.generations[0].parts]
        return first.index(part.split), part.split, part.number

    def _rows(
        self, begun: Begun, asking: Asking, candidates: "Sequence[_Candidates]", states: dict[str, ArchiveState]
    ) -> Iterator[pl.DataFrame]:
        """Yield the images in order of split and ImageID, with all their annotations; add the archives to `states`."""

        def load(each: "_Candidates") -> pl.DataFrame:
            images, archives = get_part(self.objects, each.part)
            states.update(archives)
            images = images.filter(pl.col(KEY).is_in(each.keys.implode()))
            known = get_record(self.objects, each.part, [KEY, "Known", "Detail", NEXT])
            known = known.select(KEY, Remembered=pl.coalesce("Known", "Detail"), Waiting=NEXT)
            return _asked_again(images, known, begun, asking)

        for split in dict.fromkeys(each.part.split for each in candidates):
            of_split = [each for each in candidates if each.part.split == split]
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                yield from _merged(
                    [
                        self._ahead(
                            pool, load, [each for each in of_split if each.part.generation == generation.number]
                        )
                        for generation in self.generations
                    ]
                )


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Images of one part that the next generation has, by their keys."""

    part: Part
    keys: pl.Series


def _states(objects: Objects, part: Part, begun: Begun) -> pl.DataFrame:
    """Return KEY of the images of a part, and whether each is `wanted` as far as its record says."""
    rows = get_record(objects, part, [KEY, "Status", "Reason", "Detail", NEXT])
    if begun.cause == "waiting":
        wanted = (pl.col("Status") == "pending") & pl.col(NEXT).is_not_null()
    else:
        # Pending though a later generation was made: its part was made again since, and it waited for none before.
        wanted = pl.col("Status") == "pending"
        is_wanted = pl.lit(True)
        if begun.cause == "passing":
            # What has ended an image is the last word of its Detail.
            last = pl.col("Detail").str.extract(r"([^:]*)$")
            is_lifted = _is_lifted(last, begun.respect_opt_out) & (pl.col("Reason") == OPTED_OUT)
            is_wanted = pl.col("Reason").is_in(list(PASSING_KINDS)) | is_lifted
        wanted = wanted | ((pl.col("Status") == "failed") & is_wanted)
    return rows.select(KEY, wanted=wanted.fill_null(False))


def _asked_again(images: pl.DataFrame, known: pl.DataFrame, begun: Begun, asking: Asking) -> pl.DataFrame:
    """Return images with what is remembered of them and whom they are asked of now; columns and order stay."""
    columns, cause = images.columns, begun.cause
    images = images.join(known, on=KEY, how="left", maintain_order="left")

    def is_wanted(source: Source) -> pl.Expr:
        if cause == "failed":
            return pl.lit(True)
        if cause == "waiting":
            return pl.col("Waiting").str.split(",").list.contains(source).fill_null(False)
        return _final(source, begun.respect_opt_out).is_null()

    images = asking.divide(images, is_wanted)
    nothing = pl.lit(None, pl.String)
    remembered = nothing
    if cause != "failed":
        parts = [_final(source, begun.respect_opt_out) for source in asking.sources]
        remembered = pl.concat_str(parts, separator="; ", ignore_nulls=True).replace("", None)
    values = dict.fromkeys(_KNOWN, nothing) | {"Known": remembered}
    return images.with_columns(**values).select(columns)


def _final(source: Source, respect_opt_out: RespectOptOut) -> pl.Expr:
    """Return what a Detail says of a source if that is final for the object, else null."""
    said = pl.col("Remembered").str.extract(rf"(?:^|; )({source}:.*?)(?:; [a-z]+:|$)")
    is_final = said.str.extract(":([a-z_]+)").is_in(list(FINAL_KINDS))
    return pl.when(is_final & ~_is_lifted(said.str.strip_prefix(f"{source}:"), respect_opt_out)).then(said)


def _is_lifted(reason: pl.Expr, respect_opt_out: RespectOptOut) -> pl.Expr:
    """Return whether a reason is an opt-out that is not respected any more."""
    pattern = lifted(respect_opt_out)
    return pl.lit(False) if pattern is None else reason.str.contains(pattern)


def _merged(streams: Iterable[Iterator[pl.DataFrame]]) -> Iterator[pl.DataFrame]:
    """Yield the rows of streams of frames, each in order of KEY, in that order; no key is in two of them."""
    waiting = [(head, stream) for stream in streams if (head := _next_rows(stream)) is not None]
    while waiting:
        bound = min(head.get_column(KEY)[-1] for head, _ in waiting)
        taken, left = [], []
        for head, stream in waiting:
            stop = int(head.get_column(KEY).search_sorted(bound, side="right"))
            taken.append(head.head(stop))
            rest = head.slice(stop) if stop < len(head) else _next_rows(stream)
            if rest is not None:
                left.append((rest, stream))
        waiting = left
        yield pl.concat(taken).sort(KEY) if len(taken) > 1 else taken[0]


def _next_rows(stream: Iterator[pl.DataFrame]) -> pl.DataFrame | None:
    return next((frame for frame in stream if len(frame)), None)
