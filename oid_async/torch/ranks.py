"""Which rank of how many a process is: as given, as torch.distributed says, or as its launcher does."""

import os

from oid_async.errors import UsageError


def rank_of(rank: int | None, ranks: int | None) -> tuple[int, int]:
    """Return rank and number of ranks: those given, else of torch.distributed, else RANK and WORLD_SIZE, else 0 of 1.

    Raises UsageError for one without the other, and for what is no rank.
    """
    if (rank is None) != (ranks is None):
        raise UsageError("rank and ranks are given together, or neither of them")
    number: object = rank
    count: object = ranks
    where = "rank and ranks"
    if rank is None:
        (number, count), where = _of_group() or _of_environment(), "RANK and WORLD_SIZE"
    if not isinstance(number, int) or not isinstance(count, int) or not 0 <= number < count:
        raise UsageError(f"{where} are a whole number from 0 on, and how many there are; they are {number} and {count}")
    return number, count


def _of_group() -> tuple[int, int] | None:
    import torch.distributed as distributed

    if distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank()), int(distributed.get_world_size())
    return None


def _of_environment() -> tuple[int | str, int | str]:
    rank, ranks = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is None or ranks is None:
        return 0, 1
    try:
        return int(rank), int(ranks)
    except ValueError:
        return rank, ranks
