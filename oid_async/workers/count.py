"""How many processes a run is worth: decided before the first image, from the plan and the machine. Pure."""

from oid_async.options.query import Options

# Starting a worker takes half a second of one core's time. Of images of the usual 300 KB, 4,000 take two thirds of the
# time with one more process; of images of 24 KB, 5,000 take as long with it as without (measured, two cores).
_IMAGES_EACH = 2_500
# More than two were not measured: beyond four a user has to say so.
_MOST_AUTO = 4


def ahead(options: Options, processors: int) -> int:
    """Return how many workers to start before anything is known of the images: one, if many may well be wanted.

    >>> ahead(Options(processes="auto"), 8), ahead(Options(processes="auto", limit=100), 8), ahead(Options(), 8)
    (1, 0, 0)
    """
    if options.rate or options.limit_rate is not None or options.offline or processors < 2:
        return 0
    few = options.limit is not None and options.limit < _IMAGES_EACH
    return int(options.processes == "auto" and not few)


def how_many(options: Options, uncapped: int, transfers: int, processors: int) -> int:
    """Return how many processes are to share the work, this one counted.

    `uncapped` is how many images will be asked of hosts without a cap, `transfers` how many may be under way at once.

    >>> how_many(Options(processes="auto"), 2000, 64, 8), how_many(Options(processes="auto"), 5000, 64, 8)
    (1, 3)
    >>> how_many(Options(processes=2), 100, 64, 8), how_many(Options(processes=2, rate=10.0), 100, 64, 8)
    (2, 1)
    """
    # A cap, on requests or bytes, is counted by one process; what it leaves to do one can do.
    if not uncapped or options.rate or options.limit_rate is not None or options.offline:
        return 1
    if isinstance(options.processes, int):
        return min(options.processes, transfers)
    return max(1, min(processors, _MOST_AUTO, transfers, 1 + uncapped // _IMAGES_EACH))
