"""The part files of a published plan, as many at a time as neighbouring images need."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Self

from oid_async.cluster.committed import CommittedPart, KeySpan
from oid_async.cluster.local_copies import LocalCopies
from oid_async.cluster.published import Part
from oid_async.errors import InputError
from oid_async.objects.store import MissingError
from oid_async.objects.values import md5_of
from oid_async.tables.reading import TableFile, reading

_THREADS = 4


class SpanFiles:
    """Fetches the part files of each span while the one before is made into rows, and drops them behind it."""

    def __init__(self, files: LocalCopies, *, needed: bool) -> None:
        self._files = files
        self._needed = needed
        self._threads = ThreadPoolExecutor(_THREADS)
        self._fetched: dict[int, Future[Path]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def prefetched(self, spans: Iterable[KeySpan]) -> Iterator[KeySpan]:
        """Yield the spans; the files of the one that is worked on, and of the next, are there or under way."""
        current: KeySpan | None = None
        for following in chain(spans, [None]):
            for part in following.parts if following is not None and self._needed else ():
                if part.place not in self._fetched:
                    self._fetched[part.place] = self._threads.submit(self._fetch, part.part)
            if current is not None:
                yield current
                still = {part.place for part in following.parts} if following is not None else set()
                for part in current.parts:
                    if part.place not in still:
                        self._drop(part)
            current = following

    def file(self, part: CommittedPart) -> Path:
        """Return the file of a part of the current span."""
        return self._fetched[part.place].result()

    def _fetch(self, part: Part) -> Path:
        name = f"{self._files.place}/{part.plan_key}"
        try:
            path = self._files.fetch(part.plan_key)
        except MissingError as error:
            raise InputError(f"{name} is missing: without it nothing is known of its annotations") from error
        with reading(TableFile(path, name)):
            if md5_of(path) != part.md5:
                raise InputError(f"{name}: it is not what was published; its MD5 differs")
        return path

    def _drop(self, part: CommittedPart) -> None:
        fetched = self._fetched.pop(part.place, None)
        if fetched is not None:
            self._files.drop(fetched.result())
        self._files.drop(part.path)
