"""Until when something is waited for, as a person reads it."""

import time

# Beyond the first a time is said with its date, beyond the second it is no date any more.
_SAME_DAY_S = 12 * 3600.0
_FAR_S = 365 * 24 * 3600.0


def asked_until(left_s: float) -> str:
    """Return a text on a host that is down: until when it is asked again, by the clock on the wall.

    >>> asked_until(60.0)  # doctest: +ELLIPSIS
    'it is asked again until ...:...:... (60 s) at the latest'
    """
    return f"it is asked again until {clock_text(left_s)} at the latest"


def clock_text(left_s: float) -> str:
    """Return the local time in so many seconds, with its date if that is far, and the seconds."""
    left_s = max(0.0, left_s)
    return f"a time {left_s:.3g} s from now" if left_s > _FAR_S else f"{time_text(left_s)} ({left_s:.0f} s)"


def time_text(left_s: float) -> str:
    """Return the local time in so many seconds, with its date if that is far.

    >>> time_text(1.0)  # doctest: +ELLIPSIS
    '...:...:...'
    """
    left_s = min(max(0.0, left_s), _FAR_S)
    form = "%H:%M:%S" if left_s < _SAME_DAY_S else "%Y-%m-%d %H:%M"
    return time.strftime(form, time.localtime(time.time() + left_s))
