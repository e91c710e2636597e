"""`Stream`: a dataset that downloads while it trains.

    downloader (a process a rank) ──socket──▶ workers of a DataLoader: decode, transform ──▶ trainer

The trainer and its workers hold no more than an address: forked or spawned, they connect to it. What the order is, what
was handed out and what comes next the downloader alone decides.
"""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any, Self

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from oid_async.dataset.query_digest import query_digest
from oid_async.errors import OidError, UsageError
from oid_async.jobs.feeding.places import Place
from oid_async.options.query import Options
from oid_async.options.query_table import KEPT_LISTS, STDIN
from oid_async.options.selection import Query, options_of
from oid_async.options.signatures import check_switch
from oid_async.torch.connection import ask
from oid_async.torch.loader import StreamLoader
from oid_async.torch.messages import DownloaderSettings
from oid_async.torch.process import DownloaderProcess
from oid_async.torch.ranks import rank_of
from oid_async.torch.samples import SampleIterator, Transform

# A sick image must not hold up a step for the quarter of an hour that a download would wait.
_MAX_WAIT_S = 60.0
_WINDOW = 256
# Options of a run that ends in a folder or a report: a stream has no end.
_NOT_STREAMED = ("format", "out", "cluster", "top_up", "report", "no_files", "traces", "voice")
_SAMPLE = itemgetter(0)
_STATE = ("seed", "epoch", "position", "given", "rank", "ranks", "query")
_NEEDED = ("seed", "epoch", "position", "ranks")


class Stream(IterableDataset):
    """The images of a query with their boxes, downloaded while they are used, in an order of a seed and the epoch.

    A sample is (image, target), as `transform(image, target)` returns them: image uint8 [3, H, W], target a dict of
    boxes float32 [N, 4] (xyxy, pixels), labels int64 [N] from 1, iscrowd uint8 [N], image_id. `classes` are the names
    by label. Each iteration is one epoch, and the next one begins the next.

    `query` and the other keywords are those of `download` (`mirror=`, `cache_dir=`, `splits=` ...); `seed` is that of
    the order. Nothing is kept on the disk but journal and plan, in a temporary folder, unless `savepath` says where;
    with `keep_files=True` images stay there, and later epochs read them. Of several ranks each has a folder of its own
    in it. At most `window` images are under way or wait to be taken. `max_wait` is 60 seconds unless it is given.

    `rank` and `ranks` are those of torch.distributed where it is initialised, else RANK and WORLD_SIZE, else 0 of 1.
    Each rank gives as many samples: where images fail or do not divide, it repeats its first ones in the end, with a
    warning. A single rank gives each image that can be had once.

    `loader` makes a DataLoader whose `state_dict` is exact. With one of your own and workers give its `batch_size`, so
    that the batches are in order. One iteration can be on at a time. Raises OidError; `close` ends the downloader, as
    the end of the trainer does.
    """

    def __init__(
        self,
        query: Query | None = None,
        *,
        seed: int = 0,
        transform: Transform | None = None,
        rank: int | None = None,
        ranks: int | None = None,
        window: int = _WINDOW,
        batch_size: int = 1,
        keep_files: bool = False,
        **options: Any,
    ) -> None:
        check_switch("keep_files", keep_files)
        self._seed = _counted("seed", seed, least=None)
        self.transform = transform
        self.batch_size = _counted("batch_size", batch_size, least=1)
        self.rank, self.ranks = rank_of(rank, ranks)
        read = _read_options(query, options)
        has_own_folder = options.get("savepath") is not None
        self._digest = query_digest(read, [])
        if has_own_folder and self.ranks > 1:
            read = _in_folder(read, read.folder / f"rank-{self.rank}-of-{self.ranks}")
        self._process: DownloaderProcess | None = DownloaderProcess(
            DownloaderSettings(
                read,
                keep_files=keep_files,
                has_own_folder=has_own_folder,
                socket=-1,
                folder=Path(),
                rank=self.rank,
                ranks=self.ranks,
                seed=self._seed,
                window=_counted("window", window, least=1),
            )
        )
        self._address = self._process.address
        self._iterations = 0
        # What this process knows to have been taken: the number of the iteration, and the place behind it.
        self._taken: tuple[int, Place] | None = None
        self._worker_place: Place | None = None

    # What it has.

    @property
    def classes(self) -> list[str]:
        """The names of the classes by label; label 0 is the background. Waits until the images are chosen."""
        return ["background", *ask(self._address, {"ask": "facts"})["classes"]]

    def __len__(self) -> int:
        """Return how many samples this rank gives in an epoch; of a single rank those that fail are not given.

        Waits until the images are chosen.
        """
        return int(ask(self._address, {"ask": "facts"})["samples"])

    def __repr__(self) -> str:
        return f"Stream(seed={self._seed}, rank={self.rank}, ranks={self.ranks})"

    # Its samples.

    def __iter__(self) -> Iterator[Any]:
        """Return the samples of the next epoch, or from where `load_state_dict` says."""
        # No generator, which would end with the first transform that raises.
        return map(_SAMPLE, SampleIterator(self, self.batch_size))

    def loader(
        self, batch_size: int | None = 1, num_workers: int = 0, *, collate_fn: Any = None, **options: Any
    ) -> "DataLoader[Any]":
        """Return a DataLoader of this stream: `state_dict` then tells exactly what the trainer has taken.

        Other keywords are those of DataLoader. Without `collate_fn` a batch is (images, targets), two lists, as
        torchvision's detectors take them; with `batch_size=None` samples come one by one.
        """
        return StreamLoader(self, batch_size, num_workers, collate_fn, options)

    # Where it is.

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be the beginning of this epoch."""
        self._go_on(Place(_counted("epoch", epoch, least=0)))

    def state_dict(self) -> dict[str, Any]:
        """Return where it is: plain values, for `load_state_dict` of a Stream of the same query and number of ranks.

        Exact for iterations without workers and for those of `loader`. Of others it is the place behind all that was
        handed out to workers: what they have fetched ahead is not given again, which a warning says.
        """
        place = self._place()
        values = (self._seed, place.epoch, place.position, place.given, self.rank, self.ranks, self._digest)
        return dict(zip(_STATE, values, strict=True))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration go on where a state was taken, with its seed, whatever the number of workers.

        `seed`, `epoch`, `position` and `ranks` are enough; without `given`, as many samples were given as `position`
        says. Raises UsageError for a state of another number of ranks or another query. The state of one rank is good
        for all of them as long as no image has failed: each rank had better load its own.
        """
        if not isinstance(state, Mapping):
            raise UsageError(f"load_state_dict takes what state_dict() returns, not {state!r:.80}")
        if missing := [name for name in _NEEDED if name not in state]:
            raise UsageError(f"this is no state of a Stream: it has no {missing[0]!r}")
        if state["ranks"] != self.ranks:
            raise UsageError(
                f"the state is of {state['ranks']} ranks, this Stream is of {self.ranks}: the images of an epoch are "
                "divided otherwise; go on with as many ranks, or begin the next epoch with set_epoch"
            )
        if state.get("query", self._digest) != self._digest:
            raise UsageError("the state is of another query: make the Stream with the same one, or begin anew")
        seed = _counted("seed", state["seed"], least=None)
        read = {"given": state["position"], **state}
        place = Place(*(_counted(name, read[name], least=0) for name in ("epoch", "position", "given")))
        self._seed = seed
        if get_worker_info() is None:
            self._go_on(place)
        else:
            self._worker_place = place
            self._taken = None

    def close(self) -> None:
        """End the downloader, and what it has in temporary folders. Safe to call twice."""
        if self._process is not None:
            self._process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Return what a worker needs: where the downloader is, and what to do with samples."""
        return self.__dict__ | {"_process": None, "_taken": None, "_iterations": 0}

    def note_taken(self, number: int, place: Place) -> None:
        """Note that the trainer has taken all samples before this place, of the iteration of this number."""
        self._taken = number, place

    def next_iteration(self) -> int:
        """Return the number of an iteration that this process begins."""
        self._iterations += 1
        return self._iterations

    @property
    def worker_place(self) -> Place | None:
        """Where a worker goes on that was given a state of its own, as torchdata's StatefulDataLoader does it, once."""
        place, self._worker_place = self._worker_place, None
        return place

    @property
    def address(self) -> str:
        """Where the downloader listens."""
        return self._address

    def _go_on(self, place: Place) -> None:
        numbers = [place.epoch, place.position, place.given]
        ask(self._address, {"ask": "go on", "seed": self._seed, "place": numbers})
        self._taken = None

    def _place(self) -> Place:
        own = self._worker_place if self._worker_place is not None or self._taken is None else self._taken[1]
        if own is not None and get_worker_info() is not None:
            return own
        try:
            now = ask(self._address, {"ask": "place"})
        except OidError:
            if self._taken is None:
                raise
            # What was taken can be saved even when the downloader has ended.
            return self._taken[1]
        if self._taken is not None and self._taken[0] == now["pass"]:
            return self._taken[1]
        if now["is_ahead"]:
            warnings.warn(
                "samples that workers have fetched ahead count as taken in this state_dict(), and will not be given "
                "again; Stream.loader() makes a DataLoader with which it is exact",
                stacklevel=3,
            )
        return Place(*now["place"])


def _read_options(query: Query | None, given: Mapping[str, Any]) -> Options:
    """Return the options of the downloader. Raises UsageError for one that a stream cannot keep."""
    values: Any = {"max_wait": _MAX_WAIT_S, **given}
    if values.get("savepath", "") is None:
        del values["savepath"]
    read = options_of(query, values)
    for name in _NOT_STREAMED:
        if getattr(read, name) != Options.__dataclass_fields__[name].default:
            raise UsageError(f"{name} is not for a Stream, which hands out samples and ends in no folder: leave it out")
    for name in KEPT_LISTS:
        if getattr(read, name) in STDIN:
            raise UsageError(f"{name}: the downloader of a Stream has no stdin to read; give a file or a sequence")
    if read.is_distributed:
        raise UsageError(f"savepath of a Stream is a folder of this machine, not {read.savepath}")
    if read.processes not in (1, "auto"):
        raise UsageError("processes is not for a Stream, which has one downloader: leave it out")
    return read


def _in_folder(options: Options, folder: Path) -> Options:
    return replace(options, savepath=folder)


def _counted(name: str, value: object, least: int | None) -> int:
    """Return a whole number; torch and numpy have some of their own."""
    try:
        number = int(value.__index__())  # type: ignore[attr-defined]
    except (AttributeError, TypeError):
        raise UsageError(f"{name} takes a whole number, not {value!r:.80}") from None
    if isinstance(value, bool) or (least is not None and number < least):
        raise UsageError(f"{name} takes a whole number{'' if least is None else f' from {least} on'}, not {value!r}")
    return number
