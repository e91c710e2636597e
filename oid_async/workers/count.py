"""How many processes a run uses: decided before the first image, from the plan and the machine. Pure."""

from oid_async.options.query import Options

# Starting a worker takes half a second of one core's time. Of images of the usual 300 KB, 4,000 take two thirds of the
# time with one more process; of images of 24 KB, 5,000 take as long with it as without (measured, two cores).
_IMAGES_EACH = 2_500
# More than two were not measured: more than four start only if --processes names them.
_MOST_AUTO = 4


def early_workers(options: Options, processors: int) -> int:
    """Return how many workers to start before the images are known: one, if many images are likely.

    >>> early_workers(Options(processes="auto"), 8), early_workers(Options(processes="auto", limit=100), 8)
    (1, 0)
    >>> early_workers(Options(), 8)
    0
    """
    if options.rate or options.limit_rate is not None or options.offline or processors < 2:
        return 0
    few = options.limit is not None and options.limit < _IMAGES_EACH
    return int(options.processes == "auto" and not few)


def process_count(options: Options, uncapped: int, max_transfers: int, processors: int) -> int:
    """Return how many processes share the work, this one included.

    `uncapped` images are requested from hosts without a cap; at most `max_transfers` are under way at once.

    >>> process_count(Options(processes="auto"), 2000, 64, 8), process_count(Options(processes="auto"), 5000, 64, 8)
    (1, 3)
    >>> process_count(Options(processes=2), 100, 64, 8), process_count(Options(processes=2, rate=10.0), 100, 64, 8)
    (2, 1)
    """
    # A cap, on requests or bytes, is counted by one process, and one can do all that a cap allows.
    if not uncapped or options.rate or options.limit_rate is not None or options.offline:
        return 1
    if isinstance(options.processes, int):
        return min(options.processes, max_transfers)
    return max(1, min(processors, _MOST_AUTO, max_transfers, 1 + uncapped // _IMAGES_EACH))
